//! Weights of a model folder: one safetensors file or shards with an index, checked whole before anything is computed.

use super::spec::read_json;
use crate::base::names::nearest;
use crate::{Error, Result};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// How stored numbers are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl Stored {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        if self == Stored::F32 { 4 } else { 2 }
    }

    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Stored::F32 => "f32",
            Stored::F16 => "f16",
            Stored::Bf16 => "bf16",
        }
    }
}

/// A stored matrix `[rows, cols]`, row-major, little-endian; a vector has one row.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    /// How the bytes are read.
    pub stored: Stored,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    bytes: &'a [u8],
}

impl<'a> Plain<'a> {
    /// From bytes; `None` where their number does not fit.
    pub fn new(stored: Stored, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<Plain<'a>> {
        (bytes.len() == rows * cols * stored.bytes()).then_some(Plain { stored, rows, cols, bytes })
    }

    /// Row `r` as f32, exactly.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        let size = self.stored.bytes();
        let bytes = &self.bytes[r * self.cols * size..(r + 1) * self.cols * size];
        match self.stored {
            Stored::F32 => out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
            Stored::F16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = f16::from_le_bytes(*b).to_f32()),
            Stored::Bf16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = bf16::from_le_bytes(*b).to_f32()),
        }
    }

    /// Rows `range` only.
    pub fn part(&self, range: Range<usize>) -> Plain<'a> {
        let width = self.cols * self.stored.bytes();
        Plain { rows: range.len(), bytes: &self.bytes[range.start * width..range.end * width], ..*self }
    }

    /// All numbers as f32.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (r, row) in out.chunks_exact_mut(self.cols.max(1)).enumerate() {
            self.row(r, row);
        }
        out
    }
}

struct Entry {
    shard: usize,
    stored: Stored,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// The bytes of a shard.
enum Shard {
    Mapped(Mmap),
    Held(Vec<u8>),
}

impl std::ops::Deref for Shard {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Shard::Mapped(map) => map,
            Shard::Held(bytes) => bytes,
        }
    }
}

/// The tensors of a folder, mapped into memory.
pub struct Weights {
    folder: PathBuf,
    shards: Vec<(PathBuf, Shard)>,
    entries: HashMap<String, Entry>,
    /// What stands before the names of the text model's tensors.
    prefix: String,
    /// Numbers stored in another form than f32, f16 or bf16, by tensor.
    unreadable: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors`, or all shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Where a shard or the index is missing, broken or shorter than its header says.
    pub fn open(folder: &Path) -> Result<Weights> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        let mut expected = Vec::new();
        let files: Vec<PathBuf> = if index.is_file() {
            let map = read_json(&index)?;
            let map = map.get("weight_map").and_then(|m| m.as_object());
            let map = map.ok_or_else(|| Error::mismatch(&index, "`weight_map` is missing; the index names no shards"))?;
            let mut names: Vec<String> = Vec::new();
            for (tensor, shard) in map {
                let shard = shard.as_str().ok_or_else(|| Error::mismatch(&index, format!("the shard of `{tensor}` is not a name")))?;
                if Path::new(shard).components().count() != 1 || shard.starts_with('.') {
                    return Err(Error::mismatch(&index, format!("shard `{shard}` is not a file name inside the folder")));
                }
                names.push(shard.to_owned());
                expected.push((tensor.clone(), shard.to_owned()));
            }
            names.sort();
            names.dedup();
            names.iter().map(|n| folder.join(n)).collect()
        } else if single.is_file() {
            vec![single]
        } else {
            let message =
                "holds neither model.safetensors nor model.safetensors.index.json; name the folder of a model in safetensors form";
            return Err(Error::mismatch(folder, message));
        };
        let missing: Vec<String> = files.iter().filter(|f| !f.is_file()).map(|f| file_name(f)).collect();
        if !missing.is_empty() {
            let message = format!("{} of {} shards missing: {}; download the model again", missing.len(), files.len(), missing.join(", "));
            return Err(Error::mismatch(folder, message));
        }
        let mut weights = Weights {
            folder: folder.into(),
            shards: Vec::new(),
            entries: HashMap::new(),
            prefix: String::new(),
            unreadable: HashMap::new(),
        };
        for path in files {
            weights.shard(path)?;
        }
        for (tensor, shard) in expected {
            let found = weights.entries.get(&tensor).map(|e| file_name(&weights.shards[e.shard].0));
            if found.as_ref() != Some(&shard) && !weights.unreadable.contains_key(&tensor) {
                return Err(Error::mismatch(&index, format!("`{tensor}` is not in {shard}; the index belongs to other shards")));
            }
        }
        let prefixes = ["", "language_model.", "model.language_model."];
        let has = |p: &&&str| weights.entries.keys().any(|k| k.strip_prefix(**p).is_some_and(|k| k.starts_with("model.embed_tokens.")));
        weights.prefix = prefixes.iter().find(has).map_or(String::new(), |p| p.to_string());
        Ok(weights)
    }

    fn shard(&mut self, path: PathBuf) -> Result<()> {
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        // SAFETY: the map is read only. Someone who rewrites the file under us changes numbers, never a bound: those were checked.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
        let broken = |e: safetensors::SafeTensorError| {
            Error::mismatch(&path, format!("not a whole safetensors file ({e}); it was cut off or damaged, download it again"))
        };
        // Checks the length against the header too, which finds a download that stopped.
        SafeTensors::deserialize(&map).map_err(broken)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(broken)?;
        for (name, info) in metadata.tensors() {
            let stored = match info.dtype {
                Dtype::F32 => Stored::F32,
                Dtype::F16 => Stored::F16,
                Dtype::BF16 => Stored::Bf16,
                other => {
                    self.unreadable.insert(name, format!("{other:?}"));
                    continue;
                }
            };
            let (start, end) = info.data_offsets;
            let bytes = 8 + header + start..8 + header + end;
            let entry = Entry { shard: self.shards.len(), stored, shape: info.shape.clone(), bytes };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(Error::mismatch(&path, format!("`{name}` is in two shards")));
            }
        }
        self.shards.push((path, Shard::Mapped(map)));
        Ok(())
    }

    /// Tensors that are no file's: name, shape, bytes.
    pub(super) fn of(stored: Stored, tensors: Vec<(String, Vec<usize>, Vec<u8>)>) -> Weights {
        let folder = PathBuf::from("made-up weights");
        let (mut shards, mut entries) = (Vec::new(), HashMap::new());
        for (name, shape, bytes) in tensors {
            entries.insert(name.clone(), Entry { shard: shards.len(), stored, shape, bytes: 0..bytes.len() });
            shards.push((folder.join(name), Shard::Held(bytes)));
        }
        Weights { folder, shards, entries, prefix: String::new(), unreadable: HashMap::new() }
    }

    /// Whether the text model has a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(&self.full(name))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The tensor `name` as a matrix.
    ///
    /// # Errors
    /// Where it is missing, of another shape, or stored in a form that is not read.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Plain<'_>> {
        self.tensor(name, &[rows, cols])
    }

    /// The tensor `name` as a vector of `n` numbers.
    ///
    /// # Errors
    /// As [`Weights::matrix`].
    pub fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        Ok(self.tensor(name, &[n])?.to_vec())
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Plain<'_>> {
        let full = self.full(name);
        let Some(entry) = self.entries.get(&full) else {
            if let Some(form) = self.unreadable.get(&full) {
                let message = format!("`{full}` is stored as {form}; only F32, F16 and BF16 are read (quantised models: GGUF)");
                return Err(Error::mismatch(&self.folder, message));
            }
            let near = nearest(&full, self.entries.keys().map(String::as_str));
            let hint = near.map_or(String::new(), |n| format!(" (nearest: `{n}`)"));
            let message = format!("`{full}` is missing{hint}; config.json and the weights belong to different models");
            return Err(Error::mismatch(&self.folder, message));
        };
        let path = &self.shards[entry.shard].0;
        if entry.shape != shape {
            let message = format!("`{full}` has shape {:?}, config.json asks for {shape:?}", entry.shape);
            return Err(Error::mismatch(path, message));
        }
        let (rows, cols) = if shape.len() == 2 { (shape[0], shape[1]) } else { (1, shape[0]) };
        let bytes = &self.shards[entry.shard].1[entry.bytes.clone()];
        let odd = || Error::mismatch(path, format!("`{full}` has {} bytes, which do not fit shape {shape:?}", bytes.len()));
        Plain::new(entry.stored, rows, cols, bytes).ok_or_else(odd)
    }

    /// The form most numbers are stored in.
    pub fn stored(&self) -> Stored {
        let size = |s: Stored| self.entries.values().filter(|e| e.stored == s).map(|e| e.bytes.len()).sum::<usize>();
        [Stored::Bf16, Stored::F16, Stored::F32].into_iter().max_by_key(|s| size(*s)).unwrap_or(Stored::F32)
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.entries.values().map(|e| e.shape.iter().product::<usize>() as u64).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.entries.values().map(|e| e.bytes.len() as u64).sum()
    }

    /// SHA-256 over all shards in the order of their names, in hex. Reads every byte.
    pub fn hash(&self) -> String {
        let mut sha = Sha256::new();
        for (_, map) in &self.shards {
            sha.update(&map[..]);
        }
        hex::encode(sha.finalize())
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
