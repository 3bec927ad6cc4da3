//! User-level differential privacy (McMahan et al., ICLR 2018): every update is shortened to the clip, and the sum gets normal noise on each number
//! that any client could have moved, the rows that no client met included. What comes out is divided by the expected number of clients, which
//! says nothing about who was there. Dense weights and item rows may have a clip each, or the clip may follow a quantile of the norms (Andrew et al.,
//! NeurIPS 2021). `privacy.*` sets it; it is no entry of `federation.rules`.

use super::{Needs, Occasion, Rule};
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::cluster::Reduce;
use crate::config::NoiseBy;
use crate::engine::{Mean, NamedTensor, TensorData, Tensors, Update};
use crate::privacy::UserPrivacy;
use crate::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The last rule of a client and the first of the server.
pub(super) struct Noise {
    privacy: UserPrivacy,
    /// Item rows `[I + S]`.
    rows: usize,
    /// Threads that draw.
    threads: usize,
    /// Where clients have added the noise, the server only divides.
    by: NoiseBy,
    state: Mutex<State>,
}

/// What changes from round to round where the clip adapts.
struct State {
    clip: f64,
    /// Of each client of the round whether its update was within the clip: a client that is asked twice counts once.
    within: BTreeMap<u32, bool>,
    /// The same of other processes: how many were.
    elsewhere: i64,
}

/// Name of the clip in a checkpoint: the bits of one number.
const CLIP: &str = "privacy.clip";

/// The stream of the noise on the count of updates within the clip, behind those of rows and dense weights.
const COUNT: u64 = 1 << 33;

/// What a vector of `norm` is multiplied by to be no longer than `clip`.
fn shortening(norm: f64, clip: f64) -> f32 {
    // A norm that is not finite passes unchanged: the client has diverged, and the sums refuse it.
    if norm <= clip || !norm.is_finite() {
        return 1.0;
    }
    // Below the quotient, so that rounding never leaves it longer than the clip.
    ((clip / norm) as f32).next_down()
}

impl Noise {
    pub(super) fn new(privacy: UserPrivacy, rows: usize, threads: usize, by: NoiseBy) -> Noise {
        let state = Mutex::new(State { clip: privacy.clip, within: BTreeMap::new(), elsewhere: 0 });
        Noise { privacy, rows, threads, by, state }
    }

    /// `sum [n] / expected` with noise of `deviation` from `stream`, rounded to a grid far finer than the noise: the last bits of a float would say
    /// something about the sum.
    fn disturb(&self, deviation: f64, mut stream: Stream, scale: f64, mean: &mut [f32]) {
        let expected = self.privacy.expected;
        let grid = (deviation / expected).log2().floor().exp2() / 1_048_576.0;
        for value in mean {
            let noise = if self.by == NoiseBy::Server { deviation * f64::from(stream.normal()) } else { 0.0 };
            let noisy = (f64::from(*value) * scale + noise) / expected;
            *value = ((noisy / grid).round_ties_even() * grid) as f32;
        }
    }

    /// Moves the clip after a round of `clients`.
    fn adapt(&self, occasion: &Occasion, clients: i64) {
        let Some(adaptive) = self.privacy.adaptive else { return };
        let mut state = self.state.lock();
        let within = std::mem::take(&mut state.within).into_values().filter(|within| *within).count() as i64 + state.elsewhere;
        let noise = Stream::new(occasion.seed, Purpose::Privacy, occasion.round, COUNT).normal();
        state.clip = adaptive.next(state.clip, within as f64, clients as f64, self.privacy.expected, noise.into());
        state.elsewhere = 0;
    }
}

impl Rule for Noise {
    fn needs(&self) -> Needs {
        // Two factors instead of one.
        if self.privacy.groups.is_some() { Needs::Each } else { Needs::Linear }
    }

    fn factor(&self, _: &Occasion, client: u32, norm: f64) -> f32 {
        let mut state = self.state.lock();
        let clip = state.clip;
        if self.privacy.adaptive.is_some() {
            state.within.insert(client, norm <= clip);
        }
        shortening(norm, clip)
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        let Some(clips) = self.privacy.groups else {
            let factor = self.factor(occasion, update.client, update.norm());
            if factor != 1.0 {
                update.scale(factor);
            }
            return;
        };
        let norms = update.norms();
        let [dense, rows] = [0, 1].map(|group| shortening(norms[group], clips[group]));
        update.dense.iter_mut().for_each(|x| *x *= dense);
        update.rows.iter_mut().for_each(|x| *x *= rows);
    }

    fn join(&self, reduce: &dyn Reduce) -> Result<()> {
        if self.privacy.adaptive.is_none() {
            return Ok(());
        }
        let own = self.state.lock().within.values().filter(|within| **within).count() as i64;
        let mut all = [own];
        reduce.sum(&mut all)?;
        self.state.lock().elsewhere = all[0] - own;
        Ok(())
    }

    fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        let (d, scale) = (mean.d, mean.weight as f64);
        let deviation = self.privacy.multiplier * self.state.lock().clip;
        self.adapt(occasion, mean.weight);
        let stream = |row: u64| Stream::new(occasion.seed, Purpose::Privacy, occasion.round, row);
        // Dense weights have a stream of their own, behind those of all rows.
        self.disturb(deviation, stream(u64::from(u32::MAX)), scale, &mut mean.dense);
        if mean.rows.is_empty() {
            return;
        }
        let mut rows = vec![0.0; self.rows * d];
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact(d)) {
            rows[item as usize * d..][..d].copy_from_slice(row);
        }
        parallel::consume(self.threads, rows.chunks_mut(256 * d).enumerate().collect(), |(n, part): (usize, &mut [f32])| {
            for (i, row) in part.chunks_exact_mut(d).enumerate() {
                self.disturb(deviation, stream((256 * n + i) as u64), scale, row);
            }
        });
        (mean.items, mean.rows) = ((0..self.rows as u32).collect(), rows);
    }

    fn clip(&self) -> Option<f64> {
        self.privacy.adaptive.map(|_| self.state.lock().clip)
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        let bits = self.clip().map(f64::to_bits);
        bits.into_iter().map(|bits| NamedTensor { name: CLIP.into(), shape: vec![1], data: TensorData::U64(vec![bits]) }).collect()
    }

    fn restore(&self, tensors: &Tensors) -> Result<()> {
        let found = match tensors.get(CLIP).map(|t| &t.data) {
            None => Some(self.privacy.clip),
            Some(TensorData::U64(bits)) => Some(bits).filter(|bits| bits.len() == 1).map(|bits| f64::from_bits(bits[0])),
            Some(_) => None,
        };
        let fits = found.filter(|clip| clip.is_finite() && *clip > 0.0);
        let clip = fits.ok_or_else(|| Error::Usage(format!("checkpoint: tensor `{CLIP}` is damaged")))?;
        *self.state.lock() = State { clip, within: BTreeMap::new(), elsewhere: 0 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn rule(noise: f64, clip: f64) -> Noise {
        let mut settings = Settings::default();
        (settings.privacy.noise, settings.privacy.clip) = (noise, clip);
        Noise::new(UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap(), 700, 2, NoiseBy::Server)
    }

    #[test]
    fn groups_are_shortened_each_by_itself() {
        let mut settings = Settings::default();
        (settings.privacy.noise, settings.privacy.clip_groups) = (1.0, vec![0.5, 2.0]);
        let rule = Noise::new(UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap(), 9, 2, NoiseBy::Server);
        let mut update = Update { dense: vec![3.0, 4.0], items: vec![1], rows: vec![0.6, 0.8], ..Update::default() };
        rule.client(&Occasion { seed: 1, round: 1, weights: None }, &mut update);
        let [dense, rows] = update.norms();
        assert!(dense <= 0.5 && dense > 0.499_999, "{dense}");
        assert_eq!((update.rows, rule.needs()), (vec![0.6, 0.8], Needs::Each));
        assert!((rows - 1.0).abs() < 1e-6);
    }

    #[test]
    fn an_adaptive_clip_counts_each_client_once_and_goes_on_from_a_checkpoint() {
        let fresh = || {
            let mut settings = Settings::default();
            (settings.privacy.noise, settings.privacy.clip, settings.privacy.clip_quantile) = (1.0, 2.0, 0.9);
            Noise::new(UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap(), 9, 2, NoiseBy::Server)
        };
        let round = |rule: &Noise, round: u64, twice: bool| {
            let occasion = Occasion { seed: 5, round, weights: None };
            for client in 0..100 {
                for _ in 0..=usize::from(twice) {
                    rule.factor(&occasion, client, if client < 30 { 1.0 } else { 9.0 });
                }
            }
            let mut mean = Mean { d: 1, weight: 100, dense: vec![0.5], ..Mean::default() };
            rule.server(&occasion, &mut mean);
            (rule.clip().unwrap(), mean.dense[0])
        };
        let (one, other) = (fresh(), fresh());
        let first = round(&one, 1, false);
        assert_eq!(first, round(&other, 1, true));
        // Three tenths were within it, nine were wanted; noise on the count is a twentieth.
        assert!((first.0 / 2.0 - (0.2f64 * 0.6).exp()).abs() < 0.05, "{}", first.0);
        let resumed = fresh();
        resumed.restore(&Tensors::new(&one.tensors())).unwrap();
        assert_eq!(round(&one, 2, false), round(&resumed, 2, false));
        let damaged = NamedTensor { name: CLIP.into(), shape: vec![1], data: TensorData::U64(vec![f64::NAN.to_bits()]) };
        assert!(resumed.restore(&Tensors::new(&[damaged])).unwrap_err().to_string().contains(CLIP));
        assert!(rule(1.0, 0.5).tensors().is_empty(), "a clip that stays is no state");
    }

    #[test]
    fn no_update_is_longer_than_the_clip() {
        let (occasion, rule) = (Occasion { seed: 1, round: 1, weights: None }, rule(1.0, 0.05));
        for n in 1..400 {
            let mut update =
                Update { dense: (0..n).map(|i| (i as f32 * 0.7).sin()).collect(), items: vec![3], rows: vec![0.3; 4], ..Update::default() };
            rule.client(&occasion, &mut update);
            assert!(update.norm() <= 0.05, "{n}: {}", update.norm());
        }
    }

    /// The sum gets the noise, on every row; what it is divided by is the expected cohort, not the one that came.
    #[test]
    fn noise_has_its_deviation_everywhere() {
        let mut mean = Mean { d: 4, weight: 80, dense: vec![0.5; 3000], items: vec![7], rows: vec![0.5; 4], ..Mean::default() };
        rule(3.0, 2.0).server(&Occasion { seed: 1, round: 4, weights: None }, &mut mean);
        assert_eq!((mean.items.len(), mean.rows.len()), (700, 2800));
        // Half of 80 clients is 40; noise of 6 on the sum; over 100.
        let moments = |values: &[f32]| {
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
            (mean, variance.sqrt())
        };
        let (centre, deviation) = moments(&mean.dense);
        assert!((centre - 0.4).abs() < 0.004 && (deviation - 0.06).abs() < 0.003, "{centre} {deviation}");
        let untouched: Vec<f32> =
            mean.rows.chunks(4).enumerate().filter(|(item, _)| *item != 7).flat_map(|(_, row)| row.to_vec()).collect();
        let (centre, deviation) = moments(&untouched);
        assert!(centre.abs() < 0.004 && (deviation - 0.06).abs() < 0.003, "{centre} {deviation}");
        assert_ne!(mean.rows[..4], mean.rows[4..8], "rows have draws of their own");
    }
}
