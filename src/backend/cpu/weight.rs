//! The gradient of a weight, as register tiles, and the optimiser's step on it.
//!
//! Additions run in the order of the rows, so a result does not depend on how a weight is cut into tiles.

use super::gemm::{across, by_rows, tiles};
use super::optim::AdamStep;
use super::simd::{LANES, Vector, dispatch, load, store};

/// Numbers in a cache line.
const LINE: usize = 16;

/// Rows and vectors of a tile of [`beside_kernel`]: what is left of 32 registers is enough for a step. The columns of a weight must make whole tiles.
const BESIDE: (usize, usize) = (4, 4);

/// With fewer rows a product is too short to hide a step behind.
const LEAST_ROWS: usize = 6;

/// What becomes of a weight gradient once its tile is complete.
#[derive(Clone, Copy)]
pub enum GradSink {
    /// Written to the gradient slab, replacing what was there.
    Store(*mut f32),
    /// Added to the gradient slab.
    Add(*mut f32),
    /// Used for an Adam step on (weight, first moment, second moment); the gradient is never stored as a whole.
    Adam(*mut f32, *mut f32, *mut f32, AdamStep),
}

/// `g[i, n] = sum_r x[r, i] dy[r, n]`, handed to `sink` tile by tile.
///
/// # Safety
/// `x` holds `rows * inner` numbers, `dy` `rows * cols`, every pointer of `sink` `inner * cols`; those overlap nothing.
#[inline]
pub unsafe fn linear_weight(rows: usize, inner: usize, cols: usize, x: *const f32, dy: *const f32, sink: GradSink) {
    // SAFETY: the caller's promise, for all rows of the weight.
    unsafe { linear_weight_span(rows, inner, cols, 0, inner, x, dy, sink) }
}

dispatch! {
    /// [`linear_weight`] for the rows `from..to` of `g` alone.
    ///
    /// # Safety
    /// As [`linear_weight`], and `from <= to <= inner`. Nothing is written to other rows of `sink`.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn linear_weight_span(rows: usize, inner: usize, cols: usize, from: usize, to: usize, x: *const f32, dy: *const f32, sink: GradSink) = wide linear_weight_kernel
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn linear_weight_kernel<S: Vector>(
    rows: usize,
    inner: usize,
    cols: usize,
    from: usize,
    to: usize,
    x: *const f32,
    dy: *const f32,
    sink: GradSink,
) {
    if let GradSink::Adam(p, m, s, step) = sink
        && S::WIDTH > LANES
        && rows >= LEAST_ROWS
        && cols.is_multiple_of(BESIDE.1 * S::WIDTH)
    {
        // SAFETY: the caller's promise.
        return unsafe { beside_kernel::<S>(rows, inner, cols, from, to, x, dy, Stepped { p, m, s, step }) };
    }
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let (count, height, extra) = tiles(to - from, 6);
        let mut i = from;
        for t in 0..count {
            let h = height + usize::from(t < extra);
            let lines = (h * cols).div_ceil(LINE);
            match sink {
                // Weights and both moments of a client exceed the second cache: the moments of the next tile are asked for
                // while this one is computed. (Past the end nothing is read: a prefetch never faults.)
                GradSink::Adam(_, m, s, step) if step.has_moments() => {
                    for line in 0..lines {
                        let o = (i + h) * cols + line * LINE;
                        S::prefetch(m.wrapping_add(o));
                        S::prefetch(s.wrapping_add(o));
                    }
                }
                // What the tile is added to, which many products may have passed since the last time.
                GradSink::Add(p) => (0..lines).for_each(|line| S::prefetch(p.wrapping_add(i * cols + line * LINE))),
                GradSink::Store(_) | GradSink::Adam(..) => {}
            }
            let mut c = 0;
            while c < cols {
                let (vectors, n) = across::<S>(cols - c);
                let (xp, dp, at) = (x.add(i), dy.add(c), i * cols + c);
                match vectors {
                    4 => by_rows!(h, weight_tile::<S, 4, false>(rows, inner, cols, n, xp, dp, at, sink)),
                    2 => by_rows!(h, weight_tile::<S, 2, false>(rows, inner, cols, n, xp, dp, at, sink)),
                    1 => by_rows!(h, weight_tile::<S, 1, false>(rows, inner, cols, n, xp, dp, at, sink)),
                    _ => by_rows!(h, weight_tile::<S, 1, true>(rows, inner, cols, n, xp, dp, at, sink)),
                }
                c += n;
            }
            i += h;
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn weight_tile<S: Vector, const MR: usize, const NV: usize, const TAIL: bool>(
    rows: usize,
    inner: usize,
    cols: usize,
    n: usize,
    x: *const f32,
    dy: *const f32,
    at: usize,
    sink: GradSink,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [[S::splat(0.0); NV]; MR];
        for r in 0..rows {
            let mut dv = [S::splat(0.0); NV];
            for (v, slot) in dv.iter_mut().enumerate() {
                let p = dy.add(r * cols + v * S::WIDTH);
                *slot = load::<S, TAIL>(p, n);
            }
            for (a, row) in acc.iter_mut().enumerate() {
                let xv = S::splat(*x.add(r * inner + a));
                for v in 0..NV {
                    row[v] = S::fma(xv, dv[v], row[v]);
                }
            }
        }
        let o = |a: usize, v: usize| at + a * cols + v * S::WIDTH;
        match sink {
            GradSink::Store(p) => {
                for (a, row) in acc.iter().enumerate() {
                    for (v, &g) in row.iter().enumerate() {
                        store::<S, TAIL>(p.add(o(a, v)), g, n);
                    }
                }
            }
            GradSink::Add(p) => {
                for (a, row) in acc.iter().enumerate() {
                    for (v, &g) in row.iter().enumerate() {
                        let p = p.add(o(a, v));
                        store::<S, TAIL>(p, S::add(load::<S, TAIL>(p, n), g), n);
                    }
                }
            }
            GradSink::Adam(p, m, s, step) => {
                // A loop that stays one, unlike those above, reads the tile from memory: its own copy, so that the tile itself begins and stays in registers.
                let tile = acc;
                for (a, row) in tile.iter().enumerate() {
                    for (v, &g) in row.iter().enumerate() {
                        let o = o(a, v);
                        step.apply::<S, TAIL>(p.add(o), m.add(o), s.add(o), g, n);
                    }
                }
            }
        }
    }
}

/// A weight, its moments and the step that is made on it.
#[derive(Clone, Copy)]
struct Stepped {
    p: *mut f32,
    m: *mut f32,
    s: *mut f32,
    step: AdamStep,
}

/// A tile of gradients whose steps are still to be made.
struct Pending<S: Vector> {
    tile: [S::V; BESIDE.0 * BESIDE.1],
    /// Where the tile begins in the weight.
    at: usize,
    /// Vectors that have been stepped on, and vectors of the tile.
    done: usize,
    count: usize,
}

impl<S: Vector> Pending<S> {
    /// The step on the next vector.
    ///
    /// # Safety
    /// A vector is left, and the pointers hold the whole weight, of `cols` columns.
    #[inline(always)]
    unsafe fn one(&mut self, cols: usize, Stepped { p, m, s, step }: &Stepped) {
        let k = self.done;
        let o = self.at + k / BESIDE.1 * cols + k % BESIDE.1 * S::WIDTH;
        // SAFETY: the caller's promise.
        unsafe { step.apply::<S, false>(p.add(o), m.add(o), s.add(o), *self.tile.get_unchecked(k), S::WIDTH) };
        self.done = k + 1;
    }
}

/// [`linear_weight_span`] with a step. The optimiser steps on a tile while the product of the next tile is computed: the one waits for the divider, the
/// other for the multipliers. `rows` is at least 1.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn beside_kernel<S: Vector>(
    rows: usize,
    inner: usize,
    cols: usize,
    from: usize,
    to: usize,
    x: *const f32,
    dy: *const f32,
    on: Stepped,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut pending = Pending::<S> { tile: [S::splat(0.0); _], at: 0, done: 0, count: 0 };
        let (count, height, extra) = tiles(to - from, BESIDE.0);
        let mut i = from;
        for t in 0..count {
            let h = height + usize::from(t < extra);
            for c in (0..cols).step_by(BESIDE.1 * S::WIDTH) {
                let at = i * cols + c;
                // The moments of this tile, which are used during the next one's product. A loop of another form here has made the compiler keep sums of
                // products in memory, a tenth of a round: `lumos bench round` shows it.
                if on.step.has_moments() {
                    for o in (0..h).flat_map(|a| (0..BESIDE.1).map(move |v| at + a * cols + v * S::WIDTH)) {
                        S::prefetch(on.m.add(o));
                        S::prefetch(on.s.add(o));
                    }
                }
                let (xp, dp) = (x.add(i), dy.add(c));
                match h {
                    1 => beside_tile::<S, 1>(rows, inner, cols, xp, dp, at, &on, &mut pending),
                    2 => beside_tile::<S, 2>(rows, inner, cols, xp, dp, at, &on, &mut pending),
                    3 => beside_tile::<S, 3>(rows, inner, cols, xp, dp, at, &on, &mut pending),
                    _ => beside_tile::<S, 4>(rows, inner, cols, xp, dp, at, &on, &mut pending),
                }
            }
            i += h;
        }
        while pending.done < pending.count {
            pending.one(cols, &on);
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn beside_tile<S: Vector, const MR: usize>(
    rows: usize,
    inner: usize,
    cols: usize,
    x: *const f32,
    dy: *const f32,
    at: usize,
    on: &Stepped,
    pending: &mut Pending<S>,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut acc = [[S::splat(0.0); BESIDE.1]; MR];
        // So that none is left after the last row.
        let per = (BESIDE.0 * BESIDE.1).div_ceil(rows);
        for r in 0..rows {
            let mut dv = [S::splat(0.0); BESIDE.1];
            for (v, slot) in dv.iter_mut().enumerate() {
                *slot = S::load(dy.add(r * cols + v * S::WIDTH));
            }
            for (a, row) in acc.iter_mut().enumerate() {
                let xv = S::splat(*x.add(r * inner + a));
                for v in 0..BESIDE.1 {
                    row[v] = S::fma(xv, dv[v], row[v]);
                }
            }
            let due = (per * (r + 1)).min(pending.count);
            while pending.done < due {
                pending.one(cols, on);
            }
        }
        for (a, row) in acc.iter().enumerate() {
            for (v, &g) in row.iter().enumerate() {
                pending.tile[a * BESIDE.1 + v] = g;
            }
        }
        (pending.at, pending.done, pending.count) = (at, 0, MR * BESIDE.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::adam_span;
    use crate::backend::cpu::simd::Portable;
    use crate::config::{LocalOptimizer, LocalSettings};

    fn values(n: usize, shift: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + shift) * 7919 % 1009) as f32 / 1009.0 - 0.5) * 10f32.powi((i % 5) as i32 - 3)).collect()
    }

    /// Steps that differ in what they read, write and skip.
    fn steps() -> Vec<AdamStep> {
        let plain = LocalSettings { optimizer: LocalOptimizer::Adam, weight_decay: 0.0, ..LocalSettings::default() };
        let decayed = LocalSettings { weight_decay: 0.1, ..plain.clone() };
        let (decoupled, sgd) = (
            LocalSettings { optimizer: LocalOptimizer::Adamw, ..decayed.clone() },
            LocalSettings { optimizer: LocalOptimizer::Sgd, ..plain.clone() },
        );
        vec![
            AdamStep::new(&plain, 1, 3, 1.0),
            AdamStep::new(&plain, 2, 3, 1.0),
            AdamStep::new(&plain, 3, 3, 1.0),
            AdamStep::new(&plain, 2, 3, 0.5),
            AdamStep::new(&decayed, 2, 3, 1.0),
            AdamStep::new(&decoupled, 2, 3, 1.0),
            AdamStep::new(&sgd, 1, 1, 1.0),
        ]
    }

    /// Whole weights and spans of rows, with few rows and many, widths of whole tiles and others.
    #[test]
    fn a_step_beside_products_has_the_bits_of_a_step_after_them() {
        let steps = steps();
        for (inner, cols) in [(64, 64), (7, 64), (1, 128), (13, 192), (9, 80), (33, 40), (5, 3)] {
            for rows in [0, 1, 5, 6, 7, 15, 16, 17, 40] {
                for (from, to) in [(0, inner), (inner / 3, inner - inner / 4), (inner, inner)] {
                    for step in &steps {
                        let (x, dy, n) = (values(rows * inner, 1), values(rows * cols, 2), inner * cols);
                        let start = || [values(n, 3), values(n, 4), values(n, 5).iter().map(|s| s * s).collect()];
                        let ([mut p, mut m, mut s], mut g) = (start(), vec![0f32; n]);
                        // SAFETY: the lengths are those that the functions ask for, and nothing overlaps.
                        let got = unsafe {
                            let sink = GradSink::Adam(p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr(), *step);
                            linear_weight_span(rows, inner, cols, from, to, x.as_ptr(), dy.as_ptr(), sink);
                            [p, m, s]
                        };
                        let mut wanted = start();
                        let [p, m, s] = &mut wanted;
                        // SAFETY: as above.
                        unsafe {
                            linear_weight_span(rows, inner, cols, from, to, x.as_ptr(), dy.as_ptr(), GradSink::Store(g.as_mut_ptr()));
                            let (at, n) = (from * cols, (to - from) * cols);
                            adam_span(n, p[at..].as_mut_ptr(), m[at..].as_mut_ptr(), s[at..].as_mut_ptr(), g[at..].as_ptr(), step);
                        }
                        let bits = |of: &[Vec<f32>; 3]| of.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                        assert!(bits(&got) == bits(&wanted), "{inner} x {cols}, {rows} rows, {from}..{to}, {step:?}");
                    }
                }
            }
        }
    }

    /// The same with the lanes that every processor has, where the sizes alone decide which kernel works.
    #[test]
    fn the_kernel_with_steps_beside_products_has_the_bits_of_the_other() {
        for (inner, cols) in [(64, 64), (7, 32), (1, 96), (13, 32)] {
            for rows in [1, 2, 5, 15, 16, 17, 40] {
                for step in &steps() {
                    let (x, dy, n) = (values(rows * inner, 1), values(rows * cols, 2), inner * cols);
                    let run = |beside: bool| {
                        let (mut p, mut m, mut s) = (values(n, 3), values(n, 4), values(n, 5).iter().map(|s| s * s).collect::<Vec<_>>());
                        let on = Stepped { p: p.as_mut_ptr(), m: m.as_mut_ptr(), s: s.as_mut_ptr(), step: *step };
                        // SAFETY: the lengths are those that the functions ask for, nothing overlaps, and plain arrays need no instructions.
                        unsafe {
                            if beside {
                                beside_kernel::<Portable>(rows, inner, cols, 0, inner, x.as_ptr(), dy.as_ptr(), on);
                            } else {
                                let sink = GradSink::Adam(on.p, on.m, on.s, on.step);
                                linear_weight_kernel::<Portable>(rows, inner, cols, 0, inner, x.as_ptr(), dy.as_ptr(), sink);
                            }
                        }
                        [p, m, s].concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                    };
                    assert!(run(true) == run(false), "{inner} x {cols}, {rows} rows, {step:?}");
                }
            }
        }
    }

    /// A step that skips what changes nothing gives the weights that the whole formula gives.
    #[test]
    fn a_step_has_the_bits_of_the_whole_formula() {
        use LocalOptimizer::*;
        let cases = [Adam, Adamw, Sgd, Momentum, Adagrad, Preconditioned].map(|o| [(o, 0.0, 1.0), (o, 0.0, 0.5), (o, 0.1, 1.0)]);
        for (optimizer, weight_decay, scale) in cases.into_iter().flatten() {
            let settings = LocalSettings { optimizer, weight_decay, ..LocalSettings::default() };
            let n = 37;
            let run = |step: AdamStep| {
                let (mut p, mut m, mut s, g) = (values(n, 1), values(n, 2), vec![1e-3; n], values(n, 3));
                // SAFETY: all four hold `n` numbers.
                unsafe { adam_span(n, p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr(), g.as_ptr(), &step) };
                [p, m, s]
            };
            let step = AdamStep::new(&settings, 2, 9, scale);
            assert_eq!(run(step), run(step.by_the_whole_formula()), "{step:?}");
        }
    }
}
