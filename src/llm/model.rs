//! A model folder, loaded: shape, tokenizer, template, weights.

use super::chat::Chat;
use super::engine::Engine;
use super::gguf::Gguf;
use super::gguf_alone::{self, Alone};
use super::network::Source;
use super::place::{Dtype, Place, Placed};
use super::request::{EngineOptions, Generate};
use super::spec::Spec;
use super::tokenizer::{Defaults, Tokenizer};
use super::tune::Named;
use super::weights::{Stored, Weights};
use crate::base::parallel;
use crate::device::Device;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to load a model.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to compute.
    pub place: Place,
    /// Numbers to compute with.
    pub dtype: Dtype,
    /// Threads; 0: all cores.
    pub threads: usize,
    /// Longest sequence that will be asked for; the model's own limit where that is smaller.
    pub max_len: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { place: Place::default(), dtype: Dtype::Auto, threads: 0, max_len: 8192 }
    }
}

/// A model ready to generate.
pub struct Model {
    /// Where it came from.
    pub folder: PathBuf,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations.
    pub chat: Chat,
    /// Recommended sampling, and the tokens that end a text.
    pub defaults: Defaults,
    /// Positions of the longest sequence.
    pub max_len: usize,
    placed: Placed,
    pool: Arc<rayon::ThreadPool>,
    dtype: String,
    weight_bytes: u64,
    source: Source,
}

/// What a model is made of before it is placed.
struct Parts {
    folder: PathBuf,
    spec: Spec,
    tokenizer: Tokenizer,
    chat: Chat,
    defaults: Defaults,
    source: Source,
}

impl Model {
    /// Loads a folder in the form of the Hugging Face hub, or a GGUF file: with the `config.json` and `tokenizer.json` beside it, or, where
    /// no `config.json` is, by its header alone.
    ///
    /// # Errors
    /// Where something is missing, broken, of an unknown architecture, or does not belong together; nothing is computed before.
    pub fn load(path: &Path, options: &Options) -> Result<Model> {
        let (folder, gguf) = locate(path)?;
        if let Some(file) = gguf.as_ref().filter(|_| !folder.join("config.json").is_file()) {
            return Model::alone(file, options);
        }
        let spec = Spec::read(&folder)?;
        let tokenizer = Tokenizer::read(&folder, &spec)?;
        let chat = Chat::read(&folder, &tokenizer)?;
        let defaults = Defaults::read(&folder, &spec)?;
        let source = match &gguf {
            Some(file) => Source::Gguf(Gguf::open(file, &spec)?),
            None => Source::Folder(Weights::open(&folder)?),
        };
        Model::with(Parts { folder, spec, tokenizer, chat, defaults, source }, options, None)
    }

    /// A GGUF file by its header alone.
    fn alone(file: &Path, options: &Options) -> Result<Model> {
        let opened = std::fs::File::open(file).map_err(Error::io(file, "open"))?;
        let Alone { config, tokenizer, tokenizer_config } = gguf_alone::read(file, &mut std::io::BufReader::new(opened))?;
        let spec = Spec::parse(file, &config)?;
        let tokenizer = Tokenizer::parse(file, &tokenizer, tokenizer_config)?.fitting(spec.vocab)?;
        let chat = Chat::of(file, &tokenizer)?;
        let defaults = Defaults::parse(file, &serde_json::json!({}), &spec)?;
        let source = Source::Gguf(Gguf::open(file, &spec)?);
        Model::with(Parts { folder: file.into(), spec, tokenizer, chat, defaults, source }, options, None)
    }

    /// A model with made-up weights in the shape of a published one, [`SHAPES`](super::made_up::SHAPES): what it writes means nothing.
    ///
    /// # Errors
    /// Where there is no such shape, or the device has no room.
    pub fn made_up(shape: &str, options: &Options) -> Result<Model> {
        Model::in_shape(shape, options, None)
    }

    /// A small model of bytes with weights drawn by `seed`, to be trained from nothing: two layers of width 64.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn small(seed: u64, options: &Options) -> Result<Model> {
        let tokenizer = Tokenizer::of_bytes()?;
        let spec = super::made_up::small(tokenizer.vocab())?;
        let folder = PathBuf::from("a small model of bytes");
        let chat = Chat::read(&folder, &tokenizer)?;
        let source = Source::Folder(Weights::initial(&spec, seed));
        Model::with(Parts { folder, spec, tokenizer, chat, defaults: Defaults::default(), source }, options, None)
    }

    /// The same on a device that is open, whatever place the options name.
    ///
    /// # Errors
    /// As [`Model::made_up`].
    pub fn made_up_on(shape: &str, options: &Options, device: Arc<dyn Device>) -> Result<Model> {
        Model::in_shape(shape, options, Some(device))
    }

    fn in_shape(shape: &str, options: &Options, device: Option<Arc<dyn Device>>) -> Result<Model> {
        let spec = super::made_up::shape(shape)?;
        let tokenizer = Tokenizer::of_bytes()?;
        let folder = PathBuf::from(format!("made-up {shape}"));
        let chat = Chat::read(&folder, &tokenizer)?;
        let defaults = Defaults { eos: spec.eos.clone(), ..Defaults::default() };
        let stored = match options.dtype {
            Dtype::F32 => Stored::F32,
            Dtype::F16 => Stored::F16,
            Dtype::Auto | Dtype::Bf16 => Stored::Bf16,
        };
        let source = Source::Folder(Weights::made_up(&spec, 7, stored));
        Model::with(Parts { folder, spec, tokenizer, chat, defaults, source }, options, device)
    }

    fn with(parts: Parts, options: &Options, device: Option<Arc<dyn Device>>) -> Result<Model> {
        let Parts { folder, spec, tokenizer, chat, defaults, source } = parts;
        let pool = parallel::pool(options.threads)?;
        let limits = spec.ropes.iter().map(|r| r.limit).filter(|n| *n > 0);
        let max_len = limits.chain([spec.max_positions, options.max_len]).min().unwrap_or(options.max_len);
        let (placed, dtype) = pool.install(|| match device {
            Some(device) => Placed::gpu(device, options.dtype, spec, &source, max_len),
            None => Placed::new(options.place, options.dtype, spec, &source, max_len),
        })?;
        let weight_bytes = match &source {
            Source::Gguf(g) => g.bytes(),
            Source::Folder(w) => w.bytes(),
        };
        Ok(Model { folder, tokenizer, chat, defaults, max_len, placed, pool, dtype, weight_bytes, source })
    }

    /// Something that writes texts, with a cache of its own.
    ///
    /// # Errors
    /// Where there are no slots or no room.
    pub fn engine(&self, options: EngineOptions) -> Result<Box<dyn Generate + '_>> {
        Ok(match &self.placed {
            Placed::Cpu(at) => Box::new(Engine::on(&at.network, &at.ops, &self.pool, self.max_len, options)?),
            Placed::Gpu(at) => Box::new(Engine::on(&at.network, &at.ops, &self.pool, self.max_len, options)?),
            Placed::Candle(at) => Box::new(Engine::on(&at.network, &at.ops, &self.pool, self.max_len, options)?),
        })
    }

    /// Texts of `tokens` tokens to write side by side where no number is given: 64; on a GPU by our own kernels up
    /// to 256 as memory allows.
    ///
    /// # Errors
    /// Where the GPU does not tell its free memory.
    pub fn usual_slots(&self, tokens: usize) -> Result<usize> {
        match &self.placed {
            Placed::Cpu(_) => Ok(64),
            Placed::Gpu(at) => at.ops.slots(at.network.spec(), tokens),
            Placed::Candle(_) => Ok(64),
        }
    }

    /// The model's shape.
    pub fn spec(&self) -> &Spec {
        match &self.placed {
            Placed::Cpu(at) => at.network.spec(),
            Placed::Gpu(at) => at.network.spec(),
            Placed::Candle(at) => at.network.spec(),
        }
    }

    /// How weights are stored while computing. Arithmetic is f32 on the CPU, of this kind on a GPU.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Names, shapes and values of all its tensors as they are stored, blocks of quantised ones taken into single precision.
    ///
    /// # Errors
    /// Where a tensor cannot be read.
    pub(super) fn tensors(&self) -> Result<Vec<Named>> {
        let one = |(name, shape): (String, Vec<usize>)| {
            let values = match shape[..] {
                [rows, cols] => {
                    let stored = self.source.matrix(&name, rows, cols)?;
                    stored.plain(&stored.dequantised()?)?.to_vec()
                }
                _ => self.source.vector(&name, shape[0])?,
            };
            Ok((name, shape, values))
        };
        self.spec().tensors().into_iter().map(one).collect()
    }

    /// Puts `weights`, which [`tune::Tuned::weights`](super::tune::Tuned::weights) gave, in the place of the model's own.
    ///
    /// # Errors
    /// Where one is missing or of another shape, or the device has no room. The model is then what it was.
    pub fn retrained(&mut self, weights: Vec<Named>, options: &Options) -> Result<()> {
        let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let tensors = weights.into_iter().map(|(name, shape, values)| (name, shape, bytes(values))).collect();
        let source = Source::Folder(Weights::of(Stored::F32, tensors));
        let spec = self.spec().clone();
        let placed = self.pool.install(|| Placed::new(options.place, options.dtype, spec, &source, self.max_len))?;
        (self.placed, self.dtype) = placed;
        self.weight_bytes = self.parameters() * size_of::<f32>() as u64;
        Ok(())
    }

    /// Where it computes.
    pub fn device(&self) -> &str {
        match &self.placed {
            Placed::Cpu(..) => "cpu",
            Placed::Gpu(..) => "cuda",
            Placed::Candle(..) => "candle",
        }
    }

    /// The GPU's name, where it computes on one by our own kernels.
    pub fn gpu(&self) -> Option<&str> {
        match &self.placed {
            Placed::Gpu(at) => Some(at.ops.device().name()),
            _ => None,
        }
    }

    /// Threads it computes with.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        match &self.source {
            Source::Folder(w) => w.parameters(),
            Source::Gguf(g) => g.parameters(),
        }
    }

    /// Bytes of the stored weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// SHA-256 of the weights in hex: all shards in the order of their names, or the GGUF file. Reads every byte.
    ///
    /// # Errors
    /// Where the file can no longer be read.
    pub fn hash(&self) -> Result<String> {
        match &self.source {
            Source::Folder(w) => Ok(w.hash()),
            Source::Gguf(g) => g.hash(),
        }
    }
}

/// The folder, and the GGUF file where there is one.
fn locate(path: &Path) -> Result<(PathBuf, Option<PathBuf>)> {
    if path.is_file() {
        if path.extension().is_none_or(|e| e != "gguf") {
            return Err(Error::mismatch(path, "is a file; name the folder of a model, or a .gguf file"));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return Ok((folder.into(), Some(path.into())));
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "open"))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    files.sort();
    let plain = path.join("model.safetensors").is_file() || path.join("model.safetensors.index.json").is_file();
    match files.len() {
        0 => Ok((path.into(), None)),
        1 if !plain => Ok((path.into(), files.pop())),
        _ if plain => Ok((path.into(), None)),
        n => Err(Error::mismatch(path, format!("holds {n} .gguf files; name the one to load"))),
    }
}
