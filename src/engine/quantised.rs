//! Updates in few bits a number: what a client uploads under the rule `quantise`. Little-endian:
//! `magic u32, client u32, weight u32, P u32, R u32, bits u32`, a scale f32 for each [`BLOCK`] dense numbers, the dense numbers packed, `R` item
//! ids u32, a scale f32 for each row, the rows packed. A number is a level from `-L` to `L` times its scale, with `L = 2^(bits - 1) - 1`, and is
//! stored as `level + L` in `bits` bits, the lowest first.
//!
//! Rounding is stochastic (QSGD, Alistarh et al., NIPS 2017, in blocks with the largest magnitude as the scale): a number between two
//! levels becomes the upper one with the probability of its distance from the lower, in 65,536ths, so that the mean over clients is not biased.

use super::Update;
use crate::base::rng::Stream;
use crate::{Error, Result};

const MAGIC: u32 = 0x514D_554C;
const HEADER: usize = 24;

/// Dense numbers that share a scale.
pub const BLOCK: usize = 64;

/// Bytes of an update with `dense` weights and `rows` rows of width `d`.
pub fn encoded_len(dense: usize, rows: usize, d: usize, bits: u32) -> u64 {
    let packed = |n: usize| (n * bits as usize).div_ceil(8);
    (HEADER + 4 * dense.div_ceil(BLOCK) + packed(dense) + 8 * rows + packed(rows * d)) as u64
}

/// Draws of 16 bits, eight from each block of a stream.
struct Draws {
    stream: Stream,
    at: u64,
    block: [u32; 4],
}

impl Draws {
    fn next(&mut self) -> f32 {
        let n = (self.at % 8) as usize;
        if n == 0 {
            self.block = self.stream.block_at(self.at / 8);
        }
        self.at += 1;
        (self.block[n / 2] >> (16 * (n % 2)) & 0xffff) as f32 / 65_536.0
    }
}

/// Numbers of `bits` bits, one after another.
struct Packer<'o> {
    out: &'o mut Vec<u8>,
    held: u64,
    count: u32,
}

impl Packer<'_> {
    fn push(&mut self, value: u32, bits: u32) {
        self.held |= u64::from(value) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn end(self) {
        if self.count > 0 {
            self.out.push(self.held as u8);
        }
    }
}

/// The scale of `values`: that of the largest magnitude over `levels`.
fn scale(values: &[f32], levels: f32) -> f32 {
    values.iter().fold(0f32, |most, x| most.max(x.abs())) / levels
}

fn pack(out: &mut Vec<u8>, blocks: &[&[f32]], bits: u32, draws: &mut Draws) {
    let levels = ((1u32 << (bits - 1)) - 1) as f32;
    let scales: Vec<f32> = blocks.iter().map(|block| scale(block, levels)).collect();
    out.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    let mut packer = Packer { out, held: 0, count: 0 };
    for (block, scale) in blocks.iter().zip(scales) {
        for x in *block {
            // A scale below the smallest normal number may be 0 under numbers that are not.
            let exact = if scale > 0.0 { (x / scale).clamp(-levels, levels) } else { 0.0 };
            let low = exact.floor();
            let level = (low + f32::from(draws.next() < exact - low)).min(levels);
            packer.push((level + levels) as u32, bits);
        }
    }
    packer.end();
}

/// Encodes an update in `bits` bits a number, from 2 to 16, rounded by draws of `stream`. Its numbers are finite.
pub fn encode(update: &Update, bits: u32, stream: Stream) -> Vec<u8> {
    let d = update.rows.len() / update.items.len().max(1);
    let mut out = Vec::with_capacity(encoded_len(update.dense.len(), update.items.len(), d, bits) as usize);
    let head = [MAGIC, update.client, update.weight, update.dense.len() as u32, update.items.len() as u32, bits];
    head.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    let mut draws = Draws { stream, at: 0, block: [0; 4] };
    pack(&mut out, &update.dense.chunks(BLOCK).collect::<Vec<_>>(), bits, &mut draws);
    update.items.iter().for_each(|item| out.extend_from_slice(&item.to_le_bytes()));
    pack(&mut out, &update.rows.chunks(d.max(1)).collect::<Vec<_>>(), bits, &mut draws);
    out
}

/// Decodes an update of rows of width `d`. Anything malformed is refused.
pub fn decode(bytes: &[u8], d: usize) -> Result<Update> {
    let bad = |what: &str| {
        Error::Usage(format!("quantised update of {} bytes: {what}; the sender is broken or speaks another version", bytes.len()))
    };
    let (words, _) = bytes.as_chunks::<4>();
    let Some([magic, client, weight, p, r, bits]) = words.first_chunk::<6>().map(|head| head.map(u32::from_le_bytes)) else {
        return Err(bad("too short"));
    };
    if magic != MAGIC || !(2..=16).contains(&bits) {
        return Err(bad("not a quantised update of LUMOS"));
    }
    let (p, r) = (p as usize, r as usize);
    if encoded_len(p, r, d, bits) != bytes.len() as u64 {
        return Err(bad("its length does not fit its header"));
    }
    let levels = (1i32 << (bits - 1)) - 1;
    let mut at = HEADER;
    let mut take = |n: usize| {
        at += n;
        &bytes[at - n..at]
    };
    let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let unpack = |packed: &[u8], scales: &[f32], n: usize, block: usize| -> Option<Vec<f32>> {
        let number = |i: usize| {
            let first = i * bits as usize;
            let held = packed[first / 8..].iter().take(4).enumerate().fold(0u64, |held, (k, b)| held | u64::from(*b) << (8 * k));
            (held >> (first % 8) & ((1 << bits) - 1)) as i32 - levels
        };
        (0..n).map(|i| Some(number(i)).filter(|level| *level <= levels).map(|level| level as f32 * scales[i / block])).collect()
    };
    let scales = floats(take(4 * p.div_ceil(BLOCK)));
    let dense = unpack(take((p * bits as usize).div_ceil(8)), &scales, p, BLOCK);
    let items = take(4 * r).as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
    let scales = floats(take(4 * r));
    let rows = unpack(take((r * d * bits as usize).div_ceil(8)), &scales, r * d, d.max(1));
    let (Some(dense), Some(rows)) = (dense, rows) else { return Err(bad("a number is beyond its levels")) };
    Ok(Update { client, weight, dense, items, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;
    use proptest::prelude::*;

    fn stream(client: u64) -> Stream {
        Stream::new(3, Purpose::Rounding, 1, client)
    }

    proptest! {
        #[test]
        fn numbers_come_back_within_a_step(d in 1usize..9, bits in 2u32..=16, dense in prop::collection::vec(-1e3f32..1e3, 0..140), items in prop::collection::vec(any::<u32>(), 0..12)) {
            let rows: Vec<f32> = (0..items.len() * d).map(|i| (i as f32 * 0.7).sin()).collect();
            let update = Update { client: 5, weight: 2, dense, items, rows };
            let bytes = encode(&update, bits, stream(5));
            prop_assert_eq!(bytes.len() as u64, encoded_len(update.dense.len(), update.items.len(), d, bits));
            let back = decode(&bytes, d).unwrap();
            prop_assert_eq!((back.client, back.weight, &back.items), (5, 2, &update.items));
            let levels = ((1u32 << (bits - 1)) - 1) as f32;
            let blocks = update.dense.chunks(BLOCK).zip(back.dense.chunks(BLOCK)).chain(update.rows.chunks(d).zip(back.rows.chunks(d)));
            for (was, is) in blocks {
                let step = scale(was, levels);
                for (was, is) in was.iter().zip(is) {
                    prop_assert!((was - is).abs() <= step * 1.001, "{} became {}, a step is {}", was, is, step);
                }
            }
            // What was rounded once is a fixed point: its numbers are levels.
            let again = decode(&encode(&back, bits, stream(6)), d).unwrap();
            for (a, b) in again.values().zip(back.values()) {
                prop_assert!((a - b).abs() <= 1e-3 * b.abs().max(1e-3), "{} became {}", b, a);
            }
        }

        #[test]
        fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), d in 1usize..9) {
            prop_assert!(decode(&bytes, d).is_err());
        }

        #[test]
        fn a_cut_or_longer_update_is_refused(cut in 1usize..60, more in 1usize..9) {
            let update = Update { client: 1, weight: 2, dense: vec![1.0; 7], items: vec![3, 4], rows: vec![0.5; 13 * 2] };
            let mut bytes = encode(&update, 5, stream(1));
            prop_assert!(decode(&bytes[..bytes.len() - cut.min(bytes.len())], 13).is_err());
            bytes.extend(vec![0; more]);
            prop_assert!(decode(&bytes, 13).is_err());
        }
    }

    #[test]
    fn the_mean_over_clients_is_not_biased() {
        let update = Update { dense: vec![1.0, 0.3, -0.62, 0.05, -0.001], ..Update::default() };
        for bits in [2, 3, 8] {
            let n = 20_000;
            let mut mean = [0f64; 5];
            for client in 0..n {
                let back = decode(&encode(&update, bits, stream(client)), 4).unwrap();
                mean.iter_mut().zip(&back.dense).for_each(|(m, x)| *m += f64::from(*x) / n as f64);
            }
            let step = 1.0 / f64::from((1u32 << (bits - 1)) - 1);
            for (m, x) in mean.iter().zip(&update.dense) {
                assert!((m - f64::from(*x)).abs() < 5.0 * step * 0.5 / (n as f64).sqrt() + 1e-5, "{bits} bits: {m} for {x}");
            }
        }
    }
}
