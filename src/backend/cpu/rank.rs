//! Full ranking by counting: the rank of a target is one more than the number of items that score at least as high. The
//! score matrix is never stored: a tile of six users by sixteen items lives in registers and leaves only counts.

use super::simd::{LANES, Simd, dispatch};

/// Items side by side in a panel.
pub const PANEL: usize = 2 * LANES;

/// The item table `[I, d]` cut into panels of sixteen items, each stored as `[d, 16]`; missing items are NaN-free zeros
/// and never counted.
pub struct Panels {
    data: Vec<f32>,
    items: usize,
    d: usize,
}

impl Panels {
    /// Repacks `table [I, d]`.
    pub fn new(table: &[f32], d: usize) -> Panels {
        let items = table.len() / d;
        let mut data = vec![0f32; items.div_ceil(PANEL) * PANEL * d];
        for (i, row) in table.chunks_exact(d).enumerate() {
            let base = i / PANEL * PANEL * d + i % PANEL;
            for (k, &x) in row.iter().enumerate() {
                data[base + k * PANEL] = x;
            }
        }
        Panels { data, items, d }
    }

    /// Items `I`.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Score of one item, rounded exactly as in the count.
    pub fn score(&self, hidden: &[f32], item: u32) -> f32 {
        debug_assert_eq!(hidden.len(), self.d);
        let i = item as usize;
        assert!(i < self.items, "item {i} of {}", self.items);
        // SAFETY: the panel of an item in range holds d rows of PANEL numbers.
        unsafe { score(self.d, hidden.as_ptr(), self.data.as_ptr().add(i / PANEL * PANEL * self.d + i % PANEL)) }
    }

    /// All scores of one user `[I]`.
    pub fn scores(&self, hidden: &[f32], out: &mut [f32]) {
        for (i, s) in out.iter_mut().enumerate() {
            *s = self.score(hidden, i as u32);
        }
    }

    /// For each user of `hidden [n, d]` adds the number of items whose score is not below `threshold [n]` to `counts [n]`.
    /// The target itself is among them.
    pub fn count(&self, hidden: &[f32], threshold: &[f32], counts: &mut [u32]) {
        let n = threshold.len();
        assert!(hidden.len() == n * self.d && counts.len() == n);
        // SAFETY: lengths are checked above.
        unsafe { count(self, hidden.as_ptr(), threshold.as_ptr(), counts.as_mut_ptr(), n) };
    }
}

dispatch! {
    /// Score against one column of a panel.
    ///
    /// # Safety
    /// `h` holds `d` numbers, `column` is the first of `d` numbers at stride [`PANEL`].
    unsafe fn score(d: usize, h: *const f32, column: *const f32) -> f32 = score_kernel
}

#[inline(always)]
unsafe fn score_kernel<S: Simd>(d: usize, h: *const f32, column: *const f32) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = 0.0;
        for k in 0..d {
            acc = S::fma1(*h.add(k), *column.add(k * PANEL), acc);
        }
        acc
    }
}

dispatch! {
    /// See [`Panels::count`].
    ///
    /// # Safety
    /// `h` holds `n * d` numbers, `threshold` and `counts` `n`.
    unsafe fn count(panels: &Panels, h: *const f32, threshold: *const f32, counts: *mut u32, n: usize) = count_kernel
}

#[inline(always)]
unsafe fn count_kernel<S: Simd>(panels: &Panels, h: *const f32, threshold: *const f32, counts: *mut u32, n: usize) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        // A few panels at a time stay in the first cache while every user passes over them.
        const GROUP: usize = 4;
        let d = panels.d;
        let total = panels.items.div_ceil(PANEL);
        let mut first = 0;
        while first < total {
            let last = total.min(first + GROUP);
            let mut u = 0;
            while u < n {
                let step = (n - u).min(6);
                for p in first..last {
                    let valid = (panels.items - p * PANEL).min(PANEL);
                    let data = panels.data.as_ptr().add(p * PANEL * d);
                    let (hp, tp, cp) = (h.add(u * d), threshold.add(u), counts.add(u));
                    if step == 6 && valid == PANEL {
                        tile::<S, 6>(d, data, hp, tp, cp);
                    } else {
                        for a in 0..step {
                            partial::<S>(d, data, valid, hp.add(a * d), *tp.add(a), cp.add(a));
                        }
                    }
                }
                u += step;
            }
            first = last;
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize>(d: usize, panel: *const f32, h: *const f32, threshold: *const f32, counts: *mut u32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [[S::splat(0.0); 2]; MR];
        for k in 0..d {
            let (a, b) = (S::load(panel.add(k * PANEL)), S::load(panel.add(k * PANEL + LANES)));
            for (r, row) in acc.iter_mut().enumerate() {
                let x = S::splat(*h.add(r * d + k));
                row[0] = S::fma(x, a, row[0]);
                row[1] = S::fma(x, b, row[1]);
            }
        }
        for (r, row) in acc.iter().enumerate() {
            let t = S::splat(*threshold.add(r));
            *counts.add(r) += S::count_not_less(row[0], t) + S::count_not_less(row[1], t);
        }
    }
}

#[inline(always)]
unsafe fn partial<S: Simd>(d: usize, panel: *const f32, valid: usize, h: *const f32, threshold: f32, count: *mut u32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [S::splat(0.0); 2];
        for k in 0..d {
            let x = S::splat(*h.add(k));
            acc[0] = S::fma(x, S::load(panel.add(k * PANEL)), acc[0]);
            acc[1] = S::fma(x, S::load(panel.add(k * PANEL + LANES)), acc[1]);
        }
        let mut scores = [0f32; PANEL];
        S::store(scores.as_mut_ptr(), acc[0]);
        S::store(scores.as_mut_ptr().add(LANES), acc[1]);
        for &s in &scores[..valid] {
            *count += u32::from(s.partial_cmp(&threshold).is_none_or(|o| o.is_ge()));
        }
    }
}
