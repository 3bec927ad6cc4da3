//! Checkpoints: the trainer's tensors in one safetensors file, with what they belong to in the header.

use crate::base::files::write_file;
use crate::config::{ModelSettings, Settings};
use crate::data::Dataset;
use crate::federation::{NamedTensor, TensorData};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Layout of the checkpoint file; raised whenever an older program could not read a newer file.
const FORMAT: u32 = 1;

/// Header key. One key with one JSON text, because a map of several has no order and equal states must give equal bytes.
const KEY: &str = "lumos";

/// What a checkpoint belongs to and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// Layout of the file.
    pub format: u32,
    /// Version of the program that wrote it.
    pub version: String,
    /// Method.
    pub method: String,
    /// Model shape.
    pub model: ModelSettings,
    /// Items in the catalogue.
    pub items: u64,
    /// Name of the data set.
    pub data: String,
    /// Fingerprint of the data set.
    pub fingerprint: String,
    /// Seed of the run.
    pub seed: u64,
    /// Rounds trained.
    pub round: u64,
    /// Selection metric.
    pub select: String,
    /// Best round on validation so far; 0 before the first validation.
    pub best_round: u64,
    /// Its value.
    pub best_value: f64,
    /// Validations since then.
    pub stale: u64,
    /// SHA-256 over names, shapes and values, in hex.
    pub sha256: String,
}

impl CheckpointMeta {
    /// The description of a run's state before its first round.
    pub fn new(settings: &Settings, data: &Dataset) -> CheckpointMeta {
        CheckpointMeta {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_string(),
            method: settings.method.clone(),
            model: settings.model.clone(),
            items: data.item_count() as u64,
            data: data.name.clone(),
            fingerprint: data.fingerprint.clone(),
            seed: settings.seed,
            round: 0,
            select: settings.eval.select.clone(),
            best_round: 0,
            best_value: -1.0,
            stale: 0,
            sha256: String::new(),
        }
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it belongs to.
    pub meta: CheckpointMeta,
    /// The trainer's state.
    pub tensors: Vec<NamedTensor>,
}

impl Checkpoint {
    /// Writes the file in one step.
    pub fn save(&self, path: &Path) -> Result<()> {
        let fail = |e: &dyn std::fmt::Display| Error::mismatch(path, format!("cannot write the checkpoint: {e}"));
        let mut sorted: Vec<&NamedTensor> = self.tensors.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let bytes: Vec<(Dtype, Vec<u8>)> = sorted.iter().map(|t| encode(&t.data)).collect();
        let sha256 = digest(sorted.iter().zip(&bytes).map(|(t, (_, b))| (t.name.as_str(), t.shape.as_slice(), b.as_slice())));
        let meta = CheckpointMeta { sha256, ..self.meta.clone() };
        let header = HashMap::from([(KEY.to_string(), serde_json::to_string(&meta).map_err(|e| fail(&e))?)]);
        let mut views = Vec::new();
        for (t, (dtype, bytes)) in sorted.iter().zip(&bytes) {
            views.push((t.name.as_str(), TensorView::new(*dtype, t.shape.clone(), bytes).map_err(|e| fail(&e))?));
        }
        write_file(path, &safetensors::serialize(views, Some(header)).map_err(|e| fail(&e))?)
    }

    /// Reads and checks the file. Values are compared with the checksum in the header.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let damaged = |why: &dyn std::fmt::Display| {
            let remedy = "restore it from a copy, or remove the run folder and train again";
            Error::mismatch(path, format!("damaged checkpoint ({why}); {remedy}"))
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
        let Some(text) = header.metadata().as_ref().and_then(|m| m.get(KEY)) else {
            return Err(Error::mismatch(path, "is a safetensors file but no lumos checkpoint; give a file written by `lumos train`"));
        };
        if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(text)
            && let Some(format) = map.get("format").and_then(serde_json::Value::as_u64)
            && format != u64::from(FORMAT)
        {
            return Err(Error::mismatch(
                path,
                format!("has checkpoint format {format}, this program reads {FORMAT}; use the version that wrote it"),
            ));
        }
        let meta: CheckpointMeta = serde_json::from_str(text).map_err(|e| damaged(&e))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(&e))?;
        let mut views = file.tensors();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        let sum = digest(views.iter().map(|(name, v)| (name.as_str(), v.shape(), v.data())));
        if sum != meta.sha256 {
            return Err(damaged(&"its values do not match their checksum"));
        }
        let mut tensors = Vec::new();
        for (name, view) in views {
            let data = decode(view.dtype(), view.data()).ok_or_else(|| damaged(&format!("tensor `{name}` has type {:?}", view.dtype())))?;
            tensors.push(NamedTensor { name, shape: view.shape().to_vec(), data });
        }
        Ok(Checkpoint { meta, tensors })
    }

    /// Refuses a checkpoint of another model, data set, method or seed, and says what differs.
    pub fn belongs_to(&self, path: &Path, settings: &Settings, data: &Dataset) -> Result<()> {
        let (theirs, ours) = (&self.meta, CheckpointMeta::new(settings, data));
        let mut differs = Vec::new();
        let mut differ = |what: &str, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
            let (a, b) = (a.to_string(), b.to_string());
            if a != b {
                differs.push(format!("{what} is {a} there and {b} here"));
            }
        };
        differ("method", &theirs.method, &ours.method);
        differ("model.backbone", &theirs.model.backbone.name(), &ours.model.backbone.name());
        differ("model.dim", &theirs.model.dim, &ours.model.dim);
        differ("model.blocks", &theirs.model.blocks, &ours.model.blocks);
        differ("model.heads", &theirs.model.heads, &ours.model.heads);
        differ("model.ffn", &theirs.model.ffn, &ours.model.ffn);
        differ("model.max_len", &theirs.model.max_len, &ours.model.max_len);
        differ("model.scale_items", &theirs.model.scale_items, &ours.model.scale_items);
        differ("number of items", &theirs.items, &ours.items);
        let name = |m: &CheckpointMeta| format!("`{}` ({})", m.data, m.fingerprint.chars().take(12).collect::<String>());
        if theirs.fingerprint != ours.fingerprint {
            differ("data set", &name(theirs), &name(&ours));
        }
        differ("seed", &theirs.seed, &ours.seed);
        if differs.is_empty() {
            return Ok(());
        }
        let remedy = "use the settings it was trained with, or train a new run in another folder";
        Err(Error::mismatch(path, format!("belongs to another run: {}; {remedy}", differs.join(", "))))
    }
}

fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut sum = Sha256::new();
    for (name, shape, bytes) in tensors {
        sum.update(format!("{name} {shape:?} {}\n", bytes.len()));
        sum.update(bytes);
    }
    sum.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn encode(data: &TensorData) -> (Dtype, Vec<u8>) {
    match data {
        TensorData::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        TensorData::F64(v) => (Dtype::F64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        TensorData::U64(v) => (Dtype::U64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        TensorData::I64(v) => (Dtype::I64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        TensorData::U8(v) => (Dtype::U8, v.clone()),
    }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Option<TensorData> {
    fn read<const N: usize, T>(bytes: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks::<N>().0.iter().map(|b| one(*b)).collect()
    }
    Some(match dtype {
        Dtype::F32 => TensorData::F32(read(bytes, f32::from_le_bytes)),
        Dtype::F64 => TensorData::F64(read(bytes, f64::from_le_bytes)),
        Dtype::U64 => TensorData::U64(read(bytes, u64::from_le_bytes)),
        Dtype::I64 => TensorData::I64(read(bytes, i64::from_le_bytes)),
        Dtype::U8 => TensorData::U8(bytes.to_vec()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Checkpoint {
        let data = Dataset { name: "d".into(), fingerprint: "f".into(), ..Default::default() };
        let meta = CheckpointMeta { round: 3, ..CheckpointMeta::new(&Settings::default(), &data) };
        let tensors = vec![
            NamedTensor::f32("items", &[2, 3], &[0.0, 1.5, -2.0, f32::MIN_POSITIVE, 3.0, 4.0]),
            NamedTensor { name: "a".into(), shape: vec![2], data: TensorData::U64(vec![1, u64::MAX]) },
            NamedTensor { name: "b".into(), shape: vec![1], data: TensorData::I64(vec![-5]) },
            NamedTensor { name: "c".into(), shape: vec![1], data: TensorData::F64(vec![0.1]) },
            NamedTensor { name: "private".into(), shape: vec![3], data: TensorData::U8(vec![1, 2, 3]) },
        ];
        Checkpoint { meta, tensors }
    }

    #[test]
    fn state_comes_back_and_equal_states_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let mut saved = example();
        saved.save(&one).unwrap();
        saved.tensors.reverse();
        saved.save(&two).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let loaded = Checkpoint::load(&one).unwrap();
        saved.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(loaded.tensors, saved.tensors);
        assert_eq!(CheckpointMeta { sha256: String::new(), ..loaded.meta }, saved.meta);
    }

    #[test]
    fn damage_is_found_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        example().save(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 4, 40, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Checkpoint::load(&path).is_err(), "cut at {cut}");
        }
        for at in (8..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            // A changed header may still be a header; what it then says must differ, or the values were not touched.
            if let Ok(loaded) = Checkpoint::load(&path) {
                assert_ne!(loaded.meta, example().meta, "byte {at}");
            }
        }
        let message = {
            let mut bytes = whole.clone();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            Checkpoint::load(&path).unwrap_err().to_string()
        };
        assert!(message.contains("damaged") && message.contains("checksum"), "{message}");
    }

    #[test]
    fn another_model_is_named() {
        let data = Dataset { name: "d".into(), fingerprint: "f".into(), ..Default::default() };
        let mut settings = Settings::default();
        let checkpoint = example();
        assert!(checkpoint.belongs_to(Path::new("c"), &settings, &data).is_ok());
        settings.model.dim = 32;
        let other = Dataset { fingerprint: "g".into(), ..data };
        let message = checkpoint.belongs_to(Path::new("c"), &settings, &other).unwrap_err().to_string();
        assert!(message.contains("model.dim is 64 there and 32 here") && message.contains("data set"), "{message}");
    }
}
