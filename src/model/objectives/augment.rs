//! Augmented copies of a sequence (CL4SRec, Xie et al., ICDE 2022): *crop* keeps a stretch of `floor(crop n)` items, at least one; *mask*
//! puts the mask row for `floor(mask n)` of them; *reorder* shuffles a stretch of `floor(reorder n)`. Sequences of one item stay as they are.

use super::Sequence;
use crate::base::rng::{Purpose, Stream};
use crate::config::InBatchSettings;
use smallvec::SmallVec;

/// Draws of one sequence in one local epoch, one after another: a function of seed, round, user, epoch and how many came before.
pub(super) struct Draws {
    stream: Stream,
    at: u64,
}

impl Draws {
    /// Those of `sequence` in `epoch`.
    pub(super) fn of(sequence: &Sequence, epoch: u32) -> Draws {
        Draws { stream: sequence.stream(Purpose::Augment), at: u64::from(epoch) << 32 }
    }

    /// The next one, below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        self.stream.below_at(self.at - 1, n as u64) as usize
    }

    /// Two different operators.
    pub(super) fn operators(&mut self) -> [usize; 2] {
        let first = self.below(3);
        [first, (first + 1 + self.below(2)) % 3]
    }
}

/// A changed copy.
pub(super) type Copy = SmallVec<[u32; 64]>;

/// A copy of `items` changed by operator 0 (crop), 1 (mask) or 2 (reorder).
pub(super) fn augmented(items: &[u32], operator: usize, settings: &InBatchSettings, mask: u32, draws: &mut Draws) -> Copy {
    let mut copy = Copy::from_slice(items);
    let n = copy.len();
    if n < 2 {
        return copy;
    }
    let share = |of: f32| ((f64::from(of) * n as f64) as usize).min(n);
    match operator {
        0 => {
            let kept = share(settings.crop).max(1);
            let from = draws.below(n - kept + 1);
            copy.truncate(from + kept);
            copy.drain(..from);
        }
        1 => {
            // Places at the head of a shuffled list of all places.
            let mut places: Copy = (0..n as u32).collect();
            for i in 0..share(settings.mask) {
                let other = i + draws.below(n - i);
                places.swap(i, other);
                copy[places[i] as usize] = mask;
            }
        }
        _ => {
            let window = share(settings.reorder);
            let from = draws.below(n - window + 1);
            for i in (1..window).rev() {
                let other = draws.below(i + 1);
                copy.swap(from + i, from + other);
            }
        }
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64) -> Draws {
        Draws { stream: Stream::new(seed, Purpose::Augment, 1, 0), at: 0 }
    }

    #[test]
    fn operators_do_what_their_names_say() {
        let settings = InBatchSettings::default();
        for n in 1..40usize {
            let items: Vec<u32> = (0..n as u32).map(|i| 100 + i).collect();
            let (mut crops, mut masks, mut orders) = (Vec::new(), Vec::new(), Vec::new());
            for seed in 0..30 {
                let of = |operator| augmented(&items, operator, &settings, 7, &mut draws(seed));
                let (crop, mask, order) = (of(0), of(1), of(2));
                if n == 1 {
                    assert!([&crop, &mask, &order].iter().all(|copy| copy[..] == items[..]));
                    continue;
                }
                assert_eq!(crop.len(), (6 * n / 10).max(1));
                assert!(crop.windows(2).all(|w| w[1] == w[0] + 1), "neighbours stay neighbours");
                let hidden: Vec<usize> = (0..n).filter(|&i| mask[i] == 7).collect();
                assert_eq!((mask.len(), hidden.len()), (n, 3 * n / 10));
                assert!((0..n).all(|i| mask[i] == items[i] || mask[i] == 7));
                let mut sorted = order.clone();
                sorted.sort();
                assert_eq!(sorted[..], items[..]);
                let moved: Vec<usize> = (0..n).filter(|&i| order[i] != items[i]).collect();
                assert!(moved.is_empty() || moved[moved.len() - 1] - moved[0] < 6 * n / 10, "within the window");
                crops.push(crop);
                masks.push(hidden);
                orders.push(order);
            }
            for list in [crops.len(), masks.len(), orders.len()] {
                assert!(list == 30 || n == 1);
            }
            if n >= 10 {
                assert!(
                    crops.windows(2).any(|w| w[0] != w[1])
                        && masks.windows(2).any(|w| w[0] != w[1])
                        && orders.windows(2).any(|w| w[0] != w[1])
                );
            }
        }
    }
}
