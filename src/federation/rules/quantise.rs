//! `quantise`: a client uploads its update in few bits a number. With `feedback=1` it keeps what the rounding took away and adds it to its next upload
//! (error feedback: Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019): dense weights whole, and of each item row until it uploads the row
//! again. Rounding by chance is right on average without it; what it takes is memory of the client, 4 bytes a dense weight and a number of a row.

use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::base::parcel::{Parcel, Pieces};
use crate::base::rng::{Purpose, Stream};
use crate::engine::{Mean, NamedTensor, TensorData, Tensors, Update, quantised};
use crate::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "quantise",
    role: Role::Other,
    summary: "uploads `bits` bits a number (2 to 16), rounded stochastically, with a scale for each item row and each 64 dense weights; stands last",
    paper: "QSGD, Alistarh et al., NIPS 2017",
    options: &[("bits", 8.0), ("feedback", 0.0)],
    build,
};

/// What rounding has taken from a client's uploads: of the dense weights `[P]`, and of item rows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rest {
    dense: Vec<f32>,
    rows: BTreeMap<u32, Vec<f32>>,
}

/// What clients keep.
#[derive(Default)]
struct Feedback {
    /// After the last round that succeeded.
    kept: BTreeMap<u32, Rest>,
    /// After their upload in the round at hand.
    next: BTreeMap<u32, Rest>,
}

struct Quantise {
    bits: u32,
    feedback: Option<Mutex<Feedback>>,
}

/// Name of what clients keep in a checkpoint.
const KEPT: &str = "rules.quantise.feedback";

impl Rest {
    /// Adds what is kept to the upload.
    fn add_to(&self, update: &mut Update, d: usize) {
        update.dense.iter_mut().zip(&self.dense).for_each(|(x, rest)| *x += rest);
        for (&item, row) in update.items.iter().zip(update.rows.chunks_exact_mut(d)) {
            if let Some(rest) = self.rows.get(&item) {
                row.iter_mut().zip(rest).for_each(|(x, rest)| *x += rest);
            }
        }
    }

    /// What is kept once `sent` went up in the place of `meant`.
    fn after(mut self, meant: &Update, sent: &Update, d: usize) -> Rest {
        let left = |meant: &[f32], sent: &[f32]| meant.iter().zip(sent).map(|(meant, sent)| meant - sent).collect::<Vec<f32>>();
        self.dense = left(&meant.dense, &sent.dense);
        for ((&item, meant), sent) in meant.items.iter().zip(meant.rows.chunks_exact(d)).zip(sent.rows.chunks_exact(d)) {
            self.rows.insert(item, left(meant, sent));
        }
        self
    }
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    let bits = options.get("bits", |x| (2.0..=16.0).contains(&x) && x.fract() == 0.0, "a whole number from 2 to 16")?;
    let feedback = options.get("feedback", |x| x == 0.0 || x == 1.0, "0 or 1")? == 1.0;
    Ok(Box::new(Quantise { bits: bits as u32, feedback: feedback.then(Mutex::default) }))
}

impl Rule for Quantise {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn bits(&self) -> Option<u32> {
        Some(self.bits)
    }

    fn begin(&self) {
        if let Some(feedback) = &self.feedback {
            feedback.lock().next.clear();
        }
    }

    fn left_out(&self, client: u32) {
        if let Some(feedback) = &self.feedback {
            feedback.lock().next.remove(&client);
        }
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        // Numbers that are not finite pass unchanged: the client has diverged, and the sums refuse it.
        if update.values().any(|x| !x.is_finite()) {
            return;
        }
        let stream = Stream::new(occasion.seed, Purpose::Rounding, occasion.round, update.client.into());
        let d = update.rows.len() / update.items.len().max(1);
        let before = self.feedback.as_ref().map(|feedback| feedback.lock().kept.get(&update.client).cloned().unwrap_or_default());
        if let Some(before) = &before {
            before.add_to(update, d.max(1));
        }
        // What the server decodes is what the client has uploaded.
        let sent = quantised::decode(&quantised::encode(update, self.bits, stream), d).expect("what was just encoded is whole");
        if let (Some(feedback), Some(before)) = (&self.feedback, before) {
            let rest = before.after(update, &sent, d.max(1));
            feedback.lock().next.insert(update.client, rest);
        }
        *update = sent;
    }

    fn server(&self, _: &Occasion, _: &mut Mean) {
        if let Some(feedback) = &self.feedback {
            let mut feedback = feedback.lock();
            let next = std::mem::take(&mut feedback.next);
            feedback.kept.extend(next);
        }
    }

    fn may_divide(&self) -> Result<()> {
        if self.feedback.is_none() {
            return Ok(());
        }
        let message =
            "`quantise feedback=1` keeps what clients keep in one process, and there are several; leave feedback out, or run one process";
        Err(Error::setting("federation.rules", message))
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        let Some(feedback) = &self.feedback else { return Vec::new() };
        let mut parcel = Parcel::new();
        for (&client, rest) in &feedback.lock().kept {
            let items: Vec<u32> = rest.rows.keys().copied().collect();
            let rows: Vec<f32> = rest.rows.values().flatten().copied().collect();
            parcel = parcel.words(&[client]).floats(&rest.dense).words(&items).floats(&rows);
        }
        let bytes = parcel.into_bytes();
        vec![NamedTensor { name: KEPT.into(), shape: vec![bytes.len()], data: TensorData::U8(bytes) }]
    }

    fn restore(&self, tensors: &Tensors) -> Result<()> {
        let Some(feedback) = &self.feedback else { return Ok(()) };
        let kept = match tensors.get(KEPT).map(|tensor| &tensor.data) {
            Some(TensorData::U8(bytes)) => read(bytes),
            _ => None,
        };
        let kept = kept.ok_or_else(|| Error::Usage(format!("checkpoint: tensor `{KEPT}` is missing, damaged or of another model")))?;
        *feedback.lock() = Feedback { kept, next: BTreeMap::new() };
        Ok(())
    }
}

/// What clients keep, as [`Quantise::tensors`] wrote it.
fn read(bytes: &[u8]) -> Option<BTreeMap<u32, Rest>> {
    let mut pieces = Pieces::of(bytes);
    let mut kept = BTreeMap::new();
    while !pieces.is_empty() {
        let [client] = pieces.words()?.try_into().ok()?;
        let (dense, items, rows) = (pieces.floats()?, pieces.words()?, pieces.floats()?);
        let d = rows.len() / items.len().max(1);
        if rows.len() != d * items.len() {
            return None;
        }
        let rows = items.into_iter().zip(rows.chunks_exact(d.max(1)).map(<[f32]>::to_vec)).collect();
        kept.insert(client, Rest { dense, rows });
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_own_scale_and_what_diverged_stays() {
        let occasion = Occasion { seed: 1, round: 1, weights: None };
        let rule = Quantise { bits: 2, feedback: None };
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
        for options in ["quantise bits=1", "quantise bits=17", "quantise bits=2.5", "quantise feedback=2"] {
            assert!(super::super::build(&[options.into()]).is_err(), "{options}");
        }
    }
    /// Uploads and what is kept add up to what the client has meant, over rounds in which rows come and go and a round is trained twice.
    #[test]
    fn what_rounding_takes_goes_up_later() {
        let rule = Quantise { bits: 2, feedback: Some(Mutex::default()) };
        let mut stream = Stream::new(3, Purpose::Bench, 0, 0);
        let (mut meant, mut sent) = (BTreeMap::<u32, f64>::new(), BTreeMap::<u32, f64>::new());
        let add = |to: &mut BTreeMap<u32, f64>, update: &Update| {
            *to.entry(u32::MAX).or_default() += f64::from(update.dense[0]);
            for (item, row) in update.items.iter().zip(update.rows.chunks_exact(2)) {
                *to.entry(*item).or_default() += f64::from(row[0] - 2.0 * row[1]);
            }
        };
        for round in 1..=40 {
            let occasion = Occasion { seed: 1, round, weights: None };
            let items: Vec<u32> = if round % 3 == 0 { vec![4] } else { vec![2, 4, 9] };
            let mut draw = |n: usize| (0..n).map(|_| stream.normal()).collect::<Vec<f32>>();
            let update = Update { client: 5, dense: draw(2), rows: draw(2 * items.len()), items, ..Update::default() };
            add(&mut meant, &update);
            let mut twice = Vec::new();
            for _ in 0..2 {
                rule.begin();
                let mut upload = update.clone();
                rule.client(&occasion, &mut upload);
                // Another client of the round, which is left out of it.
                rule.client(&occasion, &mut Update { client: 6, ..update.clone() });
                rule.left_out(6);
                twice.push(upload);
            }
            assert_eq!(twice[0], twice[1], "a round that is trained again begins with what was kept before it");
            add(&mut sent, &twice[0]);
            rule.server(&occasion, &mut Mean::default());
        }
        let kept = rule.feedback.as_ref().unwrap().lock().kept.clone();
        assert_eq!(kept.keys().collect::<Vec<_>>(), [&5]);
        for (item, meant) in meant {
            let rest = if item == u32::MAX {
                f64::from(kept[&5].dense[0])
            } else {
                f64::from(kept[&5].rows[&item][0] - 2.0 * kept[&5].rows[&item][1])
            };
            assert!((meant - sent[&item] - rest).abs() < 1e-4, "{item}: {meant} meant, {} sent, {rest} kept", sent[&item]);
            assert!(rest.abs() < 8.0 && rest != 0.0, "{item}: {rest}");
        }
        let tensors = rule.tensors();
        let other = Quantise { bits: 2, feedback: Some(Mutex::default()) };
        other.restore(&Tensors::new(&tensors)).unwrap();
        assert_eq!(other.feedback.as_ref().unwrap().lock().kept, kept);
        let mut damaged = tensors.clone();
        damaged[0].data = TensorData::U8(vec![9; 7]);
        assert!(other.restore(&Tensors::new(&damaged)).is_err());
    }
}
