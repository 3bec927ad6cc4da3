//! Text by a local language model: a folder with `config.json`, weights and a tokenizer, or a GGUF file.
//!
//!     cargo run --release --example write_text -- MODEL "Once upon a time"

use lumos::Error;
use lumos::llm::{Control, EngineOptions, Key, Model, Options, Request, Sampling};
use std::path::Path;

/// What the model at `path` writes after `prompt`, 40 tokens at most.
pub fn run(path: &Path, prompt: &str) -> lumos::Result<String> {
    let model = Model::load(path, &Options::default())?;
    let request = Request {
        prompt: model.tokenizer.encode_whole(prompt, Control::Text)?,
        max_new: 40,
        sampling: Sampling::GREEDY,
        key: Key { seed: 1, user: 0, view: 0 },
        stop: model.defaults.eos.clone(),
        constraint: None,
    };
    let mut written = String::new();
    let mut engine = model.engine(EngineOptions::default())?;
    engine.generate(&mut std::iter::once(request), &mut |done| {
        written = model.tokenizer.decode(&done.outcome?.tokens)?;
        Ok(())
    })?;
    println!("{prompt}{written}");
    Ok(written)
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [model, prompt] => run(Path::new(model), prompt).map(drop),
        _ => Err(Error::Usage("name a model and the beginning of a text".into())),
    }
}
