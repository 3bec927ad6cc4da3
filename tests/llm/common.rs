//! Helpers of the language-model tests: the real tiny model, and random ones whose weights follow a formula that
//! `scripts/llm-fixtures` computes too.

use lumos::llm::{Cpu, Engine, EngineOptions, Generate, Key, Network, Ops, Request, Sampling, Source, Spec, Weights};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub use crate::encoder::{save, sized};

/// The folder of the real tiny model, or `None` with a word on it where it is absent.
pub fn tinystories() -> Option<PathBuf> {
    let root =
        std::env::var_os("LUMOS_MODELS").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models"), PathBuf::from);
    let folder = root.join("tinystories-656k");
    if !folder.is_dir() {
        println!("skipped: no tinystories-656k under {}", root.display());
        return None;
    }
    Some(folder)
}

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

/// Names and shapes of the tensors that `spec` needs.
pub fn shapes(spec: &Spec) -> Vec<(String, Vec<usize>)> {
    let (w, q, kv, inner) = (spec.width, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.inner);
    let phi = spec.family == lumos::llm::Family::Phi3;
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![spec.vocab, w]), ("model.norm.weight".to_owned(), vec![w])];
    if !spec.tied {
        all.push(("lm_head.weight".into(), vec![spec.vocab, w]));
    }
    for i in 0..spec.layers {
        let mut add = |part: &str, shape: Vec<usize>| all.push((format!("model.layers.{i}.{part}"), shape));
        let mut linear = |part: &str, n: usize, k: usize, bias: bool| {
            add(&format!("{part}.weight"), vec![n, k]);
            if bias {
                add(&format!("{part}.bias"), vec![n]);
            }
        };
        if phi {
            linear("self_attn.qkv_proj", q + 2 * kv, w, false);
            linear("mlp.gate_up_proj", 2 * inner, w, false);
        } else {
            linear("self_attn.q_proj", q, w, spec.qkv_bias);
            linear("self_attn.k_proj", kv, w, spec.qkv_bias);
            linear("self_attn.v_proj", kv, w, spec.qkv_bias);
            linear("mlp.gate_proj", inner, w, spec.mlp_bias);
            linear("mlp.up_proj", inner, w, spec.mlp_bias);
        }
        linear("self_attn.o_proj", w, q, spec.out_bias);
        linear("mlp.down_proj", w, inner, spec.mlp_bias);
        add("input_layernorm.weight", vec![w]);
        add("post_attention_layernorm.weight", vec![w]);
        if spec.post_norms {
            add("pre_feedforward_layernorm.weight", vec![w]);
            add("post_feedforward_layernorm.weight", vec![w]);
        }
        if spec.qk_norm {
            add("self_attn.q_norm.weight", vec![spec.head_dim]);
            add("self_attn.k_norm.weight", vec![spec.head_dim]);
        }
    }
    all
}

/// The weights of `fill` in the script.
pub fn weights(spec: &Spec) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    sized(shapes(spec), spec.norm_offset)
}

/// Writes a random model of `config` into `folder`.
pub fn random_folder(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    save(&folder.join("model.safetensors"), &weights(&Spec::read(folder).unwrap()));
}

/// A network on the CPU with what an engine needs.
pub struct Loaded {
    pub network: Network<Cpu>,
    pub ops: Cpu,
    pub pool: rayon::ThreadPool,
}

impl Loaded {
    /// From a folder with weights and `config.json`; a tokenizer is not needed.
    pub fn open(folder: &Path, threads: usize) -> Loaded {
        let spec = Spec::read(folder).unwrap();
        let source = Source::Folder(Weights::open(folder).unwrap());
        let ops = Cpu::new(false);
        let network = Network::new(&ops, spec, &source, 512).unwrap();
        Loaded { network, ops, pool: rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap() }
    }

    /// A random model of `config`.
    pub fn random(config: &Value, threads: usize) -> Loaded {
        let folder = tempfile::tempdir().unwrap();
        random_folder(folder.path(), config);
        Loaded::open(folder.path(), threads)
    }

    pub fn engine(&self, options: EngineOptions) -> Engine<'_, Cpu> {
        Engine::on(&self.network, &self.ops, &self.pool, 512.min(self.network.spec().max_positions), options).unwrap()
    }
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
