//! Weights of another program as a run folder that can be evaluated, asked for recommendations, exported and trained further.

mod archive;
pub mod fuzz;
mod gru;
mod items;
mod pickle;
mod port;
mod weights;

pub use items::ItemOrder;

use super::checkpoint::{Checkpoint, CheckpointMeta};
use super::claim::Claim;
use super::device::Devices;
use super::pipeline::Prepared;
use crate::base::memory;
use crate::config::Effective;
use crate::config::methods::{self, Family};
use crate::data::Split;
use crate::engine::{NamedTensor, TensorData};
use crate::settings::validate_against;
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;
use weights::Weights;

/// What the blocks of SASRec.pytorch compute. Its versions have the same tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// Queries from the norm of the block's input, keys and values from the input, residuals of the norm: older versions.
    QueryNorm,
    /// `--norm_first`: queries, keys and values from the norm, residuals of the input.
    NormFirst,
    /// The norm behind each residual.
    PostNorm,
}

/// What a file of weights does not say.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Attention heads.
    pub heads: u32,
    /// Longest history; nothing: as many as the file has positions.
    pub max_len: Option<u32>,
    /// What its blocks compute; nothing: what the file leaves no doubt about.
    pub blocks: Option<Blocks>,
}

impl Default for Asked {
    fn default() -> Self {
        Asked { heads: 1, max_len: None, blocks: None }
    }
}

/// A model of another program, in the names and axes of LUMOS.
#[derive(Clone, Debug)]
pub struct Foreign {
    model: Model,
    tensors: Vec<NamedTensor>,
}

/// Which model a file holds.
#[derive(Clone, Copy, Debug)]
enum Model {
    /// SASRec of SASRec.pytorch, with its heads.
    SasRec(port::Shape, u32),
    /// GRU4Rec of RecBole.
    Gru4Rec(gru::Shape),
}

impl Model {
    /// Items, width and longest history.
    fn sizes(&self) -> [usize; 3] {
        match self {
            Model::SasRec(shape, _) => [shape.items, shape.dim, shape.max_len],
            Model::Gru4Rec(shape) => [shape.items, shape.dim, shape.max_len],
        }
    }
}

/// What has become of an import.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// Items of the data set, each with a row of the model.
    pub items: usize,
    /// Rows of the model that are no item of the data set.
    pub left_out: usize,
    /// Users with a test target.
    pub users: usize,
    /// Those of them whose scores differ from those of the other program, because it attends to the padding of histories shorter than the longest.
    pub short: usize,
}

impl Foreign {
    /// The model in the file at `path`: a `state_dict` of pmixer/SASRec.pytorch or of RecBole's GRU4Rec, as `torch.save` (version 1.6 and later) or safetensors write it.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; [`Error::Mismatch`] where it is damaged, no model that LUMOS has a counterpart for, lacks a tensor or
    /// has one of other axes; [`Error::Usage`] for heads that do not divide the width.
    pub fn open(path: &Path, asked: &Asked) -> Result<Foreign> {
        let size = std::fs::metadata(path).map_err(Error::io(path, "read"))?.len();
        // The file, its tensors, those of a trainer and those of a checkpoint.
        memory::check(&path.display().to_string(), size.checked_mul(4), "use a machine with more")?;
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        Foreign::parse(path, &bytes, asked)
    }

    /// [`Foreign::open`] of `bytes`, which are called `path` in messages.
    ///
    /// # Errors
    /// As for it.
    pub fn parse(path: &Path, bytes: &[u8], asked: &Asked) -> Result<Foreign> {
        Foreign::of(&Weights::parse(path, bytes)?, asked)
    }

    fn of(weights: &Weights, asked: &Asked) -> Result<Foreign> {
        if gru::is_one(weights) {
            let shape = gru::shape(weights, asked)?;
            return Ok(Foreign { model: Model::Gru4Rec(shape), tensors: gru::tensors(weights, &shape)? });
        }
        let shape = port::shape(weights, asked)?;
        Ok(Foreign { model: Model::SasRec(shape, asked.heads), tensors: port::tensors(weights, &shape)? })
    }

    /// The method that trains such a model where no other is asked for.
    pub fn method(&self) -> &'static str {
        match self.model {
            Model::SasRec(..) => "sasrec",
            Model::Gru4Rec(_) => "gru4rec",
        }
    }

    /// The settings that the file decides, each `KEY=VALUE`.
    pub fn sets(&self) -> Vec<String> {
        let [_, dim, max_len] = self.model.sizes();
        let (blocks, more) = match self.model {
            Model::SasRec(shape, heads) => {
                let ffn = if shape.inner == dim { 0 } else { shape.inner };
                let words = ["backbone=sasrec", "positions=last", "residual=normed", "scale_items=true"].map(String::from);
                (shape.blocks, [vec![format!("heads={heads}"), format!("ffn={ffn}")], words.to_vec()].concat())
            }
            Model::Gru4Rec(shape) => (shape.layers, ["backbone=gru4rec", "scale_items=false"].map(String::from).to_vec()),
        };
        let sizes = [format!("dim={dim}"), format!("blocks={blocks}"), format!("max_len={max_len}")];
        sizes.into_iter().chain(more).map(|set| format!("model.{set}")).collect()
    }

    /// Writes the model as the state before the first round of a run with the settings `effective` on the data set `prepared`, in the folder of
    /// `claim`. The settings have to be those of [`Foreign::sets`].
    ///
    /// # Errors
    /// [`Error::Usage`] for a method without weights or with others, and for items that do not fit; [`Error::Mismatch`] for a list of items that does
    /// not fit; those of the disk.
    pub fn import(&self, effective: &Effective, prepared: &Prepared, order: &ItemOrder, claim: &Claim) -> Result<Imported> {
        let (settings, data) = (&effective.settings, &prepared.data);
        validate_against(settings, data.users(), data.item_count())?;
        if methods::find(&settings.method)?.family == Family::Baseline {
            return Err(Error::Usage(format!(
                "method `{}` has no weights that could be imported; try method={}",
                settings.method,
                self.method()
            )));
        }
        let [items, d, max_len] = self.model.sizes();
        let rows = items::rows(order, items, data)?;
        let mut trainer = Devices::default().to_rank(settings, "cpu")?.trainer(settings, data, &Arc::default())?;
        let mut tensors = trainer.tensors()?;
        for ours in &self.tensors {
            let TensorData::F32(values) = &ours.data else { continue };
            let (shape, values) = match ours.name.as_str() {
                // Special rows lie behind the items and stay as they begin.
                "items" => (vec![rows.len(), d], rows.iter().flat_map(|row| &values[row * d..][..d]).copied().collect()),
                _ => (ours.shape.clone(), values.clone()),
            };
            put(&mut tensors, &ours.name, &shape, &values, &settings.method, self.method())?;
        }
        let state = Checkpoint { meta: CheckpointMeta::new(settings, data), tensors };
        trainer.restore(&state)?;
        let (folder, _) = claim.begin(effective, prepared)?;
        state.save(&folder.checkpoint("best"))?;
        state.save(&folder.checkpoint("last"))?;
        let lengths = (0..data.users()).filter_map(|user| data.input_and_target(user, Split::Test)).map(|(history, _)| history.len());
        let (users, short) = lengths.fold((0, 0), |(users, short), n| (users + 1, short + usize::from(n < max_len)));
        // RecBole's padding stands behind a history, where a GRU does not come to.
        let short = if matches!(self.model, Model::SasRec(..)) { short } else { 0 };
        let mut used = rows.clone();
        used.sort_unstable();
        used.dedup();
        Ok(Imported { items: rows.len(), left_out: items - used.len(), users, short })
    }
}

/// Puts `values` into the tensor called `name`, from its start on.
fn put(tensors: &mut [NamedTensor], name: &str, shape: &[usize], values: &[f32], method: &str, like: &str) -> Result<()> {
    let other = |found: String| {
        Err(Error::Usage(format!(
            "method `{method}` has {found} where the model has `{name}` {shape:?}; take method={like} or another with one global model of that kind"
        )))
    };
    let Some(tensor) = tensors.iter_mut().find(|tensor| tensor.name == name) else { return other("nothing".into()) };
    let fits = if name == "items" { tensor.shape[0] >= shape[0] && tensor.shape[1..] == shape[1..] } else { tensor.shape == shape };
    match &mut tensor.data {
        TensorData::F32(to) if fits => to[..values.len()].copy_from_slice(values),
        _ => return other(format!("a tensor {:?}", tensor.shape)),
    }
    Ok(())
}
