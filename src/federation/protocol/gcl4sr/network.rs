//! The network: a transformer over a history, graph layers over two samples of the graph, gates, and pooling by attention.

use super::constants::Constants;
use super::fused::{Gelu, Masked, Norm};
use super::sample::Sample;
use super::sparse::Sparse;
use crate::base::rng::{Purpose, Stream, dropout_threshold};
use crate::config::ModelSettings;
use candle_core::{D, Device, Result, Tensor, Var};
use std::collections::BTreeMap;

/// Histories of a mini-batch, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histories {
    /// Items `[T]`.
    pub items: Vec<u32>,
    /// Items of each history `[B]`.
    pub lengths: Vec<usize>,
    /// The user of each, where the data set has them `[B]`.
    pub users: Vec<Option<u32>>,
}

impl Histories {
    /// Appends the last `longest` items of `history`.
    pub fn push(&mut self, user: Option<u32>, history: &[u32], longest: usize) {
        let history = &history[history.len().saturating_sub(longest)..];
        self.items.extend_from_slice(history);
        self.lengths.push(history.len());
        self.users.push(user);
    }

    /// The history of each item `[T]`.
    fn owners(&self) -> impl Iterator<Item = u32> + '_ {
        self.lengths.iter().zip(0..).flat_map(|(n, owner)| std::iter::repeat_n(owner, *n))
    }

    /// Place of each item among `longest` that end with its history's last `[T]`.
    pub fn places(&self, longest: usize) -> Vec<u32> {
        self.lengths.iter().flat_map(|n| (longest - n..longest).map(|place| place as u32)).collect()
    }

    /// A row of each history's items, every one with `value` of its length `[B, T]`.
    fn rows_of(&self, value: impl Fn(usize) -> f32) -> Sparse {
        let mut first = 0;
        let rows = self.lengths.iter().map(|n| {
            first += n;
            let value = value(*n);
            (first - n..first).map(move |token| (token as u32, value))
        });
        Sparse::new(self.items.len(), rows)
    }

    /// Means over each history `[B, T]`.
    pub fn means(&self) -> Sparse {
        self.rows_of(|n| 1.0 / n as f32)
    }

    /// Items in `width` places for each history: from the first place on, or up to the last `[B width, T]`.
    pub fn placed(&self, width: usize, at_the_end: bool) -> Sparse {
        let mut first = 0;
        let places = self.lengths.iter().flat_map(|n| {
            first += n;
            let (begun, before) = (first - n, if at_the_end { width - n } else { 0 });
            (0..width).map(move |place| (before..before + n).contains(&place).then(|| (begun + place - before) as u32))
        });
        Sparse::placed(self.items.len(), places)
    }
}

/// Elements that are dropped in training; none where there is no stream.
pub struct Dropout<'s>(pub Option<&'s mut Stream>);

impl Dropout<'_> {
    /// `x` with elements dropped at `rate`, the others larger by as much.
    pub fn apply(&mut self, x: Tensor, rate: f32) -> Result<Tensor> {
        let Some(stream) = self.0.as_deref_mut().filter(|_| rate > 0.0) else { return Ok(x) };
        let (threshold, factor) = dropout_threshold(rate);
        let kept = |bits: u32| if bits < threshold { 0.0 } else { factor };
        let mut mask = Vec::with_capacity(x.elem_count() + 1);
        while mask.len() < x.elem_count() {
            let word = stream.u32();
            mask.extend([kept(word & 0xFFFF), kept(word >> 16)]);
        }
        mask.truncate(x.elem_count());
        x.contiguous()?.apply_op1(Masked(mask.into()))
    }
}

/// What the network makes of a mini-batch.
pub struct States {
    /// Pooled state of each history, which item rows are multiplied with `[B, d]`.
    pub pooled: Tensor,
    /// State of each item in the two samples, before the gates `[T, d]`.
    pub graph: [Tensor; 2],
    /// The same behind the gates `[T, d]`.
    pub gated: [Tensor; 2],
}

/// The weights, and what is made of them.
pub struct Network {
    vars: BTreeMap<String, Var>,
    dim: usize,
    heads: usize,
    blocks: usize,
    /// Most items of a history.
    pub longest: usize,
    dropout: f32,
    graph_dropout: f32,
}

impl Network {
    /// A network for `items` and `users`. Matrices are drawn from `U(-1 / sqrt(d), 1 / sqrt(d))`, biases are 0, norms 1 and 0.
    ///
    /// # Errors
    /// candle's.
    pub fn new(model: &ModelSettings, constants: &Constants, items: usize, users: usize, seed: u64) -> Result<Network> {
        let (d, longest) = (model.dim as usize, model.max_len as usize);
        let inner = if model.ffn == 0 { 4 * d } else { model.ffn as usize };
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        for (name, shape) in [("items", [items, d]), ("users", [users, d]), ("positions", [longest, d])] {
            add(name.into(), &shape);
        }
        add("norm".into(), &[2, d]);
        for block in 0..model.blocks {
            for (part, outputs, inputs) in [("qkv", 3 * d, d), ("out", d, d), ("up", inner, d), ("down", d, inner)] {
                add(format!("block{block}.{part}.w"), &[outputs, inputs]);
                add(format!("block{block}.{part}.b"), &[outputs]);
            }
            add(format!("block{block}.norm1"), &[2, d]);
            add(format!("block{block}.norm2"), &[2, d]);
        }
        add("gcn.w".into(), &[d, d]);
        add("gcn.b".into(), &[d]);
        for hop in 0..constants.hops {
            add(format!("sage{hop}.neighbours.w"), &[d, d]);
            add(format!("sage{hop}.neighbours.b"), &[d]);
            add(format!("sage{hop}.own.w"), &[d, d]);
        }
        add("gate.item.w".into(), &[1, d]);
        add("gate.user.w".into(), &[longest, d]);
        add("mix.w".into(), &[d, 3 * d]);
        add("pool.place.w".into(), &[d, 2 * d]);
        add("pool.item.w".into(), &[d, d]);
        add("pool.item.b".into(), &[d]);
        add("pool.mean.w".into(), &[d, d]);
        add("pool.score.w".into(), &[1, d]);
        for side in ["item", "graph"] {
            add(format!("mmd.{side}.w"), &[1, d]);
            add(format!("mmd.{side}.b"), &[1]);
        }
        let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
        let bound = (d as f32).sqrt().recip();
        let mut vars = BTreeMap::new();
        for (name, shape) in shapes {
            let count = shape.iter().product();
            let values: Vec<f32> = if name.contains("norm") {
                (0..count).map(|i| if i < d { 1.0 } else { 0.0 }).collect()
            } else if name.ends_with(".b") {
                vec![0.0; count]
            } else {
                (0..count).map(|_| bound * (2.0 * stream.unit() - 1.0)).collect()
            };
            vars.insert(name, Var::from_vec(values, shape, &Device::Cpu)?);
        }
        let (heads, blocks) = (model.heads as usize, model.blocks as usize);
        Ok(Network { vars, dim: d, heads, blocks, longest, dropout: model.dropout, graph_dropout: constants.graph_dropout })
    }

    /// All weights by name.
    pub fn vars(&self) -> Vec<(String, Var)> {
        self.vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    /// Number of weights.
    pub fn count(&self) -> usize {
        self.vars.values().map(|var| var.elem_count()).sum()
    }

    fn var(&self, name: &str) -> Result<&Tensor> {
        self.vars.get(name).map(Var::as_tensor).ok_or_else(|| candle_core::Error::Msg(format!("`{name}` is missing")))
    }

    /// The item table `[I, d]`.
    pub fn items(&self) -> Result<&Tensor> {
        self.var("items")
    }

    /// `x [n, inputs]` times the weights `NAME.w [outputs, inputs]`, plus `NAME.b [outputs]` where there is one.
    ///
    /// # Errors
    /// candle's.
    pub fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        let y = x.matmul(&self.var(&format!("{name}.w"))?.t()?)?;
        match self.vars.get(&format!("{name}.b")) {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// Rows with mean 0 and variance 1, times and plus the weights `name [2, d]`.
    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.contiguous()?.apply_op2(self.var(name)?, Norm)
    }

    /// States `[n, d]` of the items that `sample` was drawn around.
    ///
    /// # Errors
    /// candle's.
    pub fn surroundings(&self, sample: &Sample, dropout: &mut Dropout) -> Result<Tensor> {
        let mut x = self.items()?.index_select(&Tensor::new(&sample.items[..], &Device::Cpu)?, 0)?;
        for (i, hop) in sample.hops.iter().enumerate() {
            let spread = hop.spread.apply(&x.matmul(&self.var("gcn.w")?.t()?)?)?.broadcast_add(self.var("gcn.b")?)?;
            let own = spread.narrow(0, 0, hop.targets)?.matmul(&self.var(&format!("sage{i}.own.w"))?.t()?)?;
            let y = (self.linear(&hop.mean.apply(&spread)?, &format!("sage{i}.neighbours"))? + own)?;
            x = unit_rows(&y)?;
            if i + 1 < sample.hops.len() {
                x = dropout.apply(x.relu()?, self.graph_dropout)?;
            }
        }
        Ok(x)
    }

    /// The transformer's states `[T, d]`: every item sees those before it in its history. No positions; norms behind the residuals.
    fn read(&self, histories: &Histories, rows: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        let (d, heads, count) = (self.dim, self.heads, histories.lengths.len());
        let width = histories.lengths.iter().copied().max().unwrap_or(0);
        let (apart, rate) = (histories.placed(width, false), self.dropout);
        let together = apart.transposed();
        let mut x = dropout.apply(self.norm(rows, "norm")?, rate)?;
        for block in 0..self.blocks {
            let name = |part: &str| format!("block{block}.{part}");
            // [3, B heads, width, d / heads]
            let qkv = apart.apply(&self.linear(&x, &name("qkv"))?)?.reshape((count, width, 3, heads, d / heads))?;
            let qkv = qkv.permute((2, 0, 3, 1, 4))?.contiguous()?.reshape((3, count * heads, width, d / heads))?;
            // There are fewer queries than scores where histories are longer than d / heads.
            let queries = (qkv.get(0)? / (d as f64 / heads as f64).sqrt())?;
            let scores = queries.matmul(&qkv.get(1)?.transpose(1, 2)?.contiguous()?)?;
            let shares = dropout.apply(crate::llm::tune::causal_shares(&scores)?, rate)?;
            let seen = shares.matmul(&qkv.get(2)?.contiguous()?)?.reshape((count, heads, width, d / heads))?;
            let seen = together.apply(&seen.transpose(1, 2)?.reshape((count * width, d))?)?;
            let seen = dropout.apply(self.linear(&seen, &name("out"))?, rate)?;
            x = self.norm(&(x + seen)?, &name("norm1"))?;
            let inner = dropout.apply(self.linear(&x, &name("up"))?.apply_op1(Gelu)?, rate)?;
            let out = dropout.apply(self.linear(&inner, &name("down"))?, rate)?;
            x = self.norm(&(x + out)?, &name("norm2"))?;
        }
        Ok(x)
    }

    /// The gate of each item, between 0 and 1 `[T, 1]`.
    fn gate(&self, histories: &Histories, graph: &Tensor) -> Result<Tensor> {
        let users = Sparse::placed(self.var("users")?.dim(0)?, histories.users.iter().copied());
        let by_place = self.linear(&users.apply(self.var("users")?)?, "gate.user")?;
        let places = histories.places(self.longest);
        let at: Vec<u32> = histories.owners().zip(places).map(|(owner, place)| owner * self.longest as u32 + place).collect();
        let by_place = by_place.reshape(((), 1))?.index_select(&Tensor::new(at, &Device::Cpu)?, 0)?;
        candle_nn::ops::sigmoid(&(self.linear(graph, "gate.item")? + by_place)?)
    }

    /// One state for each history `[B, d]` of the states `[T, d]` of its items.
    fn pool(&self, histories: &Histories, hidden: &Tensor) -> Result<Tensor> {
        let places = self.var("positions")?.index_select(&Tensor::new(histories.places(self.longest), &Device::Cpu)?, 0)?;
        let owners = Tensor::new(histories.owners().collect::<Vec<u32>>(), &Device::Cpu)?;
        let means = self.linear(&histories.means().apply(hidden)?, "pool.mean")?.index_select(&owners, 0)?;
        let placed = self.linear(&Tensor::cat(&[&places, hidden], 1)?, "pool.place")?.tanh()?;
        let open = candle_nn::ops::sigmoid(&(self.linear(&placed, "pool.item")? + means)?)?;
        let scores = self.linear(&open, "pool.score")?;
        histories.rows_of(|_| 1.0).apply(&hidden.broadcast_mul(&scores)?)
    }

    /// The states of a mini-batch, from the states of its items in the two samples, `graph [T, d]`.
    ///
    /// # Errors
    /// candle's.
    pub fn states(&self, histories: &Histories, graph: [Tensor; 2], dropout: &mut Dropout) -> Result<States> {
        let rows = self.items()?.index_select(&Tensor::new(&histories.items[..], &Device::Cpu)?, 0)?;
        let read = self.read(histories, &rows, dropout)?;
        let mut gated = Vec::with_capacity(2);
        for states in &graph {
            let open = states.broadcast_mul(&self.gate(histories, states)?)?;
            gated.push(dropout.apply(open, self.graph_dropout)?);
        }
        let hidden = self.linear(&Tensor::cat(&[&read, &gated[0], &gated[1]], 1)?, "mix")?;
        let pooled = dropout.apply(self.pool(histories, &hidden)?, self.dropout)?;
        let [a, b] = [gated.swap_remove(0), gated.swap_remove(0)];
        Ok(States { pooled, graph, gated: [a, b] })
    }
}

/// Rows of length 1; a row of zeros stays, and hands on a gradient of a size that a step can take.
///
/// # Errors
/// candle's.
pub fn unit_rows(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + 1e-8)?.sqrt()?;
    x.broadcast_div(&length)
}
