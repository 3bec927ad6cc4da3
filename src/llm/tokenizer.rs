//! Text to tokens and back, as `tokenizer.json` says, and what else a folder says of its tokens.

use super::spec::{Fields, Spec, read_bytes, read_json};
use crate::base::guard::guarded;
use crate::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// How text that looks like a control token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// As the control token: for templates.
    Token,
    /// As the characters it is written with: for titles and whatever else users or shops write.
    Text,
}

/// A folder's tokenizer.
pub struct Tokenizer {
    path: PathBuf,
    control: tokenizers::Tokenizer,
    text: tokenizers::Tokenizer,
    special: Vec<(u32, String)>,
    vocab: usize,
    hash: String,
    /// `tokenizer_config.json`, or null.
    pub(super) config: Value,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `folder` and holds it against the model's embedding table.
    ///
    /// # Errors
    /// Where the file is missing or broken, or has tokens that the model has no row for.
    pub fn read(folder: &Path, spec: &Spec) -> Result<Tokenizer> {
        Tokenizer::with_rows(folder, spec.vocab)
    }

    /// [`Tokenizer::read`] for an embedding table of `rows` rows.
    ///
    /// # Errors
    /// As [`Tokenizer::read`].
    pub(super) fn with_rows(folder: &Path, rows: usize) -> Result<Tokenizer> {
        let path = folder.join("tokenizer.json");
        let config = folder.join("tokenizer_config.json");
        let config = if config.is_file() { read_json(&config)? } else { Value::Null };
        Tokenizer::parse(&path, &read_bytes(&path)?, config)?.fitting(rows)
    }

    /// The tokenizer, where its tokens fit an embedding table of `rows` rows.
    ///
    /// # Errors
    /// Where they belong to another model.
    pub(super) fn fitting(self, rows: usize) -> Result<Tokenizer> {
        let (path, vocab) = (&self.path, self.vocab);
        if vocab > rows {
            let message =
                format!("has token {}, but the model's embedding table ends at {}: they belong to different models", vocab - 1, rows - 1);
            return Err(Error::mismatch(path, message));
        }
        // A table is padded to a round size at most; far fewer tokens mean the tokenizer of another model.
        if vocab * 2 < rows {
            let message = format!("knows {vocab} tokens, the model has {rows}: they belong to different models");
            return Err(Error::mismatch(path, message));
        }
        Ok(self)
    }

    /// From the bytes of a `tokenizer.json` read from `path`, and what `tokenizer_config.json` says.
    ///
    /// # Errors
    /// Where the bytes are no tokenizer.
    pub(super) fn parse(path: &Path, bytes: &[u8], config: Value) -> Result<Tokenizer> {
        // The library panics on some files.
        let read = guarded(|| tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())).flatten();
        let mut control = read.map_err(|why| {
            let why = super::shown(&why);
            Error::mismatch(path, format!("not a tokenizer: {why}; download the folder again"))
        })?;
        // Stored settings for training batches would cut or pad our prompts.
        let _ = control.with_truncation(None);
        control.with_padding(None);
        let vocab = control.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let mut text = control.clone();
        text.set_encode_special_tokens(true);
        let mut special: Vec<(u32, String)> = control
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, t)| t.special || is_mark(&t.content))
            .map(|(id, t)| (id, t.content))
            .collect();
        special.sort();
        let hash = hex::encode(Sha256::digest(bytes));
        Ok(Tokenizer { path: path.into(), control, text, special, vocab, hash, config })
    }

    /// A tokenizer that knows nothing but bytes, for models with made-up weights.
    ///
    /// # Errors
    /// Never: what is read here is written here.
    pub fn of_bytes() -> Result<Tokenizer> {
        let mut letters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
        letters.sort_unstable();
        let vocab: Value = letters.iter().enumerate().map(|(id, letter)| (letter.to_string(), Value::from(id))).collect();
        let bytes = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let model = serde_json::json!({"type": "BPE", "vocab": vocab, "merges": []});
        let whole = serde_json::json!({"version": "1.0", "model": model, "pre_tokenizer": bytes, "decoder": bytes}).to_string();
        let path = PathBuf::from("bytes");
        let control = tokenizers::Tokenizer::from_bytes(&whole).map_err(|e| Error::mismatch(&path, e.to_string()))?;
        let hash = hex::encode(Sha256::digest(&whole));
        Ok(Tokenizer { path, text: control.clone(), control, special: Vec::new(), vocab: letters.len(), hash, config: Value::Null })
    }

    fn pick(&self, control: Control) -> &tokenizers::Tokenizer {
        if control == Control::Token { &self.control } else { &self.text }
    }

    fn failed(&self, e: impl std::fmt::Display) -> Error {
        Error::mismatch(&self.path, format!("cannot read a text: {}", super::shown(&e.to_string())))
    }

    /// What the library gives, where it gives something.
    fn asked<T>(&self, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        guarded(work).map_err(|why| self.failed(why))?.map_err(|e| self.failed(e))
    }

    /// Tokens of `text`, nothing added before or after.
    ///
    /// # Errors
    /// Where the tokenizer cannot express the text.
    pub fn encode(&self, text: &str, control: Control) -> Result<Vec<u32>> {
        Ok(self.asked(|| self.pick(control).encode_fast(text, false))?.get_ids().to_vec())
    }

    /// Tokens of `text` with what the tokenizer puts around every text, such as a first token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_whole(&self, text: &str, control: Control) -> Result<Vec<u32>> {
        Ok(self.asked(|| self.pick(control).encode_fast(text, true))?.get_ids().to_vec())
    }

    /// Tokens of each text with the bytes it comes from, control tokens read as text. On all cores.
    pub(super) fn encode_many(&self, texts: Vec<String>) -> Result<Vec<tokenizers::Encoding>> {
        self.asked(|| self.text.encode_batch(texts, false))
    }

    /// From now on [`Tokenizer::sentences`] have at most `tokens` tokens, control tokens included.
    ///
    /// # Errors
    /// Where what the tokenizer puts around every text alone is longer.
    pub(super) fn cut_at(&mut self, tokens: usize) -> Result<()> {
        // The library subtracts without looking.
        let around = self.asked(|| self.text.encode_fast("", true))?.len();
        if tokens <= around {
            let message = format!("puts {around} tokens around every text, a sentence may have {tokens}: they belong to different models");
            return Err(Error::mismatch(&self.path, message));
        }
        let cut = tokenizers::TruncationParams { max_length: tokens, ..Default::default() };
        self.text.with_truncation(Some(cut)).map(drop).map_err(|e| self.failed(e))
    }

    /// Tokens of each text with what the tokenizer puts around every text, control tokens read as text. On all cores.
    pub(super) fn sentences(&self, texts: Vec<String>) -> Result<Vec<tokenizers::Encoding>> {
        self.asked(|| self.text.encode_batch_fast(texts, true))
    }

    /// The text of `tokens`, control tokens left out.
    ///
    /// # Errors
    /// Where the tokenizer's decoder fails.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.asked(|| self.control.decode(tokens, true))
    }

    /// The text of `tokens`, control tokens as they are written.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_whole(&self, tokens: &[u32]) -> Result<String> {
        self.asked(|| self.control.decode(tokens, false))
    }

    /// The token written `text`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.control.token_to_id(text)
    }

    /// Control tokens and how they are written, in order.
    pub fn special(&self) -> &[(u32, String)] {
        &self.special
    }

    /// Whether `token` is a control token.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.binary_search_by_key(&token, |(id, _)| *id).is_ok()
    }

    /// The token that stands for characters which cannot be expressed, where it has no other meaning.
    pub fn unknown(&self) -> Option<u32> {
        let word = |key: &str| self.config.get(key).and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str()));
        let unknown = word("unk_token")?;
        // GPT-2 and its kin use one token for everything.
        if [word("bos_token"), word("eos_token")].contains(&Some(unknown)) { None } else { self.token(unknown) }
    }

    /// One more than the largest token.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// SHA-256 of `tokenizer.json`, in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

/// Some markers, such as Qwen's `<think>`, are not declared special; runs of blanks and the like are no markers.
fn is_mark(content: &str) -> bool {
    content.len() > 1 && content.contains(['<', '[', '|'])
}

/// Sampling that a folder recommends, and the tokens that end a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Whether tokens are drawn rather than taken greedily.
    pub sample: bool,
    /// Temperature.
    pub temperature: Option<f32>,
    /// Keep the k likeliest.
    pub top_k: Option<u32>,
    /// Keep the likeliest that hold this probability.
    pub top_p: Option<f32>,
    /// Penalty on tokens already there.
    pub repetition_penalty: Option<f32>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl Defaults {
    /// Reads `generation_config.json` where there is one; the ending tokens of `config.json` where it names none.
    ///
    /// # Errors
    /// Where the file is broken.
    pub fn read(folder: &Path, spec: &Spec) -> Result<Defaults> {
        let path = folder.join("generation_config.json");
        if !path.is_file() {
            return Ok(Defaults { eos: spec.eos.clone(), ..Defaults::default() });
        }
        Defaults::parse(&path, &read_json(&path)?, spec)
    }

    /// From the object of a `generation_config.json` read from `path`.
    ///
    /// # Errors
    /// As [`Defaults::read`].
    pub(super) fn parse(path: &Path, object: &Value, spec: &Spec) -> Result<Defaults> {
        let f = Fields { path, object };
        let single = |key: &str| -> Result<Option<f32>> { Ok(f.positive(key)?.map(|x| x as f32)) };
        let mut eos = f.tokens("eos_token_id")?;
        if eos.is_empty() {
            eos = spec.eos.clone();
        }
        if let Some(token) = eos.iter().find(|t| **t as usize >= spec.vocab) {
            return Err(Error::mismatch(path, format!("`eos_token_id` {token} is beyond the model's {} tokens", spec.vocab)));
        }
        Ok(Defaults {
            sample: object.get("do_sample").and_then(Value::as_bool).unwrap_or(false),
            temperature: single("temperature")?,
            top_k: f.number("top_k")?.filter(|k| *k >= 1.0).map(|k| k as u32),
            top_p: single("top_p")?,
            repetition_penalty: single("repetition_penalty")?,
            eos,
        })
    }
}
