//! What a folder says of its sentence encoder: `modules.json`, the pooling's `config.json`, `sentence_bert_config.json`, `config.json`.

use super::super::spec::Fields;
use super::read_json;
use crate::base::names::unknown;
use crate::{Error, Result};
use serde_json::Value;
use std::path::{Component, Path, PathBuf};

/// How the states of a sentence's tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
    /// The largest of each number.
    Max,
}

/// Names in a pooling's `config.json`.
const POOLINGS: [(&str, &str, Pooling); 3] = [
    ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
    ("pooling_mode_cls_token", "cls", Pooling::Cls),
    ("pooling_mode_max_tokens", "max", Pooling::Max),
];

/// The shape of a BERT encoder.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Rows of the table of tokens.
    pub vocab: usize,
    /// Width of hidden states.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads; they divide the width.
    pub heads: usize,
    /// Width inside the feed-forward layer.
    pub inner: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Rows of the table of segments.
    pub types: usize,
    /// Added to the variance in layer norms.
    pub norm_eps: f32,
}

/// A sentence encoder as its folder describes it.
#[derive(Clone, Debug)]
pub struct SentenceSpec {
    /// Where the encoder itself lies: the folder, or one inside it.
    pub folder: PathBuf,
    /// Its shape.
    pub shape: Shape,
    /// From tokens to a sentence.
    pub pooling: Pooling,
    /// Whether embeddings have length 1.
    pub normalize: bool,
    /// Most tokens of a sentence, control tokens included.
    pub longest: usize,
    /// Whether text is made lower-case before it is tokenised.
    pub lower: bool,
}

impl SentenceSpec {
    /// Reads what `folder` says.
    ///
    /// # Errors
    /// Where a file is missing or broken, or asks for something that is not supported.
    pub fn read(folder: &Path) -> Result<SentenceSpec> {
        if !folder.is_dir() {
            return Err(Error::mismatch(folder, "no such folder; name the folder of a sentence encoder, such as all-MiniLM-L6-v2"));
        }
        let modules = Modules::read(folder)?;
        let path = modules.encoder.join("config.json");
        let shape = shape(&path, &read_json(&path)?)?;
        let pooling = match &modules.pooling {
            Some(folder) => pooling(&folder.join("config.json"), shape.width)?,
            None => Pooling::Mean,
        };
        let (longest, lower) = limits(&modules.encoder, &shape)?;
        Ok(SentenceSpec { folder: modules.encoder, shape, pooling, normalize: modules.normalize, longest, lower })
    }
}

/// The steps that `modules.json` names.
struct Modules {
    encoder: PathBuf,
    pooling: Option<PathBuf>,
    normalize: bool,
}

impl Modules {
    /// A folder without the file is a bare encoder.
    fn read(folder: &Path) -> Result<Modules> {
        let path = folder.join("modules.json");
        let mut found = Modules { encoder: folder.into(), pooling: None, normalize: false };
        if !path.is_file() {
            return Ok(found);
        }
        let value = read_json(&path)?;
        let list = value.as_array().ok_or_else(|| Error::mismatch(&path, "is not a list of modules"))?;
        for (i, module) in list.iter().enumerate() {
            let text = |key: &str| module.get(key).and_then(Value::as_str);
            let kind = text("type").ok_or_else(|| Error::mismatch(&path, format!("module {i} has no `type`")))?;
            let inside = Path::new(text("path").unwrap_or_default());
            if !inside.components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(Error::mismatch(&path, format!("`{}` of module {i} leads out of the folder", inside.display())));
            }
            let own = if inside.as_os_str().is_empty() { folder.into() } else { folder.join(inside) };
            let name = kind.rsplit('.').next().unwrap_or(kind);
            match (i, name) {
                (0, "Transformer") => found.encoder = own,
                (1, "Pooling") => found.pooling = Some(own),
                (2.., "Normalize") => found.normalize = true,
                (_, "Dense") => {
                    let message = "has a `Dense` module after its pooling, which is not supported; use an encoder without one";
                    return Err(Error::mismatch(&path, message));
                }
                (_, "Transformer" | "Pooling" | "Normalize") => {
                    let message =
                        format!("module {i} is `{name}`; wanted are a Transformer, a Pooling and perhaps a Normalize, in this order");
                    return Err(Error::mismatch(&path, message));
                }
                _ => return Err(Error::mismatch(&path, unknown("module", name, ["Transformer", "Pooling", "Normalize"]))),
            }
        }
        if found.pooling.is_none() {
            return Err(Error::mismatch(&path, "names no Pooling after a Transformer; the folder is no sentence encoder"));
        }
        Ok(found)
    }
}

fn pooling(path: &Path, width: usize) -> Result<Pooling> {
    let object = read_json(path)?;
    let f = Fields { path, object: &object };
    let dimension = f.count("word_embedding_dimension", Some(width))?;
    if dimension != width {
        let message = format!(
            "`word_embedding_dimension` is {dimension}, the encoder's states have {width} numbers: they belong to different models"
        );
        return Err(Error::mismatch(path, message));
    }
    if !f.flag("include_prompt", true)? {
        return Err(Error::mismatch(path, "`include_prompt` is false, which is not supported; use an encoder without it"));
    }
    let mut names: Vec<&str> = Vec::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        if key.starts_with("pooling_mode_") && value == &Value::Bool(true) {
            names.push(key);
        }
    }
    names.extend(f.text("pooling_mode"));
    match names[..] {
        [name] => match POOLINGS.iter().find(|(key, short, _)| *key == name || *short == name) {
            Some((.., pooling)) => Ok(*pooling),
            None => Err(Error::mismatch(path, unknown("pooling", name, POOLINGS.iter().map(|(key, ..)| *key)))),
        },
        _ => Err(Error::mismatch(path, format!("asks for {} ways of pooling at once; one is supported: mean, cls or max", names.len()))),
    }
}

/// Most tokens of a sentence, and whether it is made lower-case.
fn limits(folder: &Path, shape: &Shape) -> Result<(usize, bool)> {
    let path = folder.join("sentence_bert_config.json");
    if !path.is_file() {
        return Ok((shape.positions, false));
    }
    let object = read_json(&path)?;
    let f = Fields { path: &path, object: &object };
    Ok((f.count("max_seq_length", Some(shape.positions))?.min(shape.positions), f.flag("do_lower_case", false)?))
}

pub(in crate::llm) fn shape(path: &Path, object: &Value) -> Result<Shape> {
    let names: Vec<&str> = object.get("architectures").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    match names.first() {
        Some(&"BertModel") => (),
        Some(name) => return Err(Error::mismatch(path, unknown("encoder", name, ["BertModel"]))),
        None => return Err(Error::mismatch(path, "`architectures` is missing; it must name the encoder's class, which is BertModel")),
    }
    let f = Fields { path, object };
    for (key, wanted) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
        match f.text(key) {
            Some(name) if name != wanted => return Err(Error::mismatch(path, format!("`{key}` is `{name}`; supported is `{wanted}`"))),
            _ => (),
        }
    }
    let shape = Shape {
        vocab: f.count("vocab_size", None)?,
        width: f.count("hidden_size", None)?,
        layers: f.count("num_hidden_layers", None)?,
        heads: f.count("num_attention_heads", None)?,
        inner: f.count("intermediate_size", None)?,
        positions: f.count("max_position_embeddings", None)?,
        types: f.count("type_vocab_size", Some(2))?,
        norm_eps: f.positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
    };
    if !shape.width.is_multiple_of(shape.heads) {
        return Err(Error::mismatch(path, format!("`num_attention_heads` {} does not divide `hidden_size` {}", shape.heads, shape.width)));
    }
    Ok(shape)
}
