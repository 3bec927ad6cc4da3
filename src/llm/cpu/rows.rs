//! Passes over single rows: norms, gates, caps.

use crate::backend::cpu::simd::{LANES, Simd, dispatch};

dispatch! {
    /// `y = x / sqrt(mean(x^2) + eps) * w` over `n` numbers; `y` may be `x`.
    ///
    /// # Safety
    /// All hold `n` numbers.
    pub unsafe fn norm(n: usize, x: *const f32, w: *const f32, eps: f32, y: *mut f32) = norm_kernel
}

#[inline(always)]
unsafe fn norm_kernel<S: Simd>(n: usize, x: *const f32, w: *const f32, eps: f32, y: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let full = n / LANES * LANES;
        let mut squares = S::splat(0.0);
        for i in (0..full).step_by(LANES) {
            let v = S::load(x.add(i));
            squares = S::fma(v, v, squares);
        }
        if full < n {
            let v = S::load_n(x.add(full), n - full);
            squares = S::fma(v, v, squares);
        }
        let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
        for i in (0..full).step_by(LANES) {
            S::store(y.add(i), S::mul(S::mul(S::load(x.add(i)), scale), S::load(w.add(i))));
        }
        if full < n {
            let v = S::mul(S::mul(S::load_n(x.add(full), n - full), scale), S::load_n(w.add(full), n - full));
            S::store_n(y.add(full), v, n - full);
        }
    }
}

/// `x / (1 + e^-z)`.
#[inline(always)]
unsafe fn sigmoid_of<S: Simd>(x: S::V, z: S::V) -> S::V {
    // SAFETY: the caller's promise: the processor has the level's instructions.
    unsafe {
        let e = S::exp(S::sub(S::splat(0.0), z));
        S::div(x, S::add(S::splat(1.0), e))
    }
}

macro_rules! gate {
    ($name:ident, $kernel:ident, $doc:literal, |$S:ident, $g:ident| $e:expr) => {
        dispatch! {
            #[doc = $doc]
            ///
            /// # Safety
            /// All hold `n` numbers; `y` overlaps nothing.
            pub unsafe fn $name(n: usize, gate: *const f32, up: *const f32, y: *mut f32) = $kernel
        }

        #[inline(always)]
        unsafe fn $kernel<$S: Simd>(n: usize, gate: *const f32, up: *const f32, y: *mut f32) {
            // SAFETY: the caller's promise; no index leaves the lengths that it names.
            unsafe {
                let full = n / LANES * LANES;
                for i in (0..full).step_by(LANES) {
                    let $g = $S::load(gate.add(i));
                    $S::store(y.add(i), $S::mul($e, $S::load(up.add(i))));
                }
                if full < n {
                    let $g = $S::load_n(gate.add(full), n - full);
                    $S::store_n(y.add(full), $S::mul($e, $S::load_n(up.add(full), n - full)), n - full);
                }
            }
        }
    };
}

gate!(silu_gate, silu_kernel, "`y = silu(gate) * up`.", |S, g| sigmoid_of::<S>(g, g));
gate!(gelu_gate, gelu_kernel, "`y = gelu(gate) * up` with GELU's tanh formula, which is `g / (1 + e^-2z)`.", |S, g| {
    // 2 sqrt(2 / pi) (g + 0.044715 g^3)
    let cubic = S::fma(S::mul(S::mul(g, g), g), S::splat(0.044_715), g);
    sigmoid_of::<S>(g, S::mul(cubic, S::splat(1.595_769)))
});

/// `cap * tanh(x / cap)` in place.
pub fn soft_cap(values: &mut [f32], cap: f32) {
    // SAFETY: the whole slice.
    unsafe { soft_cap_all(values.len(), values.as_mut_ptr(), cap) }
}

dispatch! {
    unsafe fn soft_cap_all(n: usize, x: *mut f32, cap: f32) = soft_cap_kernel
}

#[inline(always)]
unsafe fn soft_cap_kernel<S: Simd>(n: usize, x: *mut f32, cap: f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let full = n / LANES * LANES;
        for i in (0..full).step_by(LANES) {
            S::store(x.add(i), capped::<S>(S::load(x.add(i)), cap));
        }
        if full < n {
            S::store_n(x.add(full), capped::<S>(S::load_n(x.add(full), n - full), cap), n - full);
        }
    }
}

/// `cap * tanh(x / cap)` as `cap - 2 cap / (1 + e^(2 x / cap))`.
#[inline(always)]
pub unsafe fn capped<S: Simd>(x: S::V, cap: f32) -> S::V {
    // SAFETY: the caller's promise: the processor has the level's instructions.
    unsafe {
        let e = S::exp(S::mul(x, S::splat(2.0 / cap)));
        S::sub(S::splat(cap), S::div(S::splat(2.0 * cap), S::add(S::splat(1.0), e)))
    }
}
