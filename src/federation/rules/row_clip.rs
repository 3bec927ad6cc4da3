//! `row-clip`: every item row of an update is shortened to the bound by itself.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::engine::Update;

pub(super) const KIND: Kind = Kind {
    name: "row-clip",
    role: Role::Defence,
    summary: "shortens every item row of an update to a Euclidean norm of at most `bound`; dense weights stay",
    paper: "the row clipping of PoisonFRS's evaluation, Yin et al., WWW 2024",
    options: &[("bound", 3.0)],
    build,
};

struct RowClip {
    bound: f64,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(RowClip { bound: options.get("bound", |x| x > 0.0, "a number above 0")? }))
}

impl Rule for RowClip {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, _: &Occasion, update: &mut Update) {
        let d = update.rows.len() / update.items.len().max(1);
        for row in update.rows.chunks_exact_mut(d.max(1)) {
            let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            // A norm that is not finite passes unchanged: the sums refuse it.
            if norm > self.bound && norm.is_finite() {
                let factor = (self.bound / norm) as f32;
                row.iter_mut().for_each(|x| *x *= factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shortened_one_by_one() {
        let mut update = Update { dense: vec![90.0], items: vec![2, 8], rows: vec![3.0, 4.0, 0.6, -0.8], ..Update::default() };
        RowClip { bound: 2.5 }.client(&Occasion { seed: 1, round: 1, weights: None }, &mut update);
        assert_eq!((update.dense, update.rows), (vec![90.0], vec![1.5, 2.0, 0.6, -0.8]));
        let mut empty = Update { dense: vec![1.0], ..Update::default() };
        RowClip { bound: 2.5 }.client(&Occasion { seed: 1, round: 1, weights: None }, &mut empty);
        assert_eq!(empty.dense, [1.0]);
    }
}
