//! Paired comparison of two methods on the same users.

use super::metrics::Metric;
use crate::base::rng::{Purpose, Stream};
use serde::Serialize;
use std::fmt;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// `b - a` for HR@K and NDCG@K over the same users, with bootstrap intervals over users and p-values.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Cut-off.
    pub k: u32,
    /// Users with a target in both.
    pub users: u64,
    /// Seeds whose ranks were averaged per user.
    pub seeds: u64,
    /// HR@K of `a` and `b`.
    pub hr: [f64; 2],
    /// Difference of HR@K.
    pub hr_difference: f64,
    /// Its 95 % interval.
    pub hr_interval: [f64; 2],
    /// Two-sided p-value: McNemar's mid-p test for one seed, the normal test on user means for several.
    pub hr_p: f64,
    /// NDCG@K of `a` and `b`.
    pub ndcg: [f64; 2],
    /// Difference of NDCG@K.
    pub ndcg_difference: f64,
    /// Its 95 % interval.
    pub ndcg_interval: [f64; 2],
    /// Two-sided p-value of the mean difference over users, by the normal approximation.
    pub ndcg_p: f64,
}

/// Compares the ranks `b` with the ranks `a` of the same users, position by position; users without a target in either are
/// left out. Panics if the lengths differ.
pub fn paired(a: &[u32], b: &[u32], k: u32) -> Paired {
    paired_seeds(&[(a, b)], k)
}

/// The same over several seeds: each user counts once, with the mean over seeds.
pub fn paired_seeds(runs: &[(&[u32], &[u32])], k: u32) -> Paired {
    let n = runs.first().map_or(0, |r| r.0.len());
    assert!(runs.iter().all(|(a, b)| a.len() == n && b.len() == n), "paired ranks must belong to the same users");
    let users: Vec<usize> = (0..n).filter(|&u| runs.iter().all(|(a, b)| a[u] > 0 && b[u] > 0)).collect();
    let side = |metric: Metric, second: bool| -> Vec<f64> {
        let value = |u: usize| runs.iter().map(|(a, b)| metric.value(if second { b[u] } else { a[u] }, k)).sum::<f64>();
        users.iter().map(|&u| value(u) / runs.len() as f64).collect()
    };
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    let compare = |metric: Metric| {
        let (a, b) = (side(metric, false), side(metric, true));
        let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
        ([mean(&a), mean(&b)], mean(&difference), bootstrap(&difference), normal_p(&difference))
    };
    let (hr, hr_difference, hr_interval, hr_normal) = compare(Metric::Hr);
    let (ndcg, ndcg_difference, ndcg_interval, ndcg_p) = compare(Metric::Ndcg);
    let hr_p = if let &[(a, b)] = runs {
        let hit = |r: u32| Metric::Hr.value(r, k) > 0.0;
        let lost = users.iter().filter(|&&u| hit(a[u]) && !hit(b[u])).count() as u64;
        let won = users.iter().filter(|&&u| !hit(a[u]) && hit(b[u])).count() as u64;
        mid_p(lost, won)
    } else {
        hr_normal
    };
    Paired {
        k,
        users: users.len() as u64,
        seeds: runs.len() as u64,
        hr,
        hr_difference,
        hr_interval,
        hr_p,
        ndcg,
        ndcg_difference,
        ndcg_interval,
        ndcg_p,
    }
}

/// 95 % interval over users of the mean of `metric` at `k`, by the bootstrap, from the ranks that one or more seeds give the same users;
/// each user counts once, with the mean over seeds. Panics if the lengths differ.
pub fn interval(seeds: &[&[u32]], metric: Metric, k: u32) -> [f64; 2] {
    let n = seeds.first().map_or(0, |ranks| ranks.len());
    assert!(seeds.iter().all(|ranks| ranks.len() == n), "the ranks of all seeds must belong to the same users");
    let users = (0..n).filter(|&u| seeds.iter().all(|ranks| ranks[u] > 0));
    let mean = |u: usize| seeds.iter().map(|ranks| metric.value(ranks[u], k)).sum::<f64>() / seeds.len() as f64;
    bootstrap(&users.map(mean).collect::<Vec<_>>())
}

/// Percentile interval of the mean over resampled users.
fn bootstrap(values: &[f64]) -> [f64; 2] {
    if values.is_empty() {
        return [0.0, 0.0];
    }
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|r| {
            let mut stream = Stream::new(0, Purpose::Bootstrap, r as u64, 0);
            values.iter().map(|_| values[stream.below(values.len() as u64) as usize]).sum::<f64>() / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |q: f64| means[((RESAMPLES - 1) as f64 * q).round() as usize];
    [at(0.025), at(0.975)]
}

/// Two-sided p-value of a zero mean by the normal approximation. Where all values agree there is no spread to judge by, and
/// the exact sign-flip test takes its place: 1 where nothing differs, `2 / 2^n` otherwise.
fn normal_p(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    // Equal differences of means over seeds may still differ in their last bits.
    if variance <= 1e-20 * mean * mean {
        return if mean == 0.0 { 1.0 } else { 2f64.powf(1.0 - n) };
    }
    // The fit of erfc reaches 1 + 1e-7 at 0.
    erfc(mean.abs() / (variance / n).sqrt() / std::f64::consts::SQRT_2).min(1.0)
}

/// McNemar's test with the mid-p correction on `lost` and `won` discordant users (Fagerland et al., BMC Med. Res. Methodol. 2013).
fn mid_p(lost: u64, won: u64) -> f64 {
    let n = lost + won;
    if n == 0 {
        return 1.0;
    }
    let small = lost.min(won);
    // log of C(n, i) / 2^n, from term to term.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let (mut below, mut point) = (0f64, 0f64);
    for i in 0..=small {
        if i > 0 {
            log += ((n - i + 1) as f64).ln() - (i as f64).ln();
        }
        point = log.exp();
        below += point;
    }
    (2.0 * (below - 0.5 * point)).min(1.0)
}

/// Complementary error function, relative error below 1.2e-7 (the rational Chebyshev fit used in many handbooks).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.5 * x);
    let c =
        [1.000_023_68, 0.374_091_96, 0.096_784_18, -0.186_288_06, 0.278_868_07, -1.135_203_98, 1.488_515_87, -0.822_152_23, 0.170_872_77];
    let poly = c.iter().rev().fold(0.0, |acc, &c| acc * t + c);
    t * (-x * x - 1.265_512_23 + t * poly).exp()
}

/// A p-value as it is printed: `p = .54`, three digits below .1, `p < .001` at the end.
fn shown(p: f64) -> String {
    let text = match p {
        p if p < 0.001 => return "p < .001".into(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    };
    format!("p = {}", text.strip_prefix('0').unwrap_or(&text))
}

impl Paired {
    /// What stands once above the lines of all cut-offs.
    pub fn heading(&self) -> String {
        let seeds = if self.seeds == 1 { String::new() } else { format!(", mean of {} seeds", self.seeds) };
        format!("{} users{seeds}; difference B - A, 95 % bootstrap interval over users", self.users)
    }
}

/// A line for HR and one for NDCG.
impl fmt::Display for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("HR", self.hr, self.hr_difference, self.hr_interval, self.hr_p),
            ("NDCG", self.ndcg, self.ndcg_difference, self.ndcg_interval, self.ndcg_p),
        ];
        for (i, (name, [a, b], d, [lo, hi], p)) in rows.into_iter().enumerate() {
            let relative = if a > 0.0 { format!(" ({:+.1} %)", 100.0 * d / a) } else { String::new() };
            let label = format!("{name}@{}", self.k);
            write!(f, "{label:<8} A {a:.4}  B {b:.4}  {d:+.4}{relative}  [{lo:+.4}, {hi:+.4}]  {}", shown(p))?;
            if i == 0 {
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mid_p_matches_known_values() {
        // 1 and 8 discordant pairs: exact two-sided 2 * (C(9,0) + C(9,1)) / 512 = 0.0390625; mid-p takes off C(9,1) / 512.
        assert!((mid_p(1, 8) - (0.0390625 - 9.0 / 512.0)).abs() < 1e-12);
        // 7 and 1: (2 * (C(8,0) + C(8,1)) - C(8,1)) / 256 = 10 / 256.
        assert!((mid_p(7, 1) - 0.039_062_5).abs() < 1e-12);
        assert!((mid_p(0, 5) - 1.0 / 32.0).abs() < 1e-12);
        assert!(mid_p(50, 50) > 0.95);
        assert_eq!(mid_p(0, 0), 1.0);
        assert!(mid_p(2000, 3000) < 1e-30);
    }

    #[test]
    fn p_is_printed_as_a_reader_expects() {
        let cases =
            [(1.0, "p = 1.00"), (0.5449, "p = .54"), (0.1949, "p = .19"), (0.0999, "p = .100"), (0.0143, "p = .014"), (0.001, "p = .001")];
        for (p, text) in cases.into_iter().chain([(0.000_999, "p < .001"), (0.0, "p < .001")]) {
            assert_eq!(shown(p), text);
        }
        let p = paired(&[1, 9, 30, 2], &[1, 3, 2, 90], 5);
        let lines = p.to_string();
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.starts_with("HR@5 ") && lines.contains("p = ") && !lines.contains("users"), "{lines}");
        assert!(p.heading().starts_with("4 users; difference B - A"), "{}", p.heading());
    }

    #[test]
    fn erfc_matches_known_values() {
        for (x, y) in [(0.0, 1.0), (0.5, 0.479_500_122), (1.0, 0.157_299_207), (2.0, 0.004_677_735), (3.0, 2.209_05e-5)] {
            assert!((erfc(x) - y).abs() < 1e-6 * y.max(0.1), "{x}: {}", erfc(x));
        }
    }

    #[test]
    fn differences_that_cancel_have_p_one() {
        for values in [[0.1, -0.1], [1.0 / 3.0, -1.0 / 3.0], [0.356_207, -0.356_207]] {
            assert_eq!(normal_p(&values), 1.0);
        }
    }

    #[test]
    fn a_real_difference_is_found_and_none_is_not() {
        let mut s = Stream::new(1, Purpose::Bench, 0, 0);
        let a: Vec<u32> = (0..2000).map(|_| 1 + s.below(100) as u32).collect();
        let better: Vec<u32> = a.iter().map(|&r| if s.below(3) == 0 { r.div_ceil(2) } else { r }).collect();
        let p = paired(&a, &better, 20);
        assert!(p.hr_difference > 0.0 && p.hr_p < 1e-6 && p.ndcg_p < 1e-6, "{p}");
        assert!(p.hr_interval[0] > 0.0 && p.hr_interval[0] <= p.hr_difference && p.hr_difference <= p.hr_interval[1]);
        let mut shuffled = a.clone();
        s.shuffle(&mut shuffled);
        let p = paired(&a, &shuffled, 20);
        assert!(p.hr_difference.abs() < 1e-12 && p.hr_p > 0.9 && p.hr_interval[0] < 0.0 && p.hr_interval[1] > 0.0, "{p}");
        assert_eq!(paired(&a, &a, 20).ndcg_p, 1.0);
    }

    #[test]
    fn an_interval_holds_the_mean_and_shrinks_with_users() {
        let ranks: Vec<u32> = (0..1000).map(|u| if u % 4 == 0 { 1 } else { 100 }).collect();
        let [low, high] = interval(&[&ranks], Metric::Hr, 20);
        // Standard error .0137.
        assert!(low > 0.25 - 0.06 && low < 0.25 - 0.01 && high > 0.25 + 0.01 && high < 0.25 + 0.06, "{low} {high}");
        let [few_low, few_high] = interval(&[&ranks[..100]], Metric::Hr, 20);
        assert!(few_high - few_low > 2.0 * (high - low));
        assert_eq!(interval(&[&[1, 0, 1], &[1, 1, 1]], Metric::Hr, 20), [1.0, 1.0]);
        assert_eq!(interval(&[], Metric::Ndcg, 20), [0.0, 0.0]);
    }

    #[test]
    fn users_without_a_target_are_left_out_and_seeds_are_averaged() {
        let p = paired_seeds(&[(&[1, 0, 30], &[1, 4, 2]), (&[1, 5, 2], &[1, 4, 2])], 20);
        assert_eq!((p.users, p.seeds), (2, 2));
        assert_eq!(p.hr, [0.75, 1.0]);
    }
}
