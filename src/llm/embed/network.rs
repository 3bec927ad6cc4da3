//! The encoder's layers over packed tokens `[T, d]`: attention within each sentence, norms after each half of a layer.

use super::super::weights::Weights;
use super::spec::Shape;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::{LayerNorm, Linear, Module, ops::softmax_last_dim};
use rayon::prelude::*;

struct Layer {
    /// Queries, keys and values: `[3 d, d]`.
    qkv: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
}

/// A BERT encoder.
pub struct Bert {
    shape: Shape,
    /// Token rows `[vocab, d]`.
    tokens: Tensor,
    /// Position rows with the row of segment 0 added `[positions, d]`.
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

fn failed(e: candle_core::Error) -> Error {
    Error::Usage(format!("the sentence encoder failed: {}", e.to_string().lines().next().unwrap_or_default()))
}

fn tensor(values: Vec<f32>, rows: usize, cols: usize) -> Result<Tensor> {
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).map_err(failed)
}

impl Bert {
    /// Reads every weight that `shape` needs.
    ///
    /// # Errors
    /// Where one is missing or of another shape.
    pub fn new(weights: &Weights, shape: &Shape) -> Result<Bert> {
        let s = shape;
        // Saved from a model with a head on it, the encoder's names begin with its own.
        let prefix = if weights.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let vector = |name: String, n: usize| weights.vector(&format!("{prefix}{name}"), n);
        let norm = |name: String| -> Result<LayerNorm> {
            let vector = |part| Tensor::new(vector(format!("{name}.{part}"), s.width)?, &Device::Cpu).map_err(failed);
            Ok(LayerNorm::new(vector("weight")?, vector("bias")?, f64::from(s.norm_eps)))
        };
        let linear = |names: &[String], n: usize, k: usize| -> Result<Linear> {
            let (mut rows, mut bias) = (Vec::new(), Vec::new());
            for name in names {
                rows.extend(weights.matrix(&format!("{prefix}{name}.weight"), n, k)?.to_vec());
                bias.extend(vector(format!("{name}.bias"), n)?);
            }
            Ok(Linear::new(tensor(rows, names.len() * n, k)?, Some(Tensor::new(bias, &Device::Cpu).map_err(failed)?)))
        };
        let table = |name: &str, rows: usize| -> Result<Vec<f32>> {
            Ok(weights.matrix(&format!("{prefix}embeddings.{name}.weight"), rows, s.width)?.to_vec())
        };
        let (tokens, mut positions) = (table("word_embeddings", s.vocab)?, table("position_embeddings", s.positions)?);
        let types = table("token_type_embeddings", s.types)?;
        positions.chunks_exact_mut(s.width).for_each(|row| row.iter_mut().zip(&types).for_each(|(x, t)| *x += t));
        let layer = |i: usize| -> Result<Layer> {
            let at = |part: &str| format!("encoder.layer.{i}.{part}");
            Ok(Layer {
                qkv: linear(&["query", "key", "value"].map(|n| at(&format!("attention.self.{n}"))), s.width, s.width)?,
                out: linear(&[at("attention.output.dense")], s.width, s.width)?,
                attention_norm: norm(at("attention.output.LayerNorm"))?,
                up: linear(&[at("intermediate.dense")], s.inner, s.width)?,
                down: linear(&[at("output.dense")], s.width, s.inner)?,
                norm: norm(at("output.LayerNorm"))?,
            })
        };
        let layers = (0..s.layers).map(layer).collect::<Result<_>>()?;
        let (tokens, positions) = (tensor(tokens, s.vocab, s.width)?, tensor(positions, s.positions, s.width)?);
        Ok(Bert { shape: s.clone(), tokens, positions, norm: norm("embeddings.LayerNorm".into())?, layers })
    }

    /// Last hidden states `[T, d]` of packed `tokens`, filled up to `[T]`; a sentence ends at each of `ends`. The bits of a sentence depend
    /// on `T` as well: a product of matrices goes about its sums by its size.
    ///
    /// # Errors
    /// What candle reports.
    pub fn forward(&self, tokens: &[u32], ends: &[usize]) -> Result<Vec<f32>> {
        self.layers(tokens, ends).and_then(|x| x.flatten_all()?.to_vec1()).map_err(failed)
    }

    fn layers(&self, tokens: &[u32], ends: &[usize]) -> candle_core::Result<Tensor> {
        let starts = [0].iter().chain(ends);
        let sentences: Vec<(usize, usize)> = starts.zip(ends).map(|(start, end)| (*start, end - start)).filter(|s| s.1 > 0).collect();
        let mut places: Vec<u32> = sentences.iter().flat_map(|&(_, length)| 0..length as u32).collect();
        places.resize(tokens.len(), 0);
        let unused = Tensor::zeros((tokens.len() - ends.last().unwrap_or(&0), self.shape.width), DType::F32, &Device::Cpu)?;
        let rows = |table: &Tensor, ids: &[u32]| table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
        let mut x = self.norm.forward(&(rows(&self.tokens, tokens)? + rows(&self.positions, &places)?)?)?;
        for layer in &self.layers {
            let qkv = layer.qkv.forward(&x)?;
            let mixed = sentences.par_iter().map(|&(start, length)| self.attend(&qkv.narrow(0, start, length)?));
            let mixed = mixed.chain([Ok(unused.clone())]).collect::<candle_core::Result<Vec<_>>>()?;
            let mixed = Tensor::cat(&mixed, 0)?;
            x = layer.attention_norm.forward(&(x + layer.out.forward(&mixed)?)?)?;
            let inner = layer.up.forward(&x)?.gelu_erf()?;
            x = layer.norm.forward(&(x + layer.down.forward(&inner)?)?)?;
        }
        Ok(x)
    }

    /// What the `n` tokens of a sentence take from each other `[n, d]`, of their queries, keys and values `[n, 3 d]`.
    fn attend(&self, qkv: &Tensor) -> candle_core::Result<Tensor> {
        let (n, heads, head_dim) = (qkv.dim(0)?, self.shape.heads, self.shape.width / self.shape.heads);
        // `[3, heads, n, head_dim]`
        let parts = qkv.reshape((n, 3, heads, head_dim))?.permute((1, 2, 0, 3))?.contiguous()?;
        let scores = (parts.get(0)?.matmul(&parts.get(1)?.t()?)? / (head_dim as f64).sqrt())?;
        softmax_last_dim(&scores)?.matmul(&parts.get(2)?)?.transpose(0, 1)?.reshape((n, heads * head_dim))
    }
}
