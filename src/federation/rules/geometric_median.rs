//! `geometric-median`: the point whose distances to all updates have the least sum, by Weiszfeld's iteration.

use super::coordinates::weighted_mean;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::parallel;
use crate::engine::{Mean, Update};

pub(super) const KIND: Kind = Kind {
    name: "geometric-median",
    role: Role::Defence,
    summary: "the smoothed geometric median of the updates, in `steps` steps of Weiszfeld's iteration",
    paper: "RFA, Pillutla, Kakade and Harchaoui, IEEE TSP 2022, arXiv 1912.13445",
    options: &[("steps", 4.0), ("smooth", 1e-6)],
    build,
};

struct GeometricMedian {
    steps: u32,
    /// Distances below it count as it.
    smooth: f64,
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let smooth = options.get("smooth", |x| x > 0.0, "a number above 0")?;
    Ok(Box::new(GeometricMedian { steps: options.count("steps", 1, 1000)?, smooth, threads: options.threads() }))
}

/// Distance of `update` from `mean`, over the dense weights and the rows that the client uploaded: what it says nothing of is no disagreement.
fn distance(mean: &Mean, update: &Update) -> f64 {
    // By eight sums, which the processor adds side by side.
    let squares = |a: &[f32], b: &[f32]| {
        let mut sums = [0f64; 8];
        for (a, b) in a.chunks(8).zip(b.chunks(8)) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (x, y))| *sum += (f64::from(*x) - f64::from(*y)).powi(2));
        }
        sums.iter().sum::<f64>()
    };
    let mut sum = squares(&mean.dense, &update.dense);
    for (item, row) in update.items.iter().zip(update.rows.chunks_exact(mean.d)) {
        if let Ok(slot) = mean.items.binary_search(item) {
            sum += squares(&mean.rows[slot * mean.d..][..mean.d], row);
        }
    }
    sum.sqrt()
}

impl Rule for GeometricMedian {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        if mean.updates.is_empty() {
            return;
        }
        weighted_mean(mean, self.threads, &vec![1.0; mean.updates.len()]);
        for _ in 0..self.steps {
            let weight = |i: usize| 1.0 / distance(mean, &mean.updates[i]).max(self.smooth);
            let weights = parallel::map(self.threads, mean.updates.len(), 8, weight);
            weighted_mean(mean, self.threads, &weights);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_on_a_line_have_their_middle_one() {
        // On a line the geometric median of an odd number is the median.
        let update = |client: u32, x: f32| Update { client, weight: 1, dense: vec![x, 0.0], ..Update::default() };
        let updates = [0.0, 1.0, 50.0].iter().enumerate().map(|(c, x)| update(c as u32, *x)).collect();
        let mut mean = Mean { d: 1, weight: 3, dense: vec![17.0, 0.0], updates, ..Mean::default() };
        GeometricMedian { steps: 100, smooth: 1e-6, threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert!((mean.dense[0] - 1.0).abs() < 1e-3 && mean.dense[1] == 0.0, "{:?}", mean.dense);
    }

    #[test]
    fn a_row_is_not_pulled_by_who_did_not_upload_it() {
        let update = |client: u32, items: &[u32], x: f32| Update {
            client,
            weight: 1,
            dense: vec![0.1 * client as f32],
            items: items.to_vec(),
            rows: vec![x; items.len()],
        };
        let updates = vec![update(0, &[5], 2.0), update(1, &[5], 2.0), update(2, &[], 0.0), update(3, &[], 0.0)];
        let mut mean = Mean { d: 1, weight: 4, dense: vec![0.0], items: vec![5], rows: vec![1.0], updates };
        GeometricMedian { steps: 5, smooth: 1e-6, threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert!((mean.rows[0] - 2.0).abs() < 1e-6, "{:?}", mean.rows);
    }
}
