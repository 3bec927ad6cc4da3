//! `lumos bench generate`: how fast a language model writes.

use super::args::{MOST_THREADS, between};
use super::output::{say, say_json};
use super::progress::Progress;
use crate::base::memory;
use crate::llm::{Dtype, Model, Options, Place, Sampling, bench};
use crate::run::Observer;
use crate::{Error, Result};
use std::path::PathBuf;

/// Texts of a language model: prompt and output tokens per second, time to first token, cache use
#[derive(clap::Args)]
#[command(after_help = "\
Every prompt begins with the same prefix, which is computed once; every text is written to its full length.
Examples:
  lumos bench generate --model models/tinystories-656k
  lumos bench generate --model models/tinystories-656k --prefix 128 --suffix 64 --output 64 --prompts 256 --batch 64 --json
  lumos bench generate --shape qwen2.5-0.5b --device cuda --prompts 256 --batch 256 --output 128
  lumos bench generate --model models/tinystories-656k --titles 1000000     nothing but titles of a made-up catalogue")]
pub struct Args {
    /// Folder of a model (config.json, tokenizer.json, safetensors), or a .gguf file in one
    #[arg(long, value_name = "FOLDER", required_unless_present = "shape", conflicts_with = "shape")]
    model: Option<PathBuf>,
    /// Made-up weights in the shape of a model instead: smollm2-135m, qwen2.5-0.5b, qwen3-0.6b, llama-3.2-1b
    #[arg(long, value_name = "NAME")]
    shape: Option<String>,
    /// Tokens that all prompts begin with
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = between::<usize>(0, 1_000_000))]
    prefix: usize,
    /// Mean tokens of each prompt's own
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<usize>(1, 1_000_000))]
    suffix: usize,
    /// All suffixes of one length instead of half to one and a half times --suffix
    #[arg(long)]
    equal: bool,
    /// Tokens to write for each prompt
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<usize>(1, 1_000_000))]
    output: usize,
    /// Prompts
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = between::<usize>(1, 1_000_000))]
    prompts: usize,
    /// Texts written side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = between::<usize>(1, 65_536))]
    batch: usize,
    /// Where to compute: auto, cpu, cuda, cuda:N; candle in a build with candle-cuda
    #[arg(long, default_value = "auto")]
    device: String,
    /// Numbers: auto, f32, bf16 (on the CPU bf16 concerns weights, arithmetic is f32), f16 (GPU only)
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Temperature; 0 takes the likeliest token every time
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = between::<f32>(0.0, 10.0), allow_negative_numbers = true)]
    temperature: f32,
    /// Write nothing but titles of a made-up catalogue of this size [default: free text]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = between::<usize>(0, 10_000_000))]
    titles: usize,
    /// Timed repetitions; one more runs first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = between::<usize>(1, 100_000))]
    repeats: usize,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<usize>(0, MOST_THREADS))]
    threads: usize,
    /// Seed
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let sampling = Sampling { temperature: args.temperature, ..Sampling::GREEDY };
    sampling.check()?;
    let dtype = Dtype::named(&args.dtype)?;
    let longest = args.prefix + args.suffix + args.suffix / 2 + args.output;
    let tokens = memory::product([args.prompts, args.prefix + args.suffix + args.suffix / 2, size_of::<u32>()]);
    memory::check(&format!("{} prompts", args.prompts), tokens, "lower --prompts, --prefix or --suffix")?;
    let options = Options { place: Place::named(&args.device)?, dtype, threads: args.threads, max_len: longest.max(512) };
    let model = match (&args.shape, &args.model) {
        (Some(shape), _) => Model::made_up(shape, &options)?,
        (None, Some(folder)) => Model::load(folder, &options)?,
        (None, None) => return Err(Error::Usage("name a model with --model, or a shape with --shape".into())),
    };
    if longest > model.max_len {
        let message = format!("prefix, suffix and output reach {longest} tokens, the model ends at {}; shorten one", model.max_len);
        return Err(Error::Usage(message));
    }
    let bench = bench::GenerateBench {
        prefix: args.prefix,
        suffix: args.suffix,
        equal: args.equal,
        output: args.output,
        prompts: args.prompts,
        batch: args.batch,
        repeats: args.repeats,
        sampling,
        titles: args.titles,
        seed: args.seed,
    };
    let progress = Progress::new(args.json);
    let f = bench::run(&model, &bench, &|done, total| progress.stage("repetitions", done, total))?;
    progress.stage_end("repetitions");
    if args.json {
        return say_json(&f);
    }
    let [low, high] = f.output_tokens_per_s_range;
    say(format!(
        "{}: {:.2} M parameters, {} weights, {} threads of {}",
        f.model,
        f.parameters as f64 / 1e6,
        f.dtype,
        f.threads,
        f.gpu.as_deref().unwrap_or(&f.device)
    ))?;
    say(format!(
        "{} prompts of {} shared and {:.1} own tokens, {} tokens each, {} side by side",
        f.prompts, f.prefix, f.suffix, f.output, f.batch
    ))?;
    say(format!("output       {:10.0} tokens/s  (median of {}; {low:.0} to {high:.0})", f.output_tokens_per_s, f.repeats))?;
    say(format!("prompts      {:10.0} tokens/s  ({:.0} computed)", f.prompt_tokens_per_s, f.computed_prompt_tokens_per_s))?;
    say(format!("first token  {:10.1} ms after admission (mean)", f.first_token_ms))?;
    say(format!("cache use    {:10.1} %", 100.0 * f.cache_use))?;
    say(format!("padded work  {:10.1} % of rows, {:.1} % of keys", 100.0 * f.padded_rows, 100.0 * f.padded_keys))?;
    if f.titles > 0 {
        say(format!(
            "{} titles: {:.2} s to build, {:.1} MB, {:.2} bytes a token",
            f.titles,
            f.trie_build_s,
            f.trie_bytes as f64 / 1e6,
            f.trie_bytes_per_token
        ))?;
        say(format!(
            "  finding allowed tokens {:.2} % of the time; {:.1} % of tokens had no alternative",
            100.0 * f.constraint_share,
            100.0 * f.forced_share
        ))?;
    }
    Ok(())
}
