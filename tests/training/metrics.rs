//! Metrics, popularity and paired tests against their definitions, through the public interface.

use lumos::base::rng::{Purpose, Stream};
use lumos::config::Mask;
use lumos::data::{Dataset, Split};
use lumos::eval::{MISS, Metric, Metrics, metrics, paired, paired_seeds, popularity_ranks, rank_of};
use proptest::prelude::*;

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig { cases: n, failure_persistence: None, ..Default::default() }
}

/// Ranks such that `lost` users are hits only for the first and `won` users only for the second, with `same` users equal.
fn discordant(lost: usize, won: usize, same: usize) -> (Vec<u32>, Vec<u32>) {
    let pairs = [vec![(1, 99); lost], vec![(99, 1); won], vec![(3, 3); same]].concat();
    pairs.into_iter().unzip()
}

#[test]
fn the_first_place_is_worth_one_and_places_beyond_k_nothing() {
    for metric in Metric::ALL {
        assert_eq!(metric.value(1, 1), 1.0);
        assert_eq!(metric.value(6, 5), 0.0);
        assert_eq!(metric.value(0, 5), 0.0);
    }
    assert_eq!(Metric::Ndcg.value(3, 5), 0.5);
    assert_eq!(Metric::Mrr.value(4, 5), 0.25);
}

#[test]
fn standard_errors_are_those_of_a_mean() {
    let m = metrics(&[1, 0, 9, 9, 1, 9], &[5]);
    // Two hits of five: sqrt(.4 * .6 / 4).
    assert!((m.standard_error("HR@5").unwrap() - 0.06f64.sqrt()).abs() < 1e-12);
    assert_eq!(metrics(&[1, 1, 1], &[5]).standard_error("NDCG@5"), Some(0.0));
    assert_eq!(metrics(&[1, 0], &[5]).standard_error("HR@5"), None);
    assert_eq!(m.standard_error("HR@6"), None);
}

#[test]
fn metrics_are_one_flat_map_and_come_back_in_the_order_of_tables() {
    let m = metrics(&[1, 0, 4, MISS], &[5, 10, 20]);
    let json = serde_json::to_value(&m).unwrap();
    assert_eq!(json.as_object().unwrap().len(), 11);
    assert_eq!((&json["users"], &json["masked_targets"]), (&3.into(), &1.into()));
    assert_eq!(json["HR@20"].as_f64(), m.get("HR@20"));
    // `Value` sorts its keys, so `HR@10` stands before `HR@5` here.
    let back: Metrics = serde_json::from_str(&json.to_string()).unwrap();
    let names = |m: &Metrics| m.values.iter().map(|v| v.0.clone()).collect::<Vec<_>>();
    assert_eq!((back.users, back.masked_targets, names(&back)), (m.users, 1, names(&m)));
    // The JSON reader may be off by one unit in the last place.
    assert!(m.values.iter().all(|v| (back.get(&v.0).unwrap() - v.1).abs() <= f64::EPSILON * v.1));
    assert_eq!(back.standard_error("HR@20"), None);
    for bad in [r#"{"users":3,"HIT@5":0.1}"#, r#"{"HR@5":0.1}"#, r#"{"users":3,"HR@5":"x"}"#] {
        assert!(serde_json::from_str::<Metrics>(bad).is_err(), "{bad}");
    }
}

#[test]
fn mcnemar_agrees_with_exact_integers() {
    for n in 1..40u32 {
        for lost in 0..=n {
            let choose = |i: u32| (0..u128::from(i)).fold(1u128, |c, j| c * (u128::from(n) - j) / (j + 1));
            let small = lost.min(n - lost);
            // Twice the lower tail, less the point itself, over 2^n.
            let doubled = 2 * (0..=small).map(choose).sum::<u128>() - choose(small);
            let expected = doubled as f64 / 2f64.powi(n as i32);
            let (a, b) = discordant(lost as usize, (n - lost) as usize, 0);
            let p = paired(&a, &b, 20).hr_p;
            assert!((p - expected).abs() < 1e-10 * expected, "{lost} of {n}: {p} against {expected}");
        }
    }
}

#[test]
fn mcnemar_depends_on_discordant_users_only_and_not_on_the_order_of_methods() {
    let (a, b) = discordant(4, 11, 0);
    let (c, d) = discordant(4, 11, 300);
    let p = paired(&a, &b, 20).hr_p;
    assert_eq!(p, paired(&c, &d, 20).hr_p);
    let (forth, back) = (paired(&c, &d, 20), paired(&d, &c, 20));
    assert_eq!(forth.hr_p, back.hr_p);
    assert_eq!((forth.hr_difference, forth.ndcg_difference), (-back.hr_difference, -back.ndcg_difference));
    assert!((forth.hr_difference - 7.0 / 315.0).abs() < 1e-12);
}

#[test]
fn many_discordant_users_neither_overflow_nor_vanish() {
    let (a, b) = discordant(10_000, 10_200, 0);
    let p = paired(&a, &b, 20).hr_p;
    // The normal approximation: z = 200 / sqrt(20,200) = 1.4072.
    assert!((p - 0.1594).abs() < 1e-3, "{p}");
}

#[test]
fn one_user_proves_nothing() {
    for seeds in [1, 2] {
        let runs = vec![([9u32].as_slice(), [1u32].as_slice()); seeds];
        let p = paired_seeds(&runs, 20);
        assert_eq!((p.users, p.ndcg_p), (1, 1.0));
        assert!(p.hr_p == 1.0 && p.ndcg_difference > 0.0);
    }
    // Eight users who all gain alike: two of 2^8 patterns of signs.
    let p = paired(&[9; 8], &[1; 8], 20);
    assert_eq!(p.ndcg_p, 2.0 / 256.0);
}

/// A target that may not be recommended is a user who is not served, for either method.
#[test]
fn a_masked_target_counts_as_a_user_in_a_paired_test() {
    let (a, b) = (vec![1, MISS, 9, 0], vec![1, MISS, 2, 3]);
    let p = paired(&a, &b, 5);
    assert_eq!((p.users, p.hr), (3, [1.0 / 3.0, 2.0 / 3.0]));
    assert_eq!(paired(&[MISS; 4], &[MISS; 4], u32::MAX).hr, [0.0, 0.0]);
}

#[test]
fn nothing_to_compare_is_no_difference() {
    for p in [paired(&[], &[], 20), paired(&[0, 3], &[2, 0], 20), paired_seeds(&[], 20)] {
        assert_eq!((p.users, p.hr_difference, p.hr_p, p.ndcg_p, p.ndcg_interval), (0, 0.0, 1.0, 1.0, [0.0, 0.0]));
        assert!(!p.to_string().contains("NaN"), "{p}");
    }
}

#[test]
fn the_interval_has_the_width_of_the_normal_one() {
    let mut s = Stream::new(3, Purpose::Bench, 0, 0);
    let [a, b] = [0; 2].map(|_| (0..3000).map(|_| 1 + s.below(60) as u32).collect::<Vec<u32>>());
    let p = paired(&a, &b, 20);
    let d: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| Metric::Ndcg.value(b, 20) - Metric::Ndcg.value(a, 20)).collect();
    let n = d.len() as f64;
    let mean = d.iter().sum::<f64>() / n;
    let error = (d.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    for (end, sign) in p.ndcg_interval.iter().zip([-1.0, 1.0]) {
        assert!((end - mean - sign * 1.96 * error).abs() < 0.25 * error, "{p}");
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn paired_means_are_the_metrics_and_lie_in_their_interval(ranks in prop::collection::vec((0u32..60, 0u32..60), 1..60)) {
        let (a, b): (Vec<u32>, Vec<u32>) = ranks.iter().filter(|r| r.0 > 0 && r.1 > 0).copied().unzip();
        let (x, y): (Vec<u32>, Vec<u32>) = ranks.into_iter().unzip();
        let p = paired(&x, &y, 20);
        let [ma, mb] = [metrics(&a, &[20]), metrics(&b, &[20])];
        for (pair, name) in [(p.hr, "HR@20"), (p.ndcg, "NDCG@20")] {
            prop_assert!((pair[0] - ma.get(name).unwrap()).abs() < 1e-12 && (pair[1] - mb.get(name).unwrap()).abs() < 1e-12);
        }
        for (d, [lo, hi]) in [(p.hr_difference, p.hr_interval), (p.ndcg_difference, p.ndcg_interval)] {
            prop_assert!(lo <= d + 1e-12 && d <= hi + 1e-12, "{}", p);
        }
        prop_assert!((0.0..=1.0).contains(&p.hr_p) && (0.0..=1.0).contains(&p.ndcg_p));
        prop_assert_eq!(&p, &paired(&x, &y, 20));
        // The same seed twice says what it says once.
        let twice = paired_seeds(&[(&x, &y), (&x, &y)], 20);
        prop_assert_eq!((twice.ndcg, twice.ndcg_interval, twice.ndcg_p), (p.ndcg, p.ndcg_interval, p.ndcg_p));
    }

    #[test]
    fn a_wider_cut_off_or_a_better_rank_never_lowers_a_metric(ranks in prop::collection::vec(0u32..60, 1..60), k in 1u32..50) {
        let (narrow, wide) = (metrics(&ranks, &[k]), metrics(&ranks, &[k + 1]));
        let better = metrics(&ranks.iter().map(|&r| r.min(r.saturating_sub(1).max(1))).collect::<Vec<_>>(), &[k]);
        for metric in Metric::ALL {
            let at = |m: &Metrics, k: u32| m.get(&format!("{}@{k}", metric.name())).unwrap();
            prop_assert!(at(&narrow, k) <= at(&wide, k + 1) + 1e-12);
            prop_assert!(at(&narrow, k) <= at(&better, k) + 1e-12);
        }
    }

    #[test]
    fn popularity_follows_the_definition_for_chosen_users(sequences in prop::collection::vec(prop::collection::vec(0u32..9, 1..14), 1..12)) {
        let mut data = Dataset { item_tokens: vec![String::new(); 12], offsets: vec![0], ..Default::default() };
        for s in &sequences {
            data.items.extend(s);
            data.offsets.push(data.items.len() as u64);
        }
        let scores: Vec<f32> = data.train_counts().iter().map(|&c| c as f32).collect();
        let users: Vec<u32> = (0..sequences.len() as u32).rev().step_by(2).collect();
        for (split, mask) in [Split::Validation, Split::Test].into_iter().flat_map(|s| [(s, Mask::History), (s, Mask::None)]) {
            let ranks = popularity_ranks(&data, mask, split, &users);
            prop_assert_eq!(ranks.len(), users.len());
            for (&u, &rank) in users.iter().zip(&ranks) {
                let expected = data.input_and_target(u as usize, split).map_or(0, |(input, target)| rank_of(&scores, target, mask.masked(input)));
                prop_assert_eq!(rank, expected);
            }
        }
    }
}
