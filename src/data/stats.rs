//! What a data set looks like in numbers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::dataset::Dataset;
use super::times::{TimeUnit, Times};

/// Statistics of a prepared data set, validation and test items included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Users.
    pub users: u64,
    /// Items with at least one interaction.
    pub items: u64,
    /// Interactions.
    pub interactions: u64,
    /// `interactions / (users * items)`; may exceed 1 where items are repeated.
    pub density: f64,
    /// Shortest sequence.
    pub min_length: u64,
    /// Median length; the lower middle of an even number of users.
    pub median_length: u64,
    /// Mean length.
    pub mean_length: f64,
    /// Longest sequence.
    pub max_length: u64,
    /// Items with a title.
    pub items_with_title: u64,
    /// Items with at least one category.
    pub items_with_categories: u64,
    /// Items with at least one also-bought item of the catalogue.
    pub items_with_also_bought: u64,
    /// Interactions equal to an earlier one of the same user: same item and same time. `None` without times.
    pub duplicates: Option<u64>,
    /// Interactions with an item that the user had met before, whatever the time.
    pub repeats: u64,
    /// Gini coefficient of the items' popularity: 0 all equal, towards 1 all on one item.
    pub gini: f64,
    /// What the times count. `None` without times.
    pub time_unit: Option<TimeUnit>,
    /// Share of neighbouring interactions of a user that fall on one (UTC) day. `None` where times are unknown or are mere
    /// positions.
    pub same_day: Option<f64>,
}

/// Statistics of `dataset` alone; what needs times is `None`.
pub fn stats(dataset: &Dataset) -> Stats {
    stats_with_times(dataset, None)
}

/// Statistics of `dataset` and the times of its packed interactions `[N]`.
pub fn stats_with_times(dataset: &Dataset, times: Option<&Times>) -> Stats {
    let users = dataset.users();
    let mut lengths: Vec<u64> = (0..users).map(|u| dataset.offsets[u + 1] - dataset.offsets[u]).collect();
    lengths.sort_unstable();
    let n = dataset.items.len() as u64;
    let count = |has: fn(&super::ItemText) -> bool| dataset.catalogue.iter().filter(|i| has(i)).count() as u64;
    let times = times.filter(|t| t.len() == dataset.items.len());
    let cells = users as f64 * dataset.item_count() as f64;
    Stats {
        users: users as u64,
        items: dataset.item_count() as u64,
        interactions: n,
        density: if cells > 0.0 { n as f64 / cells } else { 0.0 },
        min_length: lengths.first().copied().unwrap_or(0),
        median_length: lengths.get(users.saturating_sub(1) / 2).copied().unwrap_or(0),
        mean_length: if users > 0 { n as f64 / users as f64 } else { 0.0 },
        max_length: lengths.last().copied().unwrap_or(0),
        items_with_title: count(|i| !i.title.is_empty()),
        items_with_categories: count(|i| !i.categories.is_empty()),
        items_with_also_bought: count(|i| !i.also_bought.is_empty()),
        duplicates: times.map(|t| repeated(dataset, |at| (dataset.items[at], t.key(at)))),
        repeats: repeated(dataset, |at| dataset.items[at]),
        gini: gini(dataset),
        time_unit: times.map(|t| t.unit),
        same_day: times.filter(|t| t.unit != TimeUnit::Positions).map(|t| same_day(dataset, t)),
    }
}

/// Interactions whose key occurred before in the same sequence.
fn repeated<K: Eq + std::hash::Hash>(dataset: &Dataset, key: impl Fn(usize) -> K) -> u64 {
    let mut seen = HashSet::new();
    let mut count = 0;
    for user in 0..dataset.users() {
        seen.clear();
        let range = dataset.offsets[user] as usize..dataset.offsets[user + 1] as usize;
        count += range.filter(|at| !seen.insert(key(*at))).count() as u64;
    }
    count
}

/// Gini coefficient of all interactions over the items.
fn gini(dataset: &Dataset) -> f64 {
    let mut counts = vec![0u64; dataset.item_count()];
    for &item in &dataset.items {
        counts[item as usize] += 1;
    }
    counts.sort_unstable();
    let (n, total) = (counts.len() as f64, dataset.items.len() as f64);
    if total == 0.0 {
        return 0.0;
    }
    let weighted: f64 = counts.iter().enumerate().map(|(rank, c)| (2.0 * (rank as f64 + 1.0) - n - 1.0) * *c as f64).sum();
    weighted / (n * total)
}

/// Share of neighbours on one day.
fn same_day(dataset: &Dataset, times: &Times) -> f64 {
    let (mut pairs, mut same) = (0u64, 0u64);
    for user in 0..dataset.users() {
        let own = dataset.offsets[user] as usize..dataset.offsets[user + 1] as usize;
        pairs += own.len().saturating_sub(1) as u64;
        same += own.skip(1).filter(|at| times.day(at - 1) == times.day(*at)).count() as u64;
    }
    if pairs == 0 { 0.0 } else { same as f64 / pairs as f64 }
}
