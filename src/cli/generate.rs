//! `lumos generate`: a model's answer to a prompt.

use super::args::{MOST_THREADS, between};
use super::interrupt;
use super::output::{say, say_json};
use crate::base::clean;
use crate::llm::{Dtype, EngineOptions, Finish, Key, Message, Model, Options, Piece, Place, Request, Sampling};
use crate::{Error, Result};
use serde_json::json;
use std::io::Read;
use std::path::PathBuf;

/// Let a language model answer a prompt: whether it loads, how it writes, how fast
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos generate --model models/qwen2.5-0.5b-instruct --prompt 'Name three films like Alien.'
  lumos generate --model SmolLM2-135M-Instruct.Q4_1.gguf --prompt 'Hello.' --temperature 0.7 --seed 3
  lumos generate --model models/tinystories --no-template --prompt 'Once upon a time, ' --json
  cat question.txt | lumos generate --model models/qwen --prompt - --system 'Answer in one line.'
The prompt goes through the model's chat template where it has one. Without --temperature the model's own advice holds, and where it
gives none the likeliest token is taken each time.")]
pub struct Args {
    /// Folder of a model (config.json, tokenizer.json, safetensors), or a .gguf file
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,
    /// What to ask; `-` reads it from standard input
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// The system message
    #[arg(long, value_name = "TEXT", conflicts_with = "no_template")]
    system: Option<String>,
    /// Continue the prompt as it stands, without the chat template
    #[arg(long)]
    no_template: bool,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = between::<usize>(1, 1_000_000))]
    max_tokens: usize,
    /// Temperature; 0 takes the likeliest token every time
    #[arg(long, value_name = "T", value_parser = between::<f32>(0.0, 10.0), allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Draw from the K likeliest tokens; 0: all
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Draw from the likeliest tokens that hold this probability
    #[arg(long, value_name = "P", value_parser = between::<f32>(0.0, 1.0))]
    top_p: Option<f32>,
    /// Divides logits of tokens that stand there already; 1: none
    #[arg(long, value_name = "X", value_parser = between::<f32>(0.01, 10.0))]
    repetition_penalty: Option<f32>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to compute: auto, cpu, cuda, cuda:N; candle in a build with candle-cuda
    #[arg(long, default_value = "auto")]
    device: String,
    /// Numbers: auto, f32, bf16 (on the CPU bf16 concerns weights, arithmetic is f32), f16 (GPU only)
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = between::<usize>(0, MOST_THREADS))]
    threads: usize,
    /// One JSON object: text, tokens, why it ended, speed
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What the command line asks for, over what the model's folder advises.
    fn sampling(&self, model: &Model) -> Sampling {
        let advice = &model.defaults;
        let usual = if advice.sample { advice.temperature.unwrap_or(1.0) } else { 0.0 };
        Sampling {
            temperature: self.temperature.unwrap_or(usual),
            top_k: self.top_k.or(advice.top_k).unwrap_or(0),
            top_p: self.top_p.or(advice.top_p).unwrap_or(1.0),
            repetition_penalty: self.repetition_penalty.or(advice.repetition_penalty).unwrap_or(1.0),
        }
    }

    fn asked(&self) -> Result<String> {
        if self.prompt != "-" {
            return Ok(self.prompt.clone());
        }
        let mut text = String::new();
        let read = std::io::stdin().take(1 << 24).read_to_string(&mut text);
        read.map_err(|e| Error::Usage(format!("--prompt -: standard input cannot be read as UTF-8 text: {e}")))?;
        Ok(text)
    }
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let asked = args.asked()?;
    if asked.is_empty() {
        return Err(Error::Usage("--prompt: is empty; say what the model is to answer or go on with".into()));
    }
    let options =
        Options { place: Place::named(&args.device)?, dtype: Dtype::named(&args.dtype)?, threads: args.threads, ..Options::default() };
    let model = Model::load(&args.model, &options)?;
    let templated = model.chat.has_template() && !args.no_template;
    if args.system.is_some() && !templated {
        return Err(Error::Usage("--system: the model has no chat template, and so no place for it; write it into the prompt".into()));
    }
    let turn = |role, text| Message { role, content: vec![Piece::Ours(text)] };
    let prompt = if args.no_template {
        model.tokenizer.encode_whole(&asked, crate::llm::Control::Token)?
    } else {
        let turns: Vec<Message> = args.system.iter().map(|text| turn("system", text.as_str())).chain([turn("user", &asked)]).collect();
        model.chat.prompt(&turns, &model.tokenizer)?
    };
    let sampling = args.sampling(&model);
    sampling.check()?;
    let n = prompt.len();
    let max_new = args.max_tokens.min(model.max_len.saturating_sub(n));
    if max_new == 0 {
        let message = format!("--prompt: has {n} tokens, and the longest sequence of the model has {}; shorten it", model.max_len);
        return Err(Error::Usage(message));
    }
    let key = Key { seed: args.seed, ..Key::default() };
    let request = Request { prompt, max_new, sampling, key, stop: model.defaults.eos.clone(), constraint: None };
    let mut engine = model.engine(EngineOptions { slots: 1, cache_tokens: n + max_new, ..EngineOptions::default() })?;
    let mut answer = None;
    let report = engine.generate(&mut [request].into_iter(), &mut |done| {
        answer = Some(done.outcome?);
        Ok(())
    })?;
    let answer = answer.ok_or_else(|| Error::Usage("the model gave no answer".into()))?;
    let (text, written) = (model.tokenizer.decode(&answer.tokens)?, answer.tokens.len());
    let speed = written as f64 / report.seconds.max(1e-9);
    if args.json {
        let finish = match answer.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Complete => "complete",
        };
        return say_json(&json!({
            "text": text, "prompt_tokens": n, "tokens": written, "finish": finish, "template": templated, "seconds": report.seconds,
            "tokens_per_s": speed, "first_token_s": report.first_token_seconds, "device": model.gpu().unwrap_or(model.device()),
            "weights": model.dtype(), "parameters": model.parameters(),
        }));
    }
    // What a model writes is foreign to the terminal.
    say(clean::lines(text.trim_end()))?;
    let end = if answer.finish == Finish::Length { "; cut at its longest, --max-tokens raises it" } else { "" };
    say(format!(
        "\n[{n} prompt tokens, {written} written in {:.1} s: {speed:.1} tokens/s on {}, {} weights{end}]",
        report.seconds,
        model.gpu().unwrap_or(model.device()),
        model.dtype()
    ))
}
