//! A checkpoint for other programs: a `state_dict` with a model in PyTorch that scores with it, an ONNX graph, or arrays for numpy.

mod numpy;
#[cfg(feature = "onnx")]
mod onnx;
mod torch;

pub use numpy::to_numpy;
#[cfg(feature = "onnx")]
pub use onnx::to_onnx;
pub use torch::to_torch;

use super::{Checkpoint, RunFolder, load_run_data};
use crate::config::methods::{self, Family};
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::engine::TensorData;
use crate::federation::AVERAGE;
use crate::model::ModelSpec;
use crate::{Error, Result, base::files};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Round of the checkpoint.
    pub round: u64,
    /// The files, in the order in which they were written.
    pub files: Vec<PathBuf>,
}

/// A tensor of 32-bit floats: axes and values.
type Floats = (Vec<usize>, Vec<f32>);

/// A run's checkpoint with what its weights mean.
struct Source {
    settings: Validated<Settings>,
    data: Dataset,
    round: u64,
    /// Weights of the model by name, `items [I + S, d]` among them; nothing of the server's optimiser.
    weights: BTreeMap<String, Floats>,
}

impl Source {
    /// Reads the checkpoint `name` of the run in `folder`.
    ///
    /// # Errors
    /// For a method that has no weights, and where the checkpoint is missing, damaged or of another run.
    fn open(folder: &RunFolder, name: &str, observer: &dyn super::Observer) -> Result<Source> {
        let settings = folder.settings()?;
        let method = methods::find(&settings.method)?;
        if method.family == Family::Baseline {
            return Err(Error::Usage(format!("{}: {} has no weights to export", folder.root().display(), settings.method)));
        }
        let path = folder.checkpoint(name);
        let data = load_run_data(folder, &settings, observer)?;
        let checkpoint = Checkpoint::load(&path)?;
        checkpoint.belongs_to(&path, &settings, &data)?;
        // A checkpoint holds moments of optimisers, too, and what rules and clients keep.
        let spec = ModelSpec::of(&settings);
        let is_weight = |name: &str| name == "items" || spec.params.iter().any(|p| p.name == name);
        let (mut weights, mut averaged) = (BTreeMap::new(), BTreeMap::new());
        for tensor in checkpoint.tensors {
            let TensorData::F32(values) = tensor.data else { continue };
            match tensor.name.strip_prefix(AVERAGE) {
                Some(name) if is_weight(name) => _ = averaged.insert(name.to_string(), (tensor.shape, values)),
                None if is_weight(&tensor.name) => _ = weights.insert(tensor.name, (tensor.shape, values)),
                _ => (),
            }
        }
        // Where an average of the rounds ranks, it is the model.
        weights.append(&mut averaged);
        Ok(Source { round: checkpoint.meta.round, settings, data, weights })
    }

    /// The catalogue as CSV: index of the row in `items`, name in the source data, title.
    fn catalogue(&self) -> Result<Vec<u8>> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let refused = |e: csv::Error| Error::Usage(format!("items.csv: {e}"));
        out.write_record(["index", "item_id", "title"]).map_err(refused)?;
        for (i, name) in self.data.item_tokens.iter().enumerate() {
            let title = self.data.catalogue.get(i).map_or("", |text| text.title.as_str());
            out.write_record([i.to_string().as_str(), name, title]).map_err(refused)?;
        }
        out.into_inner().map_err(|e| Error::Usage(format!("items.csv: {e}")))
    }
}

/// Writes `files` into `out`, made where it is missing; files of the same names are replaced.
fn write(out: &Path, round: u64, files: Vec<(String, Vec<u8>)>) -> Result<Exported> {
    std::fs::create_dir_all(out).map_err(Error::io(out, "create"))?;
    let mut written = Vec::new();
    for (name, bytes) in files {
        let path = out.join(name);
        files::write_file(&path, &bytes)?;
        written.push(path);
    }
    Ok(Exported { round, files: written })
}
