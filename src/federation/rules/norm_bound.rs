//! `norm-bound`: an update longer than the bound is shortened to it.

use super::{Kind, Occasion, Options, Role, Rule};
use crate::Result;

pub(super) const KIND: Kind = Kind {
    name: "norm-bound",
    role: Role::Defence,
    summary: "shortens every update to a Euclidean norm of at most `bound`, over dense weights and item rows together",
    paper: "Sun et al., Can You Really Backdoor Federated Learning?, arXiv 1911.07963",
    options: &[("bound", 1.0)],
    build,
};

struct NormBound {
    bound: f64,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(NormBound { bound: options.get("bound", |x| x > 0.0, "a number above 0")? }))
}

impl Rule for NormBound {
    fn factor(&self, _: &Occasion, _: u32, norm: f64) -> f32 {
        // A norm that is not finite passes unchanged: the client has diverged, and the sums refuse it.
        if norm > self.bound && norm.is_finite() { (self.bound / norm) as f32 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    #[test]
    fn long_updates_are_shortened_and_short_ones_are_not() {
        let occasion = Occasion { seed: 1, round: 1, weights: None };
        let rule = NormBound { bound: 2.5 };
        let mut long = Update { dense: vec![3.0], items: vec![7], rows: vec![0.0, 4.0], ..Update::default() };
        let mut short = Update { dense: vec![0.3], items: vec![7], rows: vec![0.0, 0.4], ..Update::default() };
        let same = short.clone();
        rule.client(&occasion, &mut long);
        rule.client(&occasion, &mut short);
        assert_eq!((long.dense, long.rows), (vec![1.5], vec![0.0, 2.0]));
        assert_eq!(short, same);
        let mut lost = Update { dense: vec![f32::NAN], ..Update::default() };
        rule.client(&occasion, &mut lost);
        assert!(lost.dense[0].is_nan());
    }
}
