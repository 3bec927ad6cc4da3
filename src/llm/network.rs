//! The decoder, written once for every architecture and every device: a stack of layers over packed rows of tokens.
//!
//! A [`Batch`] is rows without padding: some sequences add a whole prompt, others one new token. Only attention knows which
//! row belongs to whom.

use super::gguf::Gguf;
use super::rope::Rope;
use super::sample::{Key, Sampling};
use super::spec::{Activation, Family, Spec};
pub use super::stored_matrix::StoredMatrix;
use super::weights::Weights;
use crate::Result;
use crate::base::memory;
use std::ops::Range;

/// Positions of a block of the cache.
pub const BLOCK: usize = 16;

/// Rows of one sequence in a batch: `rows` tokens at consecutive positions.
#[derive(Clone, Debug)]
pub struct Segment {
    /// First row.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// The sequence's cache blocks in [`Batch::tables`], enough for all its positions so far.
    pub table: Range<usize>,
}

/// Tokens of several sequences, one after another.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Tokens `[T]`.
    pub tokens: Vec<u32>,
    /// Which rows are whose.
    pub segments: Vec<Segment>,
    /// Block numbers of all sequences.
    pub tables: Vec<u32>,
    /// Rows whose logits are wanted.
    pub wanted: Vec<u32>,
}

impl Batch {
    /// Adds a sequence's next `tokens` from `position`; `want` asks for the logits after the last of them.
    pub fn push(&mut self, tokens: &[u32], position: usize, blocks: &[u32], want: bool) {
        let (row, from) = (self.tokens.len(), self.tables.len());
        let needed = (position + tokens.len()).div_ceil(BLOCK);
        self.tokens.extend_from_slice(tokens);
        self.tables.extend_from_slice(&blocks[..needed]);
        self.segments.push(Segment { row, rows: tokens.len(), position, table: from..from + needed });
        if want {
            self.wanted.push((row + tokens.len() - 1) as u32);
        }
    }

    /// Whole prompts side by side, each in blocks of its own from 0 on, and how many blocks that takes.
    pub fn of_prompts(prompts: &[Vec<u32>]) -> (Batch, usize) {
        let (mut batch, mut next) = (Batch::default(), 0);
        for prompt in prompts {
            let end = next + prompt.len().div_ceil(BLOCK) as u32;
            batch.push(prompt, 0, &(next..end).collect::<Vec<_>>(), true);
            next = end;
        }
        (batch, next as usize)
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.segments.clear();
        self.tables.clear();
        self.wanted.clear();
    }
}

/// A norm over the last axis: `x / sqrt(mean(x^2) + eps) * weight`.
pub struct Norm<V> {
    /// One factor a column.
    pub weight: V,
    /// Added to the mean square.
    pub eps: f32,
}

/// What attention needs to know of its layer.
pub struct Attention<'a, O: Ops + ?Sized> {
    /// The model.
    pub spec: &'a Spec,
    /// Number of the layer.
    pub layer: usize,
    /// Norm of each query head.
    pub query_norm: Option<&'a Norm<O::Vector>>,
    /// Norm of each key head.
    pub key_norm: Option<&'a Norm<O::Vector>>,
    /// Cosines and sines.
    pub rope: &'a O::Table,
    /// Latest positions that a query sees.
    pub window: Option<usize>,
}

/// A next token asked for.
#[derive(Clone, Copy, Debug)]
pub struct SampleRequest<'a> {
    /// Its row among the hidden states.
    pub row: usize,
    /// How the token is chosen.
    pub sampling: Sampling,
    /// Whose draw.
    pub key: Key,
    /// Number of the token in its text, from 0.
    pub position: u64,
    /// Tokens that a repetition penalty concerns, sorted; empty where there is none.
    pub seen: &'a [u32],
    /// Tokens that may come, sorted; any where `None`.
    pub allowed: Option<&'a [u32]>,
    /// What is added to the logits of these, in their order, before anything else; empty where nothing is.
    pub biases: &'a [f32],
}

/// A forward pass on a batch whose plan is on the device.
pub type Forward<'f, O> = dyn Fn(&<O as Ops>::Plan, &mut <O as Ops>::Cache) -> Result<<O as Ops>::Array> + 'f;

/// The operations of a device on packed rows.
pub trait Ops: Sync {
    /// Rows of activations.
    type Array: Send + Sync;
    /// Weights of a product.
    type Matrix: Send + Sync;
    /// Weights of a norm.
    type Vector: Send + Sync;
    /// Cosines and sines.
    type Table: Send + Sync;
    /// Keys and values of all sequences, in blocks of [`BLOCK`] positions.
    type Cache: Send;
    /// What the device needs to know of a batch, for all layers.
    type Plan;
    /// Chosen tokens on their way from the device.
    type Answers: Send;

    /// Batches under way at one time: a device that works by itself has the next one waiting while its tokens are read.
    fn depth(&self) -> usize {
        1
    }

    /// Rows of a step that keep the device busy.
    fn step_rows(&self) -> usize {
        512
    }

    /// Weights from `parts` stacked along the outputs, with an optional bias.
    fn matrix(&self, parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Self::Matrix>;
    /// A vector.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
    /// A rotary table `[positions, 2, rotated / 2]`.
    fn table(&self, values: Vec<f32>, rotated: usize) -> Result<Self::Table>;
    /// A cache of `blocks` blocks.
    fn cache(&self, spec: &Spec, blocks: usize) -> Result<Self::Cache>;
    /// Copies block `from` over block `to`, all layers.
    fn copy_block(&self, cache: &mut Self::Cache, from: u32, to: u32) -> Result<()>;
    /// Uploads a batch to the device.
    fn plan(&self, batch: &Batch) -> Result<Self::Plan>;
    /// Calls `forward` with the plan of `batch`. A device that can record it may replay what it recorded for another batch in which the
    /// rows are as many and every sequence adds one token, too: `forward` may read the counts of the batch, its lists from the plan alone.
    fn run(&self, batch: &Batch, cache: &mut Self::Cache, forward: &Forward<'_, Self>) -> Result<Self::Array> {
        forward(&self.plan(batch)?, cache)
    }
    /// The embeddings of the batch's tokens times `scale`.
    fn embed(&self, table: &Self::Matrix, batch: &Batch, plan: &Self::Plan, scale: f32) -> Result<Self::Array>;
    /// Every row normalised.
    fn norm(&self, x: &Self::Array, norm: &Norm<Self::Vector>) -> Result<Self::Array>;
    /// `x` times the weights, plus the bias.
    fn linear(&self, x: &Self::Array, w: &Self::Matrix) -> Result<Self::Array>;
    /// Rotates queries and keys, writes keys and values to the cache, attends. `qkv [T, (heads + 2 kv_heads) head_dim]` gives
    /// `[T, heads head_dim]`.
    fn attend(
        &self,
        qkv: Self::Array,
        a: &Attention<'_, Self>,
        batch: &Batch,
        plan: &Self::Plan,
        cache: &mut Self::Cache,
    ) -> Result<Self::Array>;
    /// `gate_up [T, 2 inner]` gives `activation(gate) * up [T, inner]`.
    fn gated(&self, gate_up: Self::Array, activation: Activation) -> Result<Self::Array>;
    /// `x += y`.
    fn add(&self, x: &mut Self::Array, y: Self::Array) -> Result<()>;
    /// `x` plus the product of `y` with the weights.
    fn add_linear(&self, x: &mut Self::Array, y: &Self::Array, w: &Self::Matrix) -> Result<()> {
        self.add(x, self.linear(y, w)?)
    }
    /// The rows whose logits are wanted.
    fn pick(&self, x: Self::Array, batch: &Batch, plan: &Self::Plan) -> Result<Self::Array>;
    /// Logits `[rows, vocab]` in the host's memory, capped where `cap` says.
    fn logits(&self, x: &Self::Array, head: &Self::Matrix, cap: Option<f32>) -> Result<Vec<f32>>;
    /// Begins to choose the next tokens from the logits of `x`, in the order of `asks`.
    fn ask(&self, x: Self::Array, head: &Self::Matrix, cap: Option<f32>, asks: &[SampleRequest<'_>]) -> Result<Self::Answers>;
    /// Waits for the chosen tokens; `None` where there was no candidate or no logit was a number.
    fn answers(&self, answers: Self::Answers) -> Result<Vec<Option<u32>>>;
}

struct Layer<O: Ops> {
    attention_norm: Norm<O::Vector>,
    qkv: O::Matrix,
    query_norm: Option<Norm<O::Vector>>,
    key_norm: Option<Norm<O::Vector>>,
    out: O::Matrix,
    after_attention: Option<Norm<O::Vector>>,
    mlp_norm: Norm<O::Vector>,
    gate_up: O::Matrix,
    down: O::Matrix,
    after_mlp: Option<Norm<O::Vector>>,
}

/// A model's weights on a device.
pub struct Network<O: Ops> {
    spec: Spec,
    embedding: O::Matrix,
    layers: Vec<Layer<O>>,
    last_norm: Norm<O::Vector>,
    head: Option<O::Matrix>,
    ropes: Vec<O::Table>,
}

/// Where weights come from.
pub enum Source {
    /// A folder of safetensors.
    Folder(Weights),
    /// A GGUF file.
    Gguf(Gguf),
}

impl Source {
    pub(super) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<StoredMatrix<'_>> {
        match self {
            Source::Folder(w) => Ok(StoredMatrix::Plain(w.matrix(name, rows, cols)?)),
            Source::Gguf(g) => g.matrix(name, rows, cols),
        }
    }

    pub(super) fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>> {
        match self {
            Source::Folder(w) => w.vector(name, n),
            Source::Gguf(g) => g.vector(name, n),
        }
    }

    /// Whether norm weights come as their difference from 1 (GGUF files have it added already).
    fn offset(&self, spec: &Spec) -> bool {
        spec.norm_offset && matches!(self, Source::Folder(_))
    }
}

struct Builder<'a, O: Ops> {
    ops: &'a O,
    spec: &'a Spec,
    source: &'a Source,
}

impl<O: Ops> Builder<'_, O> {
    fn norm(&self, name: &str, n: usize) -> Result<Norm<O::Vector>> {
        let mut values = self.source.vector(name, n)?;
        if self.source.offset(self.spec) {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        Ok(Norm { weight: self.ops.vector(values)?, eps: self.spec.norm_eps })
    }

    /// `names` with their outputs, stacked.
    fn matrix(&self, names: &[(String, usize)], inputs: usize, bias: bool) -> Result<O::Matrix> {
        let mut parts = Vec::new();
        let mut biases = Vec::new();
        for (name, outputs) in names {
            parts.push(self.source.matrix(&format!("{name}.weight"), *outputs, inputs)?);
            if bias {
                biases.extend(self.source.vector(&format!("{name}.bias"), *outputs)?);
            }
        }
        self.ops.matrix(&parts, bias.then_some(biases))
    }

    fn layer(&self, i: usize) -> Result<Layer<O>> {
        let s = self.spec;
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let (qkv, gate_up) = if s.family == Family::Phi3 {
            (vec![(name("self_attn.qkv_proj"), q + 2 * kv)], vec![(name("mlp.gate_up_proj"), 2 * s.inner)])
        } else {
            (
                vec![(name("self_attn.q_proj"), q), (name("self_attn.k_proj"), kv), (name("self_attn.v_proj"), kv)],
                vec![(name("mlp.gate_proj"), s.inner), (name("mlp.up_proj"), s.inner)],
            )
        };
        let head_norm = |part: &str| if s.qk_norm { self.norm(&name(part), s.head_dim).map(Some) } else { Ok(None) };
        let post = |part: &str| if s.post_norms { self.norm(&name(part), s.width).map(Some) } else { Ok(None) };
        let before_mlp = if s.post_norms { "pre_feedforward_layernorm.weight" } else { "post_attention_layernorm.weight" };
        Ok(Layer {
            attention_norm: self.norm(&name("input_layernorm.weight"), s.width)?,
            qkv: self.matrix(&qkv, s.width, s.qkv_bias)?,
            query_norm: head_norm("self_attn.q_norm.weight")?,
            key_norm: head_norm("self_attn.k_norm.weight")?,
            out: self.matrix(&[(name("self_attn.o_proj"), s.width)], q, s.out_bias)?,
            after_attention: post("post_attention_layernorm.weight")?,
            mlp_norm: self.norm(&name(before_mlp), s.width)?,
            gate_up: self.matrix(&gate_up, s.width, s.mlp_bias)?,
            down: self.matrix(&[(name("mlp.down_proj"), s.width)], s.inner, s.mlp_bias)?,
            after_mlp: post("post_feedforward_layernorm.weight")?,
        })
    }
}

impl<O: Ops> Network<O> {
    /// Puts the weights of `source` on a device, with rotary tables for `positions` positions.
    ///
    /// # Errors
    /// Where a tensor is missing or of another shape than `spec` asks for, or the device has no room.
    pub fn new(ops: &O, spec: Spec, source: &Source, positions: usize) -> Result<Network<O>> {
        let b = Builder { ops, spec: &spec, source };
        let embedding = b.matrix(&[("model.embed_tokens".into(), spec.vocab)], spec.width, false)?;
        let head = if spec.tied { None } else { Some(b.matrix(&[("lm_head".into(), spec.vocab)], spec.width, false)?) };
        let last_norm = b.norm("model.norm.weight", spec.width)?;
        let layers = (0..spec.layers).map(|i| b.layer(i)).collect::<Result<_>>()?;
        let rotated: usize = spec.ropes.iter().map(Rope::rotated).sum();
        let what = format!("rotary tables of {positions} positions");
        memory::check(&what, memory::product([positions, rotated, size_of::<f32>()]), "ask for shorter texts")?;
        let ropes = spec.ropes.iter().map(|r| ops.table(r.table(positions), r.rotated())).collect::<Result<_>>()?;
        Ok(Network { embedding, layers, last_norm, head, ropes, spec })
    }

    /// The model's shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The output layer.
    fn head(&self) -> &O::Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The last hidden states of [`Batch::wanted`], normalised: `[wanted, width]`. Keys and values of all rows are in the
    /// cache afterwards.
    ///
    /// # Errors
    /// The device's.
    pub fn forward(&self, ops: &O, batch: &Batch, cache: &mut O::Cache) -> Result<O::Array> {
        ops.run(batch, cache, &|plan, cache| self.layers(ops, batch, plan, cache))
    }

    fn layers(&self, ops: &O, batch: &Batch, plan: &O::Plan, cache: &mut O::Cache) -> Result<O::Array> {
        let s = &self.spec;
        let mut x = ops.embed(&self.embedding, batch, plan, s.embed_scale)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let attention = Attention {
                spec: s,
                layer: i,
                query_norm: layer.query_norm.as_ref(),
                key_norm: layer.key_norm.as_ref(),
                rope: &self.ropes[s.layer_rope[i]],
                window: s.windows[i],
            };
            let qkv = ops.linear(&ops.norm(&x, &layer.attention_norm)?, &layer.qkv)?;
            let mut seen = ops.attend(qkv, &attention, batch, plan, cache)?;
            // The last layer's keys and values are stored; of the rest only the rows whose logits are wanted count.
            if i + 1 == s.layers && batch.wanted.len() < batch.tokens.len() {
                seen = ops.pick(seen, batch, plan)?;
                x = ops.pick(x, batch, plan)?;
            }
            close(ops, &mut x, &seen, &layer.out, layer.after_attention.as_ref())?;
            let inner = ops.gated(ops.linear(&ops.norm(&x, &layer.mlp_norm)?, &layer.gate_up)?, s.activation)?;
            close(ops, &mut x, &inner, &layer.down, layer.after_mlp.as_ref())?;
        }
        ops.norm(&x, &self.last_norm)
    }

    /// Logits `[rows, vocab]` of the rows that [`Network::forward`] gave.
    ///
    /// # Errors
    /// The device's.
    pub fn logits(&self, ops: &O, hidden: &O::Array) -> Result<Vec<f32>> {
        ops.logits(hidden, self.head(), self.spec.logit_cap)
    }

    /// Logits `[prompts, vocab]` after the last token of each prompt, all in one batch with a cache of its own.
    ///
    /// # Errors
    /// The device's.
    pub fn last_logits(&self, ops: &O, prompts: &[Vec<u32>]) -> Result<Vec<f32>> {
        let (batch, blocks) = Batch::of_prompts(prompts);
        let hidden = self.forward(ops, &batch, &mut ops.cache(&self.spec, blocks)?)?;
        self.logits(ops, &hidden)
    }

    /// Begins to choose the next tokens after the rows that [`Network::forward`] gave.
    ///
    /// # Errors
    /// The device's.
    pub fn ask(&self, ops: &O, hidden: O::Array, asks: &[SampleRequest<'_>]) -> Result<O::Answers> {
        ops.ask(hidden, self.head(), self.spec.logit_cap, asks)
    }
}

/// Adds half a layer's output to the residual stream: `x += norm(y w)`.
fn close<O: Ops>(ops: &O, x: &mut O::Array, y: &O::Array, w: &O::Matrix, norm: Option<&Norm<O::Vector>>) -> Result<()> {
    match norm {
        Some(norm) => ops.add(x, ops.norm(&ops.linear(y, w)?, norm)?),
        None => ops.add_linear(x, y, w),
    }
}
