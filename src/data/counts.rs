//! How often each item was met, as far as a method may know it (`privacy.counts`).

use super::Dataset;
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::config::{CountsUse, Settings};
use crate::privacy::counts_noise;
use std::collections::BTreeMap;

/// Steps of the fixed point in 1.0, as in every other sum over clients.
const SCALE: f64 = 4_294_967_296.0;

/// What `user` adds to the sum: each item of its training items with how often it was met, shortened to a Euclidean norm of at most `clip`, in fixed
/// point and rounded towards 0.
pub fn contribution(data: &Dataset, user: usize, clip: f64) -> Vec<(u32, i64)> {
    let mut own = BTreeMap::<u32, f64>::new();
    data.train(user).iter().for_each(|&item| *own.entry(item).or_default() += 1.0);
    let norm = own.values().map(|count| count * count).sum::<f64>().sqrt();
    let factor = if norm > clip { clip / norm } else { 1.0 };
    own.into_iter().map(|(item, count)| (item, (count * factor * SCALE) as i64)).collect()
}

/// The sum of what all users add with normal noise of `deviation` on every item, items that no user met included; rounded to whole counts of at
/// least 0 `[I]`. The order of users leaves no trace: it is a sum of integers, as secure aggregation makes it.
fn noisy(data: &Dataset, clip: f64, deviation: f64, seed: u64) -> Vec<u32> {
    let mut sums = vec![0i64; data.item_count()];
    for user in 0..data.users() {
        contribution(data, user, clip).into_iter().for_each(|(item, count)| sums[item as usize] += count);
    }
    let mut stream = Stream::new(seed, Purpose::Counts, 0, 0);
    sums.iter_mut().for_each(|sum| *sum += (deviation * f64::from(stream.normal()) * SCALE).round_ties_even() as i64);
    sums.into_iter().map(|sum| (sum as f64 / SCALE).round_ties_even().clamp(0.0, f64::from(u32::MAX)) as u32).collect()
}

/// `data` with the counts that a method under `settings` may know in [`Dataset::released`].
///
/// # Errors
/// [`crate::Error::Setting`] for an epsilon that no noise reaches.
pub fn with_counts(mut data: Dataset, settings: &Settings) -> Result<Dataset> {
    let privacy = &settings.privacy;
    data.released = match privacy.counts {
        CountsUse::Exact => None,
        CountsUse::None => Some(vec![0; data.item_count()]),
        CountsUse::Noisy => {
            let deviation = counts_noise(settings)?.unwrap_or_default() * privacy.counts_clip;
            Some(noisy(&data, privacy.counts_clip, deviation, settings.seed))
        }
    };
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 users; user `u` met item 0, and item 1 + u % 3 twice.
    fn data() -> Dataset {
        let mut data = Dataset { fingerprint: "f".into(), offsets: vec![0], item_tokens: vec![String::new(); 500], ..Default::default() };
        for user in 0..200 {
            // The last two are the targets of validation and test.
            data.items.extend([0, 1 + user % 3, 1 + user % 3, 4, 4]);
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    #[test]
    fn nobody_adds_more_than_the_clip() {
        let all = contribution(&data(), 0, 9.0);
        assert_eq!(all, [(0, SCALE as i64), (1, 2 * SCALE as i64)]);
        for clip in [0.3, 1.0, 2.0] {
            let squares: f64 = contribution(&data(), 5, clip).iter().map(|(_, x)| (*x as f64 / SCALE).powi(2)).sum();
            assert!(squares.sqrt() <= clip && squares.sqrt() > 0.999_999 * clip, "{clip}: {squares}");
        }
    }

    /// What a server gets by secure aggregation of all users is the sum that is disturbed here.
    #[cfg(feature = "secure")]
    #[test]
    fn secure_aggregation_gives_the_same_sum() {
        use crate::privacy::secure_sum::{Plan, simulate};
        use sha2::{Digest, Sha256};
        let data = data();
        let users = 20;
        let plan = std::sync::Arc::new(Plan::new(1, 0, users, 6, data.item_count()));
        let entropy = |party: u32| Sha256::digest(party.to_le_bytes()).into();
        let input = |party: u32| {
            let mut vector = vec![0u64; data.item_count()];
            contribution(&data, party as usize, 1.0).into_iter().for_each(|(item, count)| vector[item as usize] = count as u64);
            vector
        };
        let (sum, _) = simulate(&plan, &[], 2, entropy, input).unwrap();
        let mut plain = vec![0u64; data.item_count()];
        (0..users).flat_map(|user| contribution(&data, user, 1.0)).for_each(|(item, count)| plain[item as usize] += count as u64);
        assert_eq!(sum, plain);
    }

    #[test]
    fn noise_has_its_deviation_on_every_item_and_counts_are_right_without_it() {
        assert_eq!(noisy(&data(), 9.0, 0.0, 1)[..5], [200, 134, 134, 132, 0]);
        // Of the items that no user met the half above 0 is left.
        let found = noisy(&data(), 9.0, 10.0, 1);
        let rest: Vec<f64> = found[4..].iter().map(|&count| f64::from(count)).collect();
        let deviation = (2.0 * rest.iter().map(|x| x * x).sum::<f64>() / rest.len() as f64).sqrt();
        assert!((deviation - 10.0).abs() < 1.5, "{deviation}");
        assert!(rest.iter().filter(|count| **count > 0.0).count() > 150);
        assert_ne!(found, noisy(&data(), 9.0, 10.0, 2));
    }

    #[test]
    fn what_a_method_knows_follows_the_setting() {
        let mut settings = Settings::default();
        let exact = with_counts(data(), &settings).unwrap();
        assert_eq!((exact.known_counts(), exact.views_fingerprint()), (exact.train_counts().into(), "f".into()));
        settings.privacy.counts = CountsUse::None;
        let none = with_counts(data(), &settings).unwrap();
        assert!(none.known_counts().iter().all(|count| *count == 0) && none.views_fingerprint() != "f");
        assert_eq!(none.train_counts(), exact.train_counts());
        settings.privacy.counts = CountsUse::Noisy;
        let noisy = with_counts(data(), &settings).unwrap();
        assert_ne!(noisy.known_counts(), exact.known_counts());
        assert_ne!(noisy.views_fingerprint(), none.views_fingerprint());
    }
}
