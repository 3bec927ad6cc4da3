//! How a client hides its sequence: some positions are replaced by items that its model finds likely there.
//!
//! Draws are functions of seed, round, client, candidate and position. Nothing here knows a model: scores come in, items go out.

use crate::base::rng::Stream;

/// What replacements are drawn from: a distribution over the items that the client has trained on, for each position but the first.
pub struct Pool<'p> {
    /// Items that the client has trained on, ascending `[R]`.
    pub items: &'p [u32],
    /// Running sums of their weights `[T, R]`; the first row is not looked at.
    sums: Vec<f32>,
}

impl<'p> Pool<'p> {
    /// From `scores [T, R]` of the items at each position: the softmax of `eps` times a row.
    pub fn new(items: &'p [u32], eps: f32, mut scores: Vec<f32>) -> Pool<'p> {
        for row in scores.chunks_exact_mut(items.len().max(1)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            for x in row.iter_mut() {
                sum += (eps * (*x - most)).exp();
                *x = sum;
            }
        }
        Pool { items, sums: scores }
    }

    /// The item at `unit`, in `[0, 1)`, of the distribution of `position`.
    fn draw(&self, position: usize, unit: f32) -> u32 {
        let sums = &self.sums[position * self.items.len()..][..self.items.len()];
        let at = unit * sums.last().copied().unwrap_or(0.0);
        self.items[sums.partition_point(|&sum| sum <= at).min(sums.len() - 1)]
    }

    /// Perturbed sequence number `candidate` of the `original [T]`: position 0 stays, every other one is replaced with probability
    /// `replace`.
    pub fn perturb(&self, draws: &Stream, candidate: u32, original: &[u32], replace: f32) -> Vec<u32> {
        let unit = |at: u64| (draws.u32_at(at) >> 8) as f32 * (1.0 / 16_777_216.0);
        let each = original.iter().enumerate().map(|(position, &item)| {
            let at = u64::from(candidate) << 32 | (position as u64) << 1;
            if position > 0 && unit(at) < replace { self.draw(position, unit(at + 1)) } else { item }
        });
        each.collect()
    }
}

/// `n` negatives out of `trained`, the items that the client has trained on, without those that `barred` names; where none is left, out of
/// all `items` without those; where even then none is left, out of all of them.
pub fn negatives(draws: &Stream, trained: &[u32], items: usize, n: usize, barred: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut open: Vec<u32> = trained.iter().copied().filter(|&item| !barred(item)).collect();
    if open.is_empty() {
        open.extend((0..items as u32).filter(|&item| !barred(item)));
    }
    if open.is_empty() {
        open.extend(0..items as u32);
    }
    (0..n as u64).map(|position| open[draws.below_at(position << 5, open.len() as u64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_item_stays_and_the_others_come_from_the_pool(
            seed in any::<u64>(), n in 1usize..40, replace in 0f32..=1.0, eps in 0f32..5.0, candidate in 0u32..20,
        ) {
            let mut stream = Stream::new(seed, Purpose::Bench, 0, 0);
            let pool: Vec<u32> = (0..1 + stream.below(30) as u32).map(|i| 1000 + 2 * i).collect();
            let original: Vec<u32> = (0..n as u32).collect();
            let scores = (0..n * pool.len()).map(|_| 3.0 * stream.normal()).collect();
            let pool = Pool::new(&pool, eps, scores);
            let draws = Stream::new(seed, Purpose::Noise, 1, 2);
            let perturbed = pool.perturb(&draws, candidate, &original, replace);
            prop_assert_eq!(perturbed.len(), n);
            prop_assert_eq!(perturbed[0], 0);
            for (position, item) in perturbed.iter().enumerate() {
                prop_assert!(*item == original[position] || pool.items.contains(item));
            }
            prop_assert_eq!(&pool.perturb(&draws, candidate, &original, 0.0), &original, "nothing is replaced");
            let all = pool.perturb(&draws, candidate, &original, 1.0);
            prop_assert!(all[1..].iter().all(|item| *item >= 1000), "everything is replaced");
        }

        #[test]
        fn negatives_are_trained_items_outside_the_sequence(seed in any::<u64>(), n in 1usize..20) {
            let draws = Stream::new(seed, Purpose::Negatives, 1, 2);
            let trained = [1, 4, 6, 9];
            let drawn = negatives(&draws, &trained, 12, n, |item| item < 5);
            prop_assert!(drawn.iter().all(|item| [6, 9].contains(item)));
            let drawn = negatives(&draws, &trained, 12, n, |item| item < 10);
            prop_assert!(drawn.iter().all(|item| *item >= 10), "{:?}", drawn);
            let drawn = negatives(&draws, &trained, 12, n, |_| true);
            prop_assert!(drawn.iter().all(|item| *item < 12), "{:?}", drawn);
        }
    }

    #[test]
    fn replacements_follow_the_softmax_of_scores() {
        let items = [7, 8, 9];
        let scores = [0f32, 0.0, 0.0, 0.0, 1.0, 2.0];
        let pool = Pool::new(&items, 1.0, scores.to_vec());
        let mut counts = [0u32; 3];
        for client in 0..20_000 {
            let drawn = pool.perturb(&Stream::new(1, Purpose::Noise, 1, client), 0, &[0, 0], 1.0)[1];
            counts[drawn as usize - 7] += 1;
        }
        let z: f64 = (0..3).map(|x| f64::from(x).exp()).sum();
        for (i, count) in counts.iter().enumerate() {
            let (expected, n) = ((i as f64).exp() / z, 20_000.0);
            let deviation = (n * expected * (1.0 - expected)).sqrt();
            assert!((f64::from(*count) - n * expected).abs() < 4.0 * deviation, "{counts:?}");
        }
    }
}
