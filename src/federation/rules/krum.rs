//! `krum` and `multi-krum`: the mean of the updates that lie nearest to most others.

use super::coordinates::weighted_mean;
use super::distances::squared_distances;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::parallel;
use crate::engine::Mean;

pub(super) const KRUM: Kind = Kind {
    name: "krum",
    role: Role::Defence,
    summary: "the one update that lies nearest to its neighbours, where a share of `malicious` of the cohort is feared",
    paper: "Blanchard et al., Machine Learning with Adversaries, NIPS 2017",
    options: &[("malicious", 0.1)],
    build: |options| Ok(Box::new(Krum { malicious: malicious(options)?, chosen: None, threads: options.threads() })),
};

pub(super) const MULTI_KRUM: Kind = Kind {
    name: "multi-krum",
    role: Role::Defence,
    summary: "the mean of the `chosen` share of the updates that lie nearest to their neighbours, where a share of `malicious` is feared",
    paper: "Blanchard et al., Machine Learning with Adversaries, NIPS 2017",
    options: &[("malicious", 0.1), ("chosen", 0.5)],
    build: |options| {
        let chosen = options.get("chosen", |x| x > 0.0 && x <= 1.0, "a share above 0 and at most 1")?;
        Ok(Box::new(Krum { malicious: malicious(options)?, chosen: Some(chosen), threads: options.threads() }))
    },
};

fn malicious(options: &Options) -> Result<f64> {
    options.get("malicious", |x| (0.0..0.5).contains(&x), "a share of at least 0 and below 0.5")
}

struct Krum {
    malicious: f64,
    /// Share of the updates that count; none: one of them.
    chosen: Option<f64>,
    threads: usize,
}

/// For each of `n` updates the sum of its squared distances `[n, n]` to the `n - f - 2` nearest others (at least one).
fn scores(distances: &[f64], n: usize, f: usize, threads: usize) -> Vec<f64> {
    let near = n.saturating_sub(f + 2).clamp(1, n.saturating_sub(1).max(1));
    let score = |i: usize| {
        let mut others: Vec<f64> = (0..n).filter(|j| *j != i).map(|j| distances[i * n + j]).collect();
        let near = near.min(others.len());
        if near == 0 {
            return 0.0;
        }
        // The farthest of the near ones; of several as far as it the missing number.
        let (_, &mut farthest, _) = others.select_nth_unstable_by(near - 1, f64::total_cmp);
        let nearer = (0..n).filter(|j| *j != i).map(|j| distances[i * n + j]).filter(|far| far.total_cmp(&farthest).is_lt());
        let (count, sum) = nearer.fold((0, 0.0), |(count, sum), far| (count + 1, sum + far));
        sum + (near - count) as f64 * farthest
    };
    parallel::map(threads, n, 8, score)
}

impl Rule for Krum {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        let n = mean.updates.len();
        if n < 3 {
            return;
        }
        let f = (self.malicious * n as f64).ceil() as usize;
        let scores = scores(&squared_distances(&mean.updates, mean.d, self.threads), n, f, self.threads);
        let mut order: Vec<usize> = (0..n).collect();
        // Equal scores in the order of clients.
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        let count = self.chosen.map_or(1, |share| ((share * n as f64).round() as usize).clamp(1, n));
        let mut weights = vec![0.0; n];
        order[..count].iter().for_each(|&i| weights[i] = 1.0);
        weighted_mean(mean, self.threads, &weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    fn cohort() -> Mean {
        // Five clients on a line, one far away; a row of each one's own adds the same to all distances.
        let update = |client: u32, x: f32| Update { client, weight: 1, dense: vec![x], items: vec![client], rows: vec![0.5] };
        Mean {
            d: 1,
            weight: 5,
            dense: vec![0.0],
            items: vec![0, 1, 2, 3, 4],
            rows: vec![9.0; 5],
            updates: [1.0, 1.5, 2.5, 4.0, 100.0].iter().enumerate().map(|(c, x)| update(c as u32, *x)).collect(),
        }
    }

    #[test]
    fn worked_by_hand() {
        // Positions alone: with one malicious of five, the two nearest count. 1: .25 + 2.25; 1.5: .25 + 1; 2.5: 1 + 2.25; 4: 2.25 + 6.25.
        let x = [1.0f64, 1.5, 2.5, 4.0, 100.0];
        let distances: Vec<f64> = (0..25).map(|at| (x[at / 5] - x[at % 5]).powi(2)).collect();
        let found = scores(&distances, 5, 1, 2);
        assert_eq!(found[..4], [2.5, 1.25, 3.25, 8.5]);
        assert!(found[4] > 18_000.0);
    }

    #[test]
    fn one_update_or_several_take_the_place_of_the_mean() {
        let occasion = Occasion { seed: 0, round: 1, weights: None };
        let mut mean = cohort();
        Krum { malicious: 0.2, chosen: None, threads: 1 }.server(&occasion, &mut mean);
        assert_eq!((mean.dense, mean.rows), (vec![1.5], vec![0.0, 0.5, 0.0, 0.0, 0.0]));
        let mut mean = cohort();
        Krum { malicious: 0.2, chosen: Some(0.8), threads: 2 }.server(&occasion, &mut mean);
        assert_eq!((mean.dense, mean.rows), (vec![2.25], vec![0.5, 0.5, 0.5, 0.5, 0.0]));
    }
}
