//! Scores by transitions: what the server's sums say of a history.

use super::constants::Constants;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::data::PairCounts;

/// Shares of transitions, ready to score.
pub struct Ranker {
    constants: Constants,
    /// Bounds of each item's pairs `[I + 1]`.
    bounds: Vec<usize>,
    /// Where a pair leads, and its weight `[N]`.
    pairs: Vec<(u32, f64)>,
    /// Weight of all pairs from an item `[I]`.
    mass: Vec<f64>,
    /// Share of all transitions that lead to an item `[I]`.
    popularity: Vec<f64>,
    /// What the scores of an item are multiplied by `[I]`.
    factor: Vec<f64>,
}

/// The noise on the sums of each round in which a client added counts.
pub struct Noise<'n> {
    /// Standard deviation in a round.
    pub deviation: f64,
    /// The run's seed.
    pub seed: u64,
    /// The rounds.
    pub rounds: &'n [u64],
}

impl Noise<'_> {
    /// The sums from `from` to every item `[I]` with their noise; what is below `threshold` deviations is 0.
    fn disturb(&self, from: u32, sums: &mut [f64], threshold: f64) {
        for &round in self.rounds {
            let mut stream = Stream::new(self.seed, Purpose::Noise, round, from.into());
            sums.iter_mut().for_each(|sum| *sum += self.deviation * f64::from(stream.normal()));
        }
        let least = threshold * self.deviation * (self.rounds.len() as f64).sqrt();
        sums.iter_mut().filter(|sum| **sum < least).for_each(|sum| *sum = 0.0);
    }
}

impl Ranker {
    /// A ranker over `items` items from the sums `counts`, with `noise` where there is any.
    pub fn new(constants: Constants, counts: &PairCounts, items: usize, noise: Option<&Noise>, threads: usize) -> Ranker {
        let rows = parallel::map(threads, items, 16, |from| match noise {
            None => counts.from(from as u32).collect::<Vec<_>>(),
            Some(noise) => {
                let mut sums = vec![0.0; items];
                counts.from(from as u32).for_each(|(to, sum)| sums[to as usize] = sum);
                noise.disturb(from as u32, &mut sums, constants.threshold);
                sums.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0).map(|(to, sum)| (to as u32, sum)).collect()
            }
        });
        let (mut bounds, mut mass, mut into) = (vec![0], Vec::with_capacity(items), vec![0.0; items]);
        for row in &rows {
            bounds.push(bounds[bounds.len() - 1] + row.len());
            mass.push(row.iter().map(|(_, weight)| weight).sum());
            row.iter().for_each(|&(to, weight)| into[to as usize] += weight);
        }
        let all = into.iter().sum::<f64>();
        let popularity: Vec<f64> = into.iter().map(|x| if all > 0.0 { x / all } else { 0.0 }).collect();
        let factor = popularity.iter().map(|&share| if share > 0.0 { share.powf(-constants.rarity) } else { 1.0 }).collect();
        Ranker { constants, bounds, pairs: rows.concat(), mass, popularity, factor }
    }

    /// Scores of all items `[I]` for `history`, oldest first: the sum over its last items `h`, at places `k` from the end, of
    /// `k^-recency (c(h, j) + prior p(j)) / (c(h) + prior)`, times the factor of `j`.
    pub fn scores(&self, history: &[u32]) -> Vec<f32> {
        let Constants { history: read, recency, prior, .. } = self.constants;
        let mut scores = vec![0.0; self.popularity.len()];
        let mut base = 0.0;
        for (k, &item) in history.iter().rev().take(read).enumerate() {
            let total = self.mass[item as usize] + prior;
            if total <= 0.0 {
                continue;
            }
            let weight = ((k + 1) as f64).powf(-recency) / total;
            base += weight * prior;
            for &(to, sum) in &self.pairs[self.bounds[item as usize]..self.bounds[item as usize + 1]] {
                scores[to as usize] += weight * sum;
            }
        }
        let end = scores.iter().zip(&self.popularity).zip(&self.factor);
        end.map(|((score, share), factor)| ((score + base * share) * factor) as f32).collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        16 * self.pairs.len() + 32 * self.mass.len()
    }
}
