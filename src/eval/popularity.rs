//! The popularity baseline: the same order of items for everyone, by training counts.

use super::{best_items, rank_from_count};
use crate::config::Mask;
use crate::data::{Dataset, Sought};

/// The `k` items of the highest training counts that `mask` leaves to a user with `history`, with their counts; ties by item index.
pub fn popularity_items(data: &Dataset, mask: Mask, history: &[u32], k: usize) -> Vec<(u32, f32)> {
    let scores: Vec<f32> = data.train_counts().into_iter().map(|count| count as f32).collect();
    best_items(&scores, mask.masked(history), k)
}

/// Rank of each user's target of a split, or of one item for all users, when items are ordered by training counts; ties count against the baseline as against any
/// model. [`super::MISS`] where `mask` hides the target, 0 for a user without one.
pub fn popularity_ranks(data: &Dataset, mask: Mask, sought: impl Into<Sought>, users: &[u32]) -> Vec<u32> {
    let sought = sought.into();
    let counts = data.train_counts();
    // `not_less[c]`: items with a count of at least c.
    let top = counts.iter().copied().max().unwrap_or(0) as usize;
    let mut not_less = vec![0u32; top + 2];
    for &c in &counts {
        not_less[c as usize] += 1;
    }
    for c in (0..=top).rev() {
        not_less[c] += not_less[c + 1];
    }
    users
        .iter()
        .map(|&user| {
            let Some((input, target)) = data.sought(user as usize, sought) else { return 0 };
            let threshold = counts[target as usize];
            rank_from_count(not_less[threshold as usize], target, mask.masked(input), |i| counts[i as usize] >= threshold)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;
    use crate::eval::rank_of;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counting_agrees_with_the_definition(sequences in prop::collection::vec(prop::collection::vec(0u32..15, 1..9), 1..20)) {
            let mut data = Dataset { item_tokens: vec![String::new(); 15], offsets: vec![0], ..Default::default() };
            for s in &sequences {
                data.items.extend(s);
                data.offsets.push(data.items.len() as u64);
            }
            let users: Vec<u32> = (0..sequences.len() as u32).collect();
            let scores: Vec<f32> = data.train_counts().iter().map(|&c| c as f32).collect();
            for (split, mask) in [Split::Validation, Split::Test].into_iter().flat_map(|s| [(s, Mask::History), (s, Mask::None)]) {
                let ranks = popularity_ranks(&data, mask, split, &users);
                for (u, &rank) in ranks.iter().enumerate() {
                    let asked = data.input_and_target(u, split);
                    let expected = asked.map_or(0, |(input, target)| rank_of(&scores, target, mask.masked(input)));
                    prop_assert_eq!(rank, expected);
                }
            }
        }
    }
}
