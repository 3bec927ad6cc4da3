//! A model folder, loaded: shape, tokenizer, template, weights.

use super::candle::Candle;
use super::chat::Chat;
use super::cpu::Cpu;
use super::engine::{Engine, EngineOptions, Generate};
use super::gguf::Gguf;
use super::network::{Network, Source};
use super::spec::Spec;
use super::tokenizer::{Defaults, Tokenizer};
use super::weights::{Stored, Weights};
use crate::config::names::unknown;
use crate::{Error, Result, parallel};
use std::path::{Path, PathBuf};

/// Numbers to compute with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// Weights as they are stored, arithmetic in f32.
    #[default]
    Auto,
    /// As `Auto`: f32 arithmetic on the CPU takes f16 and bf16 weights exactly.
    F32,
    /// Half precision; on a GPU only.
    F16,
    /// bf16. On the CPU only weights are rounded to it, and arithmetic is f32: half the memory of f32.
    Bf16,
}

impl Dtype {
    /// Names in settings.
    pub const NAMES: [&str; 4] = ["auto", "f32", "f16", "bf16"];

    /// The dtype called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name.
    pub fn named(name: &str) -> Result<Dtype> {
        match name {
            "auto" => Ok(Dtype::Auto),
            "f32" => Ok(Dtype::F32),
            "f16" => Ok(Dtype::F16),
            "bf16" => Ok(Dtype::Bf16),
            other => Err(Error::Usage(unknown("dtype", other, Dtype::NAMES))),
        }
    }
}

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// The first GPU where the program is built for one (`candle-cuda`) and there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU.
    Cuda,
}

impl Place {
    /// Names in settings.
    pub const NAMES: [&str; 3] = ["auto", "cpu", "cuda"];

    /// The place called `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] with the nearest name.
    pub fn named(name: &str) -> Result<Place> {
        match name {
            "auto" => Ok(Place::Auto),
            "cpu" => Ok(Place::Cpu),
            "cuda" => Ok(Place::Cuda),
            other => Err(Error::Usage(unknown("device", other, Place::NAMES))),
        }
    }

    /// A GPU, or `None` for the CPU.
    fn device(self) -> Result<Option<candle_core::Device>> {
        match self {
            Place::Cpu => Ok(None),
            Place::Auto if cfg!(feature = "candle-cuda") => Ok(candle_core::Device::new_cuda(0).ok()),
            Place::Auto => Ok(None),
            Place::Cuda if cfg!(feature = "candle-cuda") => {
                let device = candle_core::Device::new_cuda(0);
                device.map(Some).map_err(|e| Error::Usage(format!("no GPU for the language model: {}", super::gguf::first_line(&e))))
            }
            Place::Cuda => Err(Error::Usage("this program generates text on the CPU only; build it with --features candle-cuda".into())),
        }
    }
}

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
        Options { place: Place::Auto, dtype: Dtype::Auto, threads: 0, max_len: 8192 }
    }
}

/// A network where it computes.
enum Placed {
    Cpu(Network<Cpu>, Cpu),
    Candle(Network<Candle>, Candle),
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
    pool: rayon::ThreadPool,
    dtype: String,
    weight_bytes: u64,
    source: Source,
}

impl Model {
    /// Loads a folder in the form of the Hugging Face hub, or a GGUF file with `config.json` and `tokenizer.json` beside it.
    ///
    /// # Errors
    /// Where something is missing, broken, of an unknown architecture, or does not belong together; nothing is computed before.
    pub fn load(path: &Path, options: &Options) -> Result<Model> {
        let (folder, gguf) = locate(path)?;
        let spec = Spec::read(&folder)?;
        let tokenizer = Tokenizer::read(&folder, &spec)?;
        let chat = Chat::read(&folder, &tokenizer)?;
        let defaults = Defaults::read(&folder, &spec)?;
        let source = match &gguf {
            Some(file) => Source::Gguf(Gguf::open(file, &spec)?),
            None => Source::Folder(Weights::open(&folder)?),
        };
        let threads = if options.threads == 0 { parallel::default_threads() } else { options.threads };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("llm-{i}")).build();
        let pool = pool.map_err(|e| Error::Usage(format!("cannot start {threads} threads: {e}")))?;
        let limits = spec.ropes.iter().map(|r| r.limit).filter(|n| *n > 0);
        let max_len = limits.chain([spec.max_positions, options.max_len]).min().unwrap_or(options.max_len);
        let stored = match &source {
            Source::Gguf(_) => Stored::F32,
            Source::Folder(w) => w.stored(),
        };
        let (placed, dtype) = match options.place.device()? {
            None => {
                if options.dtype == Dtype::F16 {
                    return Err(Error::Usage("the CPU computes in f32; choose f32 or bf16 (weights kept in bf16)".into()));
                }
                let ops = Cpu::new(options.dtype == Dtype::Bf16);
                let network = pool.install(|| Network::new(&ops, spec, &source, max_len))?;
                let dtype = match &source {
                    Source::Gguf(g) => g.kind(),
                    Source::Folder(_) if ops.round || stored == Stored::Bf16 => "bf16".into(),
                    Source::Folder(_) => "f32".into(),
                };
                (Placed::Cpu(network, ops), dtype)
            }
            Some(device) => {
                let (dtype, name) = match (options.dtype, stored) {
                    (Dtype::F16, _) | (Dtype::Auto, Stored::F16) => (candle_core::DType::F16, "f16"),
                    (Dtype::Bf16, _) | (Dtype::Auto, Stored::Bf16) => (candle_core::DType::BF16, "bf16"),
                    (Dtype::F32 | Dtype::Auto, _) => (candle_core::DType::F32, "f32"),
                };
                let ops = Candle::new(device, dtype);
                (Placed::Candle(Network::new(&ops, spec, &source, max_len)?, ops), name.into())
            }
        };
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
            Placed::Cpu(network, ops) => Box::new(Engine::on(network, ops, &self.pool, self.max_len, options)?),
            Placed::Candle(network, ops) => Box::new(Engine::on(network, ops, &self.pool, self.max_len, options)?),
        })
    }

    /// The model's shape.
    pub fn spec(&self) -> &Spec {
        match &self.placed {
            Placed::Cpu(network, _) => network.spec(),
            Placed::Candle(network, _) => network.spec(),
        }
    }

    /// How weights are kept while computing. Arithmetic is f32 on the CPU, of this kind on a GPU.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Where it computes.
    pub fn device(&self) -> &str {
        match &self.placed {
            Placed::Cpu(..) => "cpu",
            Placed::Candle(_, ops) if ops.device.is_cuda() => "cuda",
            Placed::Candle(..) => "candle-cpu",
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
            return Err(Error::mismatch(path, "is a file; name the folder of a model, or a .gguf file in one"));
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
