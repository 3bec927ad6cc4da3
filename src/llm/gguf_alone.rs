//! A GGUF file without a model folder around it: `config.json`, `tokenizer.json` and `tokenizer_config.json` made from its header, so that
//! everything behind reads one form.
//!
//! Headers say less than these files. What cannot be told from one with certainty is refused, with the file that is to be put beside it.

use super::gguf::first_line;
use super::gguf_header;
use crate::base::names;
use crate::{Error, Result};
use candle_core::quantized::gguf_file::{Content, Value as Meta};
use serde_json::{Map, Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// What a folder would have held.
#[derive(Debug)]
pub(super) struct Alone {
    /// `config.json`.
    pub config: Value,
    /// Bytes of `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Value,
}

/// Architectures whose headers say all that a configuration does.
const ARCHITECTURES: [(&str, &str); 3] = [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM"), ("qwen3", "Qwen3ForCausalLM")];

/// How texts are cut before byte pairs are merged.
struct Cut {
    /// The name in `tokenizer.ggml.pre`.
    name: &'static str,
    /// Every digit by itself, before anything else.
    digits: bool,
    /// Where to cut; nothing for the rule of GPT-2.
    pattern: Option<&'static str>,
    /// Whether texts are composed (NFC) first.
    nfc: bool,
    /// Whether a piece that is a token is not cut further.
    whole: bool,
}

const CUTS: [Cut; 5] = [
    Cut { name: "default", digits: false, pattern: None, nfc: false, whole: false },
    Cut { name: "gpt-2", digits: false, pattern: None, nfc: false, whole: false },
    Cut { name: "smollm", digits: true, pattern: None, nfc: false, whole: false },
    Cut {
        name: "llama-bpe",
        digits: false,
        pattern: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        nfc: false,
        whole: true,
    },
    Cut {
        name: "qwen2",
        digits: false,
        pattern: Some(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        nfc: true,
        whole: false,
    },
];

/// Kinds of tokens in `tokenizer.ggml.token_type`.
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// A header with what is needed to complain about it.
struct Header<'h> {
    path: &'h Path,
    content: &'h Content,
    architecture: &'h str,
}

/// Reads the header of the GGUF file `file`, which lies at `path`.
///
/// # Errors
/// Where the header is broken, or leaves open what the model is.
pub(super) fn read(path: &Path, file: &mut (impl Read + Seek)) -> Result<Alone> {
    let refused =
        |why: String| Error::mismatch(path, format!("not a whole GGUF file ({why}); it was cut off or damaged, download it again"));
    let tensors = gguf_header::check(file).map_err(refused)?;
    let content = Content::read(file).map_err(|e| refused(first_line(&e)))?;
    let length = file.seek(SeekFrom::End(0)).map_err(Error::io(path, "read"))?;
    gguf_header::check_tensors(&content, tensors, length).map_err(refused)?;
    let architecture = content.metadata.get("general.architecture").and_then(|v| v.to_string().ok()).map_or("", String::as_str);
    Header { path, content: &content, architecture }.alone()
}

impl Header<'_> {
    fn bad(&self, message: impl std::fmt::Display) -> Error {
        let beside = "put the config.json and tokenizer.json of the model it was made from beside the file";
        Error::mismatch(self.path, format!("{message}; {beside}"))
    }

    fn get(&self, key: &str) -> Option<&Meta> {
        self.content.metadata.get(key)
    }

    /// A value of the architecture.
    fn own(&self, key: &str) -> Option<Value> {
        plain(self.get(&format!("{}.{key}", self.architecture))?)
    }

    fn needed(&self, key: &str) -> Result<Value> {
        self.own(key).ok_or_else(|| self.bad(format!("its header has no number `{}.{key}`", super::shown(self.architecture))))
    }

    fn alone(&self) -> Result<Alone> {
        let Some((_, class)) = ARCHITECTURES.iter().find(|(name, _)| *name == self.architecture) else {
            let known = ARCHITECTURES.map(|(name, _)| name);
            let unknown = names::unknown("architecture of a GGUF file alone", &super::shown(self.architecture), known);
            return Err(self.bad(unknown));
        };
        let tokens = self.texts("tokenizer.ggml.tokens")?;
        let mut config = Map::new();
        config.insert("architectures".into(), json!([class]));
        for (key, own) in [
            ("hidden_size", "embedding_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("intermediate_size", "feed_forward_length"),
            ("max_position_embeddings", "context_length"),
            ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
        ] {
            config.insert(key.into(), self.needed(own)?);
        }
        for (key, own) in [
            ("num_key_value_heads", "attention.head_count_kv"),
            ("head_dim", "attention.key_length"),
            ("rope_theta", "rope.freq_base"),
            ("sliding_window", "attention.sliding_window"),
        ] {
            if let Some(value) = self.own(own) {
                config.insert(key.into(), value);
            }
        }
        self.rotation(&mut config)?;
        let has = |name: &str| self.content.tensor_infos.contains_key(name);
        let rows = self.content.tensor_infos.get("token_embd.weight").and_then(|info| info.shape.dims().first().copied());
        config.insert("vocab_size".into(), json!(rows.ok_or_else(|| self.bad("it has no tensor `token_embd.weight`"))?));
        config.insert("tie_word_embeddings".into(), json!(!has("output.weight")));
        config.insert("attention_bias".into(), json!(has("blk.0.attn_q.bias")));
        for key in ["bos_token_id", "eos_token_id"] {
            if let Some(value) = self.get(&format!("tokenizer.ggml.{key}")).and_then(plain) {
                config.insert(key.into(), value);
            }
        }
        let tokenizer = self.tokenizer(&tokens)?;
        let mut tokenizer_config = Map::new();
        for (key, id) in [("bos_token", "bos_token_id"), ("eos_token", "eos_token_id")] {
            let id = self.get(&format!("tokenizer.ggml.{id}")).and_then(plain).and_then(|v| v.as_u64());
            if let Some(token) = id.and_then(|id| tokens.get(id as usize)) {
                tokenizer_config.insert(key.into(), json!(token));
            }
        }
        if let Some(template) = self.get("tokenizer.chat_template").and_then(|v| v.to_string().ok()) {
            tokenizer_config.insert("chat_template".into(), json!(template));
        }
        Ok(Alone { config: config.into(), tokenizer, tokenizer_config: tokenizer_config.into() })
    }

    /// Positions that are stretched: linearly, or not at all.
    fn rotation(&self, config: &mut Map<String, Value>) -> Result<()> {
        if self.content.tensor_infos.contains_key("rope_freqs.weight") {
            return Err(self.bad("its positions are stretched by a tensor `rope_freqs.weight`, whose rule the header does not tell"));
        }
        let factor = self.own("rope.scaling.factor").or_else(|| self.own("rope.scale_linear"));
        match self.own("rope.scaling.type").as_ref().and_then(Value::as_str).unwrap_or("none") {
            "none" => Ok(()),
            "linear" => {
                let factor = factor.ok_or_else(|| self.bad("its positions are stretched and `rope.scaling.factor` is missing"))?;
                config.insert("rope_scaling".into(), json!({"rope_type": "linear", "factor": factor}));
                Ok(())
            }
            other => {
                Err(self.bad(format!("its positions are stretched by `{}`, whose numbers the header tells in part", super::shown(other))))
            }
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let list = self.get(key).and_then(|v| v.to_vec().ok()).ok_or_else(|| self.bad(format!("its header has no list `{key}`")))?;
        let odd = || self.bad(format!("`{key}` holds something that is no text"));
        list.iter().map(|v| v.to_string().map(String::as_str).map_err(|_| odd())).collect()
    }

    /// `tokenizer.json` of byte-level byte pairs.
    fn tokenizer(&self, tokens: &[&str]) -> Result<Vec<u8>> {
        let word = |key: &str| self.get(key).and_then(|v| v.to_string().ok()).map(String::as_str);
        let model = word("tokenizer.ggml.model").unwrap_or_default();
        if model != "gpt2" {
            return Err(
                self.bad(format!("its tokenizer is `{}`, and only byte pairs (gpt2) can be read from a header", super::shown(model)))
            );
        }
        let pre = word("tokenizer.ggml.pre").unwrap_or("default");
        let cut = CUTS
            .iter()
            .find(|cut| cut.name == pre)
            .ok_or_else(|| self.bad(names::unknown("rule `tokenizer.ggml.pre`", &super::shown(pre), CUTS.iter().map(|cut| cut.name))))?;
        let kinds = self.get("tokenizer.ggml.token_type").and_then(|v| v.to_vec().ok()).map_or(&[][..], Vec::as_slice);
        let kind = |id: usize| kinds.get(id).and_then(plain).and_then(|v| v.as_u64()).unwrap_or(1);
        let added: Vec<Value> = tokens
            .iter()
            .enumerate()
            .filter(|(id, _)| [CONTROL, USER_DEFINED].contains(&kind(*id)))
            .map(|(id, token)| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                       "special": kind(id) == CONTROL})
            })
            .collect();
        let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.to_string(), json!(id))).collect();
        if vocab.len() != tokens.len() {
            return Err(self.bad("two of its tokens are written alike"));
        }
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let mut steps = Vec::new();
        if cut.digits {
            steps.push(json!({"type": "Digits", "individual_digits": true}));
        }
        if let Some(pattern) = cut.pattern {
            steps.push(json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}));
        }
        steps.push(bytes(cut.pattern.is_none()));
        let first = self.get("tokenizer.ggml.bos_token_id").and_then(plain).and_then(|v| v.as_u64());
        let first = first.filter(|_| matches!(self.get("tokenizer.ggml.add_bos_token"), Some(Meta::Bool(true))));
        let around = first.and_then(|id| Some((id, *tokens.get(id as usize)?))).map_or(bytes(true), |(id, token)| {
            let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
            let begin = json!({"SpecialToken": {"id": token, "type_id": 0}});
            json!({"type": "TemplateProcessing", "single": [begin, sequence("A")], "pair": [begin, sequence("A"), begin, sequence("B")],
                   "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}}})
        });
        let whole = json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": if cut.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": around,
            "decoder": bytes(true),
            "model": {"type": "BPE", "vocab": vocab, "merges": self.texts("tokenizer.ggml.merges")?, "ignore_merges": cut.whole},
        });
        serde_json::to_vec(&whole).map_err(|e| self.bad(format!("its tokenizer cannot be written: {e}")))
    }
}

/// A number, text or truth as JSON; nothing for lists and for numbers that are none.
fn plain(value: &Meta) -> Option<Value> {
    Some(match value {
        Meta::U8(x) => json!(x),
        Meta::I8(x) => json!(x),
        Meta::U16(x) => json!(x),
        Meta::I16(x) => json!(x),
        Meta::U32(x) => json!(x),
        Meta::I32(x) => json!(x),
        Meta::U64(x) => json!(x),
        Meta::I64(x) => json!(x),
        Meta::F32(x) if x.is_finite() => json!(x),
        Meta::F64(x) if x.is_finite() => json!(x),
        Meta::Bool(x) => json!(x),
        Meta::String(x) => json!(x),
        _ => return None,
    })
}
