//! Attention over cached keys and values in blocks of sixteen positions.
//!
//! A block of one layer and key head holds keys as `[head_dim, 16]`, so that sixteen scores are computed side by side for any
//! head width, and values as `[16, head_dim]`. A sequence names its blocks in a table; a shared prefix is blocks that several
//! tables name. Scores, their maximum and sum, and the weighted values run in the order of positions: a query's result does not
//! depend on what stands beside it, on how its prompt was cut, or on whose blocks hold the prefix.

use super::super::network::{Attention, BLOCK, Batch, Norm, Segment};
use super::super::pointer::Pointer;
use super::super::spec::Spec;
use super::{Cpu, Table, WORTH, rows};
use crate::Result;
use crate::backend::cpu::simd::{LANES, Simd, dispatch};
use crate::base::memory;
use rayon::prelude::*;
use std::cell::RefCell;

/// Keys and values `[blocks, layers, kv_heads, 2, 16 head_dim]`.
pub struct Cache {
    data: Vec<f32>,
    /// Numbers of one block: all layers and heads.
    block: usize,
    /// Numbers of one block, layer and head.
    cell: usize,
}

impl Cache {
    /// # Errors
    /// Where the machine has no room for it.
    pub(super) fn new(spec: &Spec, blocks: usize) -> Result<Cache> {
        let cell = 2 * BLOCK * spec.head_dim;
        let block = spec.layers * spec.kv_heads * cell;
        let what = format!("{} tokens of keys and values", blocks.saturating_mul(BLOCK));
        let remedy = "write fewer texts side by side (`views.llm.batch`, `--batch`) or shorter ones";
        memory::check(&what, memory::product([blocks, block, size_of::<f32>()]), remedy)?;
        Ok(Cache { data: vec![0.0; blocks * block], block, cell })
    }

    pub(super) fn copy_block(&mut self, from: u32, to: u32) {
        self.data.copy_within(from as usize * self.block..(from as usize + 1) * self.block, to as usize * self.block);
    }

    /// Bytes of the whole cache.
    pub fn bytes(&self) -> u64 {
        std::mem::size_of_val(&self.data[..]) as u64
    }
}

/// Queries of one tile: their sums fill the registers.
const TILE: usize = 6;

/// Rows of one task.
const TASK_ROWS: usize = 24;

fn parallel(work: usize, tasks: usize, task: impl Fn(usize) + Sync + Send) {
    if work < WORTH || tasks == 1 { (0..tasks).for_each(task) } else { (0..tasks).into_par_iter().for_each(task) }
}

/// Normalises and rotates queries and keys in place, and puts keys and values into the cache.
pub(super) fn store(qkv: &mut [f32], a: &Attention<'_, Cpu>, batch: &Batch, cache: &mut Cache) {
    let s = a.spec;
    let width = s.qkv_width();
    let (data, to) = (Pointer(qkv.as_mut_ptr()), Pointer(cache.data.as_mut_ptr()));
    let (block, cell) = (cache.block, cache.cell);
    let owners: Vec<u32> = batch.segments.iter().enumerate().flat_map(|(i, g)| std::iter::repeat_n(i as u32, g.rows)).collect();
    let task = |row: usize| {
        let segment = &batch.segments[owners[row] as usize];
        let position = segment.position + row - segment.row;
        // SAFETY: one row, and the cache cells of one position of a block that only this sequence writes.
        unsafe {
            let x = data.get().add(row * width);
            let at = batch.tables[segment.table.start + position / BLOCK] as usize * block + a.layer * s.kv_heads * cell;
            for h in 0..s.heads {
                turn(x.add(h * s.head_dim), s.head_dim, a.query_norm, a.rope, position);
            }
            for h in 0..s.kv_heads {
                let key = x.add((s.heads + h) * s.head_dim);
                let value = x.add((s.heads + s.kv_heads + h) * s.head_dim);
                turn(key, s.head_dim, a.key_norm, a.rope, position);
                let cell = to.get().add(at + h * cell);
                for d in 0..s.head_dim {
                    *cell.add(d * BLOCK + position % BLOCK) = *key.add(d);
                }
                std::ptr::copy_nonoverlapping(value, cell.add(BLOCK * s.head_dim + position % BLOCK * s.head_dim), s.head_dim);
            }
        }
    };
    parallel(qkv.len(), batch.tokens.len(), task);
}

/// One head: norm, then the rotation of pairs `(i, i + rotated / 2)`.
unsafe fn turn(x: *mut f32, head_dim: usize, norm: Option<&Norm<Vec<f32>>>, rope: &Table, position: usize) {
    // SAFETY: the caller's promise: a head of `head_dim` numbers at `x`; norms and halves of the rotation are no longer.
    unsafe {
        if let Some(norm) = norm {
            rows::norm(head_dim, x, norm.weight.as_ptr(), norm.eps, x);
        }
        let half = rope.rotated / 2;
        let (cos, sin) = rope.values[position * rope.rotated..][..rope.rotated].split_at(half);
        for i in 0..half {
            let (a, b) = (*x.add(i), *x.add(i + half));
            *x.add(i) = a * cos[i] - b * sin[i];
            *x.add(i + half) = b * cos[i] + a * sin[i];
        }
    }
}

thread_local! {
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `out [T, heads head_dim]` from rotated queries and the cache.
pub(super) fn attend(qkv: &[f32], out: &mut [f32], a: &Attention<'_, Cpu>, batch: &Batch, cache: &Cache) {
    let s = a.spec;
    let mut tasks: Vec<(usize, usize)> = Vec::new();
    let mut work = 0;
    for (i, g) in batch.segments.iter().enumerate() {
        tasks.extend((0..g.rows).step_by(TASK_ROWS).map(|r| (i, r)));
        work += g.rows * (g.position + g.rows) * s.heads * s.head_dim / 4;
    }
    let to = Pointer(out.as_mut_ptr());
    let task = |t: usize| {
        let (segment, first) = tasks[t / s.kv_heads];
        let segment = &batch.segments[segment];
        let rows = first..(first + TASK_ROWS).min(segment.rows);
        // SAFETY: tasks write different rows or heads of `out`.
        unsafe { head(qkv, to.get(), a, batch, segment, rows, t % s.kv_heads, cache) }
    };
    parallel(work, tasks.len() * s.kv_heads, task);
}

/// Queries of one tile.
struct Tile {
    /// Where the queries are.
    q: [*const f32; TILE],
    /// First position that each query sees, and the one after the last.
    sees: [(usize, usize); TILE],
    /// Where the results go.
    out: [*mut f32; TILE],
    /// Number of queries.
    count: usize,
}

/// Some rows of one sequence and the query heads of one key head.
#[allow(clippy::too_many_arguments)]
unsafe fn head(
    qkv: &[f32],
    out: *mut f32,
    a: &Attention<'_, Cpu>,
    batch: &Batch,
    segment: &Segment,
    rows: std::ops::Range<usize>,
    h: usize,
    cache: &Cache,
) {
    let s = a.spec;
    let (group, width) = (s.group(), s.qkv_width());
    let table = &batch.tables[segment.table.clone()];
    // SAFETY: the cache holds a cell for each layer and key head.
    let cells = unsafe { cache.data.as_ptr().add((a.layer * s.kv_heads + h) * cache.cell) };
    let shape = Shape { head_dim: s.head_dim, scale: s.query_scale, cap: a.attention_cap(), block: cache.block };
    let queries = rows.len() * group;
    let mut tile = Tile { q: [std::ptr::null(); TILE], sees: [(0, 0); TILE], out: [std::ptr::null_mut(); TILE], count: 0 };
    SCORES.with_borrow_mut(|scores| {
        let length = table.len() * BLOCK;
        scores.resize(TILE * length, 0.0);
        for i in 0..queries {
            let row = rows.start + i / group;
            let head = h * group + i % group;
            let position = segment.position + row;
            let start = a.window.map_or(0, |w| (position + 1).saturating_sub(w));
            // SAFETY: `row` and `head` are of the batch, for whose rows and heads both arrays have room.
            unsafe {
                tile.q[tile.count] = qkv.as_ptr().add((segment.row + row) * width + head * s.head_dim);
                tile.out[tile.count] = out.add(((segment.row + row) * s.heads + head) * s.head_dim);
            }
            tile.sees[tile.count] = (start, position + 1);
            tile.count += 1;
            if tile.count == TILE || i + 1 == queries {
                // SAFETY: the table covers every position seen.
                unsafe { tile_of(&shape, &tile, cells, table.as_ptr(), scores.as_mut_ptr(), length) };
                tile.count = 0;
            }
        }
    });
}

impl Attention<'_, Cpu> {
    fn attention_cap(&self) -> Option<f32> {
        self.spec.attention_cap
    }
}

struct Shape {
    head_dim: usize,
    scale: f32,
    cap: Option<f32>,
    block: usize,
}

dispatch! {
    /// One tile against all blocks it sees. `scores` holds `TILE` rows of `length` numbers.
    unsafe fn tile_of(shape: &Shape, tile: &Tile, cells: *const f32, table: *const u32, scores: *mut f32, length: usize) = tile_kernel
}

#[inline(always)]
unsafe fn tile_kernel<S: Simd>(shape: &Shape, tile: &Tile, cells: *const f32, table: *const u32, scores: *mut f32, length: usize) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        match tile.count {
            1 => queries::<S, 1>(shape, tile, cells, table, scores, length),
            2 => queries::<S, 2>(shape, tile, cells, table, scores, length),
            3 => queries::<S, 3>(shape, tile, cells, table, scores, length),
            4 => queries::<S, 4>(shape, tile, cells, table, scores, length),
            5 => queries::<S, 5>(shape, tile, cells, table, scores, length),
            _ => queries::<S, 6>(shape, tile, cells, table, scores, length),
        }
    }
}

#[inline(always)]
unsafe fn queries<S: Simd, const Q: usize>(
    shape: &Shape,
    tile: &Tile,
    cells: *const f32,
    table: *const u32,
    scores: *mut f32,
    length: usize,
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let from = tile.sees[..Q].iter().map(|s| s.0).min().unwrap_or(0) / BLOCK;
        let to = tile.sees[..Q].iter().map(|s| s.1).max().unwrap_or(0);
        for b in from..to.div_ceil(BLOCK) {
            let keys = cells.add(*table.add(b) as usize * shape.block);
            let mut acc = [[S::splat(0.0); 2]; Q];
            for d in 0..shape.head_dim {
                let (k0, k1) = (S::load(keys.add(d * BLOCK)), S::load(keys.add(d * BLOCK + LANES)));
                for (q, sums) in acc.iter_mut().enumerate() {
                    let x = S::splat(*tile.q[q].add(d));
                    sums[0] = S::fma(x, k0, sums[0]);
                    sums[1] = S::fma(x, k1, sums[1]);
                }
            }
            for (q, sums) in acc.iter().enumerate() {
                for (half, sum) in sums.iter().enumerate() {
                    let mut v = S::mul(*sum, S::splat(shape.scale));
                    if let Some(cap) = shape.cap {
                        v = rows::capped::<S>(v, cap);
                    }
                    S::store(scores.add(q * length + b * BLOCK + half * LANES), v);
                }
            }
        }
        let mut scale = [0f32; Q];
        for (q, scale) in scale.iter_mut().enumerate() {
            *scale = 1.0 / softmax::<S>(scores.add(q * length), from * BLOCK, tile.sees[q], to.next_multiple_of(BLOCK));
        }
        let mut d = 0;
        while d < shape.head_dim {
            if shape.head_dim - d >= 2 * LANES {
                values::<S, Q, 2, false>(shape, tile, cells, table, scores, length, (from * BLOCK, to), d, &scale);
                d += 2 * LANES;
            } else if shape.head_dim - d >= LANES {
                values::<S, Q, 1, false>(shape, tile, cells, table, scores, length, (from * BLOCK, to), d, &scale);
                d += LANES;
            } else {
                values::<S, Q, 1, true>(shape, tile, cells, table, scores, length, (from * BLOCK, to), d, &scale);
                d = shape.head_dim;
            }
        }
    }
}

/// Turns scores into weights `e^(score - max)`, 0 where the query does not see; gives their sum.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: *mut f32, from: usize, (start, end): (usize, usize), to: usize) -> f32 {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        for i in (from..start).chain(end..to) {
            *scores.add(i) = f32::NEG_INFINITY;
        }
        let mut max = S::splat(f32::NEG_INFINITY);
        for i in (from..to).step_by(LANES) {
            max = S::max(S::load(scores.add(i)), max);
        }
        let mut lanes = [0f32; LANES];
        S::store(lanes.as_mut_ptr(), max);
        let max = S::splat(lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        for i in (from..to).step_by(LANES) {
            S::store(scores.add(i), S::exp(S::sub(S::load(scores.add(i)), max)));
        }
        for i in (from..start).chain(end..to) {
            *scores.add(i) = 0.0;
        }
        let mut sum = S::splat(0.0);
        for i in (from..to).step_by(LANES) {
            sum = S::add(sum, S::load(scores.add(i)));
        }
        S::sum(sum)
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn values<S: Simd, const Q: usize, const NV: usize, const TAIL: bool>(
    shape: &Shape,
    tile: &Tile,
    cells: *const f32,
    table: *const u32,
    scores: *const f32,
    length: usize,
    (from, to): (usize, usize),
    d: usize,
    scale: &[f32; Q],
) {
    // SAFETY: the caller's promise; no index leaves the lengths that it names.
    unsafe {
        let n = shape.head_dim - d;
        let mut acc = [[S::splat(0.0); NV]; Q];
        for position in from..to {
            let value = cells.add(*table.add(position / BLOCK) as usize * shape.block + (BLOCK + position % BLOCK) * shape.head_dim + d);
            let mut v = [S::splat(0.0); NV];
            for (i, v) in v.iter_mut().enumerate() {
                *v = crate::backend::cpu::simd::load::<S, TAIL>(value.add(i * LANES), n);
            }
            for (q, sums) in acc.iter_mut().enumerate() {
                let w = S::splat(*scores.add(q * length + position));
                for (sum, v) in sums.iter_mut().zip(&v) {
                    *sum = S::fma(w, *v, *sum);
                }
            }
        }
        for (q, sums) in acc.iter().enumerate() {
            for (i, sum) in sums.iter().enumerate() {
                let out = tile.out[q].add(d + i * LANES);
                crate::backend::cpu::simd::store::<S, TAIL>(out, S::mul(*sum, S::splat(scale[q])), n);
            }
        }
    }
}
