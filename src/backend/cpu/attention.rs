//! Self-attention over packed ragged sequences, causal or over whole sequences. Scores are recomputed in the backward pass from one stored
//! number a (row, head), so nothing of size length x length is kept.

use super::rows::{axpy_kernel, dot_kernel};
use super::simd::{LANES, Simd, dispatch};

/// Shape of one attention call. Query row `r` sees the tokens `start[r]..=token[r]` of its own sequence, or all of them.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Query rows.
    pub rows: usize,
    /// Width `d`.
    pub d: usize,
    /// Heads; divides `d`.
    pub heads: usize,
    /// First token of each row's sequence `[rows]`.
    pub start: *const u32,
    /// Token of each row `[rows]`.
    pub token: *const u32,
    /// First token of each token's sequence `[tokens]`, where a query sees its whole sequence; null where it sees nothing after
    /// itself.
    pub whole: *const u32,
    /// Tokens of the step.
    pub tokens: usize,
}

impl Shape {
    /// The query rows `lo..hi` alone.
    ///
    /// # Safety
    /// `lo <= hi <= rows`, and the pointers are valid for what they say.
    pub unsafe fn span(self, lo: usize, hi: usize) -> Shape {
        // SAFETY: the caller's.
        unsafe { Shape { rows: hi - lo, start: self.start.add(lo), token: self.token.add(lo), ..self } }
    }

    /// First and last token that query row `r` sees.
    ///
    /// # Safety
    /// `r` is below `rows`, and the pointers are valid for what they say.
    #[inline(always)]
    unsafe fn seen(&self, r: usize) -> (usize, usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let (lo, mut hi) = (*self.start.add(r) as usize, *self.token.add(r) as usize);
            if !self.whole.is_null() {
                while hi + 1 < self.tokens && *self.whole.add(hi + 1) as usize == lo {
                    hi += 1;
                }
            }
            (lo, hi)
        }
    }
}

/// Greatest of `n` numbers. A NaN is passed over, but for the first number. Where zeros of both signs are the greatest, either.
#[inline(always)]
unsafe fn greatest<S: Simd>(n: usize, s: *const f32) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (mut max, mut j) = (*s, 1);
        // One comparison waits for the other: of a long row, sixteen at a time.
        if n >= 4 * LANES {
            let mut most = [S::splat(max); 2];
            j = 0;
            while n - j >= 2 * LANES {
                for (v, most) in most.iter_mut().enumerate() {
                    *most = S::max(S::load(s.add(j + v * LANES)), *most);
                }
                j += 2 * LANES;
            }
            let mut lanes = [0f32; LANES];
            S::store(lanes.as_mut_ptr(), S::max(most[0], most[1]));
            max = lanes.into_iter().fold(max, |max, v| if v > max { v } else { max });
        }
        for j in j..n {
            max = if *s.add(j) > max { *s.add(j) } else { max };
        }
        max
    }
}

#[inline(always)]
pub(super) unsafe fn softmax_row<S: Simd>(n: usize, s: *mut f32) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let max = greatest::<S>(n, s);
        let m = S::splat(max);
        let mut total = S::splat(0.0);
        let mut tail = 0.0;
        let mut j = 0;
        while j < n {
            if n - j >= LANES {
                let e = S::exp(S::sub(S::load(s.add(j)), m));
                S::store(s.add(j), e);
                total = S::add(total, e);
            } else {
                let e = S::exp(S::sub(S::load_n(s.add(j), n - j), m));
                S::store_n(s.add(j), e, n - j);
                for k in j..n {
                    tail += *s.add(k);
                }
            }
            j += LANES;
        }
        let z = S::sum(total) + tail;
        let inv = 1.0 / z;
        for j in 0..n {
            *s.add(j) *= inv;
        }
        max + z.ln()
    }
}

dispatch! {
    /// `y[r] = softmax(q[r] k[seen]^T / sqrt(d / heads)) v[seen]` per head over the tokens that row `r` sees; keeps the log of
    /// the partition sum in `stats [rows, heads]`.
    ///
    /// # Safety
    /// `q`, `y` hold `rows * d`, `k`, `v` all tokens named by the shape, `scratch` the longest sequence.
    pub unsafe fn attention(shape: Shape, q: *const f32, k: *const f32, v: *const f32, y: *mut f32, stats: *mut f32, scratch: *mut f32) = forward_kernel
}

#[inline(always)]
unsafe fn forward_kernel<S: Simd>(
    shape: Shape,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    y: *mut f32,
    stats: *mut f32,
    scratch: *mut f32,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let Shape { rows, d, heads, .. } = shape;
        let w = d / heads;
        let scale = 1.0 / (w as f32).sqrt();
        for r in 0..rows {
            let (lo, hi) = shape.seen(r);
            for h in 0..heads {
                let at = h * w;
                let qp = q.add(r * d + at);
                for j in lo..=hi {
                    *scratch.add(j - lo) = scale * dot_kernel::<S>(w, qp, k.add(j * d + at));
                }
                *stats.add(r * heads + h) = softmax_row::<S>(hi - lo + 1, scratch);
                let yp = y.add(r * d + at);
                std::ptr::write_bytes(yp, 0, w);
                for j in lo..=hi {
                    axpy_kernel::<S>(w, *scratch.add(j - lo), v.add(j * d + at), yp);
                }
            }
        }
    }
}

dispatch! {
    /// Backward of [`attention`]: writes `dq [rows, d]`, adds to `dk` and `dv` (all tokens).
    ///
    /// # Safety
    /// As [`attention`]; `scratch` holds twice the longest sequence.
    pub unsafe fn attention_backward(shape: Shape, q: *const f32, k: *const f32, v: *const f32, dy: *const f32, stats: *const f32, dq: *mut f32, dk: *mut f32, dv: *mut f32, scratch: *mut f32) = backward_kernel
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn backward_kernel<S: Simd>(
    shape: Shape,
    q: *const f32,
    k: *const f32,
    v: *const f32,
    dy: *const f32,
    stats: *const f32,
    dq: *mut f32,
    dk: *mut f32,
    dv: *mut f32,
    scratch: *mut f32,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let Shape { rows, d, heads, .. } = shape;
        let w = d / heads;
        let scale = 1.0 / (w as f32).sqrt();
        for r in 0..rows {
            let (lo, hi) = shape.seen(r);
            let n = hi - lo + 1;
            let (p, dp) = (scratch, scratch.add(n));
            for h in 0..heads {
                let at = h * w;
                let (qp, gp, dqp) = (q.add(r * d + at), dy.add(r * d + at), dq.add(r * d + at));
                let lse = *stats.add(r * heads + h);
                for j in 0..n {
                    *p.add(j) = scale * dot_kernel::<S>(w, qp, k.add((lo + j) * d + at)) - lse;
                    *dp.add(j) = dot_kernel::<S>(w, gp, v.add((lo + j) * d + at));
                }
                let mut j = 0;
                while j < n {
                    if n - j >= LANES {
                        S::store(p.add(j), S::exp(S::load(p.add(j))));
                    } else {
                        S::store_n(p.add(j), S::exp(S::load_n(p.add(j), n - j)), n - j);
                    }
                    j += LANES;
                }
                // Large scores leave few digits to `lse`, so that the probabilities do not quite sum to one: they are
                // normalised again, or that error would enter every gradient.
                let (mut mean, mut total) = (0.0, 0.0);
                for j in 0..n {
                    mean += *p.add(j) * *dp.add(j);
                    total += *p.add(j);
                }
                let inv = 1.0 / total;
                mean *= inv;
                std::ptr::write_bytes(dqp, 0, w);
                for j in 0..n {
                    let t = lo + j;
                    let pj = *p.add(j) * inv;
                    let ds = pj * (*dp.add(j) - mean) * scale;
                    axpy_kernel::<S>(w, ds, k.add(t * d + at), dqp);
                    axpy_kernel::<S>(w, ds, qp, dk.add(t * d + at));
                    axpy_kernel::<S>(w, pj, gp, dv.add(t * d + at));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Portable, dispatch};
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    dispatch! {
        unsafe fn greatest_of(n: usize, s: *const f32) -> f32 = greatest
    }

    /// Rows of every length about those that vectors take, zeros, NaNs, infinity: the number that one comparison after another finds.
    #[test]
    fn the_greatest_is_that_of_one_comparison_after_another() {
        let mut stream = Stream::new(6, Purpose::Bench, 4, 0);
        for n in (1..70).chain([1000]) {
            for kind in 0..5u64 {
                let mut row: Vec<f32> = (0..n).map(|_| stream.normal()).collect();
                let at = stream.below(n as u64) as usize;
                match kind {
                    1 => row[at] = f32::NAN,
                    2 => row[0] = f32::NAN,
                    3 => row.iter_mut().for_each(|v| *v = 0f32.copysign(*v)),
                    4 => row[at] = f32::INFINITY,
                    _ => {}
                }
                let plain = row.iter().skip(1).fold(row[0], |max, &v| if v > max { v } else { max });
                // SAFETY: the row has its length.
                let (found, portable) = unsafe { (greatest_of(n, row.as_ptr()), greatest::<Portable>(n, row.as_ptr())) };
                assert_eq!(found.to_bits(), plain.to_bits(), "{n} numbers, kind {kind}");
                assert_eq!(portable.to_bits(), plain.to_bits(), "{n} numbers, kind {kind}");
            }
        }
    }
}
