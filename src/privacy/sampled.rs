//! The Rényi divergence of a normal mechanism on users that are each drawn with a probability (Mironov, Talwar and Zhang, arXiv 1908.10530).

/// `ln(e^a + e^b)`.
pub(super) fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

/// `ln` of the binomial coefficient of whole numbers.
pub(super) fn log_choose(n: u32, k: u32) -> f64 {
    let log_factorial = |n: u32| libm::lgamma(f64::from(n) + 1.0);
    log_factorial(n) - log_factorial(k) - log_factorial(n - k)
}

/// Divergence of `order` (above 1) at a sampling `rate` in `(0, 1]` and `noise` above 0 in units of what a user can move.
pub(super) fn divergence(rate: f64, noise: f64, order: f64) -> f64 {
    if rate == 1.0 {
        return order / (2.0 * noise * noise);
    }
    let log = if order.fract() == 0.0 { whole(rate, noise, order as u32) } else { fractional(rate, noise, order) };
    log / (order - 1.0)
}

/// `ln` of the moment of a whole order: the mean over the binomial number of times that the user's term is met.
fn whole(rate: f64, noise: f64, order: u32) -> f64 {
    (0..=order)
        .map(|k| {
            let (k_, left) = (f64::from(k), f64::from(order - k));
            log_choose(order, k) + k_ * rate.ln() + left * (-rate).ln_1p() + (k_ * k_ - k_) / (2.0 * noise * noise)
        })
        .fold(f64::NEG_INFINITY, log_add)
}

/// Terms after which a series that has not settled is given up.
const TERMS: u32 = 1000;

/// A bound on `ln` of the moment of any order: two series, one below and one above the point where both densities of the mixture are equal. Their
/// binomial coefficients take both signs; all terms are added by their size, as dp-accounting 0.6.0 does, so that epsilons are comparable.
/// Infinite where the series do not settle.
fn fractional(rate: f64, noise: f64, order: f64) -> f64 {
    let variance = noise * noise;
    let meeting = variance * (1.0 / rate - 1.0).ln() + 0.5;
    let (mut sum, mut last) = (f64::NEG_INFINITY, [f64::NEG_INFINITY; 2]);
    // Logarithm of the size of the coefficient.
    let mut size = 0f64;
    for k in 0..TERMS {
        let k = f64::from(k);
        let left = order - k;
        let half = |x: f64| 0.5f64.ln() + log_erfc(x / (std::f64::consts::SQRT_2 * noise));
        let below = size + k * rate.ln() + left * (-rate).ln_1p() + (k * k - k) / (2.0 * variance) + half(k - meeting);
        let above = size + left * rate.ln() + k * (-rate).ln_1p() + (left * left - left) / (2.0 * variance) + half(meeting - left);
        sum = log_add(log_add(sum, below), above);
        if below < last[0] && above < last[1] && below.max(above) < sum - 30.0 {
            return sum;
        }
        last = [below, above];
        size += (left.abs() / (k + 1.0)).ln();
    }
    f64::INFINITY
}

/// `ln(erfc(x))`, by its asymptotic series where the function itself vanishes.
fn log_erfc(x: f64) -> f64 {
    if x < 25.0 {
        return libm::erfc(x).ln();
    }
    let inverse = 1.0 / (x * x);
    let series = 1.0 - 0.5 * inverse + 0.75 * inverse * inverse - 1.875 * inverse.powi(3) + 6.5625 * inverse.powi(4);
    -x * x - x.ln() - 0.5 * std::f64::consts::PI.ln() + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tests of dp-accounting, and version 0.6.0 of it.
    #[test]
    fn divergences_are_those_of_dp_accounting() {
        for (rate, noise, order, value, tolerance) in [
            (0.1, 1.0, 2.0, 0.017_036_863_236_176_605, 1e-9),
            (0.1, 1.0, 8.0, 1.378_361_411_348_126_8, 1e-9),
            (0.1, 2.0, 32.0, 1.627_202_301_019_436, 1e-9),
            (0.01, 1.0, 2.5, 0.000_217_772_024_240_643_54, 1e-7),
            (0.1, 1.0, 64.0, 29.660_865_937_275_89, 1e-9),
            (0.01, 2.5, 1.5, 6.705_797_41e-4 / 50.0, 1e-4),
            (0.01, 2.5, 2.5, 1.085_487_10e-3 / 50.0, 1e-4),
            (0.01, 2.5, 5.0, 2.180_756_56e-3 / 50.0, 1e-4),
            (0.01, 2.5, 50.0, 2.384_603_75e-2 / 50.0, 1e-4),
            (0.01, 2.5, 100.0, 167.416_308 / 50.0, 1e-4),
        ] {
            let found = divergence(rate, noise, order);
            assert!((found / value - 1.0).abs() < tolerance, "rate {rate} noise {noise} order {order}: {found} against {value}");
        }
    }

    #[test]
    fn orders_beside_whole_ones_are_near_them_and_not_below() {
        for order in [2.0, 5.0, 9.0] {
            let (at, beside) = (divergence(0.05, 1.2, order), divergence(0.05, 1.2, order + 1e-6));
            assert!(beside >= at * (1.0 - 1e-9) && beside < 1.01 * at, "order {order}: {at} and {beside}");
        }
    }

    #[test]
    fn the_far_tail_continues_the_near_one() {
        let (near, far) = (libm::erfc(24.9).ln(), log_erfc(25.1));
        // Between the two lies the slope -2 x of -x^2, and little else.
        assert!((near - far - (25.1f64.powi(2) - 24.9f64.powi(2)) - (25.1f64 / 24.9).ln()).abs() < 1e-4);
    }
}
