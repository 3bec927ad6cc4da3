//! What is true of a world: tastes, groups, and how well a ranker that knows both can do.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::names::CATEGORIES;
use super::world::{FOLLOW, PICKS, Place, RETRIES, SHARE, SUCCESSORS, World, skewed_weights};
use super::{item_token, lengths, user_token};
use crate::Result;
use crate::base::parallel;
use crate::config::DataSettings;

/// Most users whose last step the oracle ranks, and most entries of its tables in all: a world may have millions of both.
const USERS: usize = 2000;
const ENTRIES: usize = 400_000_000;

/// A world's own account of itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Truth {
    /// Seed of the world.
    pub seed: u64,
    /// Settings that make it.
    pub settings: BTreeMap<String, f64>,
    /// Category and sub-category of every item, sub-categories counted within the category.
    pub items: BTreeMap<String, (String, u64)>,
    /// Categories that a user likes at the beginning and at the end of the history, the best liked first.
    pub users: BTreeMap<String, (Vec<String>, Vec<String>)>,
    /// What can be reached at most on the last item of a history.
    pub oracle: Oracle,
}

/// How well the last item of histories is found by a ranker that knows the world: it ranks what the user has not met by how likely it comes next.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Oracle {
    /// Users, evenly over the world, out of those that a data set of the world tests.
    pub users: usize,
    /// Of these, users whose last item is an exploration, which nothing in the history predicts.
    pub explorations: usize,
    /// HR@K and NDCG@K to be expected, from the probabilities alone.
    pub expected: BTreeMap<String, f64>,
    /// The same measured on the items that were drawn; a tie counts against the ranker.
    pub measured: BTreeMap<String, f64>,
}

/// The truth about the world of `settings.synth_*` with the oracle's figures at the cut-offs `ks`.
///
/// # Errors
/// As for [`super::synthetic_world`].
pub fn synthetic_truth(settings: &DataSettings, ks: &[u32], threads: usize) -> Result<Truth> {
    let world = World::new(settings)?;
    let names = |all: &[u64]| all.iter().map(|&category| CATEGORIES[category as usize].to_string()).collect();
    let users = (0..settings.synth_users as usize).map(|user| {
        let taste = world.taste(user as u64);
        (user_token(user), (names(&taste.early), names(&taste.late)))
    });
    let items = (0..world.items).map(|item| {
        let leaf = item % world.leaves();
        (item_token(item), (CATEGORIES[(leaf / world.subs) as usize].to_string(), leaf % world.subs))
    });
    let habits = [
        ("users", f64::from(settings.synth_users)),
        ("items", f64::from(settings.synth_items)),
        ("mean_length", f64::from(settings.synth_mean_length)),
        ("tastes", f64::from(settings.synth_tastes)),
        ("drift", crate::config::tidy(f64::from(settings.synth_drift))),
        ("skew", f64::from(settings.synth_skew)),
        ("noise", crate::config::tidy(f64::from(settings.synth_noise))),
    ];
    Ok(Truth {
        seed: settings.synth_seed,
        settings: habits.map(|(name, value)| (name.to_string(), value)).into(),
        items: items.collect(),
        users: users.collect(),
        oracle: oracle(&world, settings, ks, threads),
    })
}

/// What one user adds to the figures: expected and measured, HR and NDCG for each K.
struct Share {
    explored: bool,
    expected: Vec<[f64; 2]>,
    measured: Vec<[f64; 2]>,
}

fn oracle(world: &World, settings: &DataSettings, ks: &[u32], threads: usize) -> Oracle {
    let (lengths, starts) = lengths(world, settings.synth_users as usize);
    let least = settings.min_length.max(3);
    let tested: Vec<usize> = (0..lengths.len()).filter(|&user| lengths[user] >= least).collect();
    let most = USERS.min((ENTRIES / world.items as usize).max(50));
    let chosen: Vec<usize> = tested.iter().copied().step_by(tested.len().div_ceil(most).max(1)).collect();
    let shares = parallel::map(threads, chosen.len(), 1, |at| {
        let user = chosen[at];
        share(world, user as u64, lengths[user], starts[user], ks)
    });
    let n = shares.len().max(1) as f64;
    let mean = |of: &dyn Fn(&Share) -> &Vec<[f64; 2]>| {
        let mut all = BTreeMap::new();
        for (at, k) in ks.iter().enumerate() {
            for (metric, name) in ["HR", "NDCG"].iter().enumerate() {
                all.insert(format!("{name}@{k}"), (shares.iter().map(|share| of(share)[at][metric]).sum::<f64>() + 0.0) / n);
            }
        }
        all
    };
    Oracle {
        users: shares.len(),
        explorations: shares.iter().filter(|share| share.explored).count(),
        expected: mean(&|share| &share.expected),
        measured: mean(&|share| &share.measured),
    }
}

/// The last step of a user's history.
fn share(world: &World, user: u64, length: u32, start: u64, ks: &[u32]) -> Share {
    let (mut met, mut items, mut times) = (HashSet::new(), Vec::new(), Vec::new());
    world.history(user, length, start, &mut met, &mut items, &mut times);
    let target = u64::from(items[items.len() - 1]);
    met.remove(&target);
    let position = u64::from(length) - 1;
    let taste = world.taste(user);
    let last = items.len().checked_sub(2).map(|at| u64::from(items[at]));
    let place = Place { taste: &taste, last, position, length: length.into(), met: &met };
    let likely = next(world, &place, None);
    let ranks = ranks(&likely, &met);
    let explored = world.explores(start + position);
    // What an exploration comes to is no matter of chance: the item, or the user's taste where the item was met.
    let drawn = explored.map(|item| next(world, &place, Some(item)));
    let real = drawn.as_ref().unwrap_or(&likely);
    let gain = |rank: u32, k: u32| if rank > 0 && rank <= k { [1.0, 1.0 / (f64::from(rank) + 1.0).log2()] } else { [0.0; 2] };
    let expected = |&k: &u32| {
        let found = (0..real.len()).filter(|&item| ranks[item] > 0 && ranks[item] <= k);
        found.fold([0.0; 2], |sum, item| {
            let gain = gain(ranks[item], k);
            [sum[0] + real[item] * gain[0], sum[1] + real[item] * gain[1]]
        })
    };
    Share {
        explored: explored.is_some(),
        expected: ks.iter().map(expected).collect(),
        measured: ks.iter().map(|&k| gain(ranks[target as usize], k)).collect(),
    }
}

/// How likely each item `[I]` is the next one of a history; `explored` is the item of a step that explores.
pub(super) fn next(world: &World, place: &Place, explored: Option<u64>) -> Vec<f64> {
    let liked = liked(world, place);
    let mut first = vec![0.0; liked.len()];
    match (explored, place.last) {
        (Some(item), _) => first[item as usize] = 1.0,
        (None, last) => {
            let noise = world.noise as f64 / SHARE as f64;
            let follow = if last.is_some() { FOLLOW as f64 / 100.0 } else { 0.0 };
            for (p, liked) in first.iter_mut().zip(&liked) {
                *p = noise / world.items as f64 + (1.0 - noise) * (1.0 - follow) * liked;
            }
            for k in 0..last.map_or(0, |_| SUCCESSORS) {
                let item = world.successor(last.unwrap_or_default(), k);
                first[item as usize] += (1.0 - noise) * follow * PICKS[k as usize];
            }
        }
    }
    // Where the item was met, the taste is asked some times more; then the next item in order that was not met is taken.
    let mut met: Vec<u64> = place.met.iter().copied().collect();
    // In one order, so that sums have the same bits every time.
    met.sort_unstable();
    let again: f64 = met.iter().map(|&item| first[item as usize]).sum();
    let stays: f64 = met.iter().map(|&item| liked[item as usize]).sum();
    let draws: f64 = (0..RETRIES).map(|n| stays.powi(n)).sum();
    let mut all: Vec<f64> = first.iter().zip(&liked).map(|(first, liked)| first + again * draws * liked).collect();
    for &item in &met {
        let mut free = item;
        while place.met.contains(&free) {
            free = (free + 1) % world.items;
        }
        all[free as usize] += again * stays.powi(RETRIES - 1) * liked[item as usize];
    }
    met.iter().for_each(|&item| all[item as usize] = 0.0);
    all
}

/// How likely each item `[I]` is drawn from the user's taste.
fn liked(world: &World, place: &Place) -> Vec<f64> {
    let late = place.position as f64 / place.length as f64;
    let tastes = place.taste.early.len();
    let weights: Vec<f64> = if tastes == PICKS.len() { PICKS.to_vec() } else { skewed_weights(tastes as u64, 2).collect() };
    let mut categories = vec![0.0; world.categories as usize];
    for ((early, after), weight) in place.taste.early.iter().zip(&place.taste.late).zip(weights) {
        categories[*early as usize] += (1.0 - late) * weight;
        categories[*after as usize] += late * weight;
    }
    let mut all = vec![0.0; world.items as usize];
    for (category, p) in (0..).zip(categories).filter(|(_, p)| *p > 0.0) {
        let favourite = place.taste.favourite(category, world.subs);
        for (offset, sub) in (0..).zip(skewed_weights(world.subs, 2)) {
            let leaf = category * world.subs + (favourite + offset) % world.subs;
            for (at, item) in (0..).zip(skewed_weights(world.leaf_size(leaf), world.skew)) {
                all[(at * world.leaves() + leaf) as usize] += p * sub * item;
            }
        }
    }
    all
}

/// Rank of every item by how likely it is, among those that were not met; 0 for one that was. An item stands behind all that are as likely.
fn ranks(likely: &[f64], met: &HashSet<u64>) -> Vec<u32> {
    let mut order: Vec<usize> = (0..likely.len()).filter(|&item| !met.contains(&(item as u64))).collect();
    order.sort_unstable_by(|a, b| likely[*b].total_cmp(&likely[*a]));
    let mut ranks = vec![0; likely.len()];
    let mut at = 0;
    while at < order.len() {
        let alike = order[at..].partition_point(|&item| likely[item] == likely[order[at]]);
        order[at..at + alike].iter().for_each(|&item| ranks[item] = (at + alike) as u32);
        at += alike;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    /// The probabilities are those of the draws that make histories, for histories so long that most of a taste is met, with and without noise.
    #[test]
    fn probabilities_are_those_of_the_draws() {
        for (tastes, skew, noise, length) in [(3, 2, 0.0, 12), (1, 4, 0.0, 30), (5, 1, 0.3, 20), (2, 8, 0.1, 40)] {
            let settings = DataSettings {
                synth_users: 20,
                synth_items: 90,
                synth_tastes: tastes,
                synth_skew: skew,
                synth_noise: noise,
                ..DataSettings::default()
            };
            let world = World::new(&settings).unwrap();
            let (mut met, mut items) = (HashSet::new(), Vec::new());
            world.history(3, length, 7, &mut met, &mut items, &mut Vec::new());
            let taste = world.taste(3);
            let last = items.last().map(|&item| u64::from(item));
            let place = Place { taste: &taste, last, position: length.into(), length: u64::from(length) + 2, met: &met };
            let wanted = next(&world, &place, None);
            assert!((wanted.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{}", wanted.iter().sum::<f64>());
            let draws = 200_000;
            let mut stream = Stream::new(9, Purpose::World, 77, u64::from(tastes));
            let mut counts = vec![0u32; 90];
            (0..draws).for_each(|_| counts[world.step(&place, &mut stream) as usize] += 1);
            for (item, (&count, &p)) in counts.iter().zip(&wanted).enumerate() {
                let error = (p * (1.0 - p) / f64::from(draws)).sqrt();
                let found = f64::from(count) / f64::from(draws);
                assert!(
                    (found - p).abs() <= 5.0 * error + 1e-5,
                    "item {item}: {found} and {p} with tastes {tastes}, skew {skew}, noise {noise}"
                );
            }
        }
    }
}
