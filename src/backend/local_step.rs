//! The coefficients of one step of the client's optimiser, for the CPU and for kernels alike.

use crate::config::{LocalOptimizer, LocalSettings};

/// One step on a weight `w` with gradient `g` and moments `m`, `s`, with `g' = g + l2 * w`:
///
/// `m = beta1 m + (1 - beta1) g'`, `s = beta2 s + (1 - beta2) g'^2`, `w = shrink w - rate m / (correction sqrt(s) + eps)`;
///
/// for gradient descent `w = shrink w - rate g'`. Then `w = w + pull (w0 - w)`, with `w0` the weight that the visit began with.
///
/// Adam's form holds momentum (its denominator is 1), Adagrad (`s` is the mean of the squares, `correction` the root of their number) and descent
/// preconditioned by moments that do not move (`beta2` is 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalStep {
    /// Decay of the first moments.
    pub beta1: f32,
    /// Decay of the second moments.
    pub beta2: f32,
    /// Factor on the first moment, or on the gradient in gradient descent.
    pub rate: f32,
    /// Factor on the root of the second moment.
    pub correction: f32,
    /// Added to that.
    pub eps: f32,
    /// Weight decay added to the gradient.
    pub l2: f32,
    /// `1 - lr * weight_decay` of decoupled decay; 1 otherwise.
    pub shrink: f32,
    /// Share of the way back to where the visit began; 0 without a proximal term.
    pub pull: f32,
    /// The first step of a visit whose moments begin with zero: they are not read.
    pub first: bool,
    /// Gradient descent, which has no moments.
    pub sgd: bool,
}

impl LocalStep {
    /// Step number `t` (from 1) of a visit.
    pub fn new(settings: &LocalSettings, t: u32) -> LocalStep {
        use LocalOptimizer::*;
        let (lr, t) = (f64::from(settings.lr), t as i32);
        let (b1, b2) = (f64::from(settings.beta1), f64::from(settings.beta2));
        let decoupled = settings.optimizer == Adamw;
        let (beta1, beta2, rate, correction, eps) = match settings.optimizer {
            Adam | Adamw => (settings.beta1, settings.beta2, lr / (1.0 - b1.powi(t)), 1.0 / (1.0 - b2.powi(t)).sqrt(), settings.eps),
            Sgd => (settings.beta1, settings.beta2, lr, 1.0, settings.eps),
            Momentum => (settings.beta1, settings.beta2, lr / (1.0 - b1), 0.0, 1.0),
            Adagrad => (0.0, (f64::from(t - 1) / f64::from(t)) as f32, lr, f64::from(t).sqrt(), settings.eps),
            Preconditioned => (0.0, 1.0, lr, 1.0, settings.eps),
        };
        let proximal = f64::from(settings.lr) * f64::from(settings.proximal);
        LocalStep {
            beta1,
            beta2,
            rate: rate as f32,
            correction: correction as f32,
            eps,
            l2: if decoupled { 0.0 } else { settings.weight_decay },
            shrink: if decoupled { 1.0 - settings.lr * settings.weight_decay } else { 1.0 },
            pull: (proximal / (1.0 + proximal)) as f32,
            first: t == 1 && settings.optimizer != Preconditioned,
            sgd: settings.optimizer == Sgd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a weight by the general form, in f64.
    fn walk(settings: &LocalSettings, gradients: &[f64], second: f64) -> f64 {
        let (mut w, mut m, mut s) = (0.5, 0.0, second);
        for (i, g) in gradients.iter().enumerate() {
            let step = LocalStep::new(settings, i as u32 + 1);
            let [b1, b2, rate, correction, eps] = [step.beta1, step.beta2, step.rate, step.correction, step.eps].map(f64::from);
            (m, s) = (b1 * m + (1.0 - b1) * g, b2 * s + (1.0 - b2) * g * g);
            w -= rate * m / (correction * f64::sqrt(s) + eps);
            w += f64::from(step.pull) * (0.5 - w);
        }
        w
    }

    const GRADIENTS: [f64; 6] = [0.3, -1.2, 0.7, 0.1, -0.4, 2.0];

    fn with(optimizer: LocalOptimizer) -> LocalSettings {
        LocalSettings { optimizer, lr: 0.1, beta1: 0.8, eps: 0.3, ..LocalSettings::default() }
    }

    #[test]
    fn momentum_adagrad_and_preconditioned_descent_are_what_textbooks_say() {
        let (mut heavy, mut m, mut slow, mut sum, mut bent) = (0.5, 0.0, 0.5, 0.0, 0.5);
        for g in GRADIENTS {
            m = 0.8 * m + g;
            heavy -= 0.1 * m;
            sum += g * g;
            slow -= 0.1 * g / (f64::sqrt(sum) + 0.3);
            bent -= 0.1 * g / (0.6 + 0.3);
        }
        for (optimizer, want) in
            [(LocalOptimizer::Momentum, heavy), (LocalOptimizer::Adagrad, slow), (LocalOptimizer::Preconditioned, bent)]
        {
            let got = walk(&with(optimizer), &GRADIENTS, if optimizer == LocalOptimizer::Preconditioned { 0.36 } else { 0.0 });
            assert!((got - want).abs() < 1e-6, "{}: {got} instead of {want}", optimizer.name());
        }
    }

    #[test]
    fn a_proximal_step_ends_where_the_penalty_balances_the_step() {
        let settings = LocalSettings { proximal: 5.0, ..with(LocalOptimizer::Momentum) };
        let got = walk(&LocalSettings { beta1: 0.0, ..settings }, &[2.0], 0.0);
        // The least of (w - 0.3)^2 / (2 lr) + mu / 2 (w - 0.5)^2, with 0.3 what the gradient alone would give.
        let want = (0.3 / 0.1 + 5.0 * 0.5) / (1.0 / 0.1 + 5.0);
        assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
    }
}
