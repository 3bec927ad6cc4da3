//! A language model's decoder on the device: its logits against the CPU's, its choices against the host's, the same text in any batch,
//! and how fast it writes.

use super::Progress;
use super::report::CheckLine;
use crate::Result;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::device::interface::Device;
use crate::llm::bench::{self, GenerateBench, GenerateFigures};
use crate::llm::gpu::kernels::has_warpgroups;
use crate::llm::sample::{self, Scratch};
use crate::llm::{
    Batch, Cpu, Dtype, Engine, EngineOptions, Generate, Gpu, Key, Model, Network, Ops, Options, Request, SampleRequest, Sampling, Source,
    Spec, Stored, Weights,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// What a decoder computes with.
const NUMBERS: [Stored; 3] = [Stored::F32, Stored::Bf16, Stored::F16];
/// Positions of the rotary tables.
const POSITIONS: usize = 256;

/// The largest error of a logit, as a share of the largest logit: activations are rounded before each product.
/// Four times what the CPU rendition of the kernels shows.
fn bound(number: Stored, quick: bool) -> f64 {
    match number {
        Stored::F32 => {
            if quick {
                3e-6
            } else {
                1e-5
            }
        }
        Stored::F16 => 3e-3,
        Stored::Bf16 => 2e-2,
    }
}

/// Shapes that take every kernel, by name: groups of heads small, odd and beyond a tile; norms of heads; windows and caps; biases.
pub fn shapes(quick: bool) -> Vec<(&'static str, Value)> {
    let shape = |class: &str, sizes: [u64; 6], more: Value| {
        let [width, layers, heads, kv_heads, head_dim, inner] = sizes;
        let mut config = json!({
            "architectures": [class], "vocab_size": 611, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": inner, "max_position_embeddings": POSITIONS,
            "eos_token_id": 0, "tie_word_embeddings": true,
        });
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        config
    };
    let mut all = vec![
        ("qwen2, 7 heads a key head", shape("Qwen2ForCausalLM", [56, 2, 14, 2, 4, 100], json!({}))),
        ("gemma2, windows, caps", shape("Gemma2ForCausalLM", [48, 2, 2, 1, 72, 40], json!({"sliding_window": 7}))),
        ("qwen3, heads of 132", shape("Qwen3ForCausalLM", [40, 2, 2, 1, 132, 64], json!({}))),
        (
            "llama, 20 heads a key head",
            shape("LlamaForCausalLM", [33, 1, 20, 1, 20, 200], json!({"attention_bias": true, "tie_word_embeddings": false})),
        ),
    ];
    if !quick {
        let sizes = json!({"vocab_size": 20_000});
        all.push(("qwen2.5-0.5b, 2 layers", shape("Qwen2ForCausalLM", [896, 2, 14, 2, 64, 4864], sizes.clone())));
        all.push(("llama-3.2-1b, 2 layers", shape("LlamaForCausalLM", [2048, 2, 32, 8, 64, 8192], sizes)));
        all.push(("qwen3-0.6b, 2 layers", shape("Qwen3ForCausalLM", [1024, 2, 16, 8, 128, 3072], json!({"vocab_size": 20_000}))));
    }
    all
}

/// Prompts: some longer than a block of the cache and than attention's
/// piece; many where all tiles of a product are to be used on a large device.
fn prompts(vocab: usize, quick: bool) -> Vec<Vec<u32>> {
    let mut stream = Stream::new(5, Purpose::Bench, 3, 0);
    let mut draw = |n: usize| (0..n).map(|_| stream.below(vocab as u64) as u32).collect();
    let many = if quick { 4 } else { 66 };
    [2, 1, 20, 33, 70].into_iter().chain((0..many).map(|i| 1 + i % 3)).map(&mut draw).collect()
}

struct Pair {
    network: Network<Gpu>,
    gpu: Gpu,
    exact: Network<Cpu>,
    cpu: Cpu,
    pool: Arc<rayon::ThreadPool>,
    prompts: Vec<Vec<u32>>,
    /// Texts that are written.
    texts: usize,
}

impl Pair {
    fn new(device: &Arc<dyn Device>, config: &Value, number: Stored, quick: bool) -> Result<Pair> {
        let spec = Spec::parse(Path::new("check"), config)?;
        let source = Source::Folder(Weights::made_up(&spec, 5, number));
        let (gpu, cpu) = (Gpu::new(device.clone(), number, &spec)?, Cpu::new(false));
        let pool = parallel::pool(2)?;
        let exact = Network::new(&cpu, spec.clone(), &source, POSITIONS)?;
        let prompts = prompts(spec.vocab, quick);
        let texts = if quick { 4 } else { 9 };
        Ok(Pair { network: Network::new(&gpu, spec, &source, POSITIONS)?, gpu, exact, cpu, pool, prompts, texts })
    }

    fn texts(&self, slots: usize, step_tokens: usize) -> Result<Vec<Vec<u32>>> {
        let options = EngineOptions { slots, step_tokens, ..Default::default() };
        let mut engine = Engine::on(&self.network, &self.gpu, &self.pool, POSITIONS, options)?;
        let request = |(i, prompt): (usize, &Vec<u32>)| Request {
            prompt: prompt.clone(),
            max_new: 2 + i % 3,
            sampling: SAMPLINGS[i % SAMPLINGS.len()],
            key: Key { seed: 3, user: i as u64, view: 1 },
            stop: Vec::new(),
            constraint: None,
        };
        let mut out = vec![Vec::new(); self.texts];
        engine.generate(&mut self.prompts.iter().take(self.texts).enumerate().map(request), &mut |done| {
            out[done.index] = done.outcome?.tokens;
            Ok(())
        })?;
        Ok(out)
    }
}

const SAMPLINGS: [Sampling; 4] = [
    Sampling::GREEDY,
    Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0 },
    Sampling { temperature: 0.8, top_k: 50, top_p: 0.9, repetition_penalty: 1.0 },
    Sampling { temperature: 1.5, top_k: 0, top_p: 0.5, repetition_penalty: 1.3 },
];

/// How far the worst logit is from the CPU's, as a share of the largest: after every token, then after the last of each prompt only.
fn logits(pair: &Pair) -> Result<f64> {
    let (mut batch, blocks) = Batch::of_prompts(&pair.prompts);
    let last = std::mem::replace(&mut batch.wanted, (0..batch.tokens.len() as u32).collect());
    let mut worst = 0f64;
    for wanted in [None, Some(last)] {
        batch.wanted = wanted.unwrap_or(batch.wanted);
        let hidden = pair.network.forward(&pair.gpu, &batch, &mut pair.gpu.cache(pair.network.spec(), blocks)?)?;
        let ours = pair.network.logits(&pair.gpu, &hidden)?;
        let exact = pair.pool.install(|| {
            let hidden = pair.exact.forward(&pair.cpu, &batch, &mut pair.cpu.cache(pair.exact.spec(), blocks)?)?;
            pair.exact.logits(&pair.cpu, &hidden)
        })?;
        let size = |v: f32| if v.is_nan() { f64::INFINITY } else { f64::from(v.abs()) };
        let largest = exact.iter().map(|v| size(*v)).fold(0.0, f64::max);
        worst = ours.iter().zip(&exact).map(|(a, b)| size(a - b) / largest).fold(worst, f64::max);
    }
    Ok(worst)
}

/// How many prompts have other logits alone than beside the others, to the last bit.
fn other_bits(pair: &Pair) -> Result<usize> {
    let vocab = pair.network.spec().vocab;
    let together = pair.network.last_logits(&pair.gpu, &pair.prompts)?;
    let mut differ = 0;
    for (prompt, beside) in pair.prompts.iter().zip(together.chunks_exact(vocab)).take(5) {
        let alone = pair.network.last_logits(&pair.gpu, std::slice::from_ref(prompt))?;
        differ += usize::from(alone.iter().zip(beside).any(|(a, b)| a.to_bits() != b.to_bits()));
    }
    Ok(differ)
}

/// Tokens chosen on the device from its own logits, where the host chooses others from the same logits.
fn wrong_choices(pair: &Pair) -> Result<Vec<String>> {
    let (network, gpu) = (&pair.network, &pair.gpu);
    let vocab = network.spec().vocab;
    // The short ones, each several times: four of every kind of choice.
    let prompts: Vec<Vec<u32>> = (0..12).map(|i| pair.prompts[i % 3].clone()).collect();
    let (batch, blocks) = Batch::of_prompts(&prompts);
    let mut cache = gpu.cache(network.spec(), blocks)?;
    let hidden = network.forward(gpu, &batch, &mut cache)?;
    let logits = network.logits(gpu, &hidden)?;
    let third: Vec<u32> = (0..vocab as u32).step_by(3).collect();
    let seen: Vec<u32> = (0..vocab as u32).step_by(5).collect();
    let twos: Vec<Vec<u32>> = logits.chunks_exact(vocab).map(near_pair).collect();
    let biases: Vec<f32> = third.iter().map(|token| (token % 7) as f32 / 2.0 - 1.5).collect();
    let asks: Vec<SampleRequest<'_>> = (0..prompts.len())
        .map(|row| {
            let kind = row / SAMPLINGS.len();
            let sampling = if kind == 2 { Sampling::GREEDY } else { SAMPLINGS[row % SAMPLINGS.len()] };
            SampleRequest {
                row,
                sampling,
                key: Key { seed: 1, user: row as u64, view: 0 },
                position: 4,
                seen: if sampling.repetition_penalty == 1.0 { &[] } else { &seen },
                allowed: [None, Some(&third[..]), Some(&twos[row][..])][kind],
                biases: if kind == 1 && row % 2 == 1 { &biases } else { &[] },
            }
        })
        .collect();
    let answers = gpu.answers(network.ask(gpu, hidden, &asks)?)?;
    let mut wrong = Vec::new();
    for (ask, answer) in asks.iter().zip(answers) {
        let own = &logits[ask.row * vocab..][..vocab];
        let all: Vec<u32> = ask.allowed.map_or_else(|| (0..vocab as u32).collect(), <[u32]>::to_vec);
        let mut some: Vec<f32> = all.iter().map(|t| own[*t as usize]).collect();
        some.iter_mut().zip(ask.biases).for_each(|(logit, bias)| *logit += bias);
        let host = sample::choose(&ask.sampling, all.iter().copied(), &some, ask.seen, ask.key, ask.position, &mut Scratch::default());
        if answer != host {
            wrong.push(format!("row {}: {answer:?}, the host takes {host:?}", ask.row));
        }
    }
    Ok(wrong)
}

/// Two tokens whose logits are as near as can be while the order of sums, which is another where few logits are asked for, cannot
/// exchange them.
fn near_pair(logits: &[f32]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]));
    let least = 2e-5 * logits.iter().fold(0f32, |m, v| m.max(v.abs()));
    let gap = |pair: &&[u32]| logits[pair[1] as usize] - logits[pair[0] as usize];
    let best = order.windows(2).filter(|pair| gap(pair) > least).min_by(|a, b| gap(a).total_cmp(&gap(b)));
    let mut two = best.map_or(Vec::new(), <[u32]>::to_vec);
    two.sort_unstable();
    two
}

/// Checks the decoder on `device` in all kinds of numbers.
pub fn run(device: &Arc<dyn Device>, quick: bool, checks: &mut Vec<CheckLine>, progress: Progress) -> Result<()> {
    for shape in shapes(quick) {
        for number in NUMBERS {
            progress(&format!("text: {}, {}", shape.0, number.name()));
            one(device, &shape, number, quick, checks)?;
        }
    }
    Ok(())
}

/// A small decoder in halves.
pub fn smoke(device: &Arc<dyn Device>, checks: &mut Vec<CheckLine>) -> Result<()> {
    shapes(true).iter().take(1).try_for_each(|shape| one(device, shape, Stored::Bf16, true, checks))
}

/// Checks one shape in one kind of number.
pub fn one(
    device: &Arc<dyn Device>,
    (name, config): &(&'static str, Value),
    number: Stored,
    quick: bool,
    checks: &mut Vec<CheckLine>,
) -> Result<()> {
    let case = format!("{name}, {}", number.name());
    device.set_scope(&format!("text, {case}"));
    let pair = Pair::new(device, config, number, quick)?;
    let mut line = |what: &str, error: f64, bound: f64, fault: Option<String>| {
        let ok = fault.is_none() && error <= bound;
        let fault = fault.or_else(|| (!ok).then(|| format!("off by {error:.2e}, at most {bound:.0e} is allowed")));
        checks.push(CheckLine { part: "text", name: what.into(), case: case.clone(), error, bound, ok, fault });
    };
    if has_warpgroups(number, &device.limits()) {
        let fault = (!pair.gpu.wide()).then(|| "other bits than by the other tiles, or no code for sm_90a: they are not used".to_string());
        line("products by warpgroups", 0.0, 0.0, fault);
    }
    line("logits", logits(&pair)?, bound(number, quick), None);
    let wrong = wrong_choices(&pair)?;
    line("choices", 0.0, 0.0, (!wrong.is_empty()).then(|| wrong.join("; ")));
    let differ = other_bits(&pair)?;
    line("same bits in any batch", 0.0, 0.0, (differ > 0).then(|| format!("logits after {differ} prompts differ alone and beside others")));
    let alone = pair.texts(1, 0)?;
    for (slots, step_tokens) in [(9, 0), (3, 11)] {
        let differ = pair.texts(slots, step_tokens)?.iter().zip(&alone).filter(|(a, b)| a != b).count();
        let fault = (differ > 0).then(|| format!("{differ} texts of {} differ with {slots} side by side", pair.texts));
        line("same text in any batch", 0.0, 0.0, fault);
    }
    Ok(())
}

/// Times of generation with made-up weights: the goal's shape, and one text at a time.
pub fn benches(
    device: &Arc<dyn Device>,
    quick: bool,
    lines: &mut Vec<GenerateFigures>,
    progress: Progress,
    late: &dyn Fn() -> bool,
) -> Result<bool> {
    if quick {
        return Ok(true);
    }
    let options = Options { dtype: Dtype::Bf16, max_len: 1024, ..Default::default() };
    progress("weights of qwen2.5-0.5b");
    let model = Model::made_up_on("qwen2.5-0.5b", &options, device.clone())?;
    let base = GenerateBench {
        prefix: 128,
        suffix: 64,
        equal: true,
        output: 128,
        prompts: 256,
        batch: 256,
        repeats: 3,
        sampling: Sampling::GREEDY,
        titles: 0,
        seed: 7,
    };
    let drawn = GenerateBench { sampling: Sampling { temperature: 1.0, top_p: 0.95, ..Sampling::GREEDY }, ..base.clone() };
    let titles = GenerateBench { titles: 10_000, suffix: 192, ..drawn.clone() };
    let alone = GenerateBench { prompts: 4, batch: 1, ..base.clone() };
    for bench in [base, drawn, titles, alone] {
        if late() {
            return Ok(false);
        }
        progress(&format!("text: {} prompts, {} side by side", bench.prompts, bench.batch));
        lines.push(bench::run(&model, &bench, &|_, _| ())?);
    }
    Ok(true)
}
