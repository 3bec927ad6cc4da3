//! The counting kernel of full ranking against a scalar loop.

use lumos::backend::cpu::rank::Panels;

use crate::check::{normal, stream};

fn counts(table: &[f32], d: usize, hidden: &[f32], threshold: &[f32]) -> Vec<u32> {
    let mut counts = vec![0; threshold.len()];
    Panels::new(table, d).count(hidden, threshold, &mut counts);
    counts
}

/// Small whole numbers: products and sums are exact in f32 and ties abound, so an integer loop is the judge.
#[test]
fn counts_of_whole_numbers() {
    let mut s = stream(10_000);
    for items in [1, 2, 15, 16, 17, 31, 48, 65, 127, 500] {
        for users in [1, 2, 5, 6, 7, 12, 13, 29] {
            for d in [1, 3, 8, 17, 64] {
                let draw = |s: &mut lumos::base::rng::Stream, n: usize| (0..n).map(|_| s.below(7) as f32 - 3.0).collect::<Vec<_>>();
                let (table, hidden) = (draw(&mut s, items * d), draw(&mut s, users * d));
                let score = |u: usize, i: usize| (0..d).map(|k| (hidden[u * d + k] * table[i * d + k]) as i64).sum::<i64>();
                let targets: Vec<usize> = (0..users).map(|_| s.below(items as u64) as usize).collect();
                let threshold: Vec<f32> = targets.iter().enumerate().map(|(u, &i)| score(u, i) as f32).collect();
                let expected: Vec<u32> =
                    (0..users).map(|u| (0..items).filter(|&i| score(u, i) >= score(u, targets[u])).count() as u32).collect();
                assert_eq!(counts(&table, d, &hidden, &threshold), expected, "{items} items, {users} users, d {d}");
                let panels = Panels::new(&table, d);
                let mut all = vec![0.0; items];
                panels.scores(&hidden[..d], &mut all);
                assert!((0..items).all(|i| all[i] == score(0, i) as f32), "scores of {items} items, d {d}");
            }
        }
    }
}

/// The score of a target is rounded as in the count, so a target always counts itself, whatever its place in a tile.
#[test]
fn a_target_counts_itself() {
    let mut s = stream(10_100);
    for (items, users, d) in [(33, 13, 64), (160, 6, 65), (47, 19, 5)] {
        let (table, hidden) = (normal(&mut s, 1.0, items * d), normal(&mut s, 1.0, users * d));
        let panels = Panels::new(&table, d);
        assert_eq!(panels.items(), items);
        for target in 0..items {
            let threshold: Vec<f32> = hidden.chunks_exact(d).map(|h| panels.score(h, target as u32)).collect();
            let expected: Vec<u32> = hidden
                .chunks_exact(d)
                .zip(&threshold)
                .map(|(h, &t)| (0..items).filter(|&i| panels.score(h, i as u32) >= t).count() as u32)
                .collect();
            assert_eq!(counts(&table, d, &hidden, &threshold), expected);
            for (h, &t) in hidden.chunks_exact(d).zip(&threshold) {
                let exact: f64 = (0..d).map(|k| f64::from(h[k]) * f64::from(table[target * d + k])).sum();
                assert!((exact - f64::from(t)).abs() < 1e-5 * (1.0 + exact.abs()), "score {t} instead of {exact}");
            }
        }
    }
}

/// What cannot be compared counts as better than the target: a broken model never looks good.
#[test]
fn not_a_number_counts_against_the_target() {
    let mut s = stream(10_200);
    let (items, users, d) = (37, 8, 9);
    let (mut table, hidden) = (normal(&mut s, 1.0, items * d), normal(&mut s, 1.0, users * d));
    for u in 0..users {
        let mut broken = hidden.clone();
        broken[u * d + 4] = f32::NAN;
        let c = counts(&table, d, &broken, &vec![1e30; users]);
        assert!((0..users).all(|v| c[v] == if v == u { items as u32 } else { 0 }), "user {u}: {c:?}");
        let mut threshold = vec![1e30; users];
        threshold[u] = f32::NAN;
        let c = counts(&table, d, &hidden, &threshold);
        assert!((0..users).all(|v| c[v] == if v == u { items as u32 } else { 0 }), "threshold {u}: {c:?}");
    }
    // One broken item in a full panel, one in the partial panel at the end.
    table[3 * d] = f32::NAN;
    table[36 * d + 8] = f32::NAN;
    assert_eq!(counts(&table, d, &hidden, &vec![1e30; users]), vec![2; users]);
    assert_eq!(counts(&table, d, &hidden, &vec![f32::INFINITY; users]), vec![2; users]);
    assert_eq!(counts(&table, d, &hidden, &vec![f32::NEG_INFINITY; users]), vec![items as u32; users]);
}

#[test]
fn no_users_and_no_items() {
    assert_eq!(counts(&[1.0, 2.0], 2, &[], &[]), Vec::<u32>::new());
    assert_eq!(counts(&[], 2, &[1.0, 2.0], &[0.0]), [0]);
}
