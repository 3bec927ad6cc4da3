//! A bound on the Rényi divergence of a normal mechanism on a fixed number of users drawn without replacement (Wang, Balle and
//! Kasiviswanathan, arXiv 1808.00087, theorem 27).

use super::sampled::{log_add, log_choose};
use std::f64::consts::{LN_2, PI};

/// Largest order at which central moments are taken; beyond it their simpler bound stands for them.
const MOMENTS: u32 = 256;

/// The mechanism at one rate and one noise.
pub(super) struct Mechanism {
    /// Share of the users that is drawn, in `(0, 1]`.
    rate: f64,
    /// Square of the noise, above 0, in units of what replacing a user can move.
    variance: f64,
    central: Central,
}

impl Mechanism {
    pub(super) fn new(rate: f64, noise: f64) -> Mechanism {
        let variance = noise * noise;
        Mechanism { rate, variance, central: Central { variance, known: Vec::new() } }
    }

    /// Divergence of `order` (above 1). Between whole orders `(order - 1) R(order)`, which is convex, is bounded by the line between its
    /// neighbours.
    pub(super) fn divergence(&mut self, order: f64) -> f64 {
        if self.rate == 1.0 {
            return order / (2.0 * self.variance);
        }
        let (low, part) = (order.floor() as u32, order.fract());
        let mut bound = (1.0 - part) * self.log_moment(low);
        if part > 0.0 {
            bound += part * self.log_moment(low + 1);
        }
        bound / (order - 1.0)
    }

    /// `(order - 1) R(order)` of a whole order.
    fn log_moment(&mut self, order: u32) -> f64 {
        // The logarithm of the mean of (p / q)^k under q.
        let variance = self.variance;
        let moment = |k: u32| f64::from(k) * f64::from(k - 1) / (2.0 * variance);
        let mut sum = 0.0;
        for k in 2..=order {
            let simple = LN_2 + moment(k);
            let bound = match k {
                2 => (2.0 * LN_2 + moment(2).exp_m1().ln()).min(simple),
                _ if order <= MOMENTS => {
                    let around = self.central.log(k / 2 * 2) + self.central.log(k.div_ceil(2) * 2);
                    (2.0 * LN_2 + 0.5 * around).min(simple)
                }
                _ => simple,
            };
            sum = log_add(sum, f64::from(k) * self.rate.ln() + log_choose(order, k) + bound);
        }
        sum
    }
}

/// Even central moments of the ratio of two normal densities a unit apart: the mean of `(p / q - 1)^k` under q.
struct Central {
    variance: f64,
    /// Logarithms of the moments 2, 4, 6, ...
    known: Vec<f64>,
}

impl Central {
    fn log(&mut self, k: u32) -> f64 {
        while self.known.len() < k as usize / 2 {
            let next = self.integral(2 * self.known.len() as i32 + 2);
            self.known.push(next);
        }
        self.known[k as usize / 2 - 1]
    }

    /// By the trapezoidal rule, which is exact to rounding for a smooth integrand that vanishes at both ends: no term is negative, so that
    /// nothing cancels.
    fn integral(&self, k: i32) -> f64 {
        let deviation = self.variance.sqrt();
        // The mass lies between q's centre and that of p^k / q^(k-1), at k.
        let (from, to) = (-14.0 * deviation, f64::from(k) + 14.0 * deviation);
        let step = (deviation / 12.0).min(0.25 * self.variance / f64::from(k).sqrt()).min(0.05).max((to - from) / 200_000.0);
        let steps = ((to - from) / step).ceil() as usize;
        let term = |i: usize| {
            let x = from + i as f64 * step;
            let ratio = ((2.0 * x - 1.0) / (2.0 * self.variance)).exp_m1().abs();
            f64::from(k) * log_of(ratio, (2.0 * x - 1.0) / (2.0 * self.variance)) - x * x / (2.0 * self.variance)
        };
        let logs: Vec<f64> = (0..=steps).map(term).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|log| (log - most).exp()).sum();
        most + (sum * step).ln() - 0.5 * (2.0 * PI * self.variance).ln()
    }
}

/// `ln(ratio)` of `ratio = |e^exponent - 1|`, also where it overflows.
fn log_of(ratio: f64, exponent: f64) -> f64 {
    if exponent > 40.0 { exponent } else { ratio.ln() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// dp-accounting 0.6.0.
    #[test]
    fn divergences_are_those_of_dp_accounting() {
        for (rate, noise, order, value) in [
            (10.0 / 1000.0, 1.0, 2.0, 0.000_543_508_638_109_433_1),
            (100.0 / 1000.0, 1.0, 8.0, 1.478_554_782_562_137),
            (2788.0 / 27_879.0, 2.0, 16.0, 0.112_644_440_363_873_72),
        ] {
            let found = Mechanism::new(rate, noise).divergence(order);
            assert!((found / value - 1.0).abs() < 1e-7, "rate {rate} noise {noise} order {order}: {found} against {value}");
        }
    }

    /// The second central moment is `e^(1 / variance) - 1`, the fourth follows from raw ones.
    #[test]
    fn central_moments_by_integration() {
        for variance in [0.25f64, 1.0, 9.0] {
            let raw = |k: f64| (k * (k - 1.0) / (2.0 * variance)).exp();
            let mut central = Central { variance, known: Vec::new() };
            let fourth = raw(4.0) - 4.0 * raw(3.0) + 6.0 * raw(2.0) - 3.0;
            assert!((central.log(2) - (1.0 / variance).exp_m1().ln()).abs() < 1e-9, "{variance}");
            assert!((central.log(4) - fourth.ln()).abs() < 1e-8, "{variance}");
        }
    }
}
