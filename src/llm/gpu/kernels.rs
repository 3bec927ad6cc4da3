//! The decoder's kernels, each under a name for every number it computes with, and the choice of a product's tile.

use super::super::weights::Stored;
use super::attention::{AttentionShape, Heads};
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

const TILES: [Tile; 3] = [
    Tile { rows: 16, outputs: 32, threads: 128, shared: [13_824, 27_648, 27_648] },
    Tile { rows: 64, outputs: 64, threads: 128, shared: [36_864, 40_960, 40_960] },
    Tile { rows: 128, outputs: 128, threads: 256, shared: [73_728, 81_920, 81_920] },
];

/// One number for each kind and each of its three sizes, in the order of the names.
fn by_size<T>(of: impl Fn(usize, usize) -> T) -> [T; 3 * KINDS] {
    std::array::from_fn(|place| of(place / 3, place % 3))
}

/// Bytes of attention's shared memory for heads of `padded` numbers of `size` bytes.
fn attend_shared(padded: usize, size: usize) -> usize {
    64 * padded + 2048 + 32 * size * (2 * padded + 16 / size)
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
        biases: Pointer, vocab: i32, cap: f32) 512, 24_856;
    // decoder_linear.cu
    Multiply = decoder_linear_f32_16 decoder_linear_f32_64 decoder_linear_f32_128 decoder_linear_f16_16 decoder_linear_f16_64
        decoder_linear_f16_128 decoder_linear_bf16_16 decoder_linear_bf16_64 decoder_linear_bf16_128 (y: Pointer, x: Pointer,
        w: Pointer, bias: Pointer, rows: i32, outputs: i32, ld: i32, add: i32)
        by_size(|_, tile| TILES[tile].threads), by_size(|kind, tile| TILES[tile].shared[kind]);
    SomeOutputs = decoder_some_f32 decoder_some_f16 decoder_some_bf16 (y: Pointer, x: Pointer, w: Pointer, bias: Pointer,
        pairs: Pointer, count: i32, ld: i32) 256, 0;
}

/// Place of [`Multiply`]'s name and the blocks of a launch, by each of the tiles.
pub(crate) fn products(number: Stored, rows: usize, outputs: usize) -> [(usize, [u32; 2]); 3] {
    std::array::from_fn(|i| {
        let tile = &TILES[i];
        (3 * number as usize + i, [rows.div_ceil(tile.rows) as u32, outputs.div_ceil(tile.outputs) as u32])
    })
}

/// The product for a shape: by the largest tile of which there are enough for all `multiprocessors`. An output has the same bits in each.
pub(super) fn product(number: Stored, rows: usize, outputs: usize, multiprocessors: u32) -> (usize, [u32; 2]) {
    let all = products(number, rows, outputs);
    let fits =
        |i: &usize| 2 * rows > TILES[*i].rows && all[*i].1.iter().map(|&n| u64::from(n)).product::<u64>() >= u64::from(multiprocessors);
    all[(1..3).rev().find(fits).unwrap_or(0)]
}

/// Place of [`Attend`]'s name for heads of `padded` numbers.
pub(crate) fn attend(number: Stored, padded: usize) -> usize {
    let size = if padded <= 64 { 0 } else { usize::from(padded > 128) + 1 };
    3 * number as usize + size
}
