//! Scores of a few states by many items, `[rows, d] [n, d]^T`: [`linear_input`](super::gemm::linear_input) with the same bits, at the rate of the
//! other products. Some items at a time are transposed, so that a vector holds one number of each; the eight partial sums of a score, which are the
//! lanes of one vector in `linear_input`, are eight vectors here.

use super::gemm::linear_input_part;
use super::simd::{LANES, Level, Vector, dispatch};
use super::transpose::transpose;

/// Items that are transposed together.
pub const ITEMS: usize = 64;
/// Widest state.
const WIDEST: usize = 128;

/// Transposed items `[d, ITEMS]`, at the beginning of a cache line.
#[repr(align(64))]
struct Turned([f32; WIDEST * ITEMS]);

/// `y[b][r, i] = sum_k x[b][r, k] items[i, k]` for the items `from..to` and each of the blocks `b` of `rows(b)` states: `at(b)` gives where a block's
/// states `[rows, d]` and scores `[rows, n]` are. Scores of other items are left alone.
///
/// # Safety
/// `items` holds `to * d` numbers; what `at` gives holds its block, and scores overlap nothing.
pub unsafe fn scores(
    blocks: usize,
    rows: impl Fn(usize) -> usize,
    at: impl Fn(usize) -> (*const f32, *mut f32),
    [from, to, n, d]: [usize; 4],
    items: *const f32,
) {
    // Registers of eight numbers are too few for this, a last vector of fewer numbers would need zeros in the states, and transposing costs as much
    // as four blocks gain.
    let turns = Level::detect() == Level::Avx512 && d.is_multiple_of(LANES) && d <= WIDEST && blocks > 4;
    let mut turned = turns.then_some(Turned([0.0; WIDEST * ITEMS]));
    for first in (from..to).step_by(ITEMS) {
        let count = ITEMS.min(to - first);
        // SAFETY: the caller's promise; places stay inside the blocks, and transposed items inside their room.
        unsafe {
            let own = items.add(first * d);
            if let Some(turned) = &mut turned {
                turn(count, d, own, turned);
            }
            for b in 0..blocks {
                let ((x, y), rows) = (at(b), rows(b));
                let y = y.add(first);
                if let Some(turned) = &turned {
                    turned_scores(rows, d, count, n, x, turned.0.as_ptr(), y);
                } else {
                    linear_input_part(rows, count, n, d, x, own, y, false);
                }
            }
        }
    }
}

/// `turned[k, i] = items[i, k]` for `count` items.
///
/// # Safety
/// `items` holds `count * d` numbers, and `d` is at most [`WIDEST`].
unsafe fn turn(count: usize, d: usize, items: *const f32, turned: &mut Turned) {
    // SAFETY: the caller's promise.
    unsafe {
        if count == ITEMS {
            return transpose(ITEMS, d, items, turned.0.as_mut_ptr());
        }
        for i in 0..count {
            for k in 0..d {
                turned.0[k * ITEMS + i] = *items.add(i * d + k);
            }
        }
    }
}

dispatch! {
    /// `y[r, i] = sum_k x[r, k] turned[k, i]` for `count` items, rows of `y` being `n` long.
    ///
    /// # Safety
    /// `x` holds `rows * d` numbers with `d` a multiple of eight, `turned` `d * ITEMS`.
    unsafe fn turned_scores(rows: usize, d: usize, count: usize, n: usize, x: *const f32, turned: *const f32, y: *mut f32) = wide turned_kernel
}

#[inline(always)]
unsafe fn turned_kernel<S: Vector>(rows: usize, d: usize, count: usize, n: usize, x: *const f32, turned: *const f32, y: *mut f32) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        for i in (0..count).step_by(S::WIDTH) {
            let some = (count - i).min(S::WIDTH);
            let mut r = 0;
            while r < rows {
                let (x, w, y) = (x.add(r * d), turned.add(i), y.add(r * n + i));
                r += match rows - r {
                    1 => tile::<S, 1>(d, n, some, x, w, y),
                    2 => tile::<S, 2>(d, n, some, x, w, y),
                    _ => tile::<S, 3>(d, n, some, x, w, y),
                };
            }
        }
    }
}

/// `MR` rows by one vector of items: 24 registers of sums.
#[inline(always)]
unsafe fn tile<S: Vector, const MR: usize>(d: usize, n: usize, some: usize, x: *const f32, w: *const f32, y: *mut f32) -> usize {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let mut sums = [[S::splat(0.0); LANES]; MR];
        for k in (0..d).step_by(LANES) {
            for lane in 0..LANES {
                let v = S::load(w.add((k + lane) * ITEMS));
                for (r, row) in sums.iter_mut().enumerate() {
                    row[lane] = S::fma(S::splat(*x.add(r * d + k + lane)), v, row[lane]);
                }
            }
        }
        for (r, [a, b, c, d, e, f, g, h]) in sums.into_iter().enumerate() {
            // The order of `Simd::sum`.
            let sum = S::add(S::add(S::add(a, e), S::add(c, g)), S::add(S::add(b, f), S::add(d, h)));
            let at = y.add(r * n);
            if some == S::WIDTH { S::store(at, sum) } else { S::store_n(at, sum, some) }
        }
    }
    MR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::linear_input;
    use crate::base::rng::{Purpose, Stream};

    /// Part of a catalogue, blocks of several rows, widths that are turned round and those that are not: the bits of `linear_input`.
    #[test]
    fn the_bits_of_products_of_rows_with_rows() {
        let mut stream = Stream::new(3, Purpose::Bench, 1, 0);
        for (d, n, from, to) in [(64, 200, 0, 200), (64, 200, 70, 199), (8, 5, 0, 5), (128, 65, 1, 65), (50, 130, 0, 130), (136, 70, 3, 70)]
        {
            let mut normals = |count: usize| (0..count).map(|_| stream.normal()).collect::<Vec<f32>>();
            let (sizes, items) = ([6, 6, 1, 2, 3, 6], normals(n * d));
            let states: Vec<Vec<f32>> = sizes.iter().map(|rows| normals(rows * d)).collect();
            let mut got: Vec<Vec<f32>> = sizes.iter().map(|rows| vec![-1.0; rows * n]).collect();
            let places: Vec<(*const f32, *mut f32)> = states.iter().zip(&mut got).map(|(x, y)| (x.as_ptr(), y.as_mut_ptr())).collect();
            // SAFETY: every block has its rows.
            unsafe { scores(sizes.len(), |b| sizes[b], |b| places[b], [from, to, n, d], items.as_ptr()) };
            for ((rows, x), y) in sizes.into_iter().zip(&states).zip(&got) {
                let mut all = vec![0f32; rows * n];
                // SAFETY: as above.
                unsafe { linear_input(rows, n, d, x.as_ptr(), items.as_ptr(), all.as_mut_ptr(), false) };
                for (at, (got, all)) in y.iter().zip(&all).enumerate() {
                    let asked = (from..to).contains(&(at % n));
                    assert_eq!(got.to_bits(), if asked { all.to_bits() } else { (-1f32).to_bits() }, "d {d}, {n} items, place {at}");
                }
            }
        }
    }
}
