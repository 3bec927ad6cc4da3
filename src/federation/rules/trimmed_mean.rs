//! `trimmed-mean`: the mean of what is left of every coordinate without its largest and smallest values.

use super::coordinates::each_coordinate;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::engine::Mean;

pub(super) const KIND: Kind = Kind {
    name: "trimmed-mean",
    role: Role::Defence,
    summary: "the mean of every coordinate over the clients that uploaded it, without a share of `trim` at each end; weights left aside",
    paper: "Yin et al., Byzantine-Robust Distributed Learning, ICML 2018",
    options: &[("trim", 0.1)],
    build,
};

struct TrimmedMean {
    trim: f64,
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let trim = options.get("trim", |x| (0.0..0.5).contains(&x), "a share of at least 0 and below 0.5")?;
    Ok(Box::new(TrimmedMean { trim, threads: options.threads() }))
}

/// The mean of `values` without `floor(trim n)` at each end. Not a number where one of them is none.
fn trimmed(values: &mut [f32], trim: f64) -> f32 {
    if values.iter().any(|x| x.is_nan()) {
        return f32::NAN;
    }
    let n = values.len();
    let cut = (trim * n as f64) as usize;
    let left = if cut == 0 {
        values
    } else {
        // What lies between the two places, in whichever order selection leaves it: the same one for the same values.
        let (_, _, above) = values.select_nth_unstable_by(cut - 1, f32::total_cmp);
        let kept = n - 2 * cut;
        above.select_nth_unstable_by(kept, f32::total_cmp);
        &mut above[..kept]
    };
    (left.iter().map(|&x| f64::from(x)).sum::<f64>() / left.len() as f64) as f32
}

impl Rule for TrimmedMean {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, _: &Occasion, mean: &mut Mean) {
        each_coordinate(mean, self.threads, |values| trimmed(values, self.trim));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    #[test]
    fn worked_by_hand() {
        // A fifth of five values is one at each end: -90 and 50 go, (1 + 2 + 6) / 3 is left.
        assert_eq!(trimmed(&mut [2.0, 50.0, 1.0, -90.0, 6.0], 0.2), 3.0);
        // Of four values a fifth is none.
        assert_eq!(trimmed(&mut [2.0, 50.0, 1.0, -9.0], 0.2), 11.0);
        assert!(trimmed(&mut [2.0, f32::NAN, 1.0], 0.4).is_nan());
    }

    #[test]
    fn a_row_is_trimmed_over_its_contributors() {
        let update = |client: u32, value: f32| Update { client, weight: 1, dense: vec![value], items: vec![4], rows: vec![-value] };
        let mut mean = Mean { d: 1, weight: 4, dense: vec![0.0], items: vec![4], rows: vec![0.0], ..Mean::default() };
        mean.updates = [1.0, 900.0, 3.0, -700.0].iter().enumerate().map(|(c, v)| update(c as u32, *v)).collect();
        TrimmedMean { trim: 0.25, threads: 2 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert_eq!((mean.dense, mean.rows), (vec![2.0], vec![-2.0]));
    }
}
