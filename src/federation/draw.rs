//! Who takes part in a round.

use crate::base::rng::{Purpose, Stream};
use crate::config::{CohortSampling, FederationSettings};
use std::collections::HashSet;

/// Clients drawn for a round, ascending, and how many of them never report back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cohort {
    /// Clients that train and report.
    pub clients: Vec<u32>,
    /// Clients that were drawn and dropped out.
    pub dropped: u32,
}

/// Number of clients drawn from `population`.
pub fn cohort_size(settings: &FederationSettings, population: usize) -> usize {
    let wanted = match settings.cohort {
        0 => (f64::from(settings.fraction) * population as f64).round() as usize,
        n => n as usize,
    };
    wanted.clamp(1, population.max(1))
}

/// Draws a cohort: without replacement by Floyd's algorithm, whose time and memory follow the cohort, not the population; or each client by
/// itself (`federation.sampling`), in which case a round may have none.
pub fn draw(settings: &FederationSettings, population: usize, seed: u64, round: u64) -> Cohort {
    let size = cohort_size(settings, population).min(population);
    let mut stream = Stream::new(seed, Purpose::Cohort, round, 0);
    let mut clients: Vec<u32> = if settings.sampling == CohortSampling::Poisson {
        let rate = size as f64 / population as f64;
        (0..population as u32).filter(|_| f64::from(stream.u32()) < rate * 4_294_967_296.0).collect()
    } else if size == population {
        (0..population as u32).collect()
    } else {
        let mut chosen = HashSet::with_capacity(size);
        for last in population - size..population {
            let candidate = stream.below(last as u64 + 1) as u32;
            if !chosen.insert(candidate) {
                chosen.insert(last as u32);
            }
        }
        chosen.into_iter().collect()
    };
    clients.sort_unstable();
    let before = clients.len();
    if settings.dropout_rate > 0.0 {
        let threshold = (f64::from(settings.dropout_rate) * 4_294_967_296.0) as u64;
        clients.retain(|&c| u64::from(Stream::new(seed, Purpose::Dropouts, round, u64::from(c)).u32_at(0)) >= threshold);
    }
    Cohort { dropped: (before - clients.len()) as u32, clients }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cohort_is_distinct_and_of_the_asked_size(population in 1usize..2000, fraction in 0.001f32..1.0, seed in any::<u64>(), round in 0u64..50) {
            let settings = FederationSettings { fraction, ..Default::default() };
            let cohort = draw(&settings, population, seed, round);
            prop_assert_eq!(cohort.clients.len(), cohort_size(&settings, population));
            prop_assert!(cohort.clients.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(cohort.clients.iter().all(|&c| (c as usize) < population));
            prop_assert_eq!(&cohort, &draw(&settings, population, seed, round));
        }
    }

    #[test]
    fn each_client_by_itself() {
        let settings = FederationSettings { fraction: 0.1, sampling: CohortSampling::Poisson, ..Default::default() };
        let sizes: Vec<f64> = (0..400).map(|round| draw(&settings, 1000, 3, round).clients.len() as f64).collect();
        let mean = sizes.iter().sum::<f64>() / 400.0;
        let variance = sizes.iter().map(|n| (n - mean).powi(2)).sum::<f64>() / 400.0;
        // A binomial number: 100 expected, variance 90.
        assert!((mean - 100.0).abs() < 2.0 && (60.0..130.0).contains(&variance), "{mean} {variance}");
    }

    #[test]
    fn every_client_is_drawn_equally_often() {
        let settings = FederationSettings { cohort: 10, ..Default::default() };
        let mut seen = [0u32; 50];
        for round in 0..2000 {
            for c in draw(&settings, 50, 3, round).clients {
                seen[c as usize] += 1;
            }
        }
        // 400 expected, standard deviation 18.
        assert!(seen.iter().all(|&n| (310..490).contains(&n)), "{seen:?}");
    }

    #[test]
    fn dropouts_happen_at_the_rate_and_are_counted() {
        let settings = FederationSettings { fraction: 1.0, dropout_rate: 0.3, ..Default::default() };
        let cohort = draw(&settings, 10_000, 1, 1);
        assert_eq!(cohort.clients.len() + cohort.dropped as usize, 10_000);
        assert!((2_800..3_200).contains(&cohort.dropped), "{}", cohort.dropped);
    }
}
