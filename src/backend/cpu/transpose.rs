//! A weight turned round, for products with rows of gradients.

use super::simd::{LANES, Simd, dispatch};

dispatch! {
    /// `wt[n, k] = w[k, n]` for `w [inner, cols]`.
    ///
    /// # Safety
    /// Both hold `inner * cols` numbers; `wt` overlaps nothing.
    pub unsafe fn transpose(inner: usize, cols: usize, w: *const f32, wt: *mut f32) = transpose_kernel
}

#[inline(always)]
unsafe fn transpose_kernel<S: Simd>(inner: usize, cols: usize, w: *const f32, wt: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (full_k, full_n) = (inner / LANES * LANES, cols / LANES * LANES);
        for k in (0..full_k).step_by(LANES) {
            for n in (0..full_n).step_by(LANES) {
                let mut block = [S::splat(0.0); LANES];
                for (i, row) in block.iter_mut().enumerate() {
                    *row = S::load(w.add((k + i) * cols + n));
                }
                S::transpose(&mut block);
                for (i, row) in block.iter().enumerate() {
                    S::store(wt.add((n + i) * inner + k), *row);
                }
            }
        }
        for k in 0..inner {
            for n in if k < full_k { full_n } else { 0 }..cols {
                *wt.add(n * inner + k) = *w.add(k * cols + n);
            }
        }
    }
}
