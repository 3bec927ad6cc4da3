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
        let rest = |ks: std::ops::Range<usize>, from: usize| {
            for k in ks {
                (from..cols).for_each(|n| *wt.add(n * inner + k) = *w.add(k * cols + n));
            }
        };
        // Rows of which nothing is left are not walked.
        if full_n < cols {
            rest(0..full_k, full_n);
        }
        rest(full_k..inner, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_changes_its_place_whatever_is_left_of_the_blocks() {
        for (inner, cols) in [(64, 64), (16, 8), (8, 13), (13, 8), (19, 21), (3, 5), (1, 9), (8, 0), (0, 8)] {
            let w: Vec<f32> = (0..inner * cols).map(|i| i as f32).collect();
            let mut wt = vec![-1f32; inner * cols];
            // SAFETY: both hold `inner * cols` numbers.
            unsafe { transpose(inner, cols, w.as_ptr(), wt.as_mut_ptr()) };
            let wanted: Vec<f32> = (0..cols).flat_map(|n| (0..inner).map(move |k| (k * cols + n) as f32)).collect();
            assert_eq!(wt, wanted, "{inner} x {cols}");
        }
    }
}
