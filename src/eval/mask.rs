//! What may be recommended to a user: the one definition that evaluation, recommendation and views share.

use crate::config::Mask;
use crate::data::{Dataset, Split};

/// Rank of a target that may not be recommended: the user counts, and the target is a hit at no K. No item has this rank otherwise.
pub const MISS: u32 = u32::MAX;

impl Mask {
    /// The items, out of a user's `history`, that may not be recommended to this user; in any order, repeats allowed.
    pub fn masked(self, history: &[u32]) -> &[u32] {
        match self {
            Mask::History => history,
            Mask::None => &[],
        }
    }
}

/// The rank of `target`, counted from 1, or [`MISS`] where it is among the `masked` items.
///
/// `counted` is the number of all items, masked ones and the target included, that do not score below the target; `counts` says whether
/// an item is one of them.
pub fn rank_from_count(counted: u32, target: u32, masked: &[u32], counts: impl Fn(u32) -> bool) -> u32 {
    if masked.contains(&target) {
        return MISS;
    }
    let mut distinct: Vec<u32> = masked.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    counted - distinct.into_iter().filter(|&item| counts(item)).count() as u32
}

/// The `k` items of the highest `scores` `[I]` that are not `masked`, best first, with their scores; ties by item index.
pub fn best_items(scores: &[f32], masked: &[u32], k: usize) -> Vec<(u32, f32)> {
    let mut open = vec![true; scores.len()];
    for &item in masked {
        if let Some(open) = open.get_mut(item as usize) {
            *open = false;
        }
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).filter(|&i| open[i as usize]).collect();
    let better = |a: &u32, b: &u32| scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b));
    // The order is total, so that the best ones are the same whether all are sorted or not.
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, better);
        order.truncate(k);
    }
    order.sort_unstable_by(better);
    order.into_iter().take(k).map(|i| (i, scores[i as usize])).collect()
}

/// How many users' targets are items that the user had met before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReturningTargets {
    /// Users with a target.
    pub users: u64,
    /// Of these, users whose history holds the target.
    pub returning: u64,
}

impl ReturningTargets {
    /// Counts the targets of `split`.
    pub fn count(data: &Dataset, split: Split) -> ReturningTargets {
        let targets = (0..data.users()).filter_map(|user| data.input_and_target(user, split));
        targets.fold(ReturningTargets::default(), |all, (input, target)| ReturningTargets {
            users: all.users + 1,
            returning: all.returning + u64::from(input.contains(&target)),
        })
    }

    /// `returning / users`; 0 without users.
    pub fn share(&self) -> f64 {
        self.returning as f64 / self.users.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_hides_the_history_or_nothing() {
        assert_eq!(Mask::History.masked(&[3, 1, 3]), [3, 1, 3]);
        assert!(Mask::None.masked(&[3, 1, 3]).is_empty());
    }

    #[test]
    fn a_hidden_item_is_in_no_list_and_has_no_rank() {
        let scores = [0.5, 3.0, 3.0, 1.0];
        assert_eq!(best_items(&scores, &[], 9), [(1, 3.0), (2, 3.0), (3, 1.0), (0, 0.5)]);
        assert_eq!(best_items(&scores, &[1, 3, 1, 77], 1), [(2, 3.0)]);
        let counts = |target: usize| move |item: u32| scores[item as usize] >= scores[target];
        assert_eq!(rank_from_count(3, 3, &[1, 1, 0], counts(3)), 2);
        assert_eq!(rank_from_count(3, 3, &[1, 3], counts(3)), MISS);
    }

    #[test]
    fn targets_that_the_history_holds_are_counted() {
        let mut data = Dataset { item_tokens: vec![String::new(); 4], offsets: vec![0], ..Default::default() };
        for sequence in [&[0, 1, 0][..], &[0, 1, 2], &[1, 1, 1, 2], &[1, 1], &[2, 3, 3]] {
            data.items.extend(sequence);
            data.offsets.push(data.items.len() as u64);
        }
        let [validation, test] = [Split::Validation, Split::Test].map(|split| ReturningTargets::count(&data, split));
        assert_eq!(validation, ReturningTargets { users: 4, returning: 1 });
        assert_eq!(test, ReturningTargets { users: 4, returning: 2 });
        assert_eq!((test.share(), ReturningTargets::default().share()), (0.5, 0.0));
    }
}
