//! GRU4Rec as RecBole keeps it, in the names and axes of LUMOS.
//!
//! | there | here |
//! |---|---|
//! | `item_embedding.weight [I + 1, d]`, row 0 for padding | `items [I, d]` |
//! | `gru_layers.weight_ih_lB [3 d, d]`, reset, update, new; no biases | `layerB.x`, weights `[in, out]`, biases 0 |
//! | `gru_layers.weight_hh_lB [3 d, d]` | `layerB.h` |
//! | `dense [d, d]` | `out` |
//!
//! There are no positions, and RecBole's padding stands behind a history, where nothing looks at it: histories of any length have its scores.

use super::Asked;
use super::port::turned;
use super::weights::Weights;
use crate::base::clean;
use crate::engine::NamedTensor;
use crate::{Error, Result};

/// The longest history that RecBole keeps by default (`MAX_ITEM_LIST_LENGTH`): the file does not say it.
const MAX_LEN: usize = 50;

const ITEMS: &str = "item_embedding.weight";

/// What the file says of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    /// Items.
    pub items: usize,
    /// Width.
    pub dim: usize,
    /// Recurrent layers.
    pub layers: usize,
    /// Longest history.
    pub max_len: usize,
}

fn into(layer: usize) -> String {
    format!("gru_layers.weight_ih_l{layer}")
}

fn within(layer: usize) -> String {
    format!("gru_layers.weight_hh_l{layer}")
}

/// Whether `weights` look like it.
pub(super) fn is_one(weights: &Weights) -> bool {
    weights.has(ITEMS) && weights.names().any(|name| name.starts_with("gru_layers."))
}

/// The shape of the model in `weights`.
///
/// # Errors
/// [`Error::Mismatch`] for widths that differ, a missing tensor, one more, and axes that do not fit; [`Error::Usage`] for what a GRU does not have.
pub(super) fn shape(weights: &Weights, asked: &Asked) -> Result<Shape> {
    for (flag, given) in [("--heads", asked.heads != 1), ("--blocks", asked.blocks.is_some())] {
        if given {
            return Err(Error::Usage(format!("{flag}: the file is a GRU4Rec of RecBole, which has no attention; leave it out")));
        }
    }
    let [rows, dim] = weights.table(ITEMS)?;
    if rows < 3 {
        return Err(weights.wrong(format!("`{ITEMS}` has {rows} rows; a row of padding and two items at least are wanted")));
    }
    let [_, hidden] = weights.table(&within(0))?;
    if hidden != dim {
        let remedy = "LUMOS has one width for both; train it with hidden_size equal to embedding_size";
        return Err(weights.wrong(format!("is a GRU4Rec of RecBole with embedding_size {dim} and hidden_size {hidden}: {remedy}")));
    }
    let layers = (0..).take_while(|layer| weights.has(&within(*layer))).count();
    let known: Vec<String> =
        (0..layers).flat_map(|layer| [into(layer), within(layer)]).chain([ITEMS, "dense.weight", "dense.bias"].map(String::from)).collect();
    let more: Vec<String> = weights.names().filter(|name| !known.iter().any(|one| one == name)).map(clean::id).collect();
    if !more.is_empty() {
        let listed = more.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let message =
            format!("has {} tensors that RecBole's GRU4Rec does not have ({listed}): another model, which is not known", more.len());
        return Err(weights.wrong(message));
    }
    Ok(Shape { items: rows - 1, dim, layers, max_len: asked.max_len.map_or(MAX_LEN, |n| n as usize) })
}

/// The weights in the names and axes of LUMOS; `items [I, d]` in the order of the file.
///
/// # Errors
/// As for [`Weights::values`].
pub(super) fn tensors(weights: &Weights, shape: &Shape) -> Result<Vec<NamedTensor>> {
    let d = shape.dim;
    let mut out = Vec::new();
    let mut put = |name: &str, axes: &[usize], values: &[f32]| out.push(NamedTensor::f32(name, axes, values));
    put("items", &[shape.items, d], &weights.values(ITEMS, &[&[shape.items + 1, d]])?[d..]);
    for layer in 0..shape.layers {
        for (ours, theirs) in [("x", into(layer)), ("h", within(layer))] {
            put(&format!("layer{layer}.{ours}.w"), &[d, 3 * d], &turned(&weights.values(&theirs, &[&[3 * d, d]])?, 3 * d, d));
            put(&format!("layer{layer}.{ours}.b"), &[3 * d], &vec![0.0; 3 * d]);
        }
    }
    put("out.w", &[d, d], &turned(&weights.values("dense.weight", &[&[d, d]])?, d, d));
    put("out.b", &[d], &weights.values("dense.bias", &[&[d]])?);
    Ok(out)
}
