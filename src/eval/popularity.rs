//! The popularity baseline: the same list for everyone, by training counts, history masked.

use crate::data::{Dataset, Split};

/// Rank of each user's target when items are ordered by training counts; ties count against the baseline as against any
/// model. 0 for a user without a target.
pub fn popularity_ranks(data: &Dataset, split: Split, users: &[u32]) -> Vec<u32> {
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
            let Some((input, target)) = data.input_and_target(user as usize, split) else { return 0 };
            let threshold = counts[target as usize];
            let mut masked: Vec<u32> = input.iter().copied().filter(|&i| i != target && counts[i as usize] >= threshold).collect();
            masked.sort_unstable();
            masked.dedup();
            not_less[threshold as usize] - masked.len() as u32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
            for split in [Split::Validation, Split::Test] {
                let ranks = popularity_ranks(&data, split, &users);
                for (u, &rank) in ranks.iter().enumerate() {
                    let expected = data.input_and_target(u, split).map_or(0, |(input, target)| rank_of(&scores, target, input));
                    prop_assert_eq!(rank, expected);
                }
            }
        }
    }
}
