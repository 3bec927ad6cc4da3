//! Attention on the GPU: keys and values to the cache, then queries to what is in it.

use super::super::network::{Attention, Norm};
use super::kernels::blocks;
use super::{Array, Cache, Gpu, Plan, Vector};
use crate::Result;
use crate::device::mirror::mirrored;
use crate::device::{Arg, Geometry};

mirrored! {
    /// `Heads` of `decoder.cu`.
    #[derive(Clone, Copy)]
    pub(crate) struct Heads {
        heads: i32,
        kv_heads: i32,
        width: i32,
        padded: i32,
        rotated: i32,
        layer: i32,
        layers: i32,
        eps: f32,
    }
}

mirrored! {
    /// `AttentionShape` of `decoder_attention.cu`.
    #[derive(Clone, Copy)]
    pub(crate) struct AttentionShape {
        pub heads: i32,
        pub kv_heads: i32,
        pub width: i32,
        pub padded: i32,
        pub layer: i32,
        pub layers: i32,
        pub window: i32,
        pub scale: f32,
        pub cap: f32,
        pub ld: i32,
    }
}

/// Rotates queries and keys of `qkv [rows, (heads + 2 kv_heads) head_dim]`, stores keys and values, attends: `[rows, heads head_dim]`.
pub(super) fn attend(gpu: &Gpu, qkv: &Array, a: &Attention<'_, Gpu>, rows: usize, plan: &Plan, cache: &Cache) -> Result<Array> {
    let s = a.spec;
    let padded = gpu.padded(s.head_dim);
    let all = s.heads + 2 * s.kv_heads;
    let heads = Heads {
        heads: s.heads as i32,
        kv_heads: s.kv_heads as i32,
        width: s.head_dim as i32,
        padded: padded as i32,
        rotated: a.rope.rotated as i32,
        layer: a.layer as i32,
        layers: s.layers as i32,
        eps: a.query_norm.or(a.key_norm).map_or(0.0, |n| n.eps),
    };
    let norm = |norm: Option<&Norm<Vector>>| Arg::Pointer(norm.map_or(0, |n| n.weight.buffer.address()));
    let args = [
        Arg::Pointer(qkv.memory.address()),
        (&cache.buffer).into(),
        plan.at(&plan.lists.positions),
        plan.at(&plan.lists.places),
        norm(a.query_norm),
        norm(a.key_norm),
        (&a.rope.buffer).into(),
        Arg::value(&heads),
        (rows as i32).into(),
    ];
    gpu.launch(gpu.kernels.store, blocks((rows * all).div_ceil(8), 256), &args)?;

    let out = gpu.input(rows, s.heads * s.head_dim)?;
    let shape = AttentionShape {
        heads: heads.heads,
        kv_heads: heads.kv_heads,
        width: heads.width,
        padded: heads.padded,
        layer: heads.layer,
        layers: heads.layers,
        window: a.window.map_or(0, |w| w as i32),
        scale: s.query_scale,
        cap: s.attention_cap.unwrap_or(0.0),
        ld: Gpu::ld(out.width) as i32,
    };
    let (kernel, shared) = gpu.kernels.attend(padded);
    let tiles = plan.lists.tiles.len() as u32 / 4;
    let grid = [tiles, s.kv_heads as u32, s.group().div_ceil(16) as u32];
    let args = [
        Arg::Pointer(out.memory.address()),
        Arg::Pointer(qkv.memory.address()),
        (&cache.buffer).into(),
        plan.at(&plan.lists.tiles),
        plan.at(&plan.lists.tables),
        Arg::value(&shape),
    ];
    gpu.launch(kernel, Geometry { grid, block: [128, 1, 1], shared }, &args)?;
    Ok(out)
}
