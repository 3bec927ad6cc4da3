//! `median-norm`: no update is longer than the one in the middle.

use super::coordinates::scaled_mean;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::parallel;
use crate::engine::Mean;

pub(super) const KIND: Kind = Kind {
    name: "median-norm",
    role: Role::Defence,
    summary: "shortens every update to the median of the round's norms, times `factor`",
    paper: "the adaptive clipping of FLAME, Nguyen et al., USENIX Security 2022, by itself",
    options: &[("factor", 1.0)],
    build,
};

struct MedianNorm {
    factor: f64,
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(MedianNorm { factor: options.get("factor", |x| x > 0.0, "a number above 0")?, threads: options.threads() }))
}

/// Median of the norms of `updates`; of an even number the mean of the two in the middle.
pub(super) fn median_norm(norms: &[f64]) -> f64 {
    let mut sorted = norms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// What an update of `norm` is multiplied by to be no longer than `bound`.
pub(super) fn shortening(norm: f64, bound: f64) -> f64 {
    if norm > bound { bound / norm } else { 1.0 }
}

impl Rule for MedianNorm {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        let norms = parallel::map(self.threads, mean.updates.len(), 8, |i| mean.updates[i].norm());
        let bound = self.factor * median_norm(&norms);
        let factors: Vec<f64> = norms.iter().map(|&norm| shortening(norm, bound)).collect();
        scaled_mean(mean, self.threads, &vec![1.0; norms.len()], &factors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    #[test]
    fn worked_by_hand() {
        // Norms 1, 5, 10; the last one is halved: dense (1 + 3 + 3) / 3, row (0 + 4 + 4) / 2 over its two contributors.
        let update = |client: u32, dense: f32, row: Option<f32>| Update {
            client,
            weight: 1,
            dense: vec![dense],
            items: row.iter().map(|_| 6).collect(),
            rows: row.into_iter().collect(),
        };
        let updates = vec![update(0, 1.0, None), update(1, 3.0, Some(4.0)), update(2, 6.0, Some(8.0))];
        let mut mean = Mean { d: 1, weight: 3, dense: vec![0.0], items: vec![6], rows: vec![0.0], updates };
        MedianNorm { factor: 1.0, threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert_eq!((mean.dense, mean.rows), (vec![7.0 / 3.0], vec![4.0]));
    }
}
