//! Rényi differential privacy of many rounds of noisy sums, and the epsilon that follows.
//!
//! A round adds up the updates of the users that were drawn, each at most as long as the clip, and normal noise of `noise` times the clip to each
//! number. Rényi divergences add up over rounds (Mironov, arXiv 1702.07476); the conversion is that of Canonne, Kamath and Steinke (arXiv
//! 2004.00010, proposition 12).

use super::{sampled, without_replacement};

/// How the users of a round are drawn, and which neighbours it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Each user by itself with the rate's probability. Neighbours differ by one user who is there or not.
    Poisson,
    /// A fixed number of users without replacement. Neighbours differ by one user who is replaced by another, so that a sum moves by up to
    /// two clips.
    Fixed,
}

/// A training of equal rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accountant {
    /// Standard deviation of the noise on the sum, in clips.
    pub noise: f64,
    /// Share of the users that a round draws, in `[0, 1]`.
    pub rate: f64,
    /// How they are drawn.
    pub sampling: Sampling,
}

/// Orders at which divergences are taken: 1.1 to 10.9 by a tenth, 11 to 63, and four large ones.
fn orders() -> impl Iterator<Item = f64> {
    (11..110).map(|n| f64::from(n) / 10.0).chain((11..64).map(f64::from)).chain([128.0, 256.0, 512.0, 1024.0])
}

impl Accountant {
    /// What one round spends.
    pub fn spending(&self) -> Spending {
        let divergences = match self.sampling {
            _ if self.rate == 0.0 => orders().map(|_| 0.0).collect(),
            _ if self.noise == 0.0 => orders().map(|_| f64::INFINITY).collect(),
            Sampling::Poisson => orders().map(|order| sampled::divergence(self.rate, self.noise, order)).collect(),
            Sampling::Fixed => {
                let mut mechanism = without_replacement::Mechanism::new(self.rate, self.noise / 2.0);
                orders().map(|order| mechanism.divergence(order)).collect()
            }
        };
        Spending { divergences }
    }

    /// Epsilon at `delta` (in `(0, 1)`) after `rounds`.
    pub fn epsilon(&self, rounds: u64, delta: f64) -> f64 {
        self.spending().epsilon(rounds, delta)
    }
}

/// What one round spends: a Rényi divergence at each of a list of orders.
#[derive(Clone, Debug)]
pub struct Spending {
    divergences: Vec<f64>,
}

impl Spending {
    /// Epsilon at `delta` (in `(0, 1)`) after `rounds`.
    pub fn epsilon(&self, rounds: u64, delta: f64) -> f64 {
        self.epsilon_beside(None, rounds, delta)
    }

    /// Epsilon of `rounds` of this and of `once`, which is spent a single time.
    pub fn epsilon_beside(&self, once: Option<&Spending>, rounds: u64, delta: f64) -> f64 {
        if rounds == 0 && once.is_none() {
            return 0.0;
        }
        let once = once.map_or_else(|| vec![0.0; self.divergences.len()], |once| once.divergences.clone());
        let epsilon = |((order, spent), once): ((f64, &f64), f64)| {
            let rounds = if rounds == 0 { 0.0 } else { rounds as f64 * spent };
            rounds + once + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0)
        };
        orders().zip(&self.divergences).zip(once).map(epsilon).fold(f64::INFINITY, f64::min).max(0.0)
    }
}

/// The least noise, to four digits, with which `rounds` stay within `epsilon` at `delta`; nothing where a million clips are too little.
pub fn noise_for(epsilon: f64, delta: f64, rounds: u64, rate: f64, sampling: Sampling) -> Option<f64> {
    noise_beside(None, epsilon, delta, rounds, rate, sampling)
}

/// [`noise_for`] where `once` is spent from the same epsilon, a single time.
pub fn noise_beside(once: Option<&Spending>, epsilon: f64, delta: f64, rounds: u64, rate: f64, sampling: Sampling) -> Option<f64> {
    let fits = |noise: f64| Accountant { noise, rate, sampling }.spending().epsilon_beside(once, rounds, delta) <= epsilon;
    let (mut low, mut high) = (0.0, 1.0);
    while !fits(high) {
        (low, high) = (high, 2.0 * high);
        if high > 1e6 {
            return None;
        }
    }
    while high - low > 1e-4 * high {
        let middle = 0.5 * (low + high);
        if fits(middle) { high = middle } else { low = middle }
    }
    Some(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn poisson(noise: f64, rate: f64, rounds: u64, delta: f64) -> f64 {
        Accountant { noise, rate, sampling: Sampling::Poisson }.epsilon(rounds, delta)
    }

    /// Values that other accountants print: the tests of TensorFlow Privacy and Opacus, and dp-accounting 0.6.0.
    #[test]
    fn epsilons_are_those_of_other_accountants() {
        for (noise, rate, rounds, delta, epsilon) in [
            (1.3, 0.0025, 6000, 1e-5, 0.724_223_402_610_959_5),
            (1.0, 0.001, 30_000, 1e-7, 1.415_498_849_544_484_2),
            (0.5, 0.1, 100, 1e-5, 36.966_665_220_471_55),
            (1.0, 0.1, 100, 1e-5, 7.903_850_223_578_231),
            (2.0, 0.1, 100, 1e-5, 2.580_570_950_504_591_3),
            (4.0, 0.1, 100, 1e-5, 1.081_702_400_857_008_4),
            (1.0, 0.01, 1000, 1e-6, 2.436_693_803_022_152_3),
            (1.0, 1.0, 1, 1e-5, 4.728_507_067_217_623),
            (5.0, 1.0, 100, 1e-5, 10.725_509_696_418_232),
            (1.5, 0.04, 2250, 1e-5, 7.329_334_702_381_698),
        ] {
            let found = poisson(noise, rate, rounds, delta);
            assert!((found / epsilon - 1.0).abs() < 1e-6, "noise {noise} rate {rate}: {found} against {epsilon}");
        }
    }

    /// dp-accounting 0.6.0, whose noise is in units of what a replaced user can move: two clips.
    #[test]
    fn a_fixed_cohort_is_accounted_for_as_elsewhere() {
        for (rate, noise, rounds, epsilon) in [
            (2788.0 / 27_879.0, 1.0, 100, 14.054_416_050_576_279),
            (2788.0 / 27_879.0, 2.0, 100, 5.379_237_319_023_52),
            (2788.0 / 27_879.0, 4.0, 100, 2.294_204_471_177_205_4),
            (2236.0 / 22_363.0, 1.0, 100, 14.051_260_247_657_67),
            (0.01, 1.0, 100, 1.482_525_669_114_427),
        ] {
            let found = Accountant { noise: 2.0 * noise, rate, sampling: Sampling::Fixed }.epsilon(rounds, 1e-5);
            assert!((found / epsilon - 1.0).abs() < 1e-6, "noise {noise} rate {rate}: {found} against {epsilon}");
        }
    }

    #[test]
    fn noise_is_found_for_a_target() {
        for sampling in [Sampling::Poisson, Sampling::Fixed] {
            let noise = noise_for(2.0, 1e-5, 100, 0.1, sampling).unwrap();
            let at = |noise| Accountant { noise, rate: 0.1, sampling }.epsilon(100, 1e-5);
            assert!(at(noise) <= 2.0 && at(0.999 * noise) > 2.0, "{noise}");
        }
        assert_eq!(noise_for(1e-9, 1e-5, 100, 0.1, Sampling::Poisson), None);
        // Opacus: 90 epochs at a rate of 0.04 for epsilon 8.
        let noise = noise_for(8.0, 1e-5, 2250, 0.04, Sampling::Poisson).unwrap();
        assert!((noise - 1.416).abs() < 2e-3, "{noise}");
    }

    /// Of two mechanisms that are both Gaussian and take everybody, `1 / noise^2` adds up.
    #[test]
    fn what_is_spent_once_is_paid_from_the_same_epsilon() {
        let round = |noise: f64| Accountant { noise, rate: 1.0, sampling: Sampling::Poisson };
        let both = round(2.0).spending().epsilon_beside(Some(&round(3.0).spending()), 4, 1e-5);
        let equal = round((4.0f64 / 4.0 + 1.0 / 9.0).powf(-0.5)).epsilon(1, 1e-5);
        assert!((both / equal - 1.0).abs() < 1e-9, "{both} {equal}");
        let alone = round(2.0).spending().epsilon_beside(Some(&round(3.0).spending()), 0, 1e-5);
        assert!((alone / round(3.0).epsilon(1, 1e-5) - 1.0).abs() < 1e-9);
        let noise = noise_beside(Some(&round(3.0).spending()), both, 1e-5, 4, 1.0, Sampling::Poisson).unwrap();
        assert!((noise - 2.0).abs() < 1e-3, "{noise}");
    }

    #[test]
    fn no_noise_protects_nothing_and_no_round_costs_nothing() {
        assert_eq!(poisson(0.0, 0.1, 1, 1e-5), f64::INFINITY);
        assert_eq!(poisson(0.0, 0.1, 0, 1e-5), 0.0);
        assert!(poisson(1.0, 0.0, 1, 1e-5) < 0.02);
    }

    proptest! {
        #[test]
        fn more_noise_and_fewer_rounds_cost_less(noise in 0.3f64..8.0, rate in 0.001f64..1.0, rounds in 1u64..300) {
            let at = |noise, rounds| poisson(noise, rate, rounds, 1e-5);
            prop_assert!(at(noise, rounds) <= at(noise, rounds + 1) * (1.0 + 1e-9));
            prop_assert!(at(1.1 * noise, rounds) <= at(noise, rounds) * (1.0 + 1e-9));
        }
    }
}
