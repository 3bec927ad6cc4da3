//! Attention on the GPU: keys and values to the cache, then queries to what is in it.

use super::super::network::{Attention, Norm};
use super::kernels::{self, Attend, StoreHeads};
use super::{Array, Cache, Gpu, Plan, Vector};
use crate::Result;
use crate::device::launch::Pointer;
use crate::device::mirror::mirrored;

mirrored! {
    /// `Heads` of `decoder.cu`.
    #[derive(Clone, Copy)]
    pub struct Heads {
        /// Query heads.
        pub heads: i32,
        /// Key heads.
        pub kv_heads: i32,
        /// Numbers of a head.
        pub width: i32,
        /// Numbers of a head in the cache, with its padding.
        pub padded: i32,
        /// Numbers of a head that are rotated.
        pub rotated: i32,
        /// The layer at hand.
        pub layer: i32,
        /// Layers of the cache.
        pub layers: i32,
        /// Added to the mean square of a head's norm.
        pub eps: f32,
    }
}

mirrored! {
    /// `AttentionShape` of `decoder_attention.cu`.
    #[derive(Clone, Copy)]
    pub struct AttentionShape {
        /// Query heads.
        pub heads: i32,
        /// Key heads.
        pub kv_heads: i32,
        /// Numbers of a head.
        pub width: i32,
        /// Numbers of a head in the cache, with its padding.
        pub padded: i32,
        /// The layer at hand.
        pub layer: i32,
        /// Layers of the cache.
        pub layers: i32,
        /// Latest positions that a query sees; 0: all.
        pub window: i32,
        /// Factor on products of queries and keys.
        pub scale: f32,
        /// Scores become `cap tanh(score / cap)`; 0: they stay.
        pub cap: f32,
        /// Numbers of a row of the output, with its padding.
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
    let norm = |norm: Option<&Norm<Vector>>| norm.map_or(Pointer::NULL, |n| (&n.weight.buffer).into());
    let store = StoreHeads {
        qkv: qkv.at(),
        cache: (&cache.buffer).into(),
        positions: plan.at(&plan.lists.positions),
        places: plan.at(&plan.lists.places),
        query_norm: norm(a.query_norm),
        key_norm: norm(a.key_norm),
        table: (&a.rope.buffer).into(),
        heads,
        rows: rows as i32,
    };
    gpu.go([(rows * all).div_ceil(8) as u32, 1], store)?;

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
    let tiles = plan.lists.tiles.len() as u32 / 4;
    let attend = Attend {
        out: out.at(),
        qkv: qkv.at(),
        cache: (&cache.buffer).into(),
        tiles: plan.at(&plan.lists.tiles),
        tables: plan.at(&plan.lists.tables),
        shape,
    };
    gpu.go_as(kernels::attend(gpu.number, padded), [tiles, s.kv_heads as u32, s.group().div_ceil(16) as u32], attend)?;
    Ok(out)
}
