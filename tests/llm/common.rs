//! Helpers of the language-model tests: the real tiny model, and random ones whose weights follow a formula that
//! `scripts/llm-fixtures` computes too.

use lumos::llm::{Cpu, Engine, EngineOptions, Generate, Key, Network, Ops, Request, Sampling, Source, Spec, Weights};
use serde_json::Value;
use std::path::Path;

pub use crate::encoder::{save, sized};
pub use crate::real::{smollm2, tinystories};

/// What the reference library says.
pub fn reference() -> Value {
    serde_json::from_str(include_str!("../fixtures/llm-reference.json")).unwrap()
}

pub fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The weights of `fill` in the script.
pub fn weights(spec: &Spec) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    sized(spec.tensors(), spec.norm_offset)
}

/// Writes a random model of `config` into `folder`.
pub fn random_folder(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    save(&folder.join("model.safetensors"), &weights(&Spec::read(folder).unwrap()));
}

/// A network with what an engine needs.
pub struct Loaded<O: Ops = Cpu> {
    pub network: Network<O>,
    pub ops: O,
    pub pool: rayon::ThreadPool,
}

impl Loaded {
    /// From a folder with weights and `config.json`; a tokenizer is not needed.
    pub fn open(folder: &Path, threads: usize) -> Loaded {
        Loaded::on(folder, threads, |_| Cpu::new(false))
    }

    /// A random model of `config`.
    pub fn random(config: &Value, threads: usize) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        random_folder(folder.path(), config);
        Loaded::open(folder.path(), threads)
    }
}

impl<O: Ops> Loaded<O> {
    /// The same on any device.
    pub fn on(folder: &Path, threads: usize, ops: impl FnOnce(&Spec) -> O) -> Loaded<O> {
        let spec = Spec::read(folder).unwrap();
        let source = Source::Folder(Weights::open(folder).unwrap());
        let ops = ops(&spec);
        let network = Network::new(&ops, spec, &source, 512).unwrap();
        Loaded { network, ops, pool: rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap() }
    }

    pub fn engine(&self, options: EngineOptions) -> Engine<'_, O> {
        Engine::on(&self.network, &self.ops, &self.pool, 512.min(self.network.spec().max_positions), options).unwrap()
    }
}

/// Logits after the last token of each prompt, all prompts in one packed batch.
pub fn logits<O: Ops>(network: &Network<O>, ops: &O, prompts: &[Vec<u32>]) -> Vec<Vec<f32>> {
    network.last_logits(ops, prompts).unwrap().chunks(network.spec().vocab).map(<[f32]>::to_vec).collect()
}

/// Holds every `step`th of our logits against the reference library's.
#[track_caller]
pub fn close(ours: &[f32], step: usize, expected: &Value, what: &str) {
    let expected = floats(expected);
    let ours: Vec<f32> = ours.iter().step_by(step).copied().collect();
    assert_eq!(ours.len(), expected.len(), "{what}");
    let worst = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, |a: f32, b| if b.is_nan() { b } else { a.max(b) });
    assert!(worst < 1e-3, "{what}: logits are {worst} off");
}

/// The reference library's texts end with the stop token, ours before it.
pub fn without_stop(mut tokens: Vec<u32>) -> Vec<u32> {
    if tokens.last() == Some(&2) {
        tokens.pop();
    }
    tokens
}

/// A request for `max_new` greedy tokens.
pub fn greedy(prompt: Vec<u32>, max_new: usize) -> Request {
    Request { prompt, max_new, sampling: Sampling::GREEDY, key: Key::default(), stop: vec![2], constraint: None }
}

/// Generates and gives tokens in the order of the requests.
pub fn texts<O: Ops>(engine: &mut Engine<'_, O>, requests: Vec<Request>) -> Vec<Vec<u32>> {
    let mut out = vec![None; requests.len()];
    engine
        .generate(&mut requests.into_iter(), &mut |done| {
            out[done.index] = Some(done.outcome?.tokens);
            Ok(())
        })
        .unwrap();
    out.into_iter().map(|t| t.expect("every request ends")).collect()
}

/// Holds greedy texts against the reference library's, with prompts cut into pieces, a prefix shared inside a block and sequences of
/// different lengths side by side.
#[track_caller]
pub fn agree_in_pieces<O: Ops>(engine: &mut Engine<'_, O>, rows: &[Value], prompts: &[Vec<u32>]) {
    engine.share(&prompts[3][..21]).unwrap();
    let ours = texts(engine, prompts.iter().map(|p| greedy(p.clone(), 12)).collect());
    let expected: Vec<Vec<u32>> = rows.iter().map(|r| without_stop(tokens(&r["greedy"]))).collect();
    assert_eq!(ours, expected);
}
