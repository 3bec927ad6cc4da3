//! GGUF: quantised weights give nearly the text of the plain ones, and whole the same for any batch.

use super::common::{Loaded, greedy, reference, texts, weights};
use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use lumos::llm::{BLOCK, Batch, Cpu, EngineOptions, Gguf, Network, Ops, Source, Spec};
use serde_json::{Value, json};
use std::path::Path;

/// The name that llama.cpp gives a tensor.
fn gguf_name(name: &str, post_norms: bool) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    let attention = if post_norms { "post_attention_norm" } else { "ffn_norm" };
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    name
}

/// Writes `config`'s formula weights as llama.cpp's converter would.
pub fn write(path: &Path, spec: &Spec, architecture: &str, kind: GgmlDType, more: &[(&str, Meta)]) {
    let paired = architecture == "llama";
    let tensors: Vec<(String, QTensor)> = weights(spec)
        .into_iter()
        .map(|(name, shape, mut values)| {
            if spec.norm_offset && name.ends_with("norm.weight") {
                values.iter_mut().for_each(|x| *x += 1.0);
            }
            let mut tensor = Tensor::from_vec(values, shape.clone(), &Device::Cpu).unwrap();
            let heads = if name.contains("q_proj.weight") { spec.heads } else { spec.kv_heads };
            if paired && (name.contains("q_proj.weight") || name.contains("k_proj.weight")) {
                let pairs = tensor.reshape((heads, 2, shape[0] / heads / 2, shape[1])).unwrap();
                tensor = pairs.transpose(1, 2).unwrap().contiguous().unwrap().reshape(shape.clone()).unwrap();
            }
            let kind = if shape.len() == 2 { kind } else { GgmlDType::F32 };
            (gguf_name(&name, spec.post_norms), QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    let metadata = Meta::String(architecture.into());
    let list: Vec<(&str, &QTensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let metadata: Vec<(&str, &Meta)> = [("general.architecture", &metadata)].into_iter().chain(more.iter().map(|(k, v)| (*k, v))).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &list).unwrap();
}

/// A configuration whose rows are whole blocks of every quantised form.
fn config(name: &str) -> Value {
    let mut config = reference()[name]["config"].clone();
    for (key, value) in [("hidden_size", 256), ("intermediate_size", 256), ("num_hidden_layers", 2), ("vocab_size", 96)] {
        config[key] = json!(value);
    }
    if name != "llama-linear" {
        config["head_dim"] = json!(64);
    }
    config
}

fn quantised(config: &Value, architecture: &str, kind: GgmlDType) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let spec = Spec::read(folder.path()).unwrap();
    let path = folder.path().join("model.gguf");
    write(&path, &spec, architecture, kind, &[]);
    let source = Source::Gguf(Gguf::open(&path, &spec).unwrap());
    let ops = Cpu::new(false);
    let network = Network::new(&ops, spec, &source, 128).unwrap();
    Loaded { network, ops, pool: rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap() }
}

fn logits(loaded: &Loaded, prompt: &[u32]) -> Vec<f32> {
    let blocks: Vec<u32> = (0..prompt.len().div_ceil(BLOCK) as u32).collect();
    let mut cache = loaded.ops.cache(loaded.network.spec(), blocks.len()).unwrap();
    let mut batch = Batch::default();
    batch.push(prompt, 0, &blocks, true);
    let hidden = loaded.network.forward(&loaded.ops, &batch, &mut cache).unwrap();
    loaded.network.logits(&loaded.ops, &hidden).unwrap()
}

#[test]
fn quantised_logits_are_near_the_plain_ones() {
    let prompt: Vec<u32> = (0..20).map(|i| 3 + i * 4).collect();
    for (name, architecture) in [("llama-linear", "llama"), ("qwen3", "qwen3"), ("gemma2", "gemma2")] {
        let config = config(name);
        let plain = logits(&Loaded::random(&config, 2), &prompt);
        let size = (plain.iter().map(|x| x * x).sum::<f32>() / plain.len() as f32).sqrt();
        for (kind, share) in [
            (GgmlDType::F32, 1e-5),
            (GgmlDType::F16, 0.01),
            (GgmlDType::Q8_0, 0.05),
            (GgmlDType::Q5_0, 0.3),
            (GgmlDType::Q5_1, 0.3),
            (GgmlDType::Q4_1, 0.6),
            (GgmlDType::Q4K, 0.6),
        ] {
            let ours = logits(&quantised(&config, architecture, kind), &prompt);
            let error = (ours.iter().zip(&plain).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / plain.len() as f32).sqrt();
            assert!(error < share * size, "{name} {kind:?}: {error} of {size}");
        }
    }
}

#[test]
fn quantised_texts_do_not_depend_on_their_batch() {
    for kind in [GgmlDType::Q4_0, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q6K] {
        let loaded = quantised(&config("qwen3"), "qwen3", kind);
        let all = || (0..23).map(|i| greedy((0..1 + i % 13).map(|j| 3 + (i * 5 + j) % 90).collect(), 9)).collect::<Vec<_>>();
        let alone = texts(&mut loaded.engine(EngineOptions { slots: 1, ..Default::default() }), all());
        for (slots, step_tokens) in [(7, 512), (23, 512), (23, 3)] {
            assert_eq!(texts(&mut loaded.engine(EngineOptions { slots, step_tokens, ..Default::default() }), all()), alone, "{kind:?}");
        }
    }
}

#[test]
fn foreign_and_broken_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config("qwen3").to_string()).unwrap();
    let spec = Spec::read(folder.path()).unwrap();
    let path = folder.path().join("model.gguf");
    let refused = |part: &str| {
        let message = Gguf::open(&path, &spec).err().expect("refused").to_string();
        assert!(message.contains(part), "{message}");
    };
    write(&path, &spec, "bert", GgmlDType::Q8_0, &[]);
    refused("made for architecture");
    write(&path, &spec, "qwen3", GgmlDType::Q8_0, &[]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 5000]).unwrap();
    refused("cut off or damaged");
    std::fs::write(&path, b"GGUF").unwrap();
    refused("cut off or damaged");
    let mut other = spec.clone();
    other.inner = 512;
    write(&path, &spec, "qwen3", GgmlDType::Q8_0, &[]);
    let source = Source::Gguf(Gguf::open(&path, &other).unwrap());
    let message = Network::new(&Cpu::new(false), other, &source, 16).err().expect("refused").to_string();
    assert!(message.contains("blk.0.ffn_gate.weight") && message.contains("[256, 256]"), "{message}");
}
