//! The decoder's forward pass, of operations that candle can differentiate.

use super::Tuned;
use crate::llm::spec::Activation;
use candle_core::{D, Device, Result, Tensor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Cosines and sines of every row's position `[T, 1, rotated / 2]`.
struct Angles {
    cos: Tensor,
    sin: Tensor,
    rotated: usize,
}

/// Which rows of one sequence belong together, and what each of them sees.
struct Rows {
    lengths: Vec<usize>,
    /// 0 where a row sees another, minus infinity elsewhere `[n, n]`, by length and window.
    masks: BTreeMap<(usize, Option<usize>), Tensor>,
}

impl Rows {
    fn new(model: &Tuned, lengths: Vec<usize>) -> Result<Rows> {
        let mut masks = BTreeMap::new();
        for &n in &lengths {
            for &window in &model.spec.windows {
                if let Entry::Vacant(open) = masks.entry((n, window)) {
                    open.insert(mask(n, window, &model.device)?);
                }
            }
        }
        Ok(Rows { lengths, masks })
    }
}

/// The last hidden states `[T, width]` of `sequences`, normalised.
pub fn hidden(model: &Tuned, sequences: &[&[u32]]) -> Result<Tensor> {
    let s = &model.spec;
    let tokens: Vec<u32> = sequences.concat();
    let rows = Rows::new(model, sequences.iter().map(|tokens| tokens.len()).collect())?;
    let angles = angles(model, &rows.lengths)?;
    let table = model.weight("model.embed_tokens.weight")?.whole()?;
    let mut x = table.index_select(&Tensor::new(tokens, &model.device)?, 0)?;
    if s.embed_scale != 1.0 {
        x = (x * f64::from(s.embed_scale))?;
    }
    for i in 0..s.layers {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let normed = rms(model, &x, &name("input_layernorm.weight"))?;
        let seen = attention(model, &normed, i, &angles[s.layer_rope[i]], &rows)?;
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

/// Rotary angles of every row, for each of the model's ropes.
fn angles(model: &Tuned, lengths: &[usize]) -> Result<Vec<Angles>> {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let positions: Vec<u32> = lengths.iter().flat_map(|n| 0..*n as u32).collect();
    let positions = Tensor::new(positions, &model.device)?;
    let one = |rope: &crate::llm::Rope| {
        let (rotated, half) = (rope.rotated(), rope.rotated() / 2);
        let table = Tensor::from_vec(rope.table(longest), (longest, 2, half), &model.device)?.index_select(&positions, 0)?;
        Ok(Angles { cos: table.narrow(1, 0, 1)?.contiguous()?, sin: table.narrow(1, 1, 1)?.contiguous()?, rotated })
    };
    model.spec.ropes.iter().map(one).collect()
}

/// Every row of the last axis divided by the root of its mean square, times the weights `name`.
fn rms(model: &Tuned, x: &Tensor, name: &str) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(model.spec.norm_eps))?.sqrt()?;
    x.broadcast_div(&size)?.broadcast_mul(&model.weight(name)?.whole()?)
}

/// `x [T, heads, head_dim]` rotated: the first half of the rotated columns with the second.
fn rotate(x: &Tensor, angles: &Angles) -> Result<Tensor> {
    let (width, half) = (x.dim(2)?, angles.rotated / 2);
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let turned = [
        (a.broadcast_mul(&angles.cos)? - b.broadcast_mul(&angles.sin)?)?,
        (b.broadcast_mul(&angles.cos)? + a.broadcast_mul(&angles.sin)?)?,
    ];
    let [first, second] = &turned;
    if angles.rotated == width {
        return Tensor::cat(&[first, second], 2);
    }
    Tensor::cat(&[first, second, &x.narrow(2, angles.rotated, width - angles.rotated)?], 2)
}

/// What each row sees of the rows before it in its sequence: `[T, heads head_dim]`.
fn attention(model: &Tuned, x: &Tensor, layer: usize, angles: &Angles, rows: &Rows) -> Result<Tensor> {
    let s = &model.spec;
    let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
    let heads = |part: &str, n: usize, norm: Option<&str>| {
        let y = model.linear(x, &name(part), s.qkv_bias)?.reshape(((), n, s.head_dim))?;
        match norm {
            Some(norm) if s.qk_norm => rms(model, &y, &name(norm)),
            _ => Ok(y),
        }
    };
    let q = (rotate(&heads("q_proj", s.heads, Some("q_norm.weight"))?, angles)? * f64::from(s.query_scale))?;
    let k = rotate(&heads("k_proj", s.kv_heads, Some("k_norm.weight"))?, angles)?;
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
        let shares = softmax(&scores.broadcast_add(&rows.masks[&(n, s.windows[layer])])?)?;
        seen.push(shares.matmul(&shared(&v)?)?.transpose(0, 1)?.reshape((n, s.heads * s.head_dim))?);
        row += n;
    }
    Tensor::cat(&seen, 0)
}

/// 0 where row `i` sees row `j`, minus infinity elsewhere `[n, n]`.
fn mask(n: usize, window: Option<usize>, device: &Device) -> Result<Tensor> {
    let sees = |i: usize, j: usize| j <= i && window.is_none_or(|w| i - j < w);
    let values: Vec<f32> = (0..n * n).map(|at| if sees(at / n, at % n) { 0.0 } else { f32::NEG_INFINITY }).collect();
    Tensor::from_vec(values, (n, n), device)
}

/// Softmax over the last axis. The largest value, which is only taken off for range, has no gradient.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
