//! Recall, precision and MAP among the scores, where a split leaves a user several items to be found.

use super::result::Scores;
use crate::Result;
use crate::config::Settings;
use crate::data::{Dataset, Sought, Split, Target};
use crate::eval::several;
use serde_json::json;
use std::collections::BTreeMap;

/// Adds `Recall@K`, `Precision@K` and `MAP@K` of `users` in `split` to `scores`, and `targets`, how many distinct items they have to find, where
/// a user has more than one. `ranks` `[users]` are those of the first targets, which stand there already; `rank` gives the others, as many rankings as the user
/// with the most targets has left.
///
/// # Errors
/// Where ranking fails.
pub(super) fn add_several(
    settings: &Settings,
    data: &Dataset,
    split: Split,
    (users, ranks): (&[u32], &[u32]),
    scores: &mut Scores,
    rank: &mut impl FnMut(Sought, &[u32]) -> Result<Vec<u32>>,
) -> Result<()> {
    // Who has a distinct item at each place behind the first.
    let mut asked: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, &user) in users.iter().enumerate() {
        for place in distinct(data.targets(user as usize, split)).into_iter().filter(|&place| place > 0) {
            asked.entry(place).or_default().push(at);
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let mut all: Vec<Vec<u32>> = ranks.iter().map(|&first| if first > 0 { vec![first] } else { Vec::new() }).collect();
    for (place, at) in asked {
        let asked_users: Vec<u32> = at.iter().map(|&at| users[at]).collect();
        let found = rank(Sought { split, target: Target::Nth(place) }, &asked_users)?;
        at.iter().zip(found).for_each(|(&at, rank)| all[at].push(rank));
    }
    let targets: usize = all.iter().map(Vec::len).sum();
    scores.extend(several(&all, &settings.eval.k).into_iter().map(|(name, value)| (name, json!(value))));
    scores.insert("targets".into(), json!(targets));
    Ok(())
}

/// Places of the items that stand in `targets` for the first time, ascending.
fn distinct(targets: &[u32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..targets.len() as u32).collect();
    // Stable, so that of equal items the first stays.
    order.sort_by_key(|&place| targets[place as usize]);
    order.dedup_by_key(|place| targets[*place as usize]);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::distinct;

    #[test]
    fn an_item_that_is_met_twice_is_found_once() {
        assert_eq!(distinct(&[4, 2, 4, 9, 2]), [0, 1, 3]);
        assert!(distinct(&[]).is_empty());
    }
}
