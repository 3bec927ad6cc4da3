//! Negatives drawn by popularity (`loss.popularity`), with the correction that makes up for it: a softmax over a sample is that over the
//! catalogue in expectation where the log of each candidate's expected count is taken off its score (Bengio and Senécal, IEEE Transactions on
//! Neural Networks 2008; Yi et al., RecSys 2019).

use crate::Result;
use crate::config::range::{number, refuse};
use crate::config::{LossSettings, RecLoss, Settings};
use crate::data::Dataset;

/// Draws items by a power of their training counts.
pub struct Popularity {
    /// Threshold and other item of each item (the alias method, Walker 1977).
    alias: Vec<(u32, u32)>,
    /// Log of the probability of each item over the uniform one.
    offset: Vec<f32>,
}

impl Popularity {
    /// Whether the objective of `loss` asks for it.
    pub fn wanted(loss: &LossSettings) -> bool {
        loss.popularity > 0.0
    }

    /// Draws by the counts of the training histories of `data`, as far as they are known, each plus one, to the power that `loss` names.
    pub fn new(data: &Dataset, loss: &LossSettings) -> Popularity {
        Popularity::by_counts(&data.known_counts(), loss.popularity)
    }

    fn by_counts(counts: &[u32], power: f32) -> Popularity {
        let weights: Vec<f64> = counts.iter().map(|&count| libm::pow(f64::from(count) + 1.0, f64::from(power))).collect();
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let offset = weights.iter().map(|weight| libm::log(weight / mean) as f32).collect();
        // Items below the mean are filled up by those above it, both in the order of the catalogue.
        let mut left: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let (mut below, mut above): (Vec<usize>, Vec<usize>) = (0..left.len()).rev().partition(|&item| left[item] < 1.0);
        let mut alias: Vec<(u32, u32)> = (0..left.len() as u32).map(|item| (u32::MAX, item)).collect();
        while let (Some(small), Some(&large)) = (below.pop(), above.last()) {
            alias[small] = ((left[small] * f64::from(u32::MAX)) as u32, large as u32);
            left[large] -= 1.0 - left[small];
            if left[large] < 1.0 {
                above.pop();
                below.push(large);
            }
        }
        Popularity { alias, offset }
    }

    /// The item that two random words draw.
    pub(super) fn item(&self, place: u32, level: u32) -> u32 {
        let item = ((u64::from(place) * self.alias.len() as u64) >> 32) as u32;
        let (threshold, other) = self.alias[item as usize];
        if level <= threshold { item } else { other }
    }

    /// What is taken off the score of `item`; nothing of special rows, which are never drawn.
    pub(super) fn offset(&self, item: u32) -> f32 {
        self.offset.get(item as usize).copied().unwrap_or(0.0)
    }
}

/// Refuses a power out of range, and losses that the correction does not belong to.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let (key, loss) = ("loss.popularity", &settings.loss);
    number(|x| (0.0..=1.0).contains(&x), key, loss.popularity, "between 0 and 1")?;
    if loss.popularity == 0.0 {
        return Ok(());
    }
    if loss.rec != RecLoss::SampledSoftmax {
        return refuse(key, loss.popularity, "0, because only loss.rec = \"sampled-softmax\" has the correction that it needs");
    }
    if loss.counterfactual_negatives > 0 {
        return refuse(key, loss.popularity, "0, because loss.counterfactual_negatives draws others");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};
    use proptest::prelude::*;

    #[test]
    fn items_are_drawn_as_often_as_their_powers_say_and_the_offset_is_the_log_of_it() {
        let counts = [0, 3, 0, 99, 15, 1];
        for power in [0.5f32, 1.0] {
            let drawn = Popularity::by_counts(&counts, power);
            let weights: Vec<f64> = counts.iter().map(|&c| (f64::from(c) + 1.0).powf(power.into())).collect();
            let all: f64 = weights.iter().sum();
            let (times, mut seen) = (400_000, [0u32; 6]);
            let mut stream = Stream::new(3, Purpose::Negatives, 1, 1);
            (0..times).for_each(|_| seen[drawn.item(stream.u32(), stream.u32()) as usize] += 1);
            for item in 0..6 {
                let p = weights[item] / all;
                let deviation = (p * (1.0 - p) / f64::from(times)).sqrt();
                assert!((f64::from(seen[item]) / f64::from(times) - p).abs() < 5.0 * deviation, "{power}: item {item}: {seen:?}");
                assert!((f64::from(drawn.offset(item as u32)) - (p * 6.0).ln()).abs() < 1e-6);
            }
            assert_eq!(drawn.offset(6), 0.0, "special rows");
        }
    }

    proptest! {
        /// The two words give each item exactly the mass that it should have, up to the words' resolution.
        #[test]
        fn the_table_holds_every_weight(counts in prop::collection::vec(0u32..10_000, 1..60), power in 0.0f32..=1.0) {
            let drawn = Popularity::by_counts(&counts, power);
            let weights: Vec<f64> = counts.iter().map(|&c| (f64::from(c) + 1.0).powf(power.into())).collect();
            let mean = weights.iter().sum::<f64>() / weights.len() as f64;
            let mut mass = vec![0f64; counts.len()];
            for (item, &(threshold, other)) in drawn.alias.iter().enumerate() {
                let own = (f64::from(threshold) + 1.0) / 4_294_967_296.0;
                mass[item] += own;
                mass[other as usize] += 1.0 - own;
            }
            for (item, weight) in weights.iter().enumerate() {
                prop_assert!((mass[item] - weight / mean).abs() < 1e-6 * counts.len() as f64, "{item}: {} {}", mass[item], weight / mean);
            }
        }
    }
}
