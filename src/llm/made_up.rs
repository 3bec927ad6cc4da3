//! Models with made-up weights: the shapes of published ones, to measure and to check a device without a download.

use super::spec::{Family, Spec};
use super::weights::{Stored, Weights};
use crate::base::names::unknown;
use crate::base::rng::{Purpose, Stream};
use crate::{Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::path::Path;

/// Names of the shapes, as the models are called.
pub const SHAPES: [&str; 4] = ["smollm2-135m", "qwen2.5-0.5b", "qwen3-0.6b", "llama-3.2-1b"];

/// `config.json` of a published model (huggingface.co: HuggingFaceTB/SmolLM2-135M, Qwen/Qwen2.5-0.5B, Qwen/Qwen3-0.6B,
/// meta-llama/Llama-3.2-1B), in so far as it concerns the shape.
fn config(name: &str) -> Option<Value> {
    let shape = |class: &str, vocab: u64, sizes: [u64; 6], theta: f64| {
        let [width, layers, heads, kv_heads, head_dim, inner] = sizes;
        json!({
            "architectures": [class], "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": inner, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6, "rope_theta": theta, "tie_word_embeddings": true, "eos_token_id": 0, "hidden_act": "silu",
        })
    };
    Some(match name {
        "smollm2-135m" => shape("LlamaForCausalLM", 49_152, [576, 30, 9, 3, 64, 1536], 1e5),
        "qwen2.5-0.5b" => shape("Qwen2ForCausalLM", 151_936, [896, 24, 14, 2, 64, 4864], 1e6),
        "qwen3-0.6b" => shape("Qwen3ForCausalLM", 151_936, [1024, 28, 16, 8, 128, 3072], 1e6),
        "llama-3.2-1b" => shape("LlamaForCausalLM", 128_256, [2048, 16, 32, 8, 64, 8192], 5e5),
        _ => return None,
    })
}

/// The shape called `name`.
///
/// # Errors
/// [`Error::Usage`] with the nearest name.
pub fn shape(name: &str) -> Result<Spec> {
    let config = config(name).ok_or_else(|| Error::Usage(unknown("shape", name, SHAPES)))?;
    Spec::parse(Path::new(name), &config)
}

/// Two Llama layers of width 64 over `vocab` tokens, for texts of up to 2,048.
pub(super) fn small(vocab: usize) -> Result<Spec> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": vocab, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 172, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "tie_word_embeddings": true,
        "hidden_act": "silu",
    });
    Spec::parse(Path::new("a small model"), &config)
}

impl Spec {
    /// Names and shapes of all tensors of a model, in no promised order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (w, q, kv, inner) = (self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.inner);
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, w]), ("model.norm.weight".to_owned(), vec![w])];
        if !self.tied {
            all.push(("lm_head.weight".into(), vec![self.vocab, w]));
        }
        for i in 0..self.layers {
            let mut add = |part: &str, shape: Vec<usize>| all.push((format!("model.layers.{i}.{part}"), shape));
            let mut linear = |part: &str, outputs: usize, inputs: usize, bias: bool| {
                add(&format!("{part}.weight"), vec![outputs, inputs]);
                if bias {
                    add(&format!("{part}.bias"), vec![outputs]);
                }
            };
            if self.family == Family::Phi3 {
                linear("self_attn.qkv_proj", q + 2 * kv, w, false);
                linear("mlp.gate_up_proj", 2 * inner, w, false);
            } else {
                linear("self_attn.q_proj", q, w, self.qkv_bias);
                linear("self_attn.k_proj", kv, w, self.qkv_bias);
                linear("self_attn.v_proj", kv, w, self.qkv_bias);
                linear("mlp.gate_proj", inner, w, self.mlp_bias);
                linear("mlp.up_proj", inner, w, self.mlp_bias);
            }
            linear("self_attn.o_proj", w, q, self.out_bias);
            linear("mlp.down_proj", w, inner, self.mlp_bias);
            let norms: &[&str] = if self.post_norms {
                &["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"]
            } else {
                &["input_layernorm", "post_attention_layernorm"]
            };
            norms.iter().for_each(|norm| add(&format!("{norm}.weight"), vec![w]));
            if self.qk_norm {
                add("self_attn.q_norm.weight", vec![self.head_dim]);
                add("self_attn.k_norm.weight", vec![self.head_dim]);
            }
        }
        all
    }
}

/// A number in [-1, 1): splitmix's finaliser of a counter.
fn number(base: u64, i: u64) -> f32 {
    let z = (base ^ i).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

impl Weights {
    /// Weights of `spec` to begin a training with: norms of 1, the rest normal with a deviation of .02, as published decoders begin.
    pub(super) fn initial(spec: &Spec, seed: u64) -> Weights {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let mut stream = Stream::new(seed, Purpose::Init, 1, u64::from(crc32c::crc32c(name.as_bytes())));
            let norm = name.ends_with("norm.weight");
            let n = shape.iter().product::<usize>();
            let bytes = (0..n).flat_map(|_| if norm { 1.0 } else { 0.02 * stream.normal() }.to_le_bytes()).collect();
            (name, shape, bytes)
        };
        Weights::of(Stored::F32, spec.tensors().into_iter().map(tensor).collect())
    }

    /// Weights of `spec` that keep activations in range, the same for the same seed, stored as `stored`.
    pub fn made_up(spec: &Spec, seed: u64, stored: Stored) -> Weights {
        let size = |name: &str, shape: &[usize], x: f32| match name {
            n if n.ends_with("norm.weight") => x * 0.25 + if spec.norm_offset { 0.0 } else { 1.0 },
            n if n.contains("embed_tokens") => x,
            n if n.ends_with(".bias") => x * 0.5,
            _ => x * (3.0 / shape[1] as f32).sqrt(),
        };
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let base = u64::from(crc32c::crc32c(name.as_bytes())) << 32 ^ seed.rotate_left(17);
            let mut bytes = vec![0u8; shape.iter().product::<usize>() * stored.bytes()];
            bytes.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, bytes)| {
                let first = (chunk << 16) / stored.bytes();
                for (i, to) in bytes.chunks_exact_mut(stored.bytes()).enumerate() {
                    let x = size(&name, &shape, number(base, (first + i) as u64));
                    match stored {
                        Stored::F32 => to.copy_from_slice(&x.to_le_bytes()),
                        Stored::F16 => to.copy_from_slice(&f16::from_f32(x).to_le_bytes()),
                        Stored::Bf16 => to.copy_from_slice(&bf16::from_f32(x).to_le_bytes()),
                    }
                }
            });
            (name, shape, bytes)
        };
        Weights::of(stored, spec.tensors().into_iter().map(tensor).collect())
    }
}
