//! Randomness as a function: Philox-4x32-10 keyed by seed and purpose, counted by round, client and position.
//!
//! No generator carries state from one draw to the next, so a draw does not depend on the order in which clients are
//! trained, on packing, on threads or on the device. Source of the bijection: Salmon et al., "Parallel random numbers:
//! as easy as 1, 2, 3" (SC 2011).

/// What a draw is for. The number is part of the key, so two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// Which clients take part in a round.
    Cohort = 2,
    /// Negative items.
    Negatives = 3,
    /// Dropout masks.
    Dropout = 4,
    /// Order of sequences inside a client's local epoch.
    Shuffle = 5,
    /// Clients that drop out of a round.
    Dropouts = 6,
    /// Synthetic worlds.
    World = 7,
    /// Synthetic views.
    Views = 8,
    /// Noise put into histories.
    Noise = 9,
    /// Benchmarks and tests.
    Bench = 10,
    /// Resampling for confidence intervals.
    Bootstrap = 11,
    /// Which clients are malicious, and what they draw.
    Attack = 12,
    /// What a defence of the server draws.
    Defence = 16,
    /// Secure sums: who is whose neighbour, and what a simulated party draws.
    SecureSum = 17,
    /// Noise on sums of updates.
    Privacy = 15,
    /// Noise that a client adds to what it uploads by itself.
    LocalNoise = 18,
    /// Noise on counts that users add up before a training.
    Counts = 19,
    /// Items of a sequence that are masked (Cloze).
    Masks = 13,
    /// Augmented copies of sequences.
    Augment = 14,
    /// Tokens of generated texts.
    Tokens = 20,
    /// Stochastic rounding of uploads.
    Rounding = 21,
}

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// Philox-4x32 with ten rounds: a bijection of `counter` chosen by `key`.
#[inline]
pub fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(M0) * u64::from(c[0]);
        let p1 = u64::from(M1) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

/// [`philox`] of `N` counters, word `w` of counter `i` at `[w][i]`: loops that a compiler turns into vectors.
#[inline(always)]
fn philox_many<const N: usize>(mut c: [[u32; N]; 4], mut k: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..10 {
        let mut next = [[0; N]; 4];
        for i in 0..N {
            let p0 = u64::from(M0) * u64::from(c[0][i]);
            let p1 = u64::from(M1) * u64::from(c[2][i]);
            next[0][i] = (p1 >> 32) as u32 ^ c[1][i] ^ k[0];
            next[1][i] = p1 as u32;
            next[2][i] = (p0 >> 32) as u32 ^ c[3][i] ^ k[1];
            next[3][i] = p0 as u32;
        }
        c = next;
        k = [k[0].wrapping_add(W0), k[1].wrapping_add(W1)];
    }
    c
}

/// Inverted dropout at `rate` with sixteen random bits an element: elements whose bits are below the threshold are dropped, the
/// others multiplied by the factor. The kept share is exact for the rounded threshold.
pub fn dropout_threshold(rate: f32) -> (u32, f32) {
    let threshold = (rate * 65536.0).round().min(65535.0) as u32;
    (threshold, 65536.0 / (65536 - threshold) as f32)
}

/// A stream of draws for one (seed, purpose, round, client); positions are given by the caller or walked in order.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    round: u32,
    client: u32,
    next: u64,
    block: [u32; 4],
}

impl Stream {
    /// The stream of `purpose` for `round` and `client`. Seeds differing in any of 64 bits give unrelated streams.
    pub fn new(seed: u64, purpose: Purpose, round: u64, client: u64) -> Stream {
        // The seed is spread over the key by one Philox call, so that purpose and high seed bits never collide.
        let k = philox([seed as u32, (seed >> 32) as u32, purpose as u32, (client >> 32) as u32], [0x4C55_4D4F, 0x5321_0001]);
        Stream { key: [k[0], k[1]], round: round as u32, client: client as u32, next: 0, block: [0; 4] }
    }

    /// The key, which depends on the seed and the purpose (and on the client only beyond 32 bits).
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// The four words at block `index`, without moving the stream.
    #[inline]
    pub fn block_at(&self, index: u64) -> [u32; 4] {
        philox([index as u32, (index >> 32) as u32, self.round, self.client], self.key)
    }

    /// Word `w` of the block at `first + i * stride` at `[w][i]`, without moving the stream.
    #[inline(always)]
    pub fn blocks_at<const N: usize>(&self, first: u64, stride: u64) -> [[u32; N]; 4] {
        let index = |i: usize| first + i as u64 * stride;
        let low = std::array::from_fn(|i| index(i) as u32);
        let high = std::array::from_fn(|i| (index(i) >> 32) as u32);
        philox_many([low, high, [self.round; N], [self.client; N]], self.key)
    }

    /// The word at `position`, without moving the stream.
    #[inline]
    pub fn u32_at(&self, position: u64) -> u32 {
        self.block_at(position / 4)[(position % 4) as usize]
    }

    /// Uniform integer in `0..n` at `position` (multiply-shift; `n` at most 2^32, bias below `n / 2^32`).
    #[inline]
    pub fn below_at(&self, position: u64, n: u64) -> u64 {
        (u64::from(self.u32_at(position)) * n) >> 32
    }

    /// Next word in order.
    #[inline]
    pub fn u32(&mut self) -> u32 {
        let lane = (self.next % 4) as usize;
        if lane == 0 {
            self.block = self.block_at(self.next / 4);
        }
        self.next += 1;
        self.block[lane]
    }

    /// Next uniform integer in `0..n`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        (u64::from(self.u32()) * n) >> 32
    }

    /// Next uniform number in `[0, 1)` with 24 bits.
    #[inline]
    pub fn unit(&mut self) -> f32 {
        (self.u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Next standard normal number (Box-Muller, f64 inside; two words a draw).
    pub fn normal(&mut self) -> f32 {
        let u = (f64::from(self.u32()) + 1.0) / 4_294_967_297.0;
        let v = f64::from(self.u32()) / 4_294_967_296.0;
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }

    /// Shuffles `values` in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_matches_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn walking_and_jumping_agree() {
        let mut walk = Stream::new(7, Purpose::Bench, 3, 11);
        let jump = walk.clone();
        for i in 0..41 {
            assert_eq!(walk.u32(), jump.u32_at(i));
        }
    }

    #[test]
    fn blocks_side_by_side_are_blocks() {
        let stream = Stream::new(3, Purpose::Bench, 9, 5);
        for (first, stride) in [(0, 1), (u64::from(u32::MAX) - 5, 1), (1 << 44 | 7 << 4, 16)] {
            let blocks = stream.blocks_at::<11>(first, stride);
            for i in 0..11 {
                assert_eq!(blocks.map(|words| words[i]), stream.block_at(first + i as u64 * stride));
            }
        }
    }

    #[test]
    fn keys_are_distinct() {
        let mut seen = std::collections::HashSet::new();
        for seed in [0u64, 1, 1 << 32] {
            for p in [Purpose::Init, Purpose::Cohort] {
                for r in 0..3 {
                    for c in [0u64, 1, 1 << 32] {
                        assert!(seen.insert(Stream::new(seed, p, r, c).block_at(0)));
                    }
                }
            }
        }
    }
}
