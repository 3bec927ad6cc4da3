//! What `config.json` says of a model, in one form for every architecture.
//!
//! All supported models are the same pre-norm decoder with rotary positions and grouped heads; they differ in the choices
//! that [`Spec`] names. Defaults where a file is silent are those of the `transformers` library, from which the files come.

use super::rope::Rope;
use crate::base::names::unknown;
use crate::{Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Architectures that can be loaded, by their name in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2 and what copies them.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: a bias on queries, keys and values.
    Qwen2,
    /// Qwen3: queries and keys normalised per head.
    Qwen3,
    /// Gemma 2: norms around both halves of a layer, capped logits, alternating windows.
    Gemma2,
    /// Gemma 3 (text): as Gemma 2 with normalised queries and keys, without caps, two rotary bases.
    Gemma3,
    /// Phi 3 (mini, medium): fused projections, partial rotation, `longrope`.
    Phi3,
}

const FAMILIES: &[(&str, Family)] = &[
    ("LlamaForCausalLM", Family::Llama),
    ("MistralForCausalLM", Family::Mistral),
    ("Qwen2ForCausalLM", Family::Qwen2),
    ("Qwen3ForCausalLM", Family::Qwen3),
    ("Gemma2ForCausalLM", Family::Gemma2),
    ("Gemma3ForCausalLM", Family::Gemma3),
    ("Gemma3ForConditionalGeneration", Family::Gemma3),
    ("Phi3ForCausalLM", Family::Phi3),
];

/// The gate's function in the feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU by its tanh formula.
    GeluTanh,
}

/// The shape and the choices of a model.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Architecture.
    pub family: Family,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width inside the feed-forward layer.
    pub inner: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// Norm weights are stored as their difference from 1.
    pub norm_offset: bool,
    /// Norms after attention and after the feed-forward layer, before their output is added.
    pub post_norms: bool,
    /// Queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// The attention's output has a bias.
    pub out_bias: bool,
    /// The feed-forward layer has biases.
    pub mlp_bias: bool,
    /// The gate's function.
    pub activation: Activation,
    /// Factor on embeddings.
    pub embed_scale: f32,
    /// Factor on the products of queries with keys.
    pub query_scale: f32,
    /// Scores of attention become `cap * tanh(score / cap)`.
    pub attention_cap: Option<f32>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
    /// Per layer: how many of the latest positions a query sees; all where `None`. `[layers]`
    pub windows: Vec<Option<usize>>,
    /// Rotary tables of the model.
    pub ropes: Vec<Rope>,
    /// Per layer: which of `ropes`. `[layers]`
    pub layer_rope: Vec<usize>,
    /// The output layer is the embedding table.
    pub tied: bool,
    /// Tokens that end a text, from `config.json`; `generation_config.json` may name more.
    pub eos: Vec<u32>,
    /// Token that begins a text.
    pub bos: Option<u32>,
}

/// Most that a size may be: several times what any published model has, so that no number of a file alone decides what is allocated.
const MOST: &[(&str, u64)] = &[
    ("num_hidden_layers", 1024),
    ("num_attention_heads", 4096),
    ("num_key_value_heads", 4096),
    ("hidden_size", 1 << 17),
    ("intermediate_size", 1 << 20),
    ("vocab_size", 1 << 22),
    ("type_vocab_size", 1 << 16),
];
/// The same for every other size, such as positions, which no table is made of as they stand.
const MOST_OF_OTHERS: u64 = 1 << 30;

/// One object of `config.json` with what is needed to complain about it.
pub(super) struct Fields<'a> {
    pub path: &'a Path,
    pub object: &'a Value,
}

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn bad(&self, key: &str, value: &Value, want: &str) -> Error {
        Error::mismatch(self.path, format!("`{key}` is {}, it must be {want}", super::shown(&value.to_string())))
    }

    /// A whole number from 1 to what is sensible for `key`, or `default`; an error where neither is there.
    pub fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (Some(value), _) => {
                let most = MOST.iter().find(|(name, _)| *name == key).map_or(MOST_OF_OTHERS, |(_, most)| *most);
                match value.as_u64().filter(|n| (1..=most).contains(n)) {
                    Some(n) => Ok(n as usize),
                    None => Err(self.bad(key, value, &format!("a whole number from 1 to {most}"))),
                }
            }
            (None, Some(n)) => Ok(n),
            (None, None) => Err(Error::mismatch(self.path, format!("`{key}` is missing; the folder is not a complete model"))),
        }
    }

    /// A finite number, or `None` where it is absent or null.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value.as_f64().filter(|x| x.is_finite()).map(Some).ok_or_else(|| self.bad(key, value, "a number")),
        }
    }

    /// A number above 0, or `None`.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => Err(self.bad(key, &Value::from(x), "above 0")),
            other => Ok(other),
        }
    }

    /// True or false; `default` where it is absent or null.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.bad(key, v, "true or false")))
    }

    /// A text, or `None` where it is something else.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    /// One token or a list of them.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let all = match value {
            Value::Array(list) => list.iter().map(one).collect::<Option<Vec<u32>>>(),
            other => one(other).map(|t| vec![t]),
        };
        all.ok_or_else(|| self.bad(key, value, "a token or a list of tokens"))
    }
}

/// Longest JSON file of a model's folder: shards of the largest models are named in 10 MB, vocabularies take 40 MB.
const MOST_BYTES: u64 = 1 << 28;

/// The bytes of a JSON file of a model's folder.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut file = std::fs::File::open(path).map_err(Error::io(path, "read"))?.take(MOST_BYTES + 1);
    file.read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::mismatch(path, format!("is longer than {MOST_BYTES} bytes; this is no file of a model's folder")));
    }
    Ok(bytes)
}

/// Reads a JSON file.
pub(super) fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|e| Error::Data {
        path: path.into(),
        line: e.line() as u64,
        message: format!("not JSON: {e}"),
    })
}

impl Spec {
    /// Reads `config.json` in `folder`.
    ///
    /// # Errors
    /// Where the file is missing or broken, names an architecture that is not supported, or asks for something that is not.
    pub fn read(folder: &Path) -> Result<Spec> {
        let path = folder.join("config.json");
        let root = read_json(&path)?;
        Spec::parse(&path, &root)
    }

    /// From the object of a `config.json` read from `path`.
    ///
    /// # Errors
    /// As [`Spec::read`].
    pub fn parse(path: &Path, root: &Value) -> Result<Spec> {
        let family = family(path, root)?;
        // Models with an eye keep what concerns text in an object of its own.
        let object = root.get("text_config").unwrap_or(root);
        let f = Fields { path, object };
        let top = Fields { path, object: root };
        let gemma = matches!(family, Family::Gemma2 | Family::Gemma3);
        let width = f.count("hidden_size", None)?;
        let layers = f.count("num_hidden_layers", None)?;
        let heads = f.count("num_attention_heads", Some(8).filter(|_| gemma))?;
        let kv_heads = f.count("num_key_value_heads", Some(if gemma { 4 } else { heads }))?;
        let head_dim = match family {
            Family::Gemma2 | Family::Gemma3 => f.count("head_dim", Some(256))?,
            Family::Qwen3 => f.count("head_dim", Some(128))?,
            _ => f.count("head_dim", Some(width / heads))?,
        };
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("{kv_heads} key heads do not divide {heads} query heads (`num_key_value_heads`, `num_attention_heads`)");
            return Err(Error::mismatch(path, message));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) || head_dim > 512 {
            return Err(Error::mismatch(path, format!("a head width of {head_dim} cannot be rotated; it must be even and at most 512")));
        }
        let max_positions = f.count("max_position_embeddings", Some(if gemma { 8192 } else { 2048 }))?;
        let (ropes, layer_rope, windows) = layer_choices(&f, family, layers, head_dim, max_positions)?;
        let query = if gemma { f.positive("query_pre_attn_scalar")?.unwrap_or(256.0) } else { head_dim as f64 };
        let caps = family == Family::Gemma2;
        let cap = |key: &str, default: f64| -> Result<Option<f32>> {
            // `null` switches a cap off; only a missing key takes the default.
            let value = if f.object.get(key).is_none() && caps { Some(default) } else { f.positive(key)? };
            Ok(value.map(|x| x as f32))
        };
        let mut eos = f.tokens("eos_token_id")?;
        if eos.is_empty() {
            eos = top.tokens("eos_token_id")?;
        }
        Ok(Spec {
            family,
            vocab: f.count("vocab_size", Some(262_208).filter(|_| family == Family::Gemma3))?,
            width,
            layers,
            heads,
            kv_heads,
            head_dim,
            inner: f.count("intermediate_size", None)?,
            max_positions,
            norm_eps: f.positive("rms_norm_eps")?.unwrap_or(if family == Family::Phi3 { 1e-5 } else { 1e-6 }) as f32,
            norm_offset: gemma,
            post_norms: gemma,
            qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
            qkv_bias: family == Family::Qwen2 || (family != Family::Phi3 && f.flag("attention_bias", false)?),
            out_bias: !matches!(family, Family::Qwen2 | Family::Phi3) && f.flag("attention_bias", false)?,
            mlp_bias: family == Family::Llama && f.flag("mlp_bias", false)?,
            activation: activation(&f, gemma)?,
            embed_scale: if gemma { (width as f32).sqrt() } else { 1.0 },
            query_scale: (query as f32).sqrt().recip(),
            attention_cap: cap("attn_logit_softcapping", 50.0)?,
            logit_cap: cap("final_logit_softcapping", 30.0)?,
            windows,
            ropes,
            layer_rope,
            tied: f.flag("tie_word_embeddings", gemma)?,
            eos,
            bos: f.tokens("bos_token_id")?.first().copied(),
        })
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Columns of the fused projection: queries, keys, values.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

fn family(path: &Path, root: &Value) -> Result<Family> {
    let names: Vec<&str> = root.get("architectures").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(name) = names.first() else {
        return Err(Error::mismatch(path, "`architectures` is missing; it must name the model's class, such as LlamaForCausalLM"));
    };
    match FAMILIES.iter().find(|(known, _)| known == name) {
        Some((_, family)) => Ok(*family),
        None => Err(Error::mismatch(path, unknown("architecture", name, FAMILIES.iter().map(|(n, _)| *n)))),
    }
}

fn activation(f: &Fields, gemma: bool) -> Result<Activation> {
    let name = f.text("hidden_activation").or_else(|| f.text("hidden_act"));
    match name.unwrap_or(if gemma { "gelu_pytorch_tanh" } else { "silu" }) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        // Early Gemma files say `gelu` and mean the tanh formula.
        "gelu" if gemma => Ok(Activation::GeluTanh),
        other => Err(Error::mismatch(f.path, unknown("activation", other, ["silu", "gelu_pytorch_tanh"]))),
    }
}

type LayerChoices = (Vec<Rope>, Vec<usize>, Vec<Option<usize>>);

/// Rotary tables and windows of every layer.
fn layer_choices(f: &Fields, family: Family, layers: usize, head_dim: usize, max_positions: usize) -> Result<LayerChoices> {
    let window = match f.get("sliding_window") {
        None => None,
        Some(_) if family == Family::Qwen2 || family == Family::Qwen3 => {
            if f.flag("use_sliding_window", false)? {
                Some(f.count("sliding_window", None)?)
            } else {
                None
            }
        }
        Some(_) => Some(f.count("sliding_window", None)?),
    };
    let window = match (family, window) {
        (Family::Gemma2 | Family::Gemma3, None) if f.object.get("sliding_window").is_none() => Some(4096),
        (Family::Llama, _) => None,
        (_, window) => window,
    };
    let pattern = f.count("sliding_window_pattern", f.count("_sliding_window_pattern", Some(6)).ok())?;
    let from = f.number("max_window_layers")?.map_or(28, |n| n.max(0.0) as usize);
    let sliding: Vec<bool> = match f.get("layer_types").and_then(Value::as_array) {
        Some(types) => {
            if types.len() != layers {
                return Err(Error::mismatch(f.path, format!("`layer_types` names {} layers, the model has {layers}", types.len())));
            }
            let one = |t: &Value| match t.as_str() {
                Some("full_attention") => Ok(false),
                Some("sliding_attention") => Ok(true),
                _ => Err(Error::mismatch(
                    f.path,
                    format!("layer type {} is not supported (full_attention, sliding_attention)", super::shown(&t.to_string())),
                )),
            };
            types.iter().map(one).collect::<Result<_>>()?
        }
        None => (0..layers)
            .map(|i| match family {
                Family::Gemma2 => i % 2 == 0,
                Family::Gemma3 => (i + 1) % pattern != 0,
                Family::Qwen2 | Family::Qwen3 => i >= from,
                _ => true,
            })
            .collect(),
    };
    let windows = sliding.iter().map(|s| window.filter(|_| *s)).collect();
    if family == Family::Gemma3 {
        let full = Rope::read(f, "full_attention", 1_000_000.0, head_dim, max_positions)?;
        let local = Rope::read_local(f, 10_000.0, head_dim)?;
        return Ok((vec![full, local], sliding.iter().map(|s| usize::from(*s)).collect(), windows));
    }
    let rope = Rope::read(f, "", 10_000.0, head_dim, max_positions)?;
    Ok((vec![rope], vec![0; layers], windows))
}
