//! The decoder's forward pass, of operations that have a gradient.

use super::fused::{Rms, Rotate, Shares};
use super::{Tuned, composed};
use crate::llm::spec::Activation;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// The rotary angles of every row and the rows of every sequence.
struct Rows {
    /// For each of the model's ropes.
    rotations: Vec<Rotate>,
    lengths: Vec<usize>,
}

impl Rows {
    fn new(model: &Tuned, lengths: Vec<usize>) -> Rows {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let one = |rope: &crate::llm::Rope| {
            let (table, rotated) = (rope.table(longest), rope.rotated());
            let angles: Vec<f32> = lengths.iter().flat_map(|n| &table[..n * rotated]).copied().collect();
            Rotate { angles: Arc::new(angles), rotated, back: false }
        };
        Rows { rotations: model.spec.ropes.iter().map(one).collect(), lengths }
    }
}

/// The last hidden states `[T, width]` of `sequences`, normalised.
pub fn hidden(model: &Tuned, sequences: &[&[u32]]) -> Result<Tensor> {
    let s = &model.spec;
    let rows = Rows::new(model, sequences.iter().map(|tokens| tokens.len()).collect());
    let table = model.weight("model.embed_tokens.weight")?.whole()?;
    let mut x = table.index_select(&Tensor::new(sequences.concat(), &model.device)?, 0)?;
    if s.embed_scale != 1.0 {
        x = (x * f64::from(s.embed_scale))?;
    }
    for i in 0..s.layers {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let normed = rms(model, &x, &name("input_layernorm.weight"))?;
        let seen = attention(model, &normed, i, &rows)?;
        x = (x + model.linear(&seen, &name("self_attn.o_proj"), s.out_bias)?)?;
        let normed = rms(model, &x, &name("post_attention_layernorm.weight"))?;
        let gate = model.linear(&normed, &name("mlp.gate_proj"), s.mlp_bias)?;
        let gate = match s.activation {
            Activation::Silu => gate.silu(),
            Activation::GeluTanh => gate.gelu(),
        }?;
        let inner = (gate * model.linear(&normed, &name("mlp.up_proj"), s.mlp_bias)?)?;
        x = (x + model.linear(&inner, &name("mlp.down_proj"), s.mlp_bias)?)?;
    }
    rms(model, &x, "model.norm.weight")
}

/// Every row of the last axis divided by the root of its mean square, times the weights `name`.
fn rms(model: &Tuned, x: &Tensor, name: &str) -> Result<Tensor> {
    let (weights, eps) = (model.weight(name)?.whole()?, model.spec.norm_eps);
    if x.device().is_cpu() { x.contiguous()?.apply_op2(&weights, Rms { eps }) } else { composed::rms(x, &weights, eps) }
}

/// `x [T, heads, head_dim]` rotated.
fn rotate(x: &Tensor, rotation: &Rotate) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(rotation.clone()) } else { composed::rotate(x, rotation) }
}

/// What each row takes of what it sees, from scores `[heads, n, n]`.
pub(super) fn shares(scores: &Tensor, window: Option<usize>) -> Result<Tensor> {
    if scores.device().is_cpu() { scores.apply_op1(Shares { window }) } else { composed::shares(scores, window) }
}

/// What each row sees of the rows before it in its sequence: `[T, heads head_dim]`.
fn attention(model: &Tuned, x: &Tensor, layer: usize, rows: &Rows) -> Result<Tensor> {
    let s = &model.spec;
    let rotation = &rows.rotations[s.layer_rope[layer]];
    let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
    let heads = |part: &str, n: usize, norm: Option<&str>| {
        let y = model.linear(x, &name(part), s.qkv_bias)?.reshape(((), n, s.head_dim))?;
        match norm {
            Some(norm) if s.qk_norm => rms(model, &y, &name(norm)),
            _ => Ok(y),
        }
    };
    let q = (rotate(&heads("q_proj", s.heads, Some("q_norm.weight"))?, rotation)? * f64::from(s.query_scale))?;
    let k = rotate(&heads("k_proj", s.kv_heads, Some("k_norm.weight"))?, rotation)?;
    let v = heads("v_proj", s.kv_heads, None)?;
    let mut seen = Vec::with_capacity(rows.lengths.len());
    let mut row = 0;
    for &n in &rows.lengths {
        // [heads, n, head_dim], a key head repeated for the query heads that share it.
        let own = |x: &Tensor| x.narrow(0, row, n)?.transpose(0, 1)?.contiguous();
        let shared = |x: &Tensor| {
            let x = own(x)?.unsqueeze(1)?;
            x.broadcast_as((s.kv_heads, s.group(), n, s.head_dim))?.reshape((s.heads, n, s.head_dim))
        };
        let scores = own(&q)?.matmul(&shared(&k)?.transpose(1, 2)?.contiguous()?)?;
        let taken = shares(&scores, s.windows[layer])?.matmul(&shared(&v)?)?;
        seen.push(taken.transpose(0, 1)?.reshape((n, s.heads * s.head_dim))?);
        row += n;
    }
    Tensor::cat(&seen, 0)
}
