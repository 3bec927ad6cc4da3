//! Passes over rows and heads. Sums run in an order that depends on one sentence alone.

use super::super::pointer::Pointer;
use crate::backend::cpu::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;
use std::cell::RefCell;

/// `x = (x + y - mean) / sqrt(var + eps) * gain + shift` of one row `[d]`.
pub fn add_and_norm(x: &mut [f32], y: &[f32], gain: &[f32], shift: &[f32], eps: f32) {
    let n = x.len();
    assert!(y.len() == n && gain.len() == n && shift.len() == n, "shapes of a norm");
    // SAFETY: all hold `n` numbers.
    unsafe { norm(n, x.as_mut_ptr(), y.as_ptr(), gain.as_ptr(), shift.as_ptr(), eps) }
}

dispatch! {
    unsafe fn norm(n: usize, x: *mut f32, y: *const f32, gain: *const f32, shift: *const f32, eps: f32) = norm_kernel
}

#[inline(always)]
unsafe fn norm_kernel<S: Simd>(n: usize, x: *mut f32, y: *const f32, gain: *const f32, shift: *const f32, eps: f32) {
    unsafe {
        let mut sum = S::splat(0.0);
        for i in (0..n).step_by(LANES) {
            let k = LANES.min(n - i);
            let v = S::add(S::load_n(x.add(i), k), S::load_n(y.add(i), k));
            S::store_n(x.add(i), v, k);
            sum = S::add(sum, v);
        }
        let mean = S::sum(sum) / n as f32;
        let mut squares = S::splat(0.0);
        for i in (0..n).step_by(LANES) {
            let k = LANES.min(n - i);
            // Lanes beyond the row must add nothing, so the mean is stored into as many lanes as there are numbers.
            let mut centre = [0f32; LANES];
            centre[..k].fill(mean);
            let c = S::sub(S::load_n(x.add(i), k), S::load(centre.as_ptr()));
            squares = S::fma(c, c, squares);
        }
        let scale = S::splat(1.0 / (S::sum(squares) / n as f32 + eps).sqrt());
        for i in (0..n).step_by(LANES) {
            let k = LANES.min(n - i);
            let v = S::mul(S::sub(S::load_n(x.add(i), k), S::splat(mean)), scale);
            S::store_n(x.add(i), S::fma(v, S::load_n(gain.add(i), k), S::load_n(shift.add(i), k)), k);
        }
    }
}

/// `x = x Phi(x)` in place, `Phi` the normal distribution: GELU in its exact form.
pub fn gelu(x: &mut [f32]) {
    // SAFETY: the whole slice.
    unsafe { gelu_all(x.len(), x.as_mut_ptr()) }
}

dispatch! {
    unsafe fn gelu_all(n: usize, x: *mut f32) = gelu_kernel
}

/// `max(x, 0) - |x| Q(|x|)`, where the tail `Q` is formula 7.1.26 of Abramowitz and Stegun for `erfc(|x| / sqrt(2)) / 2` (error
/// below 1e-7).
#[inline(always)]
unsafe fn gelu_kernel<S: Simd>(n: usize, x: *mut f32) {
    unsafe {
        let one = S::splat(1.0);
        for i in (0..n).step_by(LANES) {
            let k = LANES.min(n - i);
            let v = S::load_n(x.add(i), k);
            let size = S::max(v, S::sub(S::splat(0.0), v));
            let t = S::div(one, S::fma(size, S::splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2), one));
            let mut p = S::splat(1.061_405_4);
            for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
                p = S::fma(p, t, S::splat(c));
            }
            let e = S::exp(S::mul(S::mul(size, size), S::splat(-0.5)));
            let tail = S::mul(S::mul(S::mul(p, t), e), S::splat(0.5));
            S::store_n(x.add(i), S::sub(S::max(v, S::splat(0.0)), S::mul(size, tail)), k);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out [T, d]` from queries, keys and values `[T, 3 d]`: every token of a sentence sees the whole sentence. Sentences end at `ends`.
pub fn attention(qkv: &[f32], ends: &[usize], width: usize, heads: usize, out: &mut [f32]) {
    let rows = ends.last().copied().unwrap_or(0);
    assert!(qkv.len() == rows * 3 * width && out.len() == rows * width && ends.is_sorted(), "shapes of attention");
    let to = Pointer(out.as_mut_ptr());
    (0..ends.len() * heads).into_par_iter().for_each(|task| {
        let (sentence, head) = (task / heads, task % heads);
        let start = if sentence == 0 { 0 } else { ends[sentence - 1] };
        let place = Place { rows: ends[sentence] - start, width, head_dim: width / heads };
        let padded = place.rows.next_multiple_of(LANES);
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize((place.head_dim + 1) * padded, 0.0);
            // SAFETY: the rows of one sentence and the columns of one head, which no other task writes.
            unsafe {
                let x = qkv.as_ptr().add(start * 3 * width + head * place.head_dim);
                attend(place, x, to.get().add(start * width + head * place.head_dim), scratch.as_mut_ptr());
            }
        });
    });
}

/// One head of one sentence.
#[derive(Clone, Copy)]
struct Place {
    rows: usize,
    width: usize,
    head_dim: usize,
}

dispatch! {
    /// `scratch` holds `head_dim + 1` rows of `rows` numbers, rounded up to whole vectors.
    unsafe fn attend(at: Place, qkv: *const f32, out: *mut f32, scratch: *mut f32) = attend_kernel
}

#[inline(always)]
unsafe fn attend_kernel<S: Simd>(at: Place, qkv: *const f32, out: *mut f32, scratch: *mut f32) {
    unsafe {
        let Place { rows, width, head_dim } = at;
        let padded = rows.next_multiple_of(LANES);
        let (stride, keys, scores) = (3 * width, scratch, scratch.add(head_dim * padded));
        // Keys as [head_dim, rows], so that scores are computed side by side.
        for d in 0..head_dim {
            for row in 0..padded {
                *keys.add(d * padded + row) = if row < rows { *qkv.add(row * stride + width + d) } else { 0.0 };
            }
        }
        let scale = S::splat(1.0 / (head_dim as f32).sqrt());
        for row in 0..rows {
            let query = qkv.add(row * stride);
            let mut most = f32::NEG_INFINITY;
            for j in (0..padded).step_by(LANES) {
                let mut sum = S::splat(0.0);
                for d in 0..head_dim {
                    sum = S::fma(S::splat(*query.add(d)), S::load(keys.add(d * padded + j)), sum);
                }
                S::store(scores.add(j), S::mul(sum, scale));
            }
            for j in 0..rows {
                most = most.max(*scores.add(j));
            }
            let most = S::splat(most);
            let mut sum = S::splat(0.0);
            for j in (0..padded).step_by(LANES) {
                S::store(scores.add(j), S::exp(S::sub(S::load(scores.add(j)), most)));
                let v = S::load_n(scores.add(j), LANES.min(rows - j));
                sum = S::add(sum, v);
            }
            let share = S::splat(1.0 / S::sum(sum));
            for d in (0..head_dim).step_by(LANES) {
                let k = LANES.min(head_dim - d);
                let mut sum = S::splat(0.0);
                for j in 0..rows {
                    sum = S::fma(S::splat(*scores.add(j)), S::load_n(qkv.add(j * stride + 2 * width + d), k), sum);
                }
                S::store_n(out.add(row * width + d), S::mul(sum, share), k);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_the_exact_one() {
        // x Phi(x) to single precision, from erf of a mathematics library.
        let known =
            [(-3.0, -0.004_049_694), (-1.0, -0.158_655_26), (-0.1, -0.046_017_216), (0.0, 0.0), (0.5, 0.345_731_23), (2.0, 1.954_499_7)];
        for n in [1, 6] {
            let mut x: Vec<f32> = known[..n].iter().map(|(x, _)| *x).collect();
            gelu(&mut x);
            for (x, (at, y)) in x.iter().zip(known) {
                assert!((x - y).abs() < 5e-7, "{at}: {x} {y}");
            }
        }
        let mut far = [-30.0, 30.0, f32::NAN];
        gelu(&mut far);
        assert!(far[0].abs() < 1e-30 && far[1] == 30.0 && far[2].is_nan(), "{far:?}");
    }

    #[test]
    fn attention_is_the_plain_formula_within_each_sentence() {
        let (width, heads, ends) = (20, 2, [3usize, 3, 14]);
        let (rows, dim) = (14, 10);
        let qkv: Vec<f32> = (0..rows * 3 * width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
        let mut out = vec![f32::NAN; rows * width];
        attention(&qkv, &ends, width, heads, &mut out);
        let at = |row: usize, part: usize, h: usize, d: usize| f64::from(qkv[row * 3 * width + part * width + h * dim + d]);
        for row in 0..rows {
            let seen = if row < 3 { 0..3 } else { 3..14 };
            for h in 0..heads {
                let scores: Vec<f64> = seen
                    .clone()
                    .map(|j| ((0..dim).map(|d| at(row, 0, h, d) * at(j, 1, h, d)).sum::<f64>() / (dim as f64).sqrt()).exp())
                    .collect();
                let all: f64 = scores.iter().sum();
                for d in 0..dim {
                    let y: f64 = seen.clone().zip(&scores).map(|(j, s)| s / all * at(j, 2, h, d)).sum();
                    let ours = f64::from(out[row * width + h * dim + d]);
                    assert!((ours - y).abs() < 1e-5, "{row} {h} {d}: {ours} {y}");
                }
            }
        }
    }
}
