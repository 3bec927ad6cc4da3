//! Inner products of many long vectors with each other.

use super::simd::{LANES, Simd, dispatch};
use super::weight::{GradSink, linear_weight_span};
use crate::base::floats::Floats;
use crate::base::parallel;
use parking_lot::Mutex;

/// Vectors of a block: the columns of the widest register tile.
const BLOCK: usize = 64;

/// Coordinates that are multiplied at a time: those of a block stay in the first cache.
const CHUNK: usize = 128;

/// Chunks that are packed at a time: those of all vectors stay in the last cache.
const SLAB: usize = 4;

/// Numbers of a chunk of a block `[CHUNK, BLOCK]`.
const PACKED: usize = CHUNK * BLOCK;

/// Inner products `[n, n]` of `vectors`, `n` of equal lengths, in f32: a chain of fused multiply-adds for each `CHUNK`, and chunks added in
/// their order, so that threads change no bit. Each pair of blocks is multiplied once, and not where one of the two is 0 throughout.
///
/// # Panics
/// Where lengths differ.
pub fn gram(vectors: &[&[f32]], threads: usize) -> Vec<f64> {
    let n = vectors.len();
    let length = vectors.first().map_or(0, |v| v.len());
    assert!(vectors.iter().all(|v| v.len() == length), "vectors of equal lengths");
    let (order, blocks) = (fullest_first(vectors), n.div_ceil(BLOCK));
    let pairs: Vec<(usize, usize)> = (0..blocks).flat_map(|i| (i..blocks).map(move |j| (i, j))).collect();
    let mut tiles = Floats::zeros(pairs.len() * BLOCK * BLOCK);
    let mut slab = vec![(Floats::zeros(SLAB * PACKED), [false; SLAB]); blocks];
    let mut states = vec![(); threads.max(1)];
    for from in (0..length).step_by(SLAB * CHUNK) {
        parallel::consume(threads, slab.iter_mut().enumerate().collect(), |(block, (packed, full))| {
            let own = &order[block * BLOCK..n.min((block + 1) * BLOCK)];
            for (chunk, (packed, full)) in packed.chunks_exact_mut(PACKED).zip(full).enumerate() {
                let (lo, hi) = (length.min(from + chunk * CHUNK), length.min(from + (chunk + 1) * CHUNK));
                let rows: Vec<&[f32]> = own.iter().map(|&v| &vectors[v][lo..hi]).collect();
                *full = rows.iter().any(|row| row.iter().any(|x| *x != 0.0));
                if *full {
                    pack(&rows, packed);
                }
            }
        });
        let outputs: Vec<Mutex<&mut [f32]>> = tiles.chunks_exact_mut(BLOCK * BLOCK).map(Mutex::new).collect();
        parallel::for_each(&mut states, pairs.len(), 2, |(), pair| {
            let ((a, a_full), (b, b_full)) = (&slab[pairs[pair].0], &slab[pairs[pair].1]);
            let mut out = outputs[pair].lock();
            for chunk in (0..SLAB).filter(|&chunk| a_full[chunk] && b_full[chunk]) {
                let rows = CHUNK.min(length - from - chunk * CHUNK);
                let [x, y] = [a, b].map(|packed| packed[chunk * PACKED..][..PACKED].as_ptr());
                // SAFETY: both blocks hold `rows` times `BLOCK` numbers, and the tile one for each pair of their vectors.
                unsafe { linear_weight_span(rows, BLOCK, BLOCK, 0, BLOCK, x, y, GradSink::Add(out.as_mut_ptr())) };
            }
        });
    }
    lines(&order, &tiles, threads)
}

/// Products `[n, n]` in the order of vectors, from the tiles `[pairs, BLOCK, BLOCK]` of the pairs of blocks of `order [n]`.
fn lines(order: &[usize], tiles: &[f32], threads: usize) -> Vec<f64> {
    let (n, blocks) = (order.len(), order.len().div_ceil(BLOCK));
    let mut place = vec![0; n];
    order.iter().enumerate().for_each(|(at, &v)| place[v] = at);
    // Pairs of block i begin behind those of the blocks before it.
    let first = |i: usize| i * blocks - i * i.saturating_sub(1) / 2;
    let mut products = vec![0f64; n * n];
    let spans = products.chunks_mut((n * BLOCK).max(1)).enumerate().collect();
    parallel::consume(threads, spans, |(span, lines): (usize, &mut [f64])| {
        for (a, line) in lines.chunks_exact_mut(n).enumerate() {
            let (i, row) = (place[span * BLOCK + a] / BLOCK, place[span * BLOCK + a] % BLOCK);
            for (j, others) in order.chunks(BLOCK).enumerate() {
                let (low, high) = (i.min(j), i.max(j));
                let tile = &tiles[(first(low) + high - low) * BLOCK * BLOCK..][..BLOCK * BLOCK];
                let (from, step) = if i <= j { (row * BLOCK, 1) } else { (row, BLOCK) };
                others.iter().zip(tile[from..].iter().step_by(step)).for_each(|(&b, &product)| line[b] = product.into());
            }
        }
    });
    products
}

/// The vectors in an order that puts those with many numbers other than 0 first, so that some blocks are 0 where only a few vectors are not: the rows
/// of positions that short histories do not reach. A sample decides; no product depends on it.
fn fullest_first(vectors: &[&[f32]]) -> Vec<usize> {
    let filled = |v: &[f32]| v.chunks(256).filter(|part| part.iter().take(16).any(|x| *x != 0.0)).count();
    let mut order: Vec<usize> = (0..vectors.len()).collect();
    order.sort_by_cached_key(|&v| std::cmp::Reverse(filled(vectors[v])));
    order
}

/// Writes up to `BLOCK` rows of at most `CHUNK` numbers as columns `[CHUNK, BLOCK]`; columns without a row become 0.
fn pack(rows: &[&[f32]], packed: &mut [f32]) {
    let length = rows.first().map_or(0, |row| row.len());
    assert!(rows.len() <= BLOCK && packed.len() >= length * BLOCK && rows.iter().all(|row| row.len() == length));
    if rows.len() < BLOCK {
        packed.fill(0.0);
    }
    // SAFETY: checked above.
    unsafe { pack_rows(rows, length, packed.as_mut_ptr()) }
}

dispatch! {
    unsafe fn pack_rows(rows: &[&[f32]], length: usize, packed: *mut f32) = pack_kernel
}

#[inline(always)]
unsafe fn pack_kernel<S: Simd>(rows: &[&[f32]], length: usize, packed: *mut f32) {
    // SAFETY: the caller's promise: every row has `length` numbers, and `packed` a place for each.
    unsafe {
        let (full_rows, full_length) = (rows.len() / LANES * LANES, length / LANES * LANES);
        for v in (0..full_rows).step_by(LANES) {
            for k in (0..full_length).step_by(LANES) {
                let mut square = [S::splat(0.0); LANES];
                for (i, line) in square.iter_mut().enumerate() {
                    *line = S::load(rows[v + i].as_ptr().add(k));
                }
                S::transpose(&mut square);
                for (i, line) in square.iter().enumerate() {
                    S::store(packed.add((k + i) * BLOCK + v), *line);
                }
            }
        }
        for (v, row) in rows.iter().enumerate() {
            for (k, x) in row.iter().enumerate().skip(if v < full_rows { full_length } else { 0 }) {
                *packed.add(k * BLOCK + v) = *x;
            }
        }
    }
}

/// Inner product of two vectors of equal lengths, by sixteen sums.
pub fn inner(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: no instruction but those of the level.
    unsafe { inner_at(a, b) }
}

dispatch! {
    unsafe fn inner_at(a: &[f32], b: &[f32]) -> f32 = inner_kernel
}

// A plain loop: what the level changes is the instructions that it is compiled to.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn inner_kernel<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (x, y))| *sum += x * y);
    }
    sums.iter_mut().zip(a_rest.iter().zip(b_rest)).for_each(|(sum, (x, y))| *sum += x * y);
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    #[test]
    fn products_are_those_of_a_loop_for_any_number_of_threads() {
        for (n, length) in [(1, 1), (7, 300), (100, 33), (130, 1100)] {
            let mut stream = Stream::new(1, Purpose::Bench, n as u64, 0);
            // Some vectors are 0 but for their beginning, as updates of clients with short histories are.
            let mut values: Vec<Vec<f32>> = (0..n).map(|_| (0..length).map(|_| stream.normal()).collect()).collect();
            values.iter_mut().step_by(3).for_each(|v| v[length / 4..].fill(0.0));
            let vectors: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let found = gram(&vectors, 1);
            assert_eq!(found, gram(&vectors, 3));
            for (i, a) in vectors.iter().enumerate() {
                for (j, b) in vectors.iter().enumerate() {
                    let want: f64 = a.iter().zip(*b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    assert!((f64::from(inner(a, b)) - want).abs() < 1e-3, "{n} {i} {j}");
                    assert!((found[i * n + j] - want).abs() < 1e-3, "{n} {i} {j}");
                }
            }
        }
        assert!(gram(&[], 2).is_empty());
    }
}
