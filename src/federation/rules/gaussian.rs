//! `gaussian`: an untargeted attack. A fixed share of the clients uploads noise of the length of what it has learnt.

use super::malicious::Malicious;
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::engine::Update;

pub(super) const KIND: Kind = Kind {
    name: "gaussian",
    role: Role::Attack,
    summary: "a `share` of the clients, the same in every round, uploads normal noise as long as its change times `scale`",
    paper: "Blanchard et al., Machine Learning with Adversaries, NIPS 2017",
    options: &[("share", 0.1), ("scale", 1.0)],
    build,
};

struct Gaussian {
    malicious: Malicious,
    scale: f64,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let scale = options.get("scale", |x| x > 0.0 && x <= 1e6, "a number above 0, at most 1000000")?;
    Ok(Box::new(Gaussian { malicious: Malicious::of(options)?, scale }))
}

impl Rule for Gaussian {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        if !self.malicious.is(occasion.seed, update.client) {
            return;
        }
        let (count, norm) = (update.dense.len() + update.rows.len(), update.norm());
        let deviation = (self.scale * norm / (count.max(1) as f64).sqrt()) as f32;
        // Round 0 of this stream says who is malicious.
        let mut stream = Stream::new(occasion.seed, Purpose::Attack, occasion.round, u64::from(update.client));
        update.dense.iter_mut().chain(&mut update.rows).for_each(|x| *x = deviation * stream.normal());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_as_long_as_asked_and_others_stay() {
        let rule = Gaussian { malicious: Malicious::share(0.5), scale: 2.0 };
        let occasion = Occasion { seed: 5, round: 3, weights: None };
        for client in 0..50 {
            let honest = Update { client, dense: vec![0.3; 3000], items: vec![1], rows: vec![0.1; 4], ..Update::default() };
            let mut update = honest.clone();
            rule.client(&occasion, &mut update);
            if rule.malicious.is(5, client) {
                assert!((update.norm() / honest.norm() - 2.0).abs() < 0.15, "{}", update.norm());
                assert!(update.dense.iter().sum::<f32>().abs() < 0.2 * honest.dense.iter().sum::<f32>());
            } else {
                assert_eq!(update, honest);
            }
        }
    }
}
