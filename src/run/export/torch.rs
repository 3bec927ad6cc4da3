//! A `state_dict` in safetensors, the settings of the model, and a model in Python that reads both.

use super::{Exported, Floats, Source, write};
use crate::config::Backbone;
use crate::run::{Observer, RunFolder};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::path::Path;

/// Writes `model.safetensors`, `model.json`, `model.py` and `items.csv` into `out`: the checkpoint `name` of the run in `folder` as a model in PyTorch that gives
/// the scores, and so the ranks, of LUMOS up to rounding. What clients keep to themselves is not part of it.
///
/// # Errors
/// Where the checkpoint or the data set cannot be read, for a backbone of another crate, and where `out` cannot be written.
pub fn to_torch(folder: &RunFolder, name: &str, out: &Path, observer: &dyn Observer) -> Result<Exported> {
    let source = Source::open(folder, name, observer)?;
    let model = &source.settings.model;
    let (code, widening) = match model.backbone {
        Backbone::SASREC => (include_str!("sasrec.py"), 1),
        Backbone::GRU4REC => (include_str!("gru4rec.py"), 1),
        Backbone::BERT4REC => (include_str!("bert4rec.py"), 4),
        other => {
            return Err(Error::Usage(format!(
                "--torch: there is no model in Python for the backbone `{}`; --numpy has its weights",
                other.name()
            )));
        }
    };
    let (rows, count) = (source.weights["items"].0[0], source.data.item_count());
    let scale = if model.scale_items { (model.dim as f32).sqrt() } else { 1.0 };
    let settings = json!({
        "backbone": model.backbone, "dim": model.dim, "blocks": model.blocks, "heads": model.heads,
        "inner": if model.ffn == 0 { widening * model.dim } else { model.ffn }, "max_len": model.max_len, "positions": model.positions,
        "residual": model.residual, "scale": scale, "items": count, "rows": rows, "asked": count,
        "data": source.data.fingerprint, "method": source.settings.method, "round": source.round,
    });
    let tensors: Vec<(String, Floats)> = source.weights.iter().map(|(name, tensor)| for_torch(name, tensor)).collect();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, (_, values))| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let refused = |e: safetensors::SafeTensorError| Error::Usage(format!("model.safetensors: {e}"));
    let views = tensors.iter().zip(&bytes).map(|((name, (shape, _)), bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view)).map_err(refused)
    });
    let weights = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None).map_err(refused)?;
    let python = [include_str!("head.py"), code, include_str!("tail.py")].concat();
    let files = vec![
        ("model.safetensors".to_string(), weights),
        ("model.json".to_string(), serde_json::to_vec_pretty(&settings).map_err(|e| Error::Usage(e.to_string()))?),
        ("model.py".to_string(), python.into_bytes()),
        ("items.csv".to_string(), source.catalogue()?),
    ];
    write(out, source.round, files)
}

/// A tensor by the name and in the axes that PyTorch's modules have: weights are `[out, in]` there.
fn for_torch(name: &str, (shape, values): &Floats) -> (String, Floats) {
    let numbered = |name: &str, ours: &str, theirs: &str| match name.strip_prefix(ours).and_then(|rest| rest.split_once('.')) {
        Some((number, rest)) if number.parse::<u32>().is_ok() => Some((number.to_string(), rest.to_string(), theirs.to_string())),
        _ => None,
    };
    // The layers of a GRU are one module, whose tensors have the layer's number behind them.
    if let Some((number, rest, _)) = numbered(name, "layer", "") {
        let (kind, tensor) =
            if rest.ends_with(".w") { ("weight", turned(shape, values)) } else { ("bias", (shape.clone(), values.clone())) };
        let side = if rest.starts_with("x.") { "ih" } else { "hh" };
        return (format!("gru.{kind}_{side}_l{number}"), tensor);
    }
    let name = match numbered(name, "block", "blocks") {
        Some((number, rest, theirs)) => format!("{theirs}.{number}.{rest}"),
        None => name.replace("out.norm.", "out_norm."),
    };
    match name.rsplit_once('.') {
        Some((module, "w")) => (format!("{module}.weight"), turned(shape, values)),
        Some((module, "g")) => (format!("{module}.weight"), (shape.clone(), values.clone())),
        Some((module, "b")) => (format!("{module}.bias"), (shape.clone(), values.clone())),
        _ => (format!("{name}.weight"), (shape.clone(), values.clone())),
    }
}

/// `[in, out]` as `[out, in]`.
fn turned(shape: &[usize], values: &[f32]) -> Floats {
    let (ins, outs) = (shape[0], shape[1]);
    (vec![outs, ins], (0..outs).flat_map(|o| (0..ins).map(move |i| values[i * outs + o])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_axes_are_those_of_torch() {
        let of = |name: &str, shape: &[usize]| {
            let (name, (shape, values)) =
                for_torch(name, &(shape.to_vec(), (0..shape.iter().product::<usize>()).map(|x| x as f32).collect()));
            (name, shape, values)
        };
        assert_eq!(of("block10.q.w", &[2, 3]), ("blocks.10.q.weight".into(), vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
        assert_eq!(of("block0.norm1.g", &[2]).0, "blocks.0.norm1.weight");
        assert_eq!(of("layer1.h.w", &[1, 2]), ("gru.weight_hh_l1".into(), vec![2, 1], vec![0.0, 1.0]));
        assert_eq!(of("layer0.x.b", &[2]).0, "gru.bias_ih_l0");
        assert_eq!((of("out.w", &[1, 1]).0, of("out.norm.g", &[1]).0), ("out.weight".into(), "out_norm.weight".into()));
        assert_eq!((of("items", &[2, 1]).0, of("positions", &[2, 1]).0), ("items.weight".into(), "positions.weight".into()));
    }
}
