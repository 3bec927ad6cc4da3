//! `quantise`: a client uploads its update in few bits a number.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::engine::{Update, quantised};

pub(super) const KIND: Kind = Kind {
    name: "quantise",
    role: Role::Other,
    summary: "uploads `bits` bits a number (2 to 16), rounded stochastically, with a scale for each item row and each 64 dense weights; stands last",
    paper: "QSGD, Alistarh et al., NIPS 2017",
    options: &[("bits", 8.0)],
    build,
};

struct Quantise {
    bits: u32,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let bits = options.get("bits", |x| (2.0..=16.0).contains(&x) && x.fract() == 0.0, "a whole number from 2 to 16")?;
    Ok(Box::new(Quantise { bits: bits as u32 }))
}

impl Rule for Quantise {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn bits(&self) -> Option<u32> {
        Some(self.bits)
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        // Numbers that are not finite pass unchanged: the client has diverged, and the sums refuse it.
        if update.values().any(|x| !x.is_finite()) {
            return;
        }
        let stream = Stream::new(occasion.seed, Purpose::Rounding, occasion.round, update.client.into());
        let d = update.rows.len() / update.items.len().max(1);
        // What the server decodes is what the client has uploaded.
        *update = quantised::decode(&quantised::encode(update, self.bits, stream), d).expect("what was just encoded is whole");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_own_scale_and_what_diverged_stays() {
        let occasion = Occasion { seed: 1, round: 1, weights: None };
        let rule = Quantise { bits: 2 };
        // Two bits: a level is -1, 0 or 1, and the largest number of a row is its scale.
        let mut update = Update { dense: vec![0.25, -0.25], items: vec![7, 9], rows: vec![8.0, -8.0, 0.5, 0.0], ..Update::default() };
        let same = update.clone();
        rule.client(&occasion, &mut update);
        assert_eq!(update, same);
        let mut between = Update { items: vec![7], rows: vec![1.0, 0.4], ..Update::default() };
        rule.client(&occasion, &mut between);
        assert!(between.rows[0] == 1.0 && [0.0, 1.0].contains(&between.rows[1]), "{between:?}");
        let mut lost = Update { dense: vec![f32::NAN, 1.0], ..Update::default() };
        rule.client(&occasion, &mut lost);
        assert!(lost.dense[0].is_nan() && lost.dense[1] == 1.0);
        for options in ["quantise bits=1", "quantise bits=17", "quantise bits=2.5"] {
            assert!(super::super::build(&[options.into()]).is_err(), "{options}");
        }
    }
}
