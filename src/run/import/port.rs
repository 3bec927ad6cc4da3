//! SASRec as pmixer/SASRec.pytorch keeps it, in the names and axes of LUMOS. RecBole's SASRec is known, and refused.
//!
//! | there | here |
//! |---|---|
//! | `item_emb.weight [I + 1, d]`, row 0 for padding | `items [I, d]` |
//! | `pos_emb.weight [L, d]`, or `[L + 1, d]` with row 0 for padding; histories end at the last row | `positions [L, d]` with `model.positions = "last"` |
//! | `attention_layernorms.B` | `blockB.norm1` |
//! | `attention_layers.B.in_proj_weight [3 d, d]` and `in_proj_bias [3 d]`: queries, keys, values | `blockB.q`, `.k`, `.v`, weights `[in, out]` |
//! | `attention_layers.B.out_proj` | `blockB.o` |
//! | `forward_layernorms.B`, `forward_layers.B.conv1`, `conv2` (`[out, in, 1]`) | `blockB.norm2`, `.f1`, `.f2` |
//! | `last_layernorm` | `norm` |

use super::weights::Weights;
use super::{Asked, Blocks};
use crate::base::clean;
use crate::engine::NamedTensor;
use crate::{Error, Result};
use std::collections::BTreeSet;

/// What the file says of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// Items.
    pub items: usize,
    /// Width.
    pub dim: usize,
    /// Inner width of the feed-forward layer.
    pub inner: usize,
    /// Blocks.
    pub blocks: usize,
    /// Longest history.
    pub max_len: usize,
    /// Whether row 0 of the positions is for padding.
    padded: bool,
}

/// The shape of the model in `weights`.
///
/// # Errors
/// [`Error::Mismatch`] for a model that LUMOS has no counterpart for, a missing tensor and axes that do not fit.
pub(super) fn shape(weights: &Weights, asked: &Asked) -> Result<Shape> {
    known(weights)?;
    let [rows, dim] = weights.table("item_emb.weight")?;
    let [positions, _] = weights.table("pos_emb.weight")?;
    if rows < 3 {
        return Err(weights.wrong(format!("`item_emb.weight` has {rows} rows; a row of padding and two items at least are wanted")));
    }
    let (max_len, padded) = max_len(weights, positions, dim, asked)?;
    blocks_fit(weights, padded, asked)?;
    let blocks = (0..).take_while(|b| weights.has(&format!("attention_layers.{b}.in_proj_weight"))).count();
    if blocks == 0 {
        return Err(weights.wrong("has no tensor `attention_layers.0.in_proj_weight`"));
    }
    let conv1 = weights.shape("forward_layers.0.conv1.weight")?;
    let inner = conv1.first().copied().unwrap_or(dim);
    let heads = asked.heads as usize;
    if heads == 0 || !dim.is_multiple_of(heads) {
        let divisors: Vec<String> = (1..=dim.min(64)).filter(|n| dim.is_multiple_of(*n)).map(|n| n.to_string()).collect();
        return Err(Error::Usage(format!("--heads {heads}: must divide the width {dim}: {}", divisors.join(", "))));
    }
    let shape = Shape { items: rows - 1, dim, inner, blocks, max_len, padded };
    nothing_more(weights, &shape)?;
    Ok(shape)
}

/// Refuses what is no SASRec of the PyTorch port.
fn known(weights: &Weights) -> Result<()> {
    if weights.has("item_emb.weight") && weights.has("pos_emb.weight") {
        return Ok(());
    }
    if weights.has("item_embedding.weight") && weights.names().any(|name| name.starts_with("trm_encoder.layer.")) {
        return Err(weights.wrong(
            "is a transformer of RecBole, which LUMOS has no counterpart for: its blocks put the norm behind each residual, have gelu by erf and \
             attend to earlier items alone, over a norm of the input. `sasrec` has its norms before and relu; `bert4rec` has them behind, but \
             attends both ways, asks at a mask item, has gelu by tanh and an output layer",
        ));
    }
    if weights.has("items.weight") && weights.has("blocks.0.q.weight") {
        return Err(weights.wrong("is a model that `lumos export --torch` wrote; the run folder that it came from has the same weights"));
    }
    let names: Vec<String> = weights.names().take(8).map(clean::id).collect();
    let names = if names.is_empty() { "none".to_string() } else { names.join(", ") };
    let wanted = "a state_dict of pmixer/SASRec.pytorch has `item_emb.weight`, `pos_emb.weight`, `attention_layers.0.in_proj_weight`, one of RecBole's \
                  GRU4Rec `item_embedding.weight`, `gru_layers.weight_ih_l0`, `dense.weight`";
    Err(weights.wrong(format!("is no model that is known: {wanted}. Tensors: {names}")))
}

/// The longest history, and whether row 0 of the `rows` positions is for padding.
fn max_len(weights: &Weights, rows: usize, dim: usize, asked: &Asked) -> Result<(usize, bool)> {
    match asked.max_len {
        Some(max_len) if rows == max_len as usize => Ok((rows, false)),
        Some(max_len) if rows == max_len as usize + 1 => Ok((rows - 1, true)),
        Some(max_len) => {
            Err(weights.wrong(format!("`pos_emb.weight` has {rows} rows, and --max-len {max_len} expects {max_len} or one more")))
        }
        None => {
            let values = weights.values("pos_emb.weight", &[&[rows, dim]])?;
            let padded = rows > 1 && values[..dim].iter().all(|x| *x == 0.0);
            Ok((rows - usize::from(padded), padded))
        }
    }
}

/// Refuses blocks that LUMOS does not have. The tensors are the same for all three kinds.
fn blocks_fit(weights: &Weights, padded: bool, asked: &Asked) -> Result<()> {
    let refuse = |what: &str| {
        let ours = "LUMOS takes queries from the norm of a block's input, keys and values from the input itself, and carries the norm on";
        Err(weights.wrong(format!("--blocks: {what}, which LUMOS has no counterpart for: {ours}")))
    };
    match asked.blocks {
        Some(Blocks::QueryNorm) => Ok(()),
        Some(Blocks::NormFirst) => refuse("blocks of --norm_first take keys and values from the norm as well and carry the input on"),
        Some(Blocks::PostNorm) => refuse("newer blocks without --norm_first put the norm behind each residual"),
        None if !padded => Ok(()),
        None => {
            let message = "has a row of padding among its positions, as several versions of the port have whose blocks compute different \
                           things with the same tensors; look at log2feats in its model.py and pass --blocks: query-norm where attention is \
                           called with (Q, seqs, seqs), norm-first or post-norm where it has `if self.norm_first`";
            Err(weights.wrong(message))
        }
    }
}

/// The tensors of block `b`: how they are called there.
fn block(b: usize) -> [String; 12] {
    let name = |kind: &str, rest: &str| format!("{kind}.{b}.{rest}");
    [
        name("attention_layernorms", "weight"),
        name("attention_layernorms", "bias"),
        name("attention_layers", "in_proj_weight"),
        name("attention_layers", "in_proj_bias"),
        name("attention_layers", "out_proj.weight"),
        name("attention_layers", "out_proj.bias"),
        name("forward_layernorms", "weight"),
        name("forward_layernorms", "bias"),
        name("forward_layers", "conv1.weight"),
        name("forward_layers", "conv1.bias"),
        name("forward_layers", "conv2.weight"),
        name("forward_layers", "conv2.bias"),
    ]
}

/// Refuses tensors that the port does not have: a model with more of them computes something else.
fn nothing_more(weights: &Weights, shape: &Shape) -> Result<()> {
    let others = ["item_emb.weight", "pos_emb.weight", "last_layernorm.weight", "last_layernorm.bias"];
    let known: BTreeSet<String> = others.map(String::from).into_iter().chain((0..shape.blocks).flat_map(block)).collect();
    let more: Vec<String> = weights.names().filter(|name| !known.contains(*name)).map(clean::id).collect();
    if more.is_empty() {
        return Ok(());
    }
    let listed = more.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
    Err(weights
        .wrong(format!("has {} tensors that SASRec.pytorch does not have ({listed}): another model, which is not known", more.len())))
}

/// The weights in the names and axes of LUMOS; `items [I, d]` in the order of the file.
///
/// # Errors
/// As for [`Weights::values`].
pub(super) fn tensors(weights: &Weights, shape: &Shape) -> Result<Vec<NamedTensor>> {
    let (d, inner) = (shape.dim, shape.inner);
    let mut out = Vec::new();
    let mut put = |name: &str, axes: &[usize], values: &[f32]| out.push(NamedTensor::f32(name, axes, values));
    put("items", &[shape.items, d], &weights.values("item_emb.weight", &[&[shape.items + 1, d]])?[d..]);
    let padding = usize::from(shape.padded);
    let positions = weights.values("pos_emb.weight", &[&[shape.max_len + padding, d]])?;
    put("positions", &[shape.max_len, d], &positions[padding * d..]);
    for b in 0..shape.blocks {
        let [norm1, norm1_bias, projection, projection_bias, o, o_bias, norm2, norm2_bias, f1, f1_bias, f2, f2_bias] = block(b);
        put(&format!("block{b}.norm1.g"), &[d], &weights.values(&norm1, &[&[d]])?);
        put(&format!("block{b}.norm1.b"), &[d], &weights.values(&norm1_bias, &[&[d]])?);
        let (all, biases) = (weights.values(&projection, &[&[3 * d, d]])?, weights.values(&projection_bias, &[&[3 * d]])?);
        for (part, name) in ["q", "k", "v"].into_iter().enumerate() {
            put(&format!("block{b}.{name}.w"), &[d, d], &turned(&all[part * d * d..][..d * d], d, d));
            put(&format!("block{b}.{name}.b"), &[d], &biases[part * d..][..d]);
        }
        put(&format!("block{b}.o.w"), &[d, d], &turned(&weights.values(&o, &[&[d, d]])?, d, d));
        put(&format!("block{b}.o.b"), &[d], &weights.values(&o_bias, &[&[d]])?);
        put(&format!("block{b}.norm2.g"), &[d], &weights.values(&norm2, &[&[d]])?);
        put(&format!("block{b}.norm2.b"), &[d], &weights.values(&norm2_bias, &[&[d]])?);
        let f1 = weights.values(&f1, &[&[inner, d, 1], &[inner, d]])?;
        put(&format!("block{b}.f1.w"), &[d, inner], &turned(&f1, inner, d));
        put(&format!("block{b}.f1.b"), &[inner], &weights.values(&f1_bias, &[&[inner]])?);
        let f2 = weights.values(&f2, &[&[d, inner, 1], &[d, inner]])?;
        put(&format!("block{b}.f2.w"), &[inner, d], &turned(&f2, d, inner));
        put(&format!("block{b}.f2.b"), &[d], &weights.values(&f2_bias, &[&[d]])?);
    }
    put("norm.g", &[d], &weights.values("last_layernorm.weight", &[&[d]])?);
    put("norm.b", &[d], &weights.values("last_layernorm.bias", &[&[d]])?);
    Ok(out)
}

/// `[out, in]` as `[in, out]`.
pub(super) fn turned(values: &[f32], outs: usize, ins: usize) -> Vec<f32> {
    (0..ins).flat_map(|i| (0..outs).map(move |o| values[o * ins + i])).collect()
}
