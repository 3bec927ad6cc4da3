//! Doors for fuzzing: what reads foreign bytes, without files and devices. None of these may panic, run for long, or allocate much more
//! than it is given.

use super::chat::{Chat, Message, Piece};
use super::embed::spec::shape;
use super::gguf::Gguf;
use super::spec::Spec;
use super::tokenizer::{Defaults, Tokenizer};
use serde_json::{Value, json};
use std::io::Cursor;
use std::path::Path;

/// A GGUF file, header and tensors, by itself and beside the `config.json` of a tiny model.
pub fn gguf(bytes: &[u8]) {
    if let Ok(alone) = super::gguf_alone::read(Path::new("model.gguf"), &mut Cursor::new(bytes)) {
        let _ = Spec::parse(Path::new("model.gguf"), &alone.config);
        let _ = Tokenizer::parse(Path::new("model.gguf"), &alone.tokenizer, alone.tokenizer_config);
    }
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "vocab_size": 8});
    let Ok(spec) = Spec::parse(Path::new("config.json"), &config) else { return };
    let Ok(gguf) = Gguf::read(Path::new("model.gguf"), &mut Cursor::new(bytes), &spec) else { return };
    for (name, shape) in spec.tensors() {
        let _ = match shape[..] {
            [rows, cols] => gguf.matrix(&name, rows, cols).map(drop),
            _ => gguf.vector(&name, shape[0]).map(drop),
        };
    }
    let _ = (gguf.kind(), gguf.parameters(), gguf.bytes());
}

/// A `config.json`: of a language model, of a sentence encoder; and a `generation_config.json`.
pub fn config(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(spec) = Spec::parse(Path::new("config.json"), &value) {
        let _ = (spec.tensors(), spec.qkv_width(), spec.group());
        spec.ropes.iter().for_each(|rope| drop(rope.table(spec.max_positions.min(16))));
        let _ = Defaults::parse(Path::new("generation_config.json"), &value, &spec);
    }
    let _ = shape(Path::new("config.json"), &value);
}

/// A `tokenizer.json`, and a text that it splits: they are parted by the last zero byte.
pub fn tokenizer(bytes: &[u8]) {
    let at = bytes.iter().rposition(|b| *b == 0).unwrap_or(bytes.len());
    let (file, text) = (&bytes[..at], String::from_utf8_lossy(&bytes[at..]));
    let Ok(tokenizer) = Tokenizer::parse(Path::new("tokenizer.json"), file, Value::Null) else { return };
    for control in [super::Control::Token, super::Control::Text] {
        if let Ok(tokens) = tokenizer.encode_whole(&text, control) {
            let _ = tokenizer.decode(&tokens);
        }
    }
}

/// A chat template and titles that fill its prompt: they are parted by zero bytes.
pub fn chat(bytes: &[u8]) {
    let mut parts = bytes.split(|b| *b == 0).map(String::from_utf8_lossy);
    let template = parts.next().unwrap_or_default().into_owned();
    let titles: Vec<_> = parts.collect();
    let Ok(tokenizer) = Tokenizer::of_bytes() else { return };
    let Ok(chat) = Chat::new("chat_template.jinja".into(), Some(template), "<s>".into(), "</s>".into()) else { return };
    let theirs = titles.iter().flat_map(|t| [Piece::Ours("\n- "), Piece::Theirs(t)]).collect();
    let system = Message { role: "system", content: vec![Piece::Ours("You name items.")] };
    let _ = chat.prompt(&[system, Message { role: "user", content: theirs }], &tokenizer);
}
