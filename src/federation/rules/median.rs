//! `median`: the coordinate-wise median instead of the mean; of an item row over the clients that uploaded it.

use super::coordinates::each_coordinate;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::engine::Mean;

pub(super) const KIND: Kind = Kind {
    name: "median",
    role: Role::Defence,
    summary: "the median of every coordinate over the clients that uploaded it, weights left aside",
    paper: "Yin et al., Byzantine-Robust Distributed Learning, ICML 2018",
    options: &[],
    build,
};

struct Median {
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(Median { threads: options.threads() }))
}

/// Median of `values`, which are reordered; of an even number the mean of the two in the middle. Not a number where one of them is none.
pub(super) fn median(values: &mut [f32]) -> f32 {
    if values.iter().any(|x| x.is_nan()) {
        return f32::NAN;
    }
    let half = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(half, f32::total_cmp);
    match below.iter().copied().max_by(f32::total_cmp) {
        Some(lower) if even => ((f64::from(lower) + f64::from(upper)) / 2.0) as f32,
        _ => upper,
    }
}

impl Rule for Median {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        each_coordinate(mean, self.threads, median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_median_is_the_middle_of_the_sorted_values(mut values in prop::collection::vec(-9f32..9.0, 1..12)) {
            let mut sorted = values.clone();
            sorted.sort_by(f32::total_cmp);
            let n = sorted.len();
            let expected = (f64::from(sorted[(n - 1) / 2]) + f64::from(sorted[n / 2])) / 2.0;
            prop_assert_eq!(median(&mut values), expected as f32);
        }
    }

    #[test]
    fn a_row_is_the_median_over_its_contributors_alone() {
        let update = |client: u32, dense: f32, rows: &[(u32, [f32; 2])]| Update {
            client,
            weight: 1,
            dense: vec![dense],
            items: rows.iter().map(|r| r.0).collect(),
            rows: rows.iter().flat_map(|r| r.1).collect(),
        };
        let mut mean = Mean {
            d: 2,
            weight: 4,
            dense: vec![100.0],
            items: vec![3, 5, 9],
            rows: vec![0.0; 6],
            updates: vec![
                update(0, 1.0, &[(9, [1.0, -1.0]), (3, [7.0, 8.0])]),
                update(1, 2.0, &[(9, [2.0, -9.0])]),
                update(2, 900.0, &[(9, [600.0, -2.0]), (5, [1.0, 3.0])]),
                update(3, 3.0, &[(5, [3.0, 1.0])]),
            ],
        };
        Median { threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert_eq!(mean.dense, [2.5]);
        assert_eq!(mean.rows, [7.0, 8.0, 2.0, 2.0, 2.0, -2.0]);
    }
}
