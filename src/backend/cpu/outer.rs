//! What many items' rows get from a few states: outer products, block after block, with a row's numbers in registers meanwhile.

use super::gemm::across;
use super::simd::{Vector, dispatch, load, store};

/// Rows of a block; its sum is added as a whole.
pub const BLOCK: usize = 6;
/// Items of a tile: as many sums as numbers they are added to.
const TILE: usize = 3;

dispatch! {
    /// `table[i, k] += sum_r x[r, i] y[r, k]` for the items `from..to`, in blocks of [`BLOCK`] rows, the sum of a block being added as a whole: the bits of
    /// [`linear_weight`](super::weight::linear_weight) block by block. Rows of `x` are `n` long; a block of either begins `stride` numbers after the one before.
    ///
    /// # Safety
    /// `x` and `y` hold `rows` rows, `table` `to * d` numbers; `table` overlaps nothing. Nothing is written to other items.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn add_outer(rows: usize, stride: usize, n: usize, d: usize, from: usize, to: usize, x: *const f32, y: *const f32, table: *mut f32) = wide outer_kernel
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn outer_kernel<S: Vector>(
    rows: usize,
    stride: usize,
    n: usize,
    d: usize,
    from: usize,
    to: usize,
    x: *const f32,
    y: *const f32,
    table: *mut f32,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let at = Places { rows, stride, n, d };
        for i in (from..to).step_by(TILE) {
            let mut c = 0;
            while c < d {
                let (vectors, count) = across::<S>(d - c);
                let (x, y, table) = (x.add(i), y.add(c), table.add(i * d + c));
                match (to - i, vectors) {
                    (1, 4) => tile::<S, 1, 4, false>(&at, count, x, y, table),
                    (1, 2) => tile::<S, 1, 2, false>(&at, count, x, y, table),
                    (1, 1) => tile::<S, 1, 1, false>(&at, count, x, y, table),
                    (1, _) => tile::<S, 1, 1, true>(&at, count, x, y, table),
                    (2, 4) => tile::<S, 2, 4, false>(&at, count, x, y, table),
                    (2, 2) => tile::<S, 2, 2, false>(&at, count, x, y, table),
                    (2, 1) => tile::<S, 2, 1, false>(&at, count, x, y, table),
                    (2, _) => tile::<S, 2, 1, true>(&at, count, x, y, table),
                    (_, 4) => tile::<S, TILE, 4, false>(&at, count, x, y, table),
                    (_, 2) => tile::<S, TILE, 2, false>(&at, count, x, y, table),
                    (_, 1) => tile::<S, TILE, 1, false>(&at, count, x, y, table),
                    _ => tile::<S, TILE, 1, true>(&at, count, x, y, table),
                }
                c += count;
            }
        }
    }
}

/// Rows, floats from block to block, and lengths of rows.
struct Places {
    rows: usize,
    stride: usize,
    n: usize,
    d: usize,
}

#[inline(always)]
unsafe fn tile<S: Vector, const MR: usize, const NV: usize, const TAIL: bool>(
    at: &Places,
    count: usize,
    x: *const f32,
    y: *const f32,
    table: *mut f32,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut sums = [[S::splat(0.0); NV]; MR];
        for (a, row) in sums.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                *sum = load::<S, TAIL>(table.add(a * at.d + v * S::WIDTH), count);
            }
        }
        let mut left = at.rows;
        let mut block = 0;
        while left > 0 {
            let mut own = [[S::splat(0.0); NV]; MR];
            for r in 0..left.min(BLOCK) {
                let (x, y) = (x.add(block + r * at.n), y.add(block + r * at.d));
                let mut line = [S::splat(0.0); NV];
                for (v, slot) in line.iter_mut().enumerate() {
                    *slot = load::<S, TAIL>(y.add(v * S::WIDTH), count);
                }
                for (a, row) in own.iter_mut().enumerate() {
                    let factor = S::splat(*x.add(a));
                    for v in 0..NV {
                        row[v] = S::fma(factor, line[v], row[v]);
                    }
                }
            }
            for (sums, own) in sums.iter_mut().zip(&own) {
                for v in 0..NV {
                    sums[v] = S::add(sums[v], own[v]);
                }
            }
            left = left.saturating_sub(BLOCK);
            block += at.stride;
        }
        for (a, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                store::<S, TAIL>(table.add(a * at.d + v * S::WIDTH), sum, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{GradSink, linear_weight};
    use crate::base::rng::{Purpose, Stream};

    /// Widths of whole vectors and of parts, full blocks and a part of one, items that are no multiple of a tile: the bits of one product a block.
    #[test]
    fn the_bits_of_one_product_a_block() {
        let mut stream = Stream::new(4, Purpose::Bench, 2, 0);
        for (rows, d, n, from, to) in [(20, 64, 50, 0, 50), (6, 64, 9, 3, 8), (1, 50, 7, 0, 7), (13, 128, 4, 1, 3), (12, 5, 3, 0, 3)] {
            let blocks = usize::div_ceil(rows, BLOCK);
            let stride = BLOCK * n + BLOCK * d;
            let mut normals = |count: usize| (0..count).map(|_| stream.normal()).collect::<Vec<f32>>();
            let (values, before) = (normals(blocks * stride), normals(n * d));
            let (x, y) = (values.as_ptr(), values[BLOCK * n..].as_ptr());
            let (mut got, mut wanted) = (before.clone(), before.clone());
            // SAFETY: blocks have room for their rows of both.
            unsafe {
                add_outer(rows, stride, n, d, from, to, x, y, got.as_mut_ptr());
                for b in 0..blocks {
                    let (x, y) = (x.add(b * stride), y.add(b * stride));
                    linear_weight(BLOCK.min(rows - b * BLOCK), n, d, x, y, GradSink::Add(wanted.as_mut_ptr()));
                }
            }
            for (place, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                let expected = if (from..to).contains(&(place / d)) { *wanted } else { before[place] };
                assert_eq!(got.to_bits(), expected.to_bits(), "{rows} rows, d {d}, place {place}");
            }
        }
    }
}
