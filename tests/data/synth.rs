//! The synthetic world: the same for any number of threads, readable, learnable, of the size that was asked for.

use crate::common;
use std::collections::{HashMap, HashSet};

use crate::common::{ensure, quiet};
use lumos::config::DataSettings;
use lumos::data::{Dataset, Split, filter, synthetic_world};
use proptest::prelude::*;

fn world(users: u32, items: u32, mean: f32, seed: u64) -> DataSettings {
    DataSettings {
        synth_users: users,
        synth_items: items,
        synth_mean_length: mean,
        synth_seed: seed,
        min_length: 3,
        ..DataSettings::default()
    }
}

fn made(settings: &DataSettings) -> Dataset {
    filter(synthetic_world(settings, 2, &quiet).unwrap(), settings).unwrap().dataset
}

proptest! {
    #![proptest_config(common::cases(24))]

    #[test]
    fn threads_change_nothing(users in 1u32..2500, items in 20u32..3000, seed in any::<u64>()) {
        let settings = world(users, items, 4.5, seed);
        let one = synthetic_world(&settings, 1, &quiet).unwrap();
        for threads in [2, 5] {
            prop_assert_eq!(&synthetic_world(&settings, threads, &quiet).unwrap(), &one);
        }
    }

    #[test]
    fn no_user_meets_an_item_twice_and_times_rise(items in 20u32..400, seed in any::<u64>()) {
        let settings = world(60, items, (items as f32 / 4.0).min(30.0), seed);
        let raw = synthetic_world(&settings, 1, &quiet).unwrap();
        let times = raw.times.unwrap();
        let mut met = HashSet::new();
        for row in 0..raw.users.len() {
            prop_assert!(met.insert((raw.users[row], raw.items[row])));
            prop_assert!(row == 0 || raw.users[row] != raw.users[row - 1] || times.compare(row, row - 1).is_ge());
        }
    }
}

#[test]
fn seeds_make_other_worlds() {
    let of = |seed| synthetic_world(&world(100, 100, 8.0, seed), 1, &quiet).unwrap().items;
    assert_ne!(of(1), of(2));
    assert_ne!(of(1), of(1 << 40));
}

#[test]
fn sizes_are_kept() {
    let settings = DataSettings::default();
    let d = made(&settings);
    assert_eq!((d.users(), d.item_count()), (2000, 800), "every user and every item of the world is met");
    let mean = d.items.len() as f64 / 2000.0;
    assert!((mean - 12.0).abs() < 0.6, "{mean}");
}

#[test]
fn the_catalogue_can_be_read() {
    let d = made(&DataSettings::default());
    let leaves: HashSet<&[String]> = d.catalogue.iter().map(|c| &c.categories[..]).collect();
    assert!((20..=40).contains(&leaves.len()), "{}", leaves.len());
    for text in &d.catalogue {
        assert!(text.title.starts_with(&text.brand) && text.title.split(' ').count() >= 4, "{}", text.title);
        assert_eq!(text.categories.len(), 2);
    }
    let bought = d.catalogue.iter().filter(|c| !c.also_bought.is_empty()).count();
    assert!((600..800).contains(&bought), "most items have companions, some have none: {bought}");
}

#[test]
fn popularity_has_a_long_tail() {
    let s = lumos::data::stats(&made(&DataSettings::default()));
    assert!((0.4..0.9).contains(&s.gini), "{}", s.gini);
}

/// HR@10 on the test items of scores computed from the training items, the history masked.
fn hit_rate(d: &Dataset, score: impl Fn(&[u32], u32) -> f64) -> f64 {
    let mut hits = 0;
    for user in 0..d.users() {
        let (input, target) = d.input_and_target(user, Split::Test).unwrap();
        let own = score(input, target);
        let better = (0..d.item_count() as u32).filter(|i| *i != target && !input.contains(i) && score(input, *i) >= own).count();
        hits += usize::from(better < 10);
    }
    hits as f64 / d.users() as f64
}

#[test]
fn the_last_item_tells_more_than_popularity() {
    let d = made(&DataSettings::default());
    let counts = d.train_counts();
    let mut follows: HashMap<(u32, u32), f64> = HashMap::new();
    for user in 0..d.users() {
        for pair in d.train(user).windows(2) {
            *follows.entry((pair[0], pair[1])).or_default() += 1.0;
        }
    }
    let popular = hit_rate(&d, |_, item| f64::from(counts[item as usize]));
    let after = |input: &[u32], item: u32| follows.get(&(*input.last().unwrap(), item)).copied().unwrap_or(0.0);
    let transitions = hit_rate(&d, |input, item| after(input, item) + f64::from(counts[item as usize]) * 1e-6);
    println!("HR@10: popularity {popular:.4}, transitions {transitions:.4}");
    assert!(transitions > 2.0 * popular, "popularity {popular}, transitions {transitions}");
}

#[test]
fn tastes_drift() {
    // Early items of a history share their category with each other more than with late ones.
    let d = made(&world(1500, 2000, 30.0, 3));
    let top = |i: u32| &d.catalogue[i as usize].categories[0];
    let (mut near, mut far, mut n) = (0, 0, 0);
    for user in (0..d.users()).filter(|u| d.sequence(*u).len() >= 12) {
        let s = d.sequence(user);
        // Pairs are two apart or a whole history apart, so that transitions alone do not decide.
        near += usize::from(top(s[0]) == top(s[3]));
        far += usize::from(top(s[0]) == top(s[s.len() - 1]));
        n += 1;
    }
    assert!(n > 200 && near as f64 > 1.1 * far as f64, "{near} against {far} of {n}");
}

#[test]
fn sizes_out_of_range_are_refused_by_name() {
    for (settings, key) in [
        (world(0, 100, 5.0, 1), "data.synth_users"),
        (world(10, 19, 4.0, 1), "data.synth_items"),
        (world(10, 100, 2.0, 1), "data.synth_mean_length"),
        (world(10, 100, f32::NAN, 1), "data.synth_mean_length"),
        (world(10, 100, f32::INFINITY, 1), "data.synth_mean_length"),
        (world(10, 40, 11.0, 1), "data.synth_mean_length"),
        (world(u32::MAX, 100_000, 1000.0, 1), "data.synth_users"),
    ] {
        let error = synthetic_world(&settings, 1, &quiet).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn a_world_is_stored_and_reused() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("w");
    let settings = world(50, 60, 6.0, 4);
    let (first, reused) = ensure(&settings, &dir, false).unwrap();
    assert!(!reused);
    assert_eq!(ensure(&settings, &dir, false).unwrap(), (first.clone(), true));
    let (other, reused) = ensure(&DataSettings { synth_seed: 5, ..settings }, &dir, true).unwrap();
    assert!(!reused && other.fingerprint != first.fingerprint);
}
