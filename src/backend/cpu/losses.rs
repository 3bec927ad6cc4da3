//! Losses with their gradients: next-item losses over candidate rows and the tri-view contrast.

use super::attention::softmax_row;
use super::rows::{axpy_kernel, dot_kernel};
use super::simd::{Simd, dispatch};
use crate::backend::TableRow;
use crate::base::floats::Floats;
use crate::config::{Contrast, RecLoss};

/// Next-item examples of one client. Example `e` predicts from hidden row `row[e]`; its candidates are
/// `cands[e * width..][..width]`, the positive first, as rows of the client's item table.
#[derive(Clone, Copy)]
pub struct Examples {
    /// Number of examples `E`.
    pub count: usize,
    /// Hidden row of each `[E]`.
    pub row: *const u32,
    /// Candidates `[E, width]`.
    pub cands: *const TableRow,
    /// What is taken off each candidate's score `[E, width]`; null: nothing.
    pub offset: *const f32,
    /// One positive and the negatives.
    pub width: usize,
    /// What the loss of each is multiplied by `[E]`; null: 1 / E.
    pub share: *const f32,
    /// Width `d`.
    pub d: usize,
    /// Which loss.
    pub kind: RecLoss,
    /// [`crate::backend::Step::positive_weight`].
    pub beta: f32,
}

/// `ln(1 + e^x)` without overflow.
#[inline(always)]
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

dispatch! {
    /// Sum of the losses of the examples, each times its share; adds gradients to `dh [Q, d]` and `dtable [R, d]`. `scratch` holds `width` numbers. Where `factors`
    /// `[E, width]` is not null, `dtable` is left alone: what the hidden row of example `e` is to be multiplied by for the gradient of
    /// candidate `c` is written there.
    ///
    /// # Safety
    /// Rows and candidates are in range; `dh`, `dtable` overlap nothing that is read.
    pub unsafe fn next_item(ex: Examples, h: *const f32, table: *const f32, dh: *mut f32, dtable: *mut f32, factors: *mut f32, scratch: *mut f32) -> f64 = next_item_kernel
}

#[inline(always)]
unsafe fn next_item_kernel<S: Simd>(
    ex: Examples,
    h: *const f32,
    table: *const f32,
    dh: *mut f32,
    dtable: *mut f32,
    factors: *mut f32,
    scratch: *mut f32,
) -> f64 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let Examples { count, row, cands, width, d, .. } = ex;
        let mut total = 0f64;
        for e in 0..count {
            let (q, cp) = (*row.add(e) as usize, cands.add(e * width));
            let (hp, dhp) = (h.add(q * d), dh.add(q * d));
            for c in 0..width {
                *scratch.add(c) = dot_kernel::<S>(d, hp, table.add((*cp.add(c)).index() * d));
            }
            let share = example_kernel::<S>(&ex, e, scratch, &mut total);
            for c in 0..width {
                let (g, at) = (*scratch.add(c) * share, (*cp.add(c)).index() * d);
                axpy_kernel::<S>(d, g, table.add(at), dhp);
                if factors.is_null() {
                    axpy_kernel::<S>(d, g, hp, dtable.add(at));
                } else {
                    *factors.add(e * width + c) = g;
                }
            }
        }
        if ex.share.is_null() { total / count as f64 } else { total }
    }
}

dispatch! {
    /// Turns the scores of example `e`, `width` at `scores`, the positive's first, into derivatives of its loss without its share, which it
    /// gives; adds the loss to `total`. (Equal shares are applied to the sum, at the end.)
    ///
    /// # Safety
    /// `scores` holds `width` numbers; `ex.share` is null or holds one for each example, `ex.offset` one for each candidate.
    pub unsafe fn example_at(ex: &Examples, e: usize, scores: *mut f32, total: &mut f64) -> f32 = example_kernel
}

#[inline(always)]
unsafe fn example_kernel<S: Simd>(ex: &Examples, e: usize, scores: *mut f32, total: &mut f64) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let &Examples { count, width, share, offset, kind, beta, .. } = ex;
        if !offset.is_null() {
            for c in 0..width {
                *scores.add(c) -= *offset.add(e * width + c);
            }
        }
        let share = if share.is_null() { None } else { Some(*share.add(e)) };
        let counted = share.map_or(1.0, f64::from);
        match kind {
            RecLoss::Bce | RecLoss::Gbce => {
                let power = if kind == RecLoss::Gbce { beta } else { 1.0 };
                let s = *scores;
                *total += counted * f64::from(power * softplus(-s));
                *scores = power * (sigmoid(s) - 1.0);
                for c in 1..width {
                    let s = *scores.add(c);
                    *total += counted * f64::from(softplus(s));
                    *scores.add(c) = sigmoid(s);
                }
            }
            RecLoss::SampledSoftmax | RecLoss::Softmax => {
                let s = *scores;
                if beta == 1.0 {
                    *total += counted * f64::from(softmax_row::<S>(width, scores) - s);
                    *scores -= 1.0;
                } else {
                    let each = (1.0 - beta) / width as f32;
                    let spread: f32 = (0..width).map(|c| each * *scores.add(c)).sum();
                    *total += counted * f64::from(softmax_row::<S>(width, scores) - beta * s - spread);
                    for c in 0..width {
                        *scores.add(c) -= each;
                    }
                    *scores -= beta;
                }
            }
        }
        share.unwrap_or(1.0 / count as f32)
    }
}

dispatch! {
    /// Turns logits `[rows, n]` of a full softmax into derivatives of the mean loss over `count` examples, in place;
    /// returns the summed loss. `target[r]` is the positive's column.
    ///
    /// # Safety
    /// `logits` holds `rows * n` numbers, targets are below `n`.
    pub unsafe fn softmax_rows(rows: usize, n: usize, count: usize, target: *const TableRow, logits: *mut f32) -> f64 = softmax_rows_kernel
}

#[inline(always)]
unsafe fn softmax_rows_kernel<S: Simd>(rows: usize, n: usize, count: usize, target: *const TableRow, logits: *mut f32) -> f64 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let share = 1.0 / count as f32;
        let mut total = 0f64;
        for r in 0..rows {
            let p = logits.add(r * n);
            let t = (*target.add(r)).index();
            let s = *p.add(t);
            total += f64::from(softmax_row::<S>(n, p) - s);
            *p.add(t) -= 1.0;
            for c in 0..n {
                *p.add(c) *= share;
            }
        }
        total
    }
}

/// One history and its views, as hidden rows. `views` lists the positives first, then the counterfactuals.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    /// Hidden row of the history.
    pub anchor: u32,
    /// Hidden rows of the views.
    pub views: &'a [u32],
    /// How many of `views` are positives (future, paraphrase).
    pub positives: usize,
}

/// Tri-view contrast of one group. With cosines over tau as scores `s`, and `A` the positives:
/// joint `sum_a (log sum_v e^{s_v} - s_a)` over all views `v`; decoupled: the sum for `a` runs over `a` and the
/// counterfactuals alone. Adds `weight` times the gradient to `dh` and returns the loss (without `weight`).
pub fn info_nce(group: Group<'_>, form: Contrast, tau: f32, weight: f32, d: usize, h: &[f32], dh: &mut [f32], scratch: &mut Floats) -> f64 {
    let n = group.views.len();
    if n == 0 || group.positives == 0 || form == Contrast::None {
        return 0.0;
    }
    let row = |r: u32| &h[r as usize * d..][..d];
    let norm = |x: &[f32]| (super::optim::sum_of_squares(x) + 1e-24).sqrt() as f32;
    if scratch.len() < 3 * n {
        scratch.resize(3 * n);
    }
    let (cosines, rest) = scratch.split_at_mut(n);
    let (norms, rest) = rest.split_at_mut(n);
    let ds = &mut rest[..n];
    ds.fill(0.0);
    let a = row(group.anchor);
    let na = norm(a);
    for (i, &v) in group.views.iter().enumerate() {
        let x = row(v);
        norms[i] = norm(x);
        // SAFETY: both rows hold d numbers.
        cosines[i] = unsafe { super::rows::dot(d, a.as_ptr(), x.as_ptr()) } / (na * norms[i]);
    }
    // A handful of terms: f64 costs nothing and keeps small temperatures exact.
    let s = |i: usize| f64::from(cosines[i]) / f64::from(tau);
    let mut loss = 0f64;
    for positive in 0..group.positives {
        let inside = |i: usize| i == positive || i >= group.positives || form == Contrast::Joint;
        let max = (0..n).filter(|&i| inside(i)).map(s).fold(f64::NEG_INFINITY, f64::max);
        let z: f64 = (0..n).filter(|&i| inside(i)).map(|i| (s(i) - max).exp()).sum();
        loss += max + z.ln() - s(positive);
        for (i, g) in ds.iter_mut().enumerate() {
            if inside(i) {
                *g += ((s(i) - max).exp() / z) as f32;
            }
        }
        ds[positive] -= 1.0;
    }
    for (i, &v) in group.views.iter().enumerate() {
        let g = ds[i] * weight / tau;
        let (cos, nv) = (cosines[i], norms[i]);
        let (a0, v0) = (group.anchor as usize * d, v as usize * d);
        for k in 0..d {
            let (x, y) = (h[a0 + k], h[v0 + k]);
            dh[a0 + k] += g * (y / nv - cos * x / na) / na;
            dh[v0 + k] += g * (x / na - cos * y / nv) / nv;
        }
    }
    loss
}
