//! Small row operations: dot products, scaled additions, layer norm, activations.

use super::simd::{LANES, Simd, dispatch};

/// Added to the variance in a layer norm.
pub const NORM_EPS: f32 = 1e-5;

#[inline(always)]
pub(super) unsafe fn dot_kernel<S: Simd>(n: usize, a: *const f32, b: *const f32) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (mut x, mut y) = (S::splat(0.0), S::splat(0.0));
        let mut i = 0;
        while i + 2 * LANES <= n {
            x = S::fma(S::load(a.add(i)), S::load(b.add(i)), x);
            y = S::fma(S::load(a.add(i + LANES)), S::load(b.add(i + LANES)), y);
            i += 2 * LANES;
        }
        if i + LANES <= n {
            x = S::fma(S::load(a.add(i)), S::load(b.add(i)), x);
            i += LANES;
        }
        if i < n {
            y = S::fma(S::load_n(a.add(i), n - i), S::load_n(b.add(i), n - i), y);
        }
        S::sum(S::add(x, y))
    }
}

#[inline(always)]
pub(super) unsafe fn axpy_kernel<S: Simd>(n: usize, alpha: f32, x: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let a = S::splat(alpha);
        let mut i = 0;
        while i + LANES <= n {
            S::store(y.add(i), S::fma(a, S::load(x.add(i)), S::load(y.add(i))));
            i += LANES;
        }
        if i < n {
            let k = n - i;
            S::store_n(y.add(i), S::fma(a, S::load_n(x.add(i), k), S::load_n(y.add(i), k)), k);
        }
    }
}

dispatch! {
    /// `sum_i a[i] b[i]`.
    ///
    /// # Safety
    /// Both hold `n` numbers.
    pub unsafe fn dot(n: usize, a: *const f32, b: *const f32) -> f32 = dot_kernel
}

dispatch! {
    /// `y += alpha x`.
    ///
    /// # Safety
    /// Both hold `n` numbers.
    pub unsafe fn axpy(n: usize, alpha: f32, x: *const f32, y: *mut f32) = axpy_kernel
}

dispatch! {
    /// Layer norm of each row: `y = (x - mean) / sqrt(var + eps) * g + b`; keeps `(mean, 1 / sqrt(var + eps))` in `stats [rows, 2]`.
    ///
    /// # Safety
    /// `x`, `y` hold `rows * d` numbers, `g`, `b` `d`, `stats` `2 * rows`.
    pub unsafe fn layer_norm(rows: usize, d: usize, x: *const f32, g: *const f32, b: *const f32, y: *mut f32, stats: *mut f32) = norm_kernel
}

#[inline(always)]
unsafe fn norm_kernel<S: Simd>(rows: usize, d: usize, x: *const f32, g: *const f32, b: *const f32, y: *mut f32, stats: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        for r in 0..rows {
            let (xp, yp) = (x.add(r * d), y.add(r * d));
            let mut sum = S::splat(0.0);
            let mut i = 0;
            while i < d {
                let v = if d - i >= LANES { S::load(xp.add(i)) } else { S::load_n(xp.add(i), d - i) };
                sum = S::add(sum, v);
                i += LANES;
            }
            let mean = S::sum(sum) / d as f32;
            let m = S::splat(mean);
            let mut sq = S::splat(0.0);
            i = 0;
            while i + LANES <= d {
                let c = S::sub(S::load(xp.add(i)), m);
                sq = S::fma(c, c, sq);
                i += LANES;
            }
            let mut tail = 0.0;
            while i < d {
                let c = *xp.add(i) - mean;
                tail += c * c;
                i += 1;
            }
            let rstd = 1.0 / ((S::sum(sq) + tail) / d as f32 + NORM_EPS).sqrt();
            *stats.add(2 * r) = mean;
            *stats.add(2 * r + 1) = rstd;
            let rs = S::splat(rstd);
            i = 0;
            while i < d {
                let n = d - i;
                if n >= LANES {
                    let h = S::mul(S::sub(S::load(xp.add(i)), m), rs);
                    S::store(yp.add(i), S::fma(h, S::load(g.add(i)), S::load(b.add(i))));
                } else {
                    let h = S::mul(S::sub(S::load_n(xp.add(i), n), m), rs);
                    S::store_n(yp.add(i), S::fma(h, S::load_n(g.add(i), n), S::load_n(b.add(i), n)), n);
                }
                i += LANES;
            }
        }
    }
}

dispatch! {
    /// Backward of [`layer_norm`]: adds to `dx [rows, d]`, writes `dg [d]` and `db [d]`.
    ///
    /// # Safety
    /// As [`layer_norm`]; `dx` overlaps nothing that is read.
    pub unsafe fn layer_norm_backward(rows: usize, d: usize, x: *const f32, stats: *const f32, g: *const f32, dy: *const f32, dx: *mut f32, dg: *mut f32, db: *mut f32) = norm_backward_kernel
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn norm_backward_kernel<S: Simd>(
    rows: usize,
    d: usize,
    x: *const f32,
    stats: *const f32,
    g: *const f32,
    dy: *const f32,
    dx: *mut f32,
    dg: *mut f32,
    db: *mut f32,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        std::ptr::write_bytes(dg, 0, d);
        std::ptr::write_bytes(db, 0, d);
        for r in 0..rows {
            let (xp, gp, dxp) = (x.add(r * d), dy.add(r * d), dx.add(r * d));
            let (mean, rstd) = (S::splat(*stats.add(2 * r)), S::splat(*stats.add(2 * r + 1)));
            // Lanes past d are loaded as zero in dy, so they add nothing to the sums.
            let (mut s1, mut s2) = (S::splat(0.0), S::splat(0.0));
            let mut i = 0;
            while i < d {
                let n = d - i;
                let (xv, dv, gv) = if n >= LANES {
                    (S::load(xp.add(i)), S::load(gp.add(i)), S::load(g.add(i)))
                } else {
                    (S::load_n(xp.add(i), n), S::load_n(gp.add(i), n), S::load_n(g.add(i), n))
                };
                let h = S::mul(S::sub(xv, mean), rstd);
                let dh = S::mul(dv, gv);
                s1 = S::add(s1, dh);
                s2 = S::fma(dh, h, s2);
                if n >= LANES {
                    S::store(dg.add(i), S::fma(dv, h, S::load(dg.add(i))));
                    S::store(db.add(i), S::add(dv, S::load(db.add(i))));
                } else {
                    S::store_n(dg.add(i), S::fma(dv, h, S::load_n(dg.add(i), n)), n);
                    S::store_n(db.add(i), S::add(dv, S::load_n(db.add(i), n)), n);
                }
                i += LANES;
            }
            let (a, b) = (S::splat(S::sum(s1) / d as f32), S::splat(S::sum(s2) / d as f32));
            i = 0;
            while i < d {
                let n = d - i;
                if n >= LANES {
                    let h = S::mul(S::sub(S::load(xp.add(i)), mean), rstd);
                    let dh = S::mul(S::load(gp.add(i)), S::load(g.add(i)));
                    let t = S::sub(S::sub(dh, a), S::mul(h, b));
                    S::store(dxp.add(i), S::fma(t, rstd, S::load(dxp.add(i))));
                } else {
                    let h = S::mul(S::sub(S::load_n(xp.add(i), n), mean), rstd);
                    let dh = S::mul(S::load_n(gp.add(i), n), S::load_n(g.add(i), n));
                    let t = S::sub(S::sub(dh, a), S::mul(h, b));
                    S::store_n(dxp.add(i), S::fma(t, rstd, S::load_n(dxp.add(i), n)), n);
                }
                i += LANES;
            }
        }
    }
}

/// `x = max(x, 0)` in place.
pub fn relu(x: &mut [f32]) {
    for v in x {
        *v = if *v > 0.0 { *v } else { 0.0 };
    }
}

/// Zeroes `dx` where the activation `y` is not positive.
pub fn relu_backward(y: &[f32], dx: &mut [f32]) {
    for (g, &a) in dx.iter_mut().zip(y) {
        *g = if a > 0.0 { *g } else { 0.0 };
    }
}

/// `sqrt(2 / pi)` and the weight of the cube in the tanh form of gelu.
const GELU: (f32, f32) = (0.797_884_6, 0.044_715);

/// Of eight numbers `x`: the share `sigmoid(2 u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, so that gelu is `x` times it, and
/// the derivative of `2 u`.
#[inline(always)]
unsafe fn gelu_share<S: Simd>(x: S::V) -> (S::V, S::V) {
    // SAFETY: arithmetic on registers.
    unsafe {
        let (one, square) = (S::splat(1.0), S::mul(x, x));
        let slope = S::mul(S::splat(2.0 * GELU.0), S::fma(S::splat(3.0 * GELU.1), square, one));
        let twice = S::mul(S::mul(S::splat(2.0 * GELU.0), x), S::fma(S::splat(GELU.1), square, one));
        (S::div(one, S::add(one, S::exp(S::sub(S::splat(0.0), twice)))), slope)
    }
}

dispatch! {
    /// `y = gelu(x)` in its tanh form.
    ///
    /// # Safety
    /// Both hold `n` numbers, apart in memory.
    pub unsafe fn gelu(n: usize, x: *const f32, y: *mut f32) = gelu_kernel
}

#[inline(always)]
unsafe fn gelu_kernel<S: Simd>(n: usize, x: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise; a tail is read and written in part.
    unsafe {
        let mut i = 0;
        while i < n {
            let k = (n - i).min(LANES);
            let v = if k == LANES { S::load(x.add(i)) } else { S::load_n(x.add(i), k) };
            let out = S::mul(v, gelu_share::<S>(v).0);
            if k == LANES {
                S::store(y.add(i), out)
            } else {
                S::store_n(y.add(i), out, k)
            }
            i += LANES;
        }
    }
}

dispatch! {
    /// `dx *= gelu'(x)`.
    ///
    /// # Safety
    /// Both hold `n` numbers, apart in memory.
    pub unsafe fn gelu_backward(n: usize, x: *const f32, dx: *mut f32) = gelu_backward_kernel
}

#[inline(always)]
unsafe fn gelu_backward_kernel<S: Simd>(n: usize, x: *const f32, dx: *mut f32) {
    // SAFETY: the caller's promise; a tail is read and written in part.
    unsafe {
        let mut i = 0;
        while i < n {
            let k = (n - i).min(LANES);
            let whole = k == LANES;
            let v = if whole { S::load(x.add(i)) } else { S::load_n(x.add(i), k) };
            let g = if whole { S::load(dx.add(i)) } else { S::load_n(dx.add(i), k) };
            let (share, slope) = gelu_share::<S>(v);
            // gelu' = s + x s (1 - s) (2u)'
            let rest = S::mul(S::mul(v, slope), S::mul(share, S::sub(S::splat(1.0), share)));
            let out = S::mul(g, S::add(share, rest));
            if whole {
                S::store(dx.add(i), out)
            } else {
                S::store_n(dx.add(i), out, k)
            }
            i += LANES;
        }
    }
}
