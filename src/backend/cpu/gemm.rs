//! The products of a linear layer with its weight on packed tokens, forward and backward, as register tiles: six rows by two vectors of eight columns, or by four
//! of sixteen where there are twice the registers, so that 12 or 24 accumulators hide the latency of the multiply-add units.
//! `d` is small and the weights of a layer fit the first cache, so there is no packing and no blocking over the inner axis.
//!
//! Additions run in the order of the inner axis, so a result does not depend on how many rows are computed together.

use super::simd::{LANES, Simd, Vector, dispatch, load, store};

/// Splits `n` rows into tiles of at most `max` rows of nearly equal height: 20 rows make four tiles of five, not 6+6+6+2.
/// No rows make no tile.
#[inline(always)]
pub(super) fn tiles(n: usize, max: usize) -> (usize, usize, usize) {
    let count = n.div_ceil(max);
    if count == 0 { (0, 0, 0) } else { (count, n / count, n % count) }
}

/// Vectors of the next tile of a row that has `left` columns to go, and the columns it takes; no vectors: a part of one.
#[inline(always)]
pub(super) fn across<S: Vector>(left: usize) -> (usize, usize) {
    // Six rows of four vectors fit 32 registers, six of two fit 16.
    let most = if S::WIDTH > LANES { 4 } else { 2 };
    for vectors in [4, 2, 1] {
        if vectors <= most && left >= vectors * S::WIDTH {
            return (vectors, vectors * S::WIDTH);
        }
    }
    (0, left)
}

macro_rules! by_rows {
    ($rows:expr, $f:ident::<$S:ident, $($flag:tt),+>($($arg:expr),*)) => {
        match $rows {
            1 => $f::<$S, 1, $($flag),+>($($arg),*),
            2 => $f::<$S, 2, $($flag),+>($($arg),*),
            3 => $f::<$S, 3, $($flag),+>($($arg),*),
            4 => $f::<$S, 4, $($flag),+>($($arg),*),
            5 => $f::<$S, 5, $($flag),+>($($arg),*),
            _ => $f::<$S, 6, $($flag),+>($($arg),*),
        }
    };
}
pub(super) use by_rows;

/// `y[r, n] = bias[n] + sum_k x[r, k] w[k, n]` for `rows x inner x cols`; all row-major and dense. `bias` may be null.
///
/// # Safety
/// `x` holds `rows * inner` numbers, `w` `inner * cols`, `bias` `cols`, `y` `rows * cols`; `y` overlaps nothing.
#[inline]
pub unsafe fn linear(rows: usize, inner: usize, cols: usize, x: *const f32, w: *const f32, bias: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe { linear_from(rows, inner, cols, x, w, bias, y, false) }
}

/// [`linear`], or `y[r, n] += sum_k x[r, k] w[k, n]` where `add` is set; then `bias` must be null.
///
/// # Safety
/// As [`linear`].
#[inline]
#[allow(clippy::too_many_arguments)]
pub unsafe fn linear_from(rows: usize, inner: usize, cols: usize, x: *const f32, w: *const f32, bias: *const f32, y: *mut f32, add: bool) {
    // SAFETY: the caller's promise.
    unsafe { linear_part(rows, inner, inner, cols, x, w, bias, y, add) }
}

dispatch! {
    /// [`linear_from`] with rows of `x` that are `stride` numbers apart: a part of a longer depth.
    ///
    /// # Safety
    /// As [`linear`], with `x` holding `inner` numbers of each of `rows` such rows.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn linear_part(rows: usize, inner: usize, stride: usize, cols: usize, x: *const f32, w: *const f32, bias: *const f32, y: *mut f32, add: bool) = wide linear_kernel
}

#[inline(always)]
unsafe fn linear_kernel<S: Vector>(
    rows: usize,
    inner: usize,
    stride: usize,
    cols: usize,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    y: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (count, height, extra) = tiles(rows, 6);
        let mut c = 0;
        while c < cols {
            let (vectors, n) = across::<S>(cols - c);
            let b = if bias.is_null() { bias } else { bias.add(c) };
            let mut r = 0;
            for t in 0..count {
                let h = height + usize::from(t < extra);
                let (xp, wp, yp) = (x.add(r * stride), w.add(c), y.add(r * cols + c));
                match vectors {
                    4 => by_rows!(h, linear_tile::<S, 4, false>(inner, stride, cols, n, xp, wp, b, yp, add)),
                    2 => by_rows!(h, linear_tile::<S, 2, false>(inner, stride, cols, n, xp, wp, b, yp, add)),
                    1 => by_rows!(h, linear_tile::<S, 1, false>(inner, stride, cols, n, xp, wp, b, yp, add)),
                    _ => by_rows!(h, linear_tile::<S, 1, true>(inner, stride, cols, n, xp, wp, b, yp, add)),
                }
                r += h;
            }
            c += n;
        }
    }
}

#[inline(always)]
unsafe fn linear_tile<S: Vector, const MR: usize, const NV: usize, const TAIL: bool>(
    inner: usize,
    stride: usize,
    cols: usize,
    n: usize,
    x: *const f32,
    w: *const f32,
    bias: *const f32,
    y: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        if !bias.is_null() {
            for v in 0..NV {
                let b = load::<S, TAIL>(bias.add(v * S::WIDTH), n);
                for row in &mut acc {
                    row[v] = b;
                }
            }
        }
        if add {
            for (r, row) in acc.iter_mut().enumerate() {
                for (v, a) in row.iter_mut().enumerate() {
                    *a = load::<S, TAIL>(y.add(r * cols + v * S::WIDTH), n);
                }
            }
        }
        for k in 0..inner {
            let mut wv = [S::splat(0.0); NV];
            for (v, slot) in wv.iter_mut().enumerate() {
                let p = w.add(k * cols + v * S::WIDTH);
                *slot = load::<S, TAIL>(p, n);
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xv = S::splat(*x.add(r * stride + k));
                for v in 0..NV {
                    row[v] = S::fma(xv, wv[v], row[v]);
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (v, &a) in row.iter().enumerate() {
                let p = y.add(r * cols + v * S::WIDTH);
                store::<S, TAIL>(p, a, n);
            }
        }
    }
}

/// `dx[r, i] (+)= sum_n dy[r, n] w[i, n]`: products of rows with rows. Adds to `dx` where `add` is set. For a few rows
/// against many weights; elsewhere [`transpose`](super::transpose::transpose) and [`linear_from`] are faster.
///
/// # Safety
/// `dy` holds `rows * cols` numbers, `w` `inner * cols`, `dx` `rows * inner`; `dx` overlaps nothing.
#[inline]
pub unsafe fn linear_input(rows: usize, inner: usize, cols: usize, dy: *const f32, w: *const f32, dx: *mut f32, add: bool) {
    // SAFETY: the caller's promise.
    unsafe { linear_input_part(rows, inner, inner, cols, dy, w, dx, add) }
}

dispatch! {
    /// [`linear_input`] with rows of `dx` that are `stride` numbers apart.
    ///
    /// # Safety
    /// As [`linear_input`], with `dx` holding `inner` numbers of each of `rows` such rows.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn linear_input_part(rows: usize, inner: usize, stride: usize, cols: usize, dy: *const f32, w: *const f32, dx: *mut f32, add: bool) = linear_input_kernel
}

#[inline(always)]
unsafe fn linear_input_kernel<S: Simd>(
    rows: usize,
    inner: usize,
    stride: usize,
    cols: usize,
    dy: *const f32,
    w: *const f32,
    dx: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (count, height, extra) = tiles(rows, 3);
        let mut i = 0;
        while i < inner {
            let ni = (inner - i).min(4);
            let mut r = 0;
            for t in 0..count {
                let h = height + usize::from(t < extra);
                let (dyp, wp, dxp) = (dy.add(r * cols), w.add(i * cols), dx.add(r * stride + i));
                match (h, ni) {
                    (1, 4) => input_tile::<S, 1, 4>(cols, stride, dyp, wp, dxp, add),
                    (2, 4) => input_tile::<S, 2, 4>(cols, stride, dyp, wp, dxp, add),
                    (3, 4) => input_tile::<S, 3, 4>(cols, stride, dyp, wp, dxp, add),
                    _ => {
                        for a in 0..h {
                            for b in 0..ni {
                                input_tile::<S, 1, 1>(cols, stride, dyp.add(a * cols), wp.add(b * cols), dxp.add(a * stride + b), add);
                            }
                        }
                    }
                }
                r += h;
            }
            i += ni;
        }
    }
}

#[inline(always)]
unsafe fn input_tile<S: Simd, const MR: usize, const NR: usize>(
    cols: usize,
    stride: usize,
    dy: *const f32,
    w: *const f32,
    dx: *mut f32,
    add: bool,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [[S::splat(0.0); NR]; MR];
        let mut c = 0;
        while c < cols {
            let n = cols - c;
            let full = n >= LANES;
            let mut wv = [S::splat(0.0); NR];
            for (b, slot) in wv.iter_mut().enumerate() {
                let p = w.add(b * cols + c);
                *slot = if full { S::load(p) } else { S::load_n(p, n) };
            }
            for (a, row) in acc.iter_mut().enumerate() {
                let p = dy.add(a * cols + c);
                let g = if full { S::load(p) } else { S::load_n(p, n) };
                for b in 0..NR {
                    row[b] = S::fma(g, wv[b], row[b]);
                }
            }
            c += LANES;
        }
        for (a, row) in acc.iter().enumerate() {
            let p = dx.add(a * stride);
            if NR == 4 {
                let s = S::sum4(row[0], row[1 % NR], row[2 % NR], row[3 % NR]);
                for (b, x) in s.iter().enumerate() {
                    *p.add(b) = if add { *p.add(b) + x } else { *x };
                }
            } else {
                for (b, v) in row.iter().enumerate() {
                    let x = S::sum(*v);
                    *p.add(b) = if add { *p.add(b) + x } else { x };
                }
            }
        }
    }
}

dispatch! {
    /// `db[n] = sum_r dy[r, n]`.
    ///
    /// # Safety
    /// `dy` holds `rows * cols` numbers, `db` `cols`.
    pub unsafe fn column_sums(rows: usize, cols: usize, dy: *const f32, db: *mut f32) = wide column_sums_kernel
}

#[inline(always)]
unsafe fn column_sums_kernel<S: Vector>(rows: usize, cols: usize, dy: *const f32, db: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut c = 0;
        while c < cols {
            let n = cols - c;
            let full = n >= S::WIDTH;
            let mut acc = S::splat(0.0);
            for r in 0..rows {
                let p = dy.add(r * cols + c);
                acc = S::add(acc, if full { S::load(p) } else { S::load_n(p, n) });
            }
            if full {
                S::store(db.add(c), acc)
            } else {
                S::store_n(db.add(c), acc, n)
            }
            c += S::WIDTH;
        }
    }
}
