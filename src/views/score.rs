//! Whether views are any good, measured and never trained on: how often a future names the item that really came next, its category or one of
//! its nearest items, beside popularity, transitions and chance; how much nearer to the history than chance the paraphrase is, and how much
//! farther the counterfactual.
//!
//! What came next is the validation item. This file alone looks at it, and what it gives are figures, so that nothing of it can find a way
//! into views or into training.

use super::features::{Features, Profile};
use super::neighbours::Neighbours;
use super::{UserViews, ViewKind, Views, mix, stream};
use crate::base::parallel;
use crate::data::{Dataset, Split};
use crate::{Error, Result};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// Nearest items of the true one that count as near it.
const NEAR: usize = 10;
/// Users whose likeness is measured, evenly spread.
const SAMPLE: usize = 2000;

/// How often lists of items meet the true next item, each as a share of the users.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hits {
    /// The item itself is on the list.
    pub next_item_hit: f64,
    /// Some item of the list has its narrowest category; of users whose true item has one.
    pub category_hit: f64,
    /// The item or one of its ten nearest is on the list.
    pub neighbour_hit: f64,
    /// The item is at place 1, 2, ... of the list.
    pub hit_by_place: Vec<f64>,
}

/// Figures of a set of views.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Data set.
    pub data: String,
    /// Who made the views.
    pub generator: String,
    /// The language model, where one wrote them.
    pub model: Option<String>,
    /// Users with a future and a true next item.
    pub users: u64,
    /// Items that a future appends, in the mean.
    pub appended: f64,
    /// The futures.
    #[serde(flatten)]
    pub future: Hits,
    /// As many of the items met most often in training, the history left out.
    pub popularity: Hits,
    /// As many of the items that most often came right after the last item in training; popular ones where too few did.
    pub transitions: Hits,
    /// As many random items that are not of the history.
    pub random: Hits,
    /// Mean cosine of a random item and the items of the history.
    pub likeness_random: f64,
    /// The same of the items that a future appends.
    pub likeness_future: f64,
    /// The same of the items that a paraphrase puts in.
    pub likeness_paraphrase: f64,
    /// The same of the items of counterfactuals.
    pub likeness_counterfactual: f64,
    /// Share of the catalogue that futures append somewhere.
    pub catalogue_share: f64,
}

/// A user who is looked at.
struct Looked<'v> {
    user: usize,
    history: &'v [u32],
    target: u32,
    views: &'v UserViews,
    appended: &'v [u32],
}

/// Measures `views` of `data`, made by `generator` and, where one wrote them, by the language model `model`.
///
/// # Errors
/// Where no user has both a future and a next item.
pub fn score(data: &Dataset, views: &Views, generator: &str, model: Option<&str>, threads: usize) -> Result<Score> {
    let looked: Vec<Looked> = (0..data.users()).filter_map(|user| look(data, views, user)).collect();
    if looked.is_empty() {
        return Err(Error::Usage("no user has both a future and a next item; nothing can be measured".into()));
    }
    let features = Features::new(&data.catalogue);
    let near = Neighbours::new(&features, NEAR, threads, &|_| ());
    let popular = popular(data);
    let follow = follow(data, &popular);
    let hits = |list: &(dyn Fn(&Looked) -> Vec<u32> + Sync)| {
        let lists = parallel::map(threads, looked.len(), 16, |i| list(&looked[i]));
        measure(data, &near, &looked, &lists)
    };
    // Those that follow first, by their number; popular ones behind them.
    let list = |l: &Looked, first: &[u32]| {
        let mut list: Vec<u32> = Vec::with_capacity(l.appended.len());
        for &item in first.iter().chain(&popular) {
            if list.len() == l.appended.len() {
                break;
            }
            if !l.history.contains(&item) && !list.contains(&item) {
                list.push(item);
            }
        }
        list
    };
    let last = |l: &Looked| l.history.last().and_then(|item| follow.get(item)).map_or(&[][..], Vec::as_slice);
    let [random_l, future_l, paraphrase_l, counterfactual_l] = likeness(data, &features, &looked);
    let distinct: HashSet<u32> = looked.iter().flat_map(|l| l.appended).copied().collect();
    Ok(Score {
        data: data.name.clone(),
        generator: generator.to_string(),
        model: model.map(str::to_string),
        users: looked.len() as u64,
        appended: looked.iter().map(|l| l.appended.len()).sum::<usize>() as f64 / looked.len() as f64,
        future: hits(&|l| l.appended.to_vec()),
        popularity: hits(&|l| list(l, &[])),
        transitions: hits(&|l| list(l, last(l))),
        random: hits(&|l| random(data, l, l.appended.len())),
        likeness_random: random_l,
        likeness_future: future_l,
        likeness_paraphrase: paraphrase_l,
        likeness_counterfactual: counterfactual_l,
        catalogue_share: distinct.len() as f64 / data.item_count().max(1) as f64,
    })
}

fn look<'v>(data: &'v Dataset, views: &'v Views, user: usize) -> Option<Looked<'v>> {
    let (history, target) = data.input_and_target(user, Split::Validation)?;
    let views = views.get(user)?;
    let appended = views.future.get(history.len()..).filter(|items| !items.is_empty())?;
    Some(Looked { user, history, target, views, appended })
}

/// All items, those met most often in training first.
fn popular(data: &Dataset) -> Vec<u32> {
    let counts = data.train_counts();
    let mut all: Vec<u32> = (0..counts.len() as u32).collect();
    all.sort_by_key(|&item| (std::cmp::Reverse(counts[item as usize]), mix(item, 0)));
    all
}

/// What came right after each item in training, most often first; of equals the popular one.
fn follow(data: &Dataset, popular: &[u32]) -> HashMap<u32, Vec<u32>> {
    let mut all = HashMap::<u32, HashMap<u32, u32>>::new();
    for user in 0..data.users() {
        for pair in data.train(user).windows(2) {
            *all.entry(pair[0]).or_default().entry(pair[1]).or_default() += 1;
        }
    }
    let mut place = vec![0; popular.len()];
    popular.iter().enumerate().for_each(|(at, &item)| place[item as usize] = at);
    let sorted = |counts: HashMap<u32, u32>| {
        let mut items: Vec<(u32, u32)> = counts.into_iter().collect();
        items.sort_by_key(|&(item, n)| (std::cmp::Reverse(n), place[item as usize]));
        items.into_iter().map(|(item, _)| item).collect()
    };
    all.into_iter().map(|(item, counts)| (item, sorted(counts))).collect()
}

/// Up to `n` distinct random items that are not of the history: fewer where the catalogue has no more.
fn random(data: &Dataset, l: &Looked, n: usize) -> Vec<u32> {
    let mut draws = stream(u64::MAX, l.user as u32, ViewKind::Future);
    let known: HashSet<u32> = l.history.iter().copied().collect();
    let n = n.min(data.item_count() - known.len());
    let mut list: Vec<u32> = Vec::with_capacity(n);
    while list.len() < n {
        let item = draws.below(data.item_count() as u64) as u32;
        if !known.contains(&item) && !list.contains(&item) {
            list.push(item);
        }
    }
    list
}

fn measure(data: &Dataset, near: &Neighbours, looked: &[Looked], lists: &[Vec<u32>]) -> Hits {
    let narrowest = |item: u32| data.catalogue.get(item as usize).and_then(|text| text.categories.last());
    let (mut item, mut category, mut with_category, mut neighbour) = (0u64, 0u64, 0u64, 0u64);
    let mut places = vec![0u64; lists.iter().map(Vec::len).max().unwrap_or(0)];
    for (Looked { target, .. }, list) in looked.iter().zip(lists) {
        if let Some(place) = list.iter().position(|i| i == target) {
            item += 1;
            places[place] += 1;
        }
        if let Some(own) = narrowest(*target) {
            with_category += 1;
            category += u64::from(list.iter().any(|i| narrowest(*i) == Some(own)));
        }
        neighbour += u64::from(list.contains(target) || near.of(*target).any(|(i, _)| list.contains(&i)));
    }
    let share = |n: u64| n as f64 / looked.len() as f64;
    Hits {
        next_item_hit: share(item),
        category_hit: if with_category == 0 { 0.0 } else { category as f64 / with_category as f64 },
        neighbour_hit: share(neighbour),
        hit_by_place: places.into_iter().map(share).collect(),
    }
}

/// Mean cosine with the history of random items, appended items, a paraphrase's new items and counterfactual items.
fn likeness(data: &Dataset, features: &Features, looked: &[Looked]) -> [f64; 4] {
    let mut sums = [(0.0, 0u64); 4];
    for l in looked.iter().step_by(looked.len().div_ceil(SAMPLE)) {
        let profile = Profile::new(features, l.history);
        let new: Vec<u32> = l.views.paraphrase.iter().copied().filter(|item| !l.history.contains(item)).collect();
        let other: Vec<u32> = l.views.counterfactuals.concat();
        let drawn = random(data, l, 20);
        for ((sum, n), items) in sums.iter_mut().zip([&drawn[..], l.appended, &new, &other]) {
            *sum += items.iter().map(|item| f64::from(profile.nearness(*item).0)).sum::<f64>();
            *n += items.len() as u64;
        }
    }
    sums.map(|(sum, n)| if n == 0 { 0.0 } else { sum / n as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ItemText;

    /// Twelve items in three categories; users stay in theirs.
    fn world() -> Dataset {
        let text = |i: u32| ItemText {
            title: format!("thing {} {i}", i % 3),
            categories: vec!["All".into(), format!("c{}", i % 3)],
            ..Default::default()
        };
        let mut data = Dataset { name: "made".into(), offsets: vec![0], catalogue: (0..12).map(text).collect(), ..Default::default() };
        data.item_tokens = (0..12).map(|i| format!("i{i}")).collect();
        for user in 0..6u32 {
            data.items.extend((0..4).map(|k| (user % 3 + 3 * k) % 12));
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    fn made(data: &Dataset, next: impl Fn(usize, u32) -> Vec<u32>) -> Views {
        let user = |user: usize| {
            let (history, target) = data.input_and_target(user, Split::Validation).unwrap();
            let future = [history, &next(user, target)].concat();
            UserViews { future, paraphrase: history.to_vec(), counterfactuals: vec![] }
        };
        Views { users: (0..data.users()).map(user).collect() }
    }

    #[test]
    fn a_perfect_generator_and_an_adversarial_one_are_the_two_ends() {
        let data = world();
        let perfect = score(&data, &made(&data, |_, target| vec![(target + 1) % 12, target]), "perfect", None, 2).unwrap();
        assert_eq!((perfect.users, perfect.appended), (6, 2.0));
        assert_eq!((perfect.future.next_item_hit, perfect.future.category_hit, perfect.future.neighbour_hit), (1.0, 1.0, 1.0));
        assert_eq!(perfect.future.hit_by_place, [0.0, 1.0]);
        let adversary = score(&data, &made(&data, |_, target| vec![(target + 1) % 12, (target + 2) % 12]), "made", None, 1).unwrap();
        assert_eq!((adversary.future.next_item_hit, adversary.future.category_hit), (0.0, 0.0));
        assert!(adversary.likeness_future < perfect.likeness_future);
        // Who follows whom is certain in this world.
        assert_eq!(perfect.transitions, adversary.transitions);
        assert!(perfect.popularity.next_item_hit <= 1.0 && perfect.random.next_item_hit < 1.0);
        let none = Views { users: vec![UserViews::default(); 6] };
        assert!(score(&data, &none, "made", None, 1).is_err());
    }

    #[test]
    fn transitions_name_what_came_right_after_the_last_item() {
        let mut data = world();
        // In training item 3 is always followed by 9; popularity alone would name others.
        (data.items, data.offsets) = (vec![], vec![0]);
        for sequence in [&[3, 9, 0, 0, 0][..], &[3, 9, 1, 0, 0], &[0, 1, 0, 0], &[1, 0, 0, 1], &[0, 3, 9, 1]] {
            data.items.extend(sequence);
            data.offsets.push(data.items.len() as u64);
        }
        let views = made(&data, |_, _| vec![11]);
        let found = score(&data, &views, "made", None, 1).unwrap();
        // The last user's history ends with 3, and 9 came next: by transitions alone.
        assert!(found.transitions.next_item_hit >= 0.2 && found.popularity.next_item_hit < found.transitions.next_item_hit, "{found:?}");
    }
}
