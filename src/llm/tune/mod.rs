//! A language model that is trained: the decoder that writes texts once more, on candle's tensors, which know their gradients.
//!
//! All weights are trained, or a low-rank change of every projection ([`Adapt::LowRank`]). What was trained goes back to a [`Model`] by
//! [`Tuned::weights`] and [`Model::retrained`], which then writes with it as fast as with any other.
//!
//! Arithmetic is f32. On the CPU the same steps give the same bits whatever the number of threads.

mod composed;
mod decoder;
mod fixed;
mod fused;
mod optimiser;
mod weight;

pub(crate) use fused::{by_rows, floats};
pub use optimiser::{Optimiser, Rates};

use super::gguf::first_line;
use super::model::Model;
use super::spec::{Family, Spec};
use crate::{Error, Result};
use candle_core::{Device, Tensor, Var};
use std::collections::BTreeMap;
use weight::Weight;

/// A tensor by name: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// Which weights are trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adapt {
    /// All of them.
    Full,
    /// A change `scale / rank * up down` of every projection of every layer (LoRA, Hu et al., ICLR 2022).
    LowRank {
        /// Columns of `up`.
        rank: usize,
        /// Factor of the change, divided by the rank.
        scale: f64,
        /// Seed of `down`; `up` begins at 0.
        seed: u64,
    },
}

/// A model whose weights can be trained.
pub struct Tuned {
    spec: Spec,
    device: Device,
    weights: BTreeMap<String, Weight>,
}

/// What candle says, as an error of this crate.
pub(crate) fn failed(e: candle_core::Error) -> Error {
    Error::Usage(format!("the model cannot be computed: {}", first_line(&e)))
}

/// Softmax of scores `[heads, n, n]` over what each row sees: itself and the rows before it.
pub(crate) fn causal_shares(scores: &Tensor) -> candle_core::Result<Tensor> {
    decoder::shares(scores, None)
}

/// The projections of a layer.
const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
];

impl Tuned {
    /// The weights of `model` on `device`, of which `adapt` says which are trained.
    ///
    /// # Errors
    /// [`Error::Usage`] for an architecture that is not trained here (Gemma, Phi), or where the device has no room.
    pub fn new(model: &Model, adapt: Adapt, device: Device) -> Result<Tuned> {
        Tuned::of(model.spec().clone(), model.tensors()?, adapt, device)
    }

    /// The same of `tensors`, all that [`Spec::tensors`] names.
    ///
    /// # Errors
    /// As [`Tuned::new`].
    pub fn of(spec: Spec, tensors: Vec<Named>, adapt: Adapt, device: Device) -> Result<Tuned> {
        if !matches!(spec.family, Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3) {
            let message = format!("a model of the family {:?} is not trained; use Llama (SmolLM2), Mistral, Qwen2 or Qwen3", spec.family);
            return Err(Error::Usage(message));
        }
        let mut weights = BTreeMap::new();
        for (name, shape, values) in tensors {
            let tensor = Tensor::from_vec(values, shape, &device).map_err(failed)?;
            let adapted = PROJECTIONS.iter().any(|part| name.ends_with(part));
            let weight = match adapt {
                Adapt::Full => Weight::full(&tensor),
                Adapt::LowRank { rank, scale, seed } if adapted => Weight::low_rank(tensor, &name, rank, scale, seed),
                Adapt::LowRank { .. } => Ok(Weight::Fixed(tensor)),
            };
            weights.insert(name, weight.map_err(failed)?);
        }
        Ok(Tuned { spec, device, weights })
    }

    /// The model's shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where its tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What is trained, by name, in the order of names.
    pub fn trained(&self) -> Vec<(String, Var)> {
        self.weights.iter().flat_map(|(name, weight)| weight.trained(name)).collect()
    }

    /// Number of trained weights.
    pub fn trained_count(&self) -> usize {
        self.trained().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// All weights of the model as it is now, changes added.
    ///
    /// # Errors
    /// The device's.
    pub fn weights(&self) -> Result<Vec<Named>> {
        let one = |(name, weight): (&String, &Weight)| {
            let whole = weight.whole()?;
            Ok((name.clone(), whole.dims().to_vec(), whole.flatten_all()?.to_vec1::<f32>()?))
        };
        self.weights.iter().map(one).collect::<candle_core::Result<_>>().map_err(failed)
    }

    /// Bytes of all weights on the device.
    pub fn bytes(&self) -> usize {
        self.weights.values().map(Weight::bytes).sum()
    }

    /// The last hidden states `[T, width]` of `sequences` of tokens, normalised, one sequence after another. Each position sees those before it
    /// in its sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that the model does not have, or where the device has no room.
    pub fn hidden(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let vocab = self.spec.vocab;
        if let Some(token) = sequences.iter().copied().flatten().find(|token| **token as usize >= vocab) {
            return Err(Error::Usage(format!("token {token} is not one of the model's {vocab}")));
        }
        decoder::hidden(self, sequences).map_err(failed)
    }

    /// Logits `[n, vocab]` of the rows `rows` of `hidden`.
    ///
    /// # Errors
    /// The device's.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let picked = Tensor::new(rows, &self.device).and_then(|rows| hidden.index_select(&rows, 0));
        let head = if self.spec.tied { "model.embed_tokens" } else { "lm_head" };
        picked.and_then(|x| self.linear(&x, head, false)).map_err(failed)
    }

    /// `x [n, inputs]` times the weights `part`, plus its bias where there is one.
    fn linear(&self, x: &Tensor, part: &str, bias: bool) -> candle_core::Result<Tensor> {
        let y = self.weight(&format!("{part}.weight"))?.apply(x)?;
        if bias { y.broadcast_add(&self.weight(&format!("{part}.bias"))?.whole()?) } else { Ok(y) }
    }

    fn weight(&self, name: &str) -> candle_core::Result<&Weight> {
        self.weights.get(name).ok_or_else(|| candle_core::Error::Msg(format!("`{name}` is missing")))
    }
}
