//! Weighted counts of item pairs in 64-bit fixed point: what a participant adds, and the sums on the server.

use std::collections::BTreeMap;

/// Steps of the fixed point in 1.0, as in every other sum over clients.
const SCALE: f64 = 4_294_967_296.0;

/// What a pair counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairWeights {
    /// Largest distance of a pair in a history.
    pub window: usize,
    /// A pair at distance `g` counts `g^-gap`.
    pub gap: f64,
    /// What a pair counts from its later item to its earlier one, as a share of the other direction.
    pub back: f64,
    /// Largest Euclidean norm of what a participant adds; 0: no bound.
    pub clip: f64,
}

/// Bytes of one pair on the wire: two items and a sum.
pub const PAIR_BYTES: u64 = 16;

/// Both items of a pair in one number, so that pairs sort by the item that they start from.
fn key(from: u32, to: u32) -> u64 {
    u64::from(from) << 32 | u64::from(to)
}

/// Sums by pair, ascending by the first item and then the second, each pair once and none of them 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PairCounts {
    /// Pairs, the first item in the high 32 bits `[N]`.
    pub keys: Vec<u64>,
    /// Sums in steps of 2^-32 `[N]`.
    pub sums: Vec<i64>,
}

impl PairCounts {
    /// What a participant with these `histories` adds: every pair `(a, b)` with `b` at most `window` places behind `a` counts
    /// `distance^-gap`, and the pair `(b, a)` the share `back` of it. With a `clip` the whole is shortened to that Euclidean norm.
    pub fn of<'h>(histories: impl Iterator<Item = &'h [u32]>, weights: &PairWeights) -> PairCounts {
        let fixed = |x: f64| (x * SCALE).round_ties_even() as i64;
        let places: Vec<[i64; 2]> = (1..=weights.window)
            .map(|distance| (distance as f64).powf(-weights.gap))
            .map(|w| [fixed(w), fixed(w * weights.back)])
            .collect();
        let mut pairs = BTreeMap::<u64, i64>::new();
        for history in histories {
            for (place, &from) in history.iter().enumerate() {
                for (&to, [ahead, back]) in history[place + 1..].iter().zip(&places) {
                    *pairs.entry(key(from, to)).or_default() += ahead;
                    if *back != 0 {
                        *pairs.entry(key(to, from)).or_default() += back;
                    }
                }
            }
        }
        let norm = pairs.values().map(|&sum| (sum as f64 / SCALE).powi(2)).sum::<f64>().sqrt();
        let shrink = if weights.clip > 0.0 && norm > weights.clip { weights.clip / norm } else { 1.0 };
        let shortened = pairs.into_iter().map(|(key, sum)| (key, if shrink < 1.0 { (sum as f64 * shrink).trunc() as i64 } else { sum }));
        let (keys, sums) = shortened.filter(|(_, sum)| *sum != 0).unzip();
        PairCounts { keys, sums }
    }

    /// Adds `others` up, whose order leaves no trace.
    pub fn add(&mut self, others: impl Iterator<Item = PairCounts>) {
        let mut all: Vec<(u64, i64)> = self.keys.drain(..).zip(self.sums.drain(..)).collect();
        all.extend(others.flat_map(|other| other.keys.into_iter().zip(other.sums)));
        all.sort_unstable_by_key(|(key, _)| *key);
        for run in all.chunk_by(|a, b| a.0 == b.0) {
            let sum = run.iter().fold(0i64, |sum, (_, x)| sum.wrapping_add(*x));
            if sum != 0 {
                self.keys.push(run[0].0);
                self.sums.push(sum);
            }
        }
    }

    /// Pairs from `item` with their sums.
    pub fn from(&self, item: u32) -> impl Iterator<Item = (u32, f64)> {
        let [lo, hi] = [item.into(), u64::from(item) + 1].map(|item: u64| self.keys.partition_point(|&k| k < item << 32));
        self.keys[lo..hi].iter().zip(&self.sums[lo..hi]).map(|(&key, &sum)| (key as u32, sum as f64 / SCALE))
    }

    /// Whether these can be the counts over `items` items.
    pub fn fits(&self, items: usize) -> bool {
        let inside = |key: &u64| (key >> 32) < items as u64 && (key & u64::from(u32::MAX)) < items as u64;
        self.keys.len() == self.sums.len() && self.keys.windows(2).all(|w| w[0] < w[1]) && self.keys.iter().all(inside)
    }
}
