//! `sign-flip`: an untargeted attack. A fixed share of the clients uploads the opposite of what it has learnt.

use super::malicious::Malicious;
use super::{Kind, Occasion, Options, Role, Rule};
use crate::Result;

pub(super) const KIND: Kind = Kind {
    name: "sign-flip",
    role: Role::Attack,
    summary: "a `share` of the clients, the same in every round, uploads its change times -`scale`",
    paper: "Li et al., RSA: Byzantine-Robust Stochastic Aggregation, AAAI 2019",
    options: &[("share", 0.1), ("scale", 1.0)],
    build,
};

struct SignFlip {
    malicious: Malicious,
    scale: f32,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let scale = options.get("scale", |x| x > 0.0 && x <= 1e6, "a number above 0, at most 1000000")?;
    Ok(Box::new(SignFlip { malicious: Malicious::of(options)?, scale: scale as f32 }))
}

impl Rule for SignFlip {
    fn factor(&self, occasion: &Occasion, client: u32, _: f64) -> f32 {
        if self.malicious.is(occasion.seed, client) { -self.scale } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    #[test]
    fn the_same_share_of_clients_flips_in_every_round() {
        let rule = SignFlip { malicious: Malicious::share(0.25), scale: 3.0 };
        let flipped = |round: u64| -> Vec<u32> {
            let flips = |&client: &u32| {
                let mut update = Update { client, dense: vec![2.0], rows: vec![-1.0], items: vec![0], ..Update::default() };
                rule.client(&Occasion { seed: 5, round, weights: None }, &mut update);
                let (dense, row) = (update.dense[0], update.rows[0]);
                assert!((dense, row) == (2.0, -1.0) || (dense, row) == (-6.0, 3.0), "{dense} {row}");
                dense < 0.0
            };
            (0..4000).filter(flips).collect()
        };
        let first = flipped(1);
        // 1,000 expected, standard deviation 27.
        assert!((890..1110).contains(&first.len()), "{}", first.len());
        assert_eq!(first, flipped(2));
        let all = SignFlip { malicious: Malicious::share(1.0), scale: 1.0 };
        assert!((0..1000).all(|c| all.malicious.is(9, c)));
        let none = SignFlip { malicious: Malicious::share(0.0), scale: 1.0 };
        assert!(!(0..1000).any(|c| none.malicious.is(9, c)));
    }
}
