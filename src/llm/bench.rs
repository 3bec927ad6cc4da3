//! The generation benchmark: many prompts with one shared prefix, suffixes of their own and texts of a given length.

use super::constraint::{Constraint, ItemLines};
use super::model::Model;
use super::request::{EngineOptions, Report, Request};
use super::sample::{Key, Sampling};
use super::trie::TitleTrie;
use crate::base::rng::{Purpose, Stream};
use crate::{Error, Result};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct GenerateBench {
    /// Tokens that all prompts begin with.
    pub prefix: usize,
    /// Tokens of each prompt's own; the lengths are spread evenly from half to one and a half times this.
    pub suffix: usize,
    /// All suffixes of one length.
    pub equal: bool,
    /// Tokens to write.
    pub output: usize,
    /// Prompts.
    pub prompts: usize,
    /// Texts written side by side.
    pub batch: usize,
    /// Timed repetitions; one more runs first.
    pub repeats: usize,
    /// Sampling.
    pub sampling: Sampling,
    /// Titles of a made-up catalogue that the texts must name; 0: free text.
    pub titles: usize,
    /// Seed.
    pub seed: u64,
}

/// The figures of a generation benchmark. Rates are tokens over elapsed wall time, medians over the repetitions.
#[derive(Clone, Debug, Serialize)]
pub struct GenerateFigures {
    /// Folder's name.
    pub model: String,
    /// Weights.
    pub parameters: u64,
    /// How weights are kept; sums are f32.
    pub dtype: String,
    /// Where: `cpu`, `cuda`, `candle`.
    pub device: String,
    /// The GPU's name, where it computes on one.
    pub gpu: Option<String>,
    /// Threads.
    pub threads: usize,
    /// Tokens of the shared prefix.
    pub prefix: usize,
    /// Mean tokens of a suffix.
    pub suffix: f64,
    /// Tokens written a text.
    pub output: usize,
    /// Prompts.
    pub prompts: usize,
    /// Texts side by side.
    pub batch: usize,
    /// Prompt tokens, shared ones counted for every prompt, per second of the whole generation.
    pub prompt_tokens_per_s: f64,
    /// Prompt tokens really computed per second of the whole generation.
    pub computed_prompt_tokens_per_s: f64,
    /// Tokens written per second of the whole generation.
    pub output_tokens_per_s: f64,
    /// Slowest and fastest repetition in the same unit.
    pub output_tokens_per_s_range: [f64; 2],
    /// Mean milliseconds from a prompt's admission to its first token.
    pub first_token_ms: f64,
    /// Seconds of the whole generation, prefix included.
    pub seconds: f64,
    /// Most of the cache in use.
    pub cache_use: f64,
    /// Rows computed for padding, as a share.
    pub padded_rows: f64,
    /// Keys looked at beyond the end of a sequence, as a share.
    pub padded_keys: f64,
    /// Share of the time that finding allowed tokens took.
    pub constraint_share: f64,
    /// Share of the written tokens that the constraint left no choice about.
    pub forced_share: f64,
    /// Titles of the made-up catalogue.
    pub titles: usize,
    /// Seconds to build its trie.
    pub trie_build_s: f64,
    /// Bytes of the trie.
    pub trie_bytes: usize,
    /// Bytes of the trie for each token of a title.
    pub trie_bytes_per_token: f64,
    /// Timed repetitions.
    pub repeats: usize,
    /// Version of this program.
    pub version: String,
}

/// Tokens that are ordinary text.
fn prompts(model: &Model, bench: &GenerateBench) -> Result<(Vec<u32>, Vec<Vec<u32>>)> {
    let ordinary: Vec<u32> = (0..model.tokenizer.vocab() as u32).filter(|t| !model.tokenizer.is_special(*t)).collect();
    if ordinary.is_empty() {
        return Err(Error::Usage("the tokenizer has no ordinary tokens".into()));
    }
    let mut stream = Stream::new(bench.seed, Purpose::Bench, 0, 2);
    let mut draw = |n: usize| -> Vec<u32> { (0..n).map(|_| ordinary[stream.below(ordinary.len() as u64) as usize]).collect() };
    let prefix = draw(bench.prefix);
    let length = |i: usize| {
        let spread = bench.suffix / 2;
        if bench.equal || bench.prompts < 2 { bench.suffix } else { bench.suffix - spread + 2 * spread * i / (bench.prompts - 1) }
    };
    let all = (0..bench.prompts)
        .map(|i| {
            let mut prompt = prefix.clone();
            prompt.extend(draw(length(i)));
            prompt
        })
        .collect();
    Ok((prefix, all))
}

/// Made-up product titles: a maker, a few qualities, a thing, a number.
pub fn made_up_titles(n: usize, seed: u64) -> Vec<String> {
    const MAKERS: [&str; 12] =
        ["Acme", "Norvik", "Bluebell", "Hanson", "Kite & Co", "Solace", "Ferrum", "Oakline", "Pixel", "Tarn", "Umbra", "Velo"];
    const QUALITIES: [&str; 16] = [
        "red",
        "small",
        "wireless",
        "folding",
        "soft",
        "steel",
        "organic",
        "travel",
        "classic",
        "waterproof",
        "slim",
        "heavy",
        "quiet",
        "bright",
        "warm",
        "spare",
    ];
    const THINGS: [&str; 14] =
        ["case", "lamp", "bottle", "charger", "blanket", "brush", "cable", "stand", "toy car", "puzzle", "cream", "bag", "clock", "mug"];
    let mut stream = Stream::new(seed, Purpose::Bench, 1, 3);
    let mut pick = |list: &[&'static str]| list[stream.below(list.len() as u64) as usize];
    (0..n)
        .map(|i| {
            let mut words = vec![pick(&MAKERS)];
            (0..i % 4).for_each(|_| words.push(pick(&QUALITIES)));
            words.push(pick(&THINGS));
            if i % 7 == 0 { words.join(" ") } else { format!("{} {}", words.join(" "), i % 90_001) }
        })
        .collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs the benchmark. `progress` is called with the number of repetitions done.
///
/// # Errors
/// Where prompts do not fit the model, or the model fails.
pub fn run(model: &Model, bench: &GenerateBench, progress: &dyn Fn(u64, u64)) -> Result<GenerateFigures> {
    let (prefix, prompts) = prompts(model, bench)?;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0) + bench.output;
    let options =
        EngineOptions { slots: bench.batch, cache_tokens: prefix.len() + 16 + bench.batch * (longest + 16), ..Default::default() };
    let separator = model.tokenizer.encode("\n", super::tokenizer::Control::Text)?.last().copied().unwrap_or_default();
    let names = made_up_titles(bench.titles, bench.seed);
    let titles: Vec<&str> = names.iter().map(String::as_str).collect();
    let start = Instant::now();
    let trie = if bench.titles == 0 { None } else { Some(Arc::new(TitleTrie::build(&titles, &model.tokenizer, separator, "")?)) };
    let trie_build_s = start.elapsed().as_secs_f64();
    let mut reports: Vec<Report> = Vec::new();
    for repeat in 0..=bench.repeats {
        let mut engine = model.engine(options)?;
        let start = Instant::now();
        let computed = engine.share(&prefix)?;
        let prefix_seconds = start.elapsed().as_secs_f64();
        let mut requests = prompts.iter().enumerate().map(|(i, prompt)| Request {
            prompt: prompt.clone(),
            max_new: bench.output,
            sampling: bench.sampling,
            key: Key { seed: bench.seed, user: i as u64, view: 0 },
            // Every text is written to its full length, so that runs and libraries can be compared.
            stop: Vec::new(),
            constraint: trie.as_ref().map(|t| Box::new(ItemLines::new(t.clone(), usize::MAX, separator, &[])) as Box<dyn Constraint>),
        });
        let mut report = engine.generate(&mut requests, &mut |done| done.outcome.map(|_| ()))?;
        report.seconds += prefix_seconds;
        report.prompt_tokens += computed as u64;
        progress(repeat as u64 + 1, bench.repeats as u64 + 1);
        if repeat > 0 {
            reports.push(report);
        }
    }
    let of = |f: &dyn Fn(&Report) -> f64| median(reports.iter().map(f).collect());
    let rates: Vec<f64> = reports.iter().map(|r| r.output_tokens as f64 / r.seconds).collect();
    let given: usize = prompts.iter().map(Vec::len).sum();
    Ok(GenerateFigures {
        model: model.folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        parameters: model.parameters(),
        dtype: model.dtype().into(),
        device: model.device().into(),
        gpu: model.gpu().map(str::to_owned),
        threads: model.threads(),
        prefix: prefix.len(),
        suffix: given as f64 / bench.prompts as f64 - prefix.len() as f64,
        output: bench.output,
        prompts: bench.prompts,
        batch: bench.batch,
        prompt_tokens_per_s: of(&|r| given as f64 / r.seconds),
        computed_prompt_tokens_per_s: of(&|r| r.prompt_tokens as f64 / r.seconds),
        output_tokens_per_s: of(&|r| r.output_tokens as f64 / r.seconds),
        output_tokens_per_s_range: [rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max)],
        first_token_ms: of(&|r| 1e3 * r.first_token_seconds),
        seconds: of(&|r| r.seconds),
        cache_use: of(&|r| r.cache_use),
        padded_rows: of(&|r| r.padded_rows),
        padded_keys: of(&|r| r.padded_keys),
        constraint_share: of(&|r| r.constraint_seconds / r.seconds),
        forced_share: of(&|r| r.forced_tokens as f64 / r.output_tokens.max(1) as f64),
        titles: bench.titles,
        trie_build_s: if trie.is_some() { trie_build_s } else { 0.0 },
        trie_bytes: trie.as_ref().map_or(0, |t| t.bytes()),
        trie_bytes_per_token: trie.as_ref().map_or(0.0, |t| t.bytes() as f64 / t.token_count().max(1) as f64),
        repeats: bench.repeats,
        version: env!("CARGO_PKG_VERSION").into(),
    })
}
