//! One step of the optimisers on one weight, of a client and of the server.

use crate::backend::cuda::optimiser::{OptimiserStep, ServerStep};
use crate::config::LocalSettings;
use crate::engine::fixed;

/// One step on one weight: what `backend::cpu::optim` does, operation by operation.
pub struct LocalStep {
    beta1: f32,
    beta2: f32,
    rate: f32,
    correction: f32,
    eps: f32,
    l2: f32,
    shrink: f32,
    pull: f32,
    first: bool,
    sgd: bool,
}

impl LocalStep {
    /// Step `t` (from 1) of a visit with these settings.
    pub fn new(s: &LocalSettings, t: u32) -> LocalStep {
        LocalStep::of(&OptimiserStep::new(s, t))
    }

    /// A step by coefficients as the kernels take them.
    pub fn of(o: &OptimiserStep) -> LocalStep {
        let OptimiserStep { beta1, beta2, rate, correction, eps, l2, shrink, pull, first, sgd } = *o;
        LocalStep { beta1, beta2, rate, correction, eps, l2, shrink, pull, first: first != 0, sgd: sgd != 0 }
    }

    /// Whether it is the first of a visit: moments count as zero.
    pub fn is_first(&self) -> bool {
        self.first
    }

    /// Whether it is gradient descent, which has no moments.
    pub fn is_sgd(&self) -> bool {
        self.sgd
    }

    /// Takes a weight its share of the way back to where the visit began.
    pub fn back(&self, p: &mut f32, start: f32) {
        if self.pull > 0.0 {
            *p = self.pull.mul_add(start - *p, *p);
        }
    }

    /// Steps a weight with its moments by the gradient `scale * g`.
    pub fn one(&self, scale: f32, [p, m, s]: [&mut f32; 3], g: f32) {
        let g = p.mul_add(self.l2, g * scale);
        let w = *p * self.shrink;
        if self.sgd {
            *p = (-self.rate).mul_add(g, w);
            return;
        }
        let (m0, s0) = if self.first { (0.0, 0.0) } else { (*m, *s) };
        *m = self.beta1.mul_add(m0, (1.0 - self.beta1) * g);
        *s = self.beta2.mul_add(s0, ((1.0 - self.beta2) * g) * g);
        *p = w - (self.rate * *m) / s.sqrt().mul_add(self.correction, self.eps);
    }
}

/// The server's step on weight `w` with its two moments, by the sum of the clients' changes in fixed point over their `weight`.
pub fn server_step(step: &ServerStep, sum: i64, weight: i64, [w, first, second]: [&mut f32; 3]) {
    let change = (fixed::to_f64(sum) * (1.0 / weight as f64)) as f32;
    let (square, part) = (change * change, (1.0 - step.beta2) * change * change);
    *w += match (step.second, step.momentum) {
        (kind @ 1..=3, _) => {
            *first = step.beta1 * *first + (1.0 - step.beta1) * change;
            *second = match kind {
                1 => step.beta2 * *second + part,
                2 => *second + square,
                _ if *second > square => *second - part,
                _ if *second < square => *second + part,
                _ => *second,
            };
            step.lr * (step.first_scale * *first) / ((step.second_scale * *second).sqrt() + step.eps)
        }
        (_, 1) => {
            *first = step.beta1 * *first + change;
            step.lr * *first
        }
        _ => step.lr * change,
    };
}
