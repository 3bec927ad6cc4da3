//! User-level differential privacy (McMahan et al., ICLR 2018): every update is shortened to the clip, and the sum gets normal noise on each number
//! that any client could have moved, the rows that no client met included. What comes out is divided by the expected number of clients, which
//! says nothing about who was there. `privacy.*` sets it; it is no entry of `federation.rules`.

use super::{Occasion, Rule};
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::NoiseBy;
use crate::engine::Mean;
use crate::privacy::UserPrivacy;

/// The last rule of a client and the first of the server.
pub(super) struct Noise {
    privacy: UserPrivacy,
    /// Item rows `[I + S]`.
    rows: usize,
    /// Threads that draw.
    threads: usize,
    /// Where clients have added the noise, the server only divides.
    by: NoiseBy,
}

impl Noise {
    pub(super) fn new(privacy: UserPrivacy, rows: usize, threads: usize, by: NoiseBy) -> Noise {
        Noise { privacy, rows, threads, by }
    }

    /// `sum [n] / expected` with noise from `stream`, rounded to a grid far finer than the noise: the last bits of a float would say something
    /// about the sum.
    fn disturb(&self, mut stream: Stream, scale: f64, mean: &mut [f32]) {
        let UserPrivacy { deviation, expected, .. } = self.privacy;
        let grid = (deviation / expected).log2().floor().exp2() / 1_048_576.0;
        for value in mean {
            let noise = if self.by == NoiseBy::Server { deviation * f64::from(stream.normal()) } else { 0.0 };
            let noisy = (f64::from(*value) * scale + noise) / expected;
            *value = ((noisy / grid).round_ties_even() * grid) as f32;
        }
    }
}

impl Rule for Noise {
    fn factor(&self, _: &Occasion, _: u32, norm: f64) -> f32 {
        let clip = self.privacy.clip;
        // A norm that is not finite passes unchanged: the client has diverged, and the sums refuse it.
        if norm <= clip || !norm.is_finite() {
            return 1.0;
        }
        // Below the quotient, so that rounding never leaves an update longer than the clip.
        ((clip / norm) as f32).next_down()
    }

    fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        let (d, scale) = (mean.d, mean.weight as f64);
        let stream = |row: u64| Stream::new(occasion.seed, Purpose::Privacy, occasion.round, row);
        // Dense weights have a stream of their own, behind those of all rows.
        self.disturb(stream(u64::from(u32::MAX)), scale, &mut mean.dense);
        if mean.rows.is_empty() {
            return;
        }
        let mut rows = vec![0.0; self.rows * d];
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact(d)) {
            rows[item as usize * d..][..d].copy_from_slice(row);
        }
        parallel::consume(self.threads, rows.chunks_mut(256 * d).enumerate().collect(), |(n, part): (usize, &mut [f32])| {
            for (i, row) in part.chunks_exact_mut(d).enumerate() {
                self.disturb(stream((256 * n + i) as u64), scale, row);
            }
        });
        (mean.items, mean.rows) = ((0..self.rows as u32).collect(), rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::engine::Update;

    fn rule(noise: f64, clip: f64) -> Noise {
        let mut settings = Settings::default();
        (settings.privacy.noise, settings.privacy.clip) = (noise, clip);
        Noise::new(UserPrivacy::of(&settings, 1000, 0.1).unwrap().unwrap(), 700, 2, NoiseBy::Server)
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
