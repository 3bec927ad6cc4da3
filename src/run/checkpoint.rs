//! Checkpoints: the trainer's tensors in one safetensors file, with what they belong to in the header.

use crate::base::files::write_file;
use crate::config::{ModelSettings, Settings};
use crate::data::Dataset;
use crate::engine::{NamedTensor, TensorData};
use crate::{Error, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Layout of the checkpoint file; raised whenever an older program could not read a newer file. The checksum of format 1, which is read
/// as well, is of names, shapes and values alone. From format 3 on a dense weight that a client does not keep takes a bit.
const FORMAT: u32 = 3;

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
    /// SHA-256 over all of this and the tensors' names, types, shapes and values, in hex.
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
        write_file(path, &self.to_bytes(path)?)
    }

    /// The bytes of the file, which is called `path` in messages.
    pub(super) fn to_bytes(&self, path: &Path) -> Result<Vec<u8>> {
        let fail = |e: &dyn std::fmt::Display| Error::mismatch(path, format!("cannot write the checkpoint: {e}"));
        let mut sorted: Vec<&NamedTensor> = self.tensors.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let bytes: Vec<(Dtype, Vec<u8>)> = sorted.iter().map(|t| encode(&t.data)).collect();
        let mut views = Vec::new();
        for (t, (dtype, bytes)) in sorted.iter().zip(&bytes) {
            views.push((t.name.as_str(), TensorView::new(*dtype, t.shape.clone(), bytes).map_err(|e| fail(&e))?));
        }
        let meta = CheckpointMeta { format: FORMAT, sha256: String::new(), ..self.meta.clone() };
        let text = serde_json::to_string(&meta).map_err(|e| fail(&e))?;
        let sha256 = digest(Some(&text), views.iter().map(|(name, view)| (*name, view)));
        let text = text.replacen(&sum_field(""), &sum_field(&sha256), 1);
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_string(), text)]))).map_err(|e| fail(&e))
    }

    /// Writes the file and keeps the one that it replaces as `previous`. One of the two is there and whole at any moment.
    pub(super) fn save_over(&self, path: &Path, previous: &Path) -> Result<()> {
        if path.exists() {
            match std::fs::remove_file(previous) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(previous, "replace")(e)),
                _ => (),
            }
            // A second name where the disk has such, so that the first one never goes missing.
            std::fs::hard_link(path, previous).or_else(|_| std::fs::rename(path, previous)).map_err(Error::io(previous, "replace"))?;
        }
        self.save(path)
    }

    /// Reads and checks the file. Everything in it is compared with the checksum in the header.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        Checkpoint::parse(path, &std::fs::read(path).map_err(Error::io(path, "read"))?)
    }

    /// [`Checkpoint::load`] of `bytes`, which are called `path` in messages.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Checkpoint> {
        let damaged = |why: &dyn std::fmt::Display| damaged(path, why);
        let (text, meta) = header(path, bytes)?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
        let mut views = file.tensors();
        views.sort_by(|a, b| a.0.cmp(&b.0));
        let text = text.replacen(&sum_field(&meta.sha256), &sum_field(""), 1);
        let text = (meta.format > 1).then_some(text.as_str());
        if digest(text, views.iter().map(|(name, view)| (name.as_str(), view))) != meta.sha256 {
            return Err(damaged(&"it does not match its checksum"));
        }
        let mut tensors = Vec::new();
        for (name, view) in views {
            let data = decode(view.dtype(), view.data()).ok_or_else(|| damaged(&format!("tensor `{name}` has type {:?}", view.dtype())))?;
            tensors.push(NamedTensor { name, shape: view.shape().to_vec(), data });
        }
        Ok(Checkpoint { meta, tensors })
    }

    /// What the file at `path` belongs to. Its values are not looked at, and nothing is compared with the checksum.
    pub(super) fn load_meta(path: &Path) -> Result<CheckpointMeta> {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        header(path, &bytes).map(|(_, meta)| meta)
    }

    /// Whether this is the state of the best round so far.
    pub(super) fn is_best(&self) -> bool {
        self.meta.round == self.meta.best_round
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

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> Error {
    let remedy = "restore it from a copy, or remove the run folder and train again";
    Error::mismatch(path, format!("damaged checkpoint ({why}); {remedy}"))
}

/// The description in a file's header, as text and parsed.
fn header(path: &Path, bytes: &[u8]) -> Result<(String, CheckpointMeta)> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(path, &e))?;
    let Some(text) = header.metadata().as_ref().and_then(|m| m.get(KEY)) else {
        return Err(Error::mismatch(path, "is a safetensors file but no lumos checkpoint; give a file written by `lumos train`"));
    };
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_str(text)
        && let Some(format) = map.get("format").and_then(serde_json::Value::as_u64)
        && !(1..=u64::from(FORMAT)).contains(&format)
    {
        return Err(Error::mismatch(
            path,
            format!("has checkpoint format {format}, this program reads 1 to {FORMAT}; use the version that wrote it"),
        ));
    }
    let meta = serde_json::from_str(text).map_err(|e| damaged(path, &e))?;
    Ok((text.clone(), meta))
}

/// The checksum as it stands in the description.
fn sum_field(sum: &str) -> String {
    format!("\"sha256\":\"{sum}\"")
}

/// SHA-256 over the description, without its checksum, and the tensors in the order of their names. Without a description it is that of
/// format 1.
fn digest<'a, 'b: 'a>(text: Option<&str>, tensors: impl Iterator<Item = (&'a str, &'a TensorView<'b>)>) -> String {
    let mut sum = Sha256::new();
    sum.update(text.unwrap_or_default());
    for (name, view) in tensors {
        let dtype = text.map_or(String::new(), |_| format!("{:?} ", view.dtype()));
        sum.update(format!("{name} {dtype}{:?} {}\n", view.shape(), view.data().len()));
        sum.update(view.data());
    }
    hex::encode(sum.finalize())
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
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 7);
            std::fs::write(&path, &bytes).unwrap();
            assert!(Checkpoint::load(&path).is_err(), "byte {at}");
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

    /// As format 1 was written: a checksum of names, shapes and values.
    #[test]
    fn a_checkpoint_of_format_1_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let values = [1.5f32, -2.0].map(f32::to_le_bytes).concat();
        let view = TensorView::new(Dtype::F32, vec![2], &values).unwrap();
        let sha256 = digest(None, [("items", &view)].into_iter());
        assert_eq!(sha256, "12ca99cb55aaec2ee94e9d89e8024d76599798905475bec67e8f7de3a46f366c");
        let meta = CheckpointMeta { format: 1, sha256, ..example().meta };
        let header = HashMap::from([(KEY.to_string(), serde_json::to_string(&meta).unwrap())]);
        std::fs::write(&path, safetensors::serialize([("items", view)], Some(header)).unwrap()).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!((&loaded.meta, &loaded.tensors), (&meta, &vec![NamedTensor::f32("items", &[2], &[1.5, -2.0])]));
        loaded.save(&path).unwrap();
        assert_eq!(Checkpoint::load(&path).unwrap().meta.format, FORMAT);
    }

    #[test]
    fn the_checkpoint_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (last, previous) = (folder.path().join("last"), folder.path().join("previous"));
        let rounds = |path: &Path| Checkpoint::load(path).map(|c| c.meta.round).ok();
        for round in 1..=3 {
            let mut checkpoint = example();
            checkpoint.meta.round = round;
            checkpoint.save_over(&last, &previous).unwrap();
            assert_eq!((rounds(&last), rounds(&previous)), (Some(round), (round > 1).then(|| round - 1)));
        }
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
