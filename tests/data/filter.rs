//! Filtering and splitting: properties against the obvious, slow way of doing it.

use crate::common;
use std::collections::{HashMap, HashSet};

use lumos::config::{DataSettings, Duplicates, Repeats};
use lumos::data::{Filtered, ItemText, RawData, Split, TimeValues, Times, filter};
use proptest::prelude::*;

/// A raw data set of the given (user, item, time) rows; tokens are the numbers, ids by first appearance.
fn raw(rows: &[(u8, u8, i8)]) -> RawData {
    let mut raw = RawData::default();
    let times = rows.iter().map(|row| i64::from(row.2)).collect();
    raw.times = Some(Times::new(TimeValues::Integer(times)));
    let (mut users, mut items) = (HashMap::new(), HashMap::new());
    for (user, item, _) in rows {
        let (next_user, next_item) = (users.len() as u32, items.len() as u32);
        raw.users.push(*users.entry(user).or_insert(next_user));
        raw.items.push(*items.entry(item).or_insert(next_item));
        if next_user < users.len() as u32 {
            raw.user_tokens.push(format!("u{user}"));
        }
        if next_item < items.len() as u32 {
            raw.item_tokens.push(format!("i{item}"));
        }
    }
    // Everything is bought with everything, so that the renumbering of companions is seen.
    let all: Vec<u32> = (0..items.len() as u32).collect();
    raw.catalogue =
        raw.item_tokens.iter().map(|t| ItemText { title: t.clone(), also_bought: all.clone(), ..ItemText::default() }).collect();
    raw
}

fn limits(k_core: u32, min_length: u32, max_length: u32) -> DataSettings {
    DataSettings { k_core, min_length, max_length, ..DataSettings::default() }
}

/// Removes by whole passes until nothing changes; returns the rows left, in file order.
fn naive_k_core(rows: &[(u8, u8, i8)], k: usize) -> Vec<(u8, u8, i8)> {
    let mut rows = rows.to_vec();
    loop {
        let count = |of: &dyn Fn(&(u8, u8, i8)) -> u8| {
            rows.iter().fold(HashMap::new(), |mut m: HashMap<u8, usize>, r| {
                *m.entry(of(r)).or_default() += 1;
                m
            })
        };
        let (users, items) = (count(&|r| r.0), count(&|r| r.1));
        let left: Vec<_> = rows.iter().copied().filter(|r| users[&r.0] >= k && items[&r.1] >= k).collect();
        if left.len() == rows.len() {
            return rows;
        }
        rows = left;
    }
}

/// Rows without duplicates and repeats, in file order, each looked for among all rows before it.
fn naive_drop(rows: &[(u8, u8, i8)], duplicates: Duplicates, repeats: Repeats) -> Vec<(u8, u8, i8)> {
    let mut rows = rows.to_vec();
    if duplicates == Duplicates::Drop {
        let all = rows.clone();
        let mut at = 0..;
        rows.retain(|row| !all[..at.next().unwrap()].contains(row));
    }
    let mut ordered: Vec<usize> = (0..rows.len()).collect();
    ordered.sort_by_key(|at| (rows[*at].2, *at));
    let stays = |place: usize| {
        let (user, item, _) = rows[ordered[place]];
        let mut before = ordered[..place].iter().map(|at| rows[*at]).filter(|row| row.0 == user);
        match repeats {
            Repeats::Keep => true,
            Repeats::First => before.all(|row| row.1 != item),
            Repeats::Consecutive => before.next_back().is_none_or(|row| row.1 != item),
        }
    };
    let mut kept: Vec<usize> = (0..rows.len()).filter(|place| stays(*place)).map(|place| ordered[place]).collect();
    kept.sort();
    kept.into_iter().map(|at| rows[at]).collect()
}

/// The whole filter done slowly: sequences as tokens, users in file order of what is left.
fn naive(rows: &[(u8, u8, i8)], k: u32, min: u32, max: u32) -> Vec<(String, Vec<(String, i64)>)> {
    let core = naive_k_core(rows, k as usize);
    let mut kept = HashSet::new();
    let mut sequences: HashMap<u8, Vec<usize>> = HashMap::new();
    for (at, row) in core.iter().enumerate() {
        sequences.entry(row.0).or_default().push(at);
    }
    sequences.retain(|_, s| s.len() >= min as usize);
    for s in sequences.values_mut() {
        s.sort_by_key(|at| (core[*at].2, *at));
        if max > 0 && s.len() > max as usize {
            s.drain(..s.len() - max as usize);
        }
        kept.extend(s.iter().copied());
    }
    let mut order: Vec<u8> = Vec::new();
    for (at, row) in core.iter().enumerate() {
        if kept.contains(&at) && !order.contains(&row.0) {
            order.push(row.0);
        }
    }
    let row = |at: &usize| (format!("i{}", core[*at].1), i64::from(core[*at].2));
    order.iter().map(|u| (format!("u{u}"), sequences[u].iter().map(row).collect())).collect()
}

fn as_tokens(f: &Filtered) -> Vec<(String, Vec<(String, i64)>)> {
    let d = &f.dataset;
    let TimeValues::Integer(times) = &f.times.as_ref().unwrap().values else { panic!() };
    let range = |u: usize| d.offsets[u] as usize..d.offsets[u + 1] as usize;
    let one = |at: usize| (d.item_tokens[d.items[at] as usize].clone(), times[at]);
    (0..d.users()).map(|u| (d.user_tokens[u].clone(), range(u).map(one).collect())).collect()
}

proptest! {
    #![proptest_config(common::cases(300))]

    #[test]
    fn equals_the_naive_way(
        rows in prop::collection::vec((0u8..12, 0u8..10, -3i8..4), 1..160), k in 0u32..6, min in 3u32..6, max in prop::sample::select(vec![0u32, 3, 4, 9]),
        duplicates in prop::sample::select(vec![Duplicates::Drop, Duplicates::Keep]),
        repeats in prop::sample::select(vec![Repeats::Keep, Repeats::First, Repeats::Consecutive]),
    ) {
        let (single, left) = (naive_drop(&rows, duplicates, Repeats::Keep), naive_drop(&rows, duplicates, repeats));
        let expected = naive(&left, k, min, max);
        match filter(raw(&rows), &DataSettings { duplicates, repeats, ..limits(k, min, max) }) {
            Ok(f) => {
                prop_assert_eq!(as_tokens(&f), expected);
                let dropped = ((rows.len() - single.len()) as u64, (single.len() - left.len()) as u64);
                prop_assert_eq!((f.dropped.duplicates, f.dropped.repeats), dropped);
            }
            Err(e) => prop_assert!(expected.is_empty(), "{}", e),
        }
    }

    #[test]
    fn items_are_dense_and_keep_their_texts(rows in prop::collection::vec((0u8..6, 0u8..10, 0i8..4), 30..120)) {
        let Ok(Filtered { dataset: d, .. }) = filter(raw(&rows), &limits(2, 3, 5)) else { return Ok(()) };
        let met: HashSet<u32> = d.items.iter().copied().collect();
        prop_assert_eq!(met.len(), d.item_count(), "an item without an interaction was kept");
        for (index, (token, text)) in d.item_tokens.iter().zip(&d.catalogue).enumerate() {
            prop_assert_eq!(token, &text.title);
            prop_assert_eq!(text.also_bought.len(), d.item_count() - 1);
            prop_assert!(!text.also_bought.contains(&(index as u32)));
        }
    }

    #[test]
    fn train_validation_and_test_part_every_sequence(rows in prop::collection::vec((0u8..6, 0u8..10, 0i8..4), 30..120)) {
        let Ok(Filtered { dataset: d, .. }) = filter(raw(&rows), &limits(0, 3, 0)) else { return Ok(()) };
        for user in 0..d.users() {
            let (input, validation) = d.input_and_target(user, Split::Validation).unwrap();
            prop_assert_eq!(input, d.train(user));
            let (longer, test) = d.input_and_target(user, Split::Test).unwrap();
            prop_assert_eq!(longer, &[input, &[validation]].concat()[..]);
            prop_assert_eq!(d.sequence(user), &[longer, &[test]].concat()[..]);
        }
    }
}

#[test]
fn ties_keep_the_order_of_the_file() {
    let rows: Vec<(u8, u8, i8)> = (0..9).map(|i| (0, i, 1)).chain([(0, 20, 0)]).collect();
    let d = filter(raw(&rows), &limits(0, 3, 0)).unwrap().dataset;
    assert_eq!(d.sequence(0), [9, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn duplicates_are_dropped_kept_or_refused() {
    let rows = raw(&[(0, 1, 0), (0, 1, 0), (0, 1, 1), (0, 2, 2), (0, 3, 3)]);
    let made = |duplicates| filter(rows.clone(), &DataSettings { duplicates, ..limits(0, 3, 0) });
    let counts = |f: &Filtered| {
        let stats = lumos::data::stats_with_times(&f.dataset, f.times.as_ref());
        (stats.duplicates, stats.repeats, f.dropped.duplicates)
    };
    let kept = made(Duplicates::Keep).unwrap();
    assert_eq!((kept.dataset.sequence(0), counts(&kept)), (&[0, 0, 0, 1, 2][..], (Some(1), 2, 0)));
    let dropped = made(Duplicates::Drop).unwrap();
    assert_eq!((dropped.dataset.sequence(0), counts(&dropped)), (&[0, 0, 1, 2][..], (Some(0), 1, 1)));
    let error = made(Duplicates::Refuse).unwrap_err().to_string();
    for part in
        ["`data.duplicates`", "1 row is a duplicate", "interaction 2 repeats interaction 1", "user `u0`, item `i1`, time 0", "=drop"]
    {
        assert!(error.contains(part), "`{part}` is not in {error}");
    }
    // Without times each row has a place of its own.
    let timeless = RawData { times: None, ..rows.clone() };
    let f = filter(timeless, &DataSettings { duplicates: Duplicates::Refuse, ..limits(0, 3, 0) }).unwrap();
    assert_eq!((f.dataset.items.len(), f.dropped.duplicates), (5, 0));
}

#[test]
fn the_core_counts_what_duplicates_and_repeats_leave() {
    // Item 9 has three rows: one, once its duplicate and its repeat are gone.
    let mut rows: Vec<(u8, u8, i8)> = (0..2).flat_map(|user| (0..3).map(move |item| (user, item, item as i8))).collect();
    rows.extend([(0, 9, 5), (0, 9, 5), (0, 9, 6)]);
    let items = |duplicates, repeats| {
        filter(raw(&rows), &DataSettings { duplicates, repeats, ..limits(2, 3, 0) }).unwrap().dataset.item_tokens.len()
    };
    assert_eq!(items(Duplicates::Drop, Repeats::Keep), 4);
    assert_eq!(items(Duplicates::Keep, Repeats::First), 3);
    assert_eq!(items(Duplicates::Drop, Repeats::First), 3);
    assert_eq!(items(Duplicates::Drop, Repeats::Consecutive), 3);
}

#[test]
fn the_core_cascades() {
    // A chain in which each removal brings the next one below two; only the square at its end is a 2-core.
    let mut rows: Vec<(u8, u8, i8)> = (0..40).flat_map(|i| [(i, i, 0), (i, i + 1, 1)]).collect();
    rows.extend([(50, 40, 0), (50, 41, 1), (51, 40, 0), (51, 41, 1), (50, 42, 2), (51, 42, 2)]);
    let d = filter(raw(&rows), &limits(2, 3, 0)).unwrap().dataset;
    assert_eq!((d.user_tokens, d.items.len()), (vec!["u50".to_string(), "u51".into()], 6));
}

#[test]
fn impossible_limits_are_refused_by_name() {
    let rows = raw(&[(0, 1, 0), (0, 2, 0), (0, 3, 0)]);
    for (settings, key) in [
        (limits(0, 2, 0), "data.min_length"),
        (limits(0, 3, 2), "data.max_length"),
        (limits(0, 4, 0), "data.min_length"),
        (limits(2, 3, 0), "data.min_length"),
    ] {
        let error = filter(rows.clone(), &settings).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    assert!(filter(rows, &limits(0, 3, 0)).is_ok());
}
