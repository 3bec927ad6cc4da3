//! Random blocks in the width of the processor's vectors.

use super::simd::{Simd, dispatch};
use crate::base::rng::Stream;

/// Blocks that are drawn at a time.
pub const DRAWS: usize = 16;

/// Word `w` of the block at `first + i * stride` of `stream` at `[w][i]`.
pub fn draws(stream: &Stream, first: u64, stride: u64) -> [[u32; DRAWS]; 4] {
    // SAFETY: no instruction but those of the level.
    unsafe { draws_at(stream, first, stride) }
}

dispatch! {
    unsafe fn draws_at(stream: &Stream, first: u64, stride: u64) -> [[u32; DRAWS]; 4] = draws_kernel
}

// Plain loops: what the level changes is the instructions that they are compiled to.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn draws_kernel<S: Simd>(stream: &Stream, first: u64, stride: u64) -> [[u32; DRAWS]; 4] {
    stream.blocks_at(first, stride)
}
