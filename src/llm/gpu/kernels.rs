//! The decoder's kernels, each under a name for every number it computes with, and the choice of a product's tile.

use super::super::weights::Stored;
use super::Gpu;
use super::attention::{AttentionShape, Heads};
use crate::device::interface::Limits;
use crate::device::launch::{Pointer, kernels};

/// Kinds of numbers, in the order of [`Stored`]; a kernel's names follow them.
const KINDS: usize = 3;
/// Bytes of the numbers, in that order.
const BYTES: [usize; KINDS] = [4, 2, 2];

/// A tile of a product: rows and outputs of a block, its threads, its shared memory by the numbers.
struct Tile {
    rows: usize,
    outputs: usize,
    threads: usize,
    shared: [usize; KINDS],
}

const TILES: [Tile; 4] = [
    Tile { rows: 16, outputs: 32, threads: 128, shared: [13_824, 27_648, 27_648] },
    Tile { rows: 64, outputs: 64, threads: 128, shared: [36_864, 40_960, 40_960] },
    Tile { rows: 128, outputs: 128, threads: 256, shared: [73_728, 81_920, 81_920] },
    // By warpgroups; there is none for f32.
    Tile { rows: 256, outputs: 128, threads: 256, shared: [0, 197_632, 197_632] },
];
/// The tile by warpgroups.
const WIDE: usize = 3;
/// Names of [`Multiply`].
const PRODUCTS: usize = 4 * KINDS - 1;

/// One number for each kind and each of its three sizes, in the order of the names.
fn by_size<T>(of: impl Fn(usize, usize) -> T) -> [T; 3 * KINDS] {
    std::array::from_fn(|place| of(place / 3, place % 3))
}

/// One number for each name of [`Multiply`], by kind of number and tile: those of the first three tiles, then the others.
fn by_tile<T>(of: impl Fn(usize, &Tile) -> T) -> [T; PRODUCTS] {
    std::array::from_fn(|place| {
        let (kind, tile) = if place < 3 * KINDS { (place / 3, place % 3) } else { (place - 3 * KINDS + 1, WIDE) };
        of(kind, &TILES[tile])
    })
}

/// Bytes of attention's shared memory for heads of `padded` numbers of `size` bytes: two pieces of keys and values, or one.
fn attend_shared(padded: usize, size: usize) -> usize {
    let pieces = if padded > 128 && size == 4 { 1 } else { 2 };
    64 * padded + 2048 + pieces * 32 * size * (2 * padded + 16 / size)
}

kernels! {
    // decoder.cu
    Embed = decoder_embed_f32 decoder_embed_f16 decoder_embed_bf16 (x: Pointer, table: Pointer, tokens: Pointer, width: i32, ld: i32,
        scale: f32) 128, 0;
    Normalise = decoder_norm_f32 decoder_norm_f16 decoder_norm_bf16 (y: Pointer, x: Pointer, weight: Pointer, width: i32, ld: i32,
        eps: f32) 128, 128;
    Gate = decoder_gated_f32 decoder_gated_f16 decoder_gated_bf16 (y: Pointer, gate_up: Pointer, inner: i32, ld: i32, gelu: i32) 128, 0;
    AddRows = decoder_add_f32 decoder_add_f16 decoder_add_bf16 (x: Pointer, y: Pointer, width: i32, ld: i32) 128, 0;
    StoreHeads = decoder_store_f32 decoder_store_f16 decoder_store_bf16 (qkv: Pointer, cache: Pointer, positions: Pointer,
        places: Pointer, query_norm: Pointer, key_norm: Pointer, table: Pointer, heads: Heads, rows: i32) 256, 0;
    PickRows = decoder_pick (to: Pointer, from: Pointer, rows: Pointer, words: i32) 128, 0;
    // decoder_attention.cu
    Attend = decoder_attend_f32_2 decoder_attend_f32_4 decoder_attend_f32_8 decoder_attend_f16_2 decoder_attend_f16_4
        decoder_attend_f16_8 decoder_attend_bf16_2 decoder_attend_bf16_4 decoder_attend_bf16_8 (out: Pointer, qkv: Pointer,
        cache: Pointer, tiles: Pointer, tables: Pointer, shape: AttentionShape)
        128, by_size(|kind, _| attend_shared(shape.padded as usize, BYTES[kind]));
    // decoder_choice.cu
    ChooseTokens = decoder_choose (tokens: Pointer, logits: Pointer, some: Pointer, asks: Pointer, allowed: Pointer, seen: Pointer,
        biases: Pointer, vocab: i32, cap: f32) 512, 41_272;
    // decoder_linear.cu, decoder_wide.cu
    Multiply = decoder_linear_f32_16 decoder_linear_f32_64 decoder_linear_f32_128 decoder_linear_f16_16 decoder_linear_f16_64
        decoder_linear_f16_128 decoder_linear_bf16_16 decoder_linear_bf16_64 decoder_linear_bf16_128 decoder_wide_f16
        decoder_wide_bf16 (y: Pointer, x: Pointer, w: Pointer, bias: Pointer, rows: i32, outputs: i32, ld: i32, add: i32;
        groups: usize)
        by_tile(|_, tile| groups * tile.threads), by_tile(|kind, tile| groups * tile.shared[kind]);
    SomeOutputs = decoder_some_f32 decoder_some_f16 decoder_some_bf16 (y: Pointer, x: Pointer, w: Pointer, bias: Pointer,
        pairs: Pointer, count: i32, ld: i32) 256, 0;
}

/// A way to launch [`Multiply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// Place of its name.
    pub place: usize,
    /// Blocks of a launch.
    pub blocks: [u32; 2],
    /// Groups of a block's threads that work at parts of the depth side by side.
    pub groups: usize,
}

impl Product {
    fn count(&self) -> u64 {
        self.blocks.iter().map(|&n| u64::from(n)).product()
    }
}

/// Parts of a depth, the numbers of `decoder_parts.cuh`.
fn parts(depth: usize) -> usize {
    Gpu::ld(depth).div_ceil(2048).min(4)
}

/// Whether a GPU of `limits` has products by warpgroups for this kind of number.
pub(crate) fn has_warpgroups(number: Stored, limits: &Limits) -> bool {
    number != Stored::F32 && limits.capability == (9, 0) && TILES[WIDE].shared[number as usize] <= limits.shared_per_block
}

/// A product, and what may compute it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub number: Stored,
    pub rows: usize,
    pub depth: usize,
    pub outputs: usize,
    pub limits: &'a Limits,
    /// Whether the tile by warpgroups may be taken.
    pub wide: bool,
}

impl Shape<'_> {
    /// The ways to launch the product by a tile: with one group of threads, and with the most groups that the GPU takes.
    pub fn by(&self, tile: usize) -> [Product; 2] {
        let (number, parts, t) = (self.number as usize, parts(self.depth), &TILES[tile]);
        let fits = t.rows < 128 && parts * t.shared[number] <= self.limits.shared_per_block;
        let blocks = [self.rows.div_ceil(t.rows) as u32, self.outputs.div_ceil(t.outputs) as u32];
        let place = if tile == WIDE { 3 * KINDS + number - 1 } else { 3 * number + tile };
        [1, if fits { parts } else { 1 }].map(|groups| Product { place, blocks, groups })
    }

    /// How many of the tiles may be taken, smallest first.
    pub fn tiles(&self) -> usize {
        if self.wide && self.number != Stored::F32 { 4 } else { 3 }
    }

    /// The product by the largest tile of which there are enough for all multiprocessors, counting groups, or by warpgroups for three
    /// quarters of them: by the other tiles shared memory feeds tensor cores at half of their rate (docs/performance.md). With one group
    /// where there are two blocks for each of them. An output has the same bits in each.
    pub fn product(&self) -> Product {
        let wanted = u64::from(self.limits.multiprocessors);
        let fits = |tile: &usize| {
            let (most, enough) = (self.by(*tile)[1], if *tile == WIDE { (3 * wanted).div_ceil(4) } else { wanted });
            2 * self.rows > TILES[*tile].rows && most.count() * most.groups as u64 >= enough
        };
        let [one, most] = self.by((1..self.tiles()).rev().find(fits).unwrap_or(0));
        if one.count() >= 2 * wanted { one } else { most }
    }
}

/// Place of [`Attend`]'s name for heads of `padded` numbers.
pub(crate) fn attend(number: Stored, padded: usize) -> usize {
    let size = if padded <= 64 { 0 } else { usize::from(padded > 128) + 1 };
    3 * number as usize + size
}
