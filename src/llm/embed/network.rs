//! The encoder's layers over packed tokens `[T, d]`: attention within each sentence, norms after each half of a layer.

use super::super::cpu::matrix::Matrix;
use super::super::weights::Weights;
use super::kernels;
use super::spec::Shape;
use crate::Result;
use rayon::prelude::*;

/// Rows of one task of a pass over rows.
const ROWS: usize = 16;

/// Layer norm: gain and shift `[d]`.
struct Norm {
    gain: Vec<f32>,
    shift: Vec<f32>,
}

struct Layer {
    /// Queries, keys and values: `[3 d, d]`.
    qkv: Matrix,
    out: Matrix,
    attention_norm: Norm,
    up: Matrix,
    down: Matrix,
    norm: Norm,
}

/// A BERT encoder.
pub struct Bert {
    shape: Shape,
    /// Token rows `[vocab, d]`.
    tokens: Vec<f32>,
    /// Position rows with the row of segment 0 added `[positions, d]`.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

/// Arrays of a batch, kept from one to the next.
#[derive(Default)]
pub struct Work {
    /// Hidden states `[T, d]`.
    x: Vec<f32>,
    /// `[T, 3 d]`.
    qkv: Vec<f32>,
    /// What attention gives `[T, d]`.
    mixed: Vec<f32>,
    /// What is added to `x` `[T, d]`.
    y: Vec<f32>,
    /// `[T, inner]`.
    inner: Vec<f32>,
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
        let norm = |name: String| -> Result<Norm> {
            Ok(Norm { gain: vector(format!("{name}.weight"), s.width)?, shift: vector(format!("{name}.bias"), s.width)? })
        };
        let linear = |names: &[String], n: usize, k: usize| -> Result<Matrix> {
            let (mut parts, mut bias) = (Vec::new(), Vec::new());
            for name in names {
                parts.push(weights.matrix(&format!("{prefix}{name}.weight"), n, k)?);
                bias.extend(vector(format!("{name}.bias"), n)?);
            }
            Ok(Matrix::new(&parts, Some(bias), false))
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
        Ok(Bert { shape: s.clone(), tokens, positions, norm: norm("embeddings.LayerNorm".into())?, layers })
    }

    /// Last hidden states `[T, d]` of packed `tokens` `[T]`; a sentence ends at each of `ends`.
    pub fn forward<'w>(&self, tokens: &[u32], ends: &[usize], work: &'w mut Work) -> &'w [f32] {
        let s = &self.shape;
        let (t, d) = (tokens.len(), s.width);
        work.x.resize(t * d, 0.0);
        work.mixed.resize(t * d, 0.0);
        work.y.resize(t * d, 0.0);
        work.qkv.resize(t * 3 * d, 0.0);
        work.inner.resize(t * s.inner, 0.0);
        let mut start = 0;
        for &end in ends {
            for (position, row) in (start..end).enumerate() {
                let token = &self.tokens[tokens[row] as usize * d..][..d];
                let place = &self.positions[position * d..][..d];
                work.x[row * d..][..d].copy_from_slice(token);
                work.y[row * d..][..d].copy_from_slice(place);
            }
            start = end;
        }
        self.add_and_norm(&mut work.x, &work.y, &self.norm);
        for layer in &self.layers {
            layer.qkv.apply(&work.x, &mut work.qkv);
            kernels::attention(&work.qkv, ends, d, s.heads, &mut work.mixed);
            layer.out.apply(&work.mixed, &mut work.y);
            self.add_and_norm(&mut work.x, &work.y, &layer.attention_norm);
            layer.up.apply(&work.x, &mut work.inner);
            work.inner.par_chunks_mut(ROWS * s.inner).for_each(kernels::gelu);
            layer.down.apply(&work.inner, &mut work.y);
            self.add_and_norm(&mut work.x, &work.y, &layer.norm);
        }
        &work.x
    }

    /// `x = norm(x + y)`, row by row.
    fn add_and_norm(&self, x: &mut [f32], y: &[f32], norm: &Norm) {
        let (d, eps) = (self.shape.width, self.shape.norm_eps);
        x.par_chunks_mut(ROWS * d).zip(y.par_chunks(ROWS * d)).for_each(|(x, y)| {
            for (x, y) in x.chunks_exact_mut(d).zip(y.chunks_exact(d)) {
                kernels::add_and_norm(x, y, &norm.gain, &norm.shift, eps);
            }
        });
    }
}
