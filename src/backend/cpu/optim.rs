//! Local optimisers over spans of weights, and the gradient norm.

use super::simd::{LANES, Vector, dispatch, load, store};
use crate::config::{LocalOptimizer, LocalSettings};

/// The coefficients of one step of Adam, AdamW or gradient descent (Kingma and Ba, ICLR 2015; Loshchilov and Hutter, ICLR 2019).
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    beta1: f32,
    beta2: f32,
    /// `lr / (1 - beta1^t)`.
    rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    correction: f32,
    eps: f32,
    /// Weight decay added to the gradient.
    l2: f32,
    /// `1 - lr * weight_decay` of decoupled decay.
    shrink: f32,
    /// Factor on the gradient, below 1 where the norm was clipped.
    scale: f32,
    /// First step of a visit: moments are taken as zero and not read.
    first: bool,
    /// Last step of a visit: moments are not written back.
    last: bool,
    sgd: bool,
}

impl AdamStep {
    /// Step number `t` (from 1) of `total` in a visit; gradients are multiplied by `scale`.
    pub fn new(settings: &LocalSettings, t: u32, total: u32, scale: f32) -> AdamStep {
        let (b1, b2) = (f64::from(settings.beta1), f64::from(settings.beta2));
        let decoupled = settings.optimizer == LocalOptimizer::Adamw;
        let sgd = settings.optimizer == LocalOptimizer::Sgd;
        AdamStep {
            beta1: settings.beta1,
            beta2: settings.beta2,
            rate: if sgd { settings.lr } else { (f64::from(settings.lr) / (1.0 - b1.powi(t as i32))) as f32 },
            correction: (1.0 / (1.0 - b2.powi(t as i32)).sqrt()) as f32,
            eps: settings.eps,
            l2: if decoupled { 0.0 } else { settings.weight_decay },
            shrink: if decoupled { 1.0 - settings.lr * settings.weight_decay } else { 1.0 },
            scale,
            first: t == 1,
            last: t == total,
            sgd,
        }
    }

    /// The same step with moments always read and written: for weights that some steps of a visit do not reach.
    pub fn with_stored_moments(self) -> AdamStep {
        AdamStep { first: false, last: false, ..self }
    }

    /// One vector of weights: reads and writes `p`, `m`, `s` at the pointers (`n` lanes where `TAIL`).
    ///
    /// # Safety
    /// The pointers are valid for the lanes.
    #[inline(always)]
    pub unsafe fn apply<S: Vector, const TAIL: bool>(&self, p: *mut f32, m: *mut f32, s: *mut f32, g: S::V, n: usize) {
        // SAFETY: the caller's promise: all pointers are valid for the lanes.
        unsafe {
            let w = load::<S, TAIL>(p, n);
            let g = S::fma(w, S::splat(self.l2), S::mul(g, S::splat(self.scale)));
            let w = S::mul(w, S::splat(self.shrink));
            if self.sgd {
                store::<S, TAIL>(p, S::fma(S::splat(-self.rate), g, w), n);
                return;
            }
            let (m0, s0) = if self.first { (S::splat(0.0), S::splat(0.0)) } else { (load::<S, TAIL>(m, n), load::<S, TAIL>(s, n)) };
            let m1 = S::fma(S::splat(self.beta1), m0, S::mul(S::splat(1.0 - self.beta1), g));
            let s1 = S::fma(S::splat(self.beta2), s0, S::mul(S::mul(S::splat(1.0 - self.beta2), g), g));
            if !self.last {
                store::<S, TAIL>(m, m1, n);
                store::<S, TAIL>(s, s1, n);
            }
            let den = S::fma(S::sqrt(s1), S::splat(self.correction), S::splat(self.eps));
            store::<S, TAIL>(p, S::sub(w, S::div(S::mul(S::splat(self.rate), m1), den)), n);
        }
    }
}

dispatch! {
    /// One optimiser step over a span of `n` weights with stored gradients.
    ///
    /// # Safety
    /// Every pointer is valid for `n` numbers.
    pub unsafe fn adam_span(n: usize, p: *mut f32, m: *mut f32, s: *mut f32, g: *const f32, step: &AdamStep) = wide adam_kernel
}

#[inline(always)]
unsafe fn adam_kernel<S: Vector>(n: usize, p: *mut f32, m: *mut f32, s: *mut f32, g: *const f32, step: &AdamStep) {
    // SAFETY: the caller's promise: all pointers are valid for the lanes.
    unsafe {
        let step = *step;
        let mut i = 0;
        while i + S::WIDTH <= n {
            step.apply::<S, false>(p.add(i), m.add(i), s.add(i), S::load(g.add(i)), S::WIDTH);
            i += S::WIDTH;
        }
        if i < n {
            let k = n - i;
            step.apply::<S, true>(p.add(i), m.add(i), s.add(i), S::load_n(g.add(i), k), k);
        }
    }
}

/// Sum of squares in f64, added in index order, so that a clip does not depend on how a slab is cut up.
pub fn sum_of_squares(values: &[f32]) -> f64 {
    // Eight partial sums keep the adders busy; their order is fixed.
    let mut part = [0f64; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            part[i] += f64::from(c[i]) * f64::from(c[i]);
        }
    }
    let tail: f64 = chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    part.iter().sum::<f64>() + tail
}
