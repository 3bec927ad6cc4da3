//! A run's model for other programs: a PyTorch `state_dict` with the Python code that reads it, and item vectors for numpy.

use super::checkpoint::Checkpoint;
use super::folder::RunFolder;
use crate::base::files::write_file;
use crate::config::{Backbone, Positions, Residual, Settings};
use crate::data::Dataset;
use crate::engine::{NamedTensor, TensorData};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

/// The model in Python, tested against this program's ranks.
const MODEL: &str = include_str!("export_model.py");

/// A tensor by its name in PyTorch.
struct Out {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The name in a `state_dict` of a tensor of a checkpoint, and whether it is a weight `[in, out]`, which PyTorch keeps as `[out, in]`.
fn torch_name(name: &str) -> Option<(String, bool)> {
    if name == "items" || name == "positions" {
        return Some((format!("{name}.weight"), false));
    }
    let (layer, part) = name.rsplit_once('.')?;
    let layer = match layer.strip_prefix("block") {
        Some(rest) => {
            let (number, layer) = rest.split_once('.')?;
            format!("blocks.{}.{layer}", number.parse::<u32>().ok()?)
        }
        None if layer == "norm" => layer.to_string(),
        None => return None,
    };
    match part {
        "w" => Some((format!("{layer}.weight"), true)),
        "g" => Some((format!("{layer}.weight"), false)),
        "b" => Some((format!("{layer}.bias"), false)),
        _ => None,
    }
}

fn of(tensor: &NamedTensor) -> Option<Out> {
    let (name, transposed) = torch_name(&tensor.name)?;
    let TensorData::F32(values) = &tensor.data else { return None };
    match tensor.shape[..] {
        [rows, columns] if transposed => {
            let values = (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect();
            Some(Out { name, shape: vec![columns, rows], values })
        }
        _ => Some(Out { name, shape: tensor.shape.clone(), values: values.clone() }),
    }
}

/// Writes the checkpoint `name` of a run into the folder `out`: `model.safetensors`, `model.py`, `config.json`, `items.npy` `[I, d]` and
/// `items.csv`. Gives the paths.
///
/// # Errors
/// [`Error::Setting`] for another backbone than SASRec, [`Error::Mismatch`] where the checkpoint is missing or does not belong to the run.
pub fn export_torch(folder: &RunFolder, name: &str, settings: &Settings, data: &Dataset, out: &Path) -> Result<Vec<PathBuf>> {
    if settings.model.backbone != Backbone::SASREC {
        let message = format!("is `{}`; the Python model is written for `sasrec`", settings.model.backbone.name());
        return Err(Error::setting("model.backbone", message));
    }
    let path = folder.checkpoint(name);
    if !path.exists() {
        return Err(Error::mismatch(
            &path,
            "is not there; a run has it after its first validation, and a baseline that trains nothing never",
        ));
    }
    let checkpoint = Checkpoint::load(&path)?;
    checkpoint.belongs_to(&path, settings, data)?;
    let tensors: Vec<Out> = checkpoint.tensors.iter().filter_map(of).collect();
    let table = tensors
        .iter()
        .find(|t| t.name == "items.weight")
        .ok_or_else(|| Error::mismatch(&path, "has no item table; the method trains none"))?;
    let (items, dim) = (data.item_count(), settings.model.dim as usize);
    let config = serde_json::json!({
        "items": items,
        "rows": table.shape[0],
        "dim": dim,
        "inner": if settings.model.ffn == 0 { dim } else { settings.model.ffn as usize },
        "heads": settings.model.heads,
        "blocks": settings.model.blocks,
        "max_len": settings.model.max_len,
        "positions_from_the_end": settings.model.positions == Positions::Last,
        "residual_of_the_normed_input": settings.model.residual == Residual::Normed,
        "scale": if settings.model.scale_items { f64::from(settings.model.dim).sqrt() } else { 1.0 },
        "data": data.name,
        "method": settings.method,
        "round": checkpoint.meta.round,
    });
    std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
    let place = |name: &str| out.join(name);
    write_file(&place("model.safetensors"), &state_dict(&tensors, &place("model.safetensors"))?)?;
    write_file(&place("model.py"), MODEL.as_bytes())?;
    write_file(&place("config.json"), format!("{config:#}\n").as_bytes())?;
    write_file(&place("items.npy"), &npy(&table.values[..items * dim], [items, dim]))?;
    write_file(&place("items.csv"), &names(data, &place("items.csv"))?)?;
    Ok(["model.safetensors", "model.py", "config.json", "items.npy", "items.csv"].map(place).to_vec())
}

fn state_dict(tensors: &[Out], path: &Path) -> Result<Vec<u8>> {
    let fail = |e: safetensors::SafeTensorError| Error::mismatch(path, format!("cannot be written: {e}"));
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        views.push((tensor.name.as_str(), TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(fail)?));
    }
    safetensors::serialize(views, None).map_err(fail)
}

/// A matrix of 32-bit floats in numpy's format, version 1.0.
fn npy(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    // The header ends at a multiple of 64 bytes.
    let whole = (10 + head.len() + 1).next_multiple_of(64);
    head.push_str(&" ".repeat(whole - 11 - head.len()));
    head.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((head.len() as u16).to_le_bytes());
    out.extend(head.as_bytes());
    out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    out
}

/// Row, name and title of every item.
fn names(data: &Dataset, path: &Path) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::mismatch(path, format!("cannot be written: {e}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["row", "item", "title"]).map_err(|e| fail(&e))?;
    for (row, (token, text)) in data.item_tokens.iter().zip(&data.catalogue).enumerate() {
        writer.write_record([&row.to_string(), token, &text.title]).map_err(|e| fail(&e))?;
    }
    writer.into_inner().map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layers_are_those_of_the_python_model() {
        for (ours, theirs) in [
            ("items", Some(("items.weight", false))),
            ("positions", Some(("positions.weight", false))),
            ("block12.q.w", Some(("blocks.12.q.weight", true))),
            ("block0.norm1.g", Some(("blocks.0.norm1.weight", false))),
            ("norm.b", Some(("norm.bias", false))),
            ("server.first.items", None),
            ("private", None),
        ] {
            assert_eq!(torch_name(ours), theirs.map(|(name, t)| (name.to_string(), t)), "{ours}");
        }
    }

    #[test]
    fn a_matrix_in_numpys_format_has_a_header_of_whole_blocks() {
        let bytes = npy(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]);
        let length = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((length % 64, bytes.len()), (0, length + 24));
        assert!(String::from_utf8_lossy(&bytes[10..length]).contains("'shape': (3, 2)"));
    }
}
