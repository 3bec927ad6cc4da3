//! The decoder's operations as candle tensors, for a GPU. On the CPU they serve as a second opinion in tests.
//!
//! Arithmetic has the dtype of the weights (f32, f16, bf16); norms and softmax compute in f32. Products go to candle's libraries,
//! which choose their kernel by the number of rows: a row's last bits may depend on its batch here.

use super::answer::{self, HostLogits};
use super::gguf::first_line;
use super::network::{Ask, Attention, BLOCK, Batch, Norm, Ops, Part, Segment};
use super::spec::{Activation, Spec};
use crate::{Error, Result};
use candle_core::{D, DType, Device, Tensor};

/// A device of candle.
pub struct Candle {
    /// Where tensors live.
    pub device: Device,
    /// Numbers to compute with.
    pub dtype: DType,
}

/// Weights `[outputs, inputs]` and a bias.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Cosines and sines `[positions, rotated / 2]`.
pub struct Table {
    cos: Tensor,
    sin: Tensor,
    rotated: usize,
}

/// Keys and values of every layer `[blocks * 16, kv_heads * head_dim]`.
pub struct Cache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
}

fn failed(e: candle_core::Error) -> Error {
    Error::Usage(format!("the device failed: {}", first_line(&e)))
}

/// Place of `position` of a sequence in the cache.
fn place(batch: &Batch, segment: &Segment, position: usize) -> u32 {
    batch.tables[segment.table.start + position / BLOCK] * BLOCK as u32 + (position % BLOCK) as u32
}

impl Candle {
    /// Tensors on `device`.
    pub fn new(device: Device, dtype: DType) -> Candle {
        Candle { device, dtype }
    }

    fn ids(&self, ids: Vec<u32>) -> candle_core::Result<Tensor> {
        let n = ids.len();
        Tensor::from_vec(ids, n, &self.device)
    }

    fn rms(&self, x: &Tensor, norm: &Norm<Tensor>) -> candle_core::Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = wide.broadcast_div(&(mean + f64::from(norm.eps))?.sqrt()?)?;
        scaled.broadcast_mul(&norm.weight)?.to_dtype(x.dtype())
    }

    /// Rotates the first dimensions of every head of `x [T, heads, head_dim]`.
    fn rotate(&self, x: &Tensor, table: &Table, positions: &Tensor) -> candle_core::Result<Tensor> {
        let half = table.rotated / 2;
        let (cos, sin) = (table.cos.index_select(positions, 0)?.unsqueeze(1)?, table.sin.index_select(positions, 0)?.unsqueeze(1)?);
        let wide = x.to_dtype(DType::F32)?;
        let (a, b) = (wide.narrow(D::Minus1, 0, half)?, wide.narrow(D::Minus1, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rest = x.dim(D::Minus1)? - table.rotated;
        let turned = if rest == 0 {
            Tensor::cat(&[first, second], D::Minus1)?
        } else {
            Tensor::cat(&[first, second, wide.narrow(D::Minus1, table.rotated, rest)?], D::Minus1)?
        };
        turned.to_dtype(x.dtype())
    }

    /// Attention of queries `[B, rows, heads, head_dim]` to the keys and values at `places [B * keys]`; `mask [B, 1, rows, keys]` is 0 or
    /// minus infinity.
    fn scores(&self, q: &Tensor, places: &Tensor, mask: &Tensor, a: &Attention<'_, Candle>, cache: &Cache) -> candle_core::Result<Tensor> {
        let s = a.spec;
        let (n, rows, keys) = (q.dim(0)?, q.dim(1)?, mask.dim(3)?);
        let group = s.group();
        let read = |x: &Tensor| x.index_select(places, 0)?.reshape((n, keys, s.kv_heads, s.head_dim))?.transpose(1, 2)?.contiguous();
        let (k, v) = (read(&cache.keys[a.layer])?, read(&cache.values[a.layer])?);
        // Query heads that share a key head become rows of one product.
        let q = q.reshape((n, rows, s.kv_heads, group, s.head_dim))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let q = q.reshape((n, s.kv_heads, group * rows, s.head_dim))?;
        let mut scores = (q.matmul(&k.transpose(2, 3)?)?.to_dtype(DType::F32)? * f64::from(s.query_scale))?;
        if let Some(cap) = s.attention_cap {
            scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        let scores = scores.reshape((n, s.kv_heads, group, rows, keys))?.broadcast_add(&mask.unsqueeze(1)?)?;
        let top = scores.max_keepdim(D::Minus1)?;
        let weights = scores.broadcast_sub(&top)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(v.dtype())?;
        let out = weights.reshape((n, s.kv_heads, group * rows, keys))?.matmul(&v)?;
        let out = out.reshape((n, s.kv_heads, group, rows, s.head_dim))?.permute((0, 3, 1, 2, 4))?.contiguous()?;
        out.reshape((n * rows, s.heads * s.head_dim))
    }

    /// 0 where a query at `position` sees a key, minus infinity elsewhere.
    fn sees(window: Option<usize>, position: usize, key: usize) -> f32 {
        if key <= position && window.is_none_or(|w| key + w > position) { 0.0 } else { f32::NEG_INFINITY }
    }

    fn attention(&self, qkv: &Tensor, a: &Attention<'_, Candle>, batch: &Batch, cache: &mut Cache) -> candle_core::Result<Tensor> {
        let s = a.spec;
        let (rows, width) = (batch.tokens.len(), s.kv_heads * s.head_dim);
        let rows_of = |g: &Segment| (0..g.rows).map(|i| g.position + i).collect::<Vec<_>>();
        let positions = self.ids(batch.segments.iter().flat_map(rows_of).map(|p| p as u32).collect())?;
        let heads = |from: usize, n: usize| qkv.narrow(1, from * s.head_dim, n * s.head_dim)?.contiguous()?.reshape((rows, n, s.head_dim));
        let (mut q, mut k, v) = (heads(0, s.heads)?, heads(s.heads, s.kv_heads)?, heads(s.heads + s.kv_heads, s.kv_heads)?);
        if let (Some(query), Some(key)) = (a.query_norm, a.key_norm) {
            (q, k) = (self.rms(&q, query)?, self.rms(&k, key)?);
        }
        q = self.rotate(&q, a.rope, &positions)?;
        k = self.rotate(&k, a.rope, &positions)?;
        let places = |g: &Segment| rows_of(g).into_iter().map(|p| place(batch, g, p)).collect::<Vec<_>>();
        let index = self.ids(batch.segments.iter().flat_map(places).collect())?;
        let index = index.unsqueeze(1)?.broadcast_as((rows, width))?.contiguous()?;
        cache.keys[a.layer].scatter_set(&index, &k.reshape((rows, width))?, 0)?;
        cache.values[a.layer].scatter_set(&index, &v.reshape((rows, width))?, 0)?;

        // Sequences with one new token go together, their keys padded to the longest; prompts one by one.
        let (single, long): (Vec<&Segment>, Vec<&Segment>) = batch.segments.iter().partition(|g| g.rows == 1);
        let mut parts: Vec<(Vec<u32>, Tensor)> = Vec::new();
        if !single.is_empty() {
            let keys = single.iter().map(|g| g.position + 1).max().unwrap_or(1);
            let at = |g: &&Segment| (0..keys).map(|p| place(batch, g, p.min(g.position))).collect::<Vec<_>>();
            let places = self.ids(single.iter().flat_map(at).collect())?;
            let mask: Vec<f32> = single.iter().flat_map(|g| (0..keys).map(|p| Candle::sees(a.window, g.position, p))).collect();
            let mask = Tensor::from_vec(mask, (single.len(), 1, 1, keys), &self.device)?;
            let own: Vec<u32> = single.iter().map(|g| g.row as u32).collect();
            let q = q.index_select(&self.ids(own.clone())?, 0)?.unsqueeze(1)?;
            parts.push((own, self.scores(&q, &places, &mask, a, cache)?));
        }
        for g in long {
            let keys = g.position + g.rows;
            let places = self.ids((0..keys).map(|p| place(batch, g, p)).collect())?;
            let mask: Vec<f32> = rows_of(g).into_iter().flat_map(|q| (0..keys).map(move |p| Candle::sees(a.window, q, p))).collect();
            let mask = Tensor::from_vec(mask, (1, 1, g.rows, keys), &self.device)?;
            let q = q.narrow(0, g.row, g.rows)?.unsqueeze(0)?;
            parts.push(((g.row as u32..(g.row + g.rows) as u32).collect(), self.scores(&q, &places, &mask, a, cache)?));
        }
        let order: Vec<u32> = parts.iter().flat_map(|p| p.0.iter().copied()).collect();
        let all = Tensor::cat(&parts.iter().map(|p| &p.1).collect::<Vec<_>>(), 0)?;
        if order.is_sorted() {
            return Ok(all);
        }
        let mut back = vec![0u32; rows];
        order.iter().enumerate().for_each(|(i, row)| back[*row as usize] = i as u32);
        all.index_select(&self.ids(back)?, 0)
    }
}

impl Ops for Candle {
    type Array = Tensor;
    type Matrix = Linear;
    type Vector = Tensor;
    type Table = Table;
    type Cache = Cache;
    type Plan = ();
    type Answers = Vec<Option<u32>>;

    fn matrix(&self, parts: &[Part<'_>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let one = |part: &Part<'_>| match part {
            Part::Plain(p) => Tensor::from_vec(p.to_vec(), (p.rows, p.cols), &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device),
            // Taken into the dtype of the computation: a device of candle multiplies plain numbers here.
            Part::Quantised(t) => t.dequantize(&Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device),
        };
        let all = parts.iter().map(one).collect::<candle_core::Result<Vec<_>>>().and_then(|all| Tensor::cat(&all, 0)).map_err(failed)?;
        let vector = |b: Vec<f32>| {
            let n = b.len();
            Tensor::from_vec(b, n, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
        };
        Ok(Linear { weight: all, bias: bias.map(vector).transpose().map_err(failed)? })
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        let n = values.len();
        Tensor::from_vec(values, n, &self.device).map_err(failed)
    }

    fn table(&self, values: Vec<f32>, rotated: usize) -> Result<Table> {
        let half = rotated / 2;
        let both = Tensor::from_vec(values.clone(), (values.len() / rotated, 2, half), &self.device).map_err(failed)?;
        let take = |i: usize| both.narrow(1, i, 1).and_then(|t| t.squeeze(1)?.contiguous()).map_err(failed);
        Ok(Table { cos: take(0)?, sin: take(1)?, rotated })
    }

    fn cache(&self, spec: &Spec, blocks: usize) -> Result<Cache> {
        let shape = (blocks * BLOCK, spec.kv_heads * spec.head_dim);
        let make = || (0..spec.layers).map(|_| Tensor::zeros(shape, self.dtype, &self.device).map_err(failed)).collect::<Result<Vec<_>>>();
        Ok(Cache { keys: make()?, values: make()? })
    }

    fn copy_block(&self, cache: &mut Cache, from: u32, to: u32) -> Result<()> {
        for x in cache.keys.iter().chain(&cache.values) {
            let source = x.narrow(0, from as usize * BLOCK, BLOCK).and_then(|t| t.copy()).map_err(failed)?;
            x.slice_set(&source, 0, to as usize * BLOCK).map_err(failed)?;
        }
        Ok(())
    }

    fn plan(&self, _: &Batch) -> Result<()> {
        Ok(())
    }

    fn embed(&self, table: &Linear, batch: &Batch, (): &(), scale: f32) -> Result<Tensor> {
        let rows = self.ids(batch.tokens.clone()).and_then(|ids| table.weight.index_select(&ids, 0)).map_err(failed)?;
        if scale == 1.0 { Ok(rows) } else { (rows * f64::from(scale)).map_err(failed) }
    }

    fn norm(&self, x: &Tensor, norm: &Norm<Tensor>) -> Result<Tensor> {
        self.rms(x, norm).map_err(failed)
    }

    fn linear(&self, x: &Tensor, w: &Linear) -> Result<Tensor> {
        let y = w.weight.t().and_then(|w| x.matmul(&w)).map_err(failed)?;
        match &w.bias {
            Some(bias) => y.broadcast_add(bias).map_err(failed),
            None => Ok(y),
        }
    }

    fn attend(&self, qkv: Tensor, a: &Attention<'_, Candle>, batch: &Batch, (): &(), cache: &mut Cache) -> Result<Tensor> {
        self.attention(&qkv, a, batch, cache).map_err(failed)
    }

    fn gated(&self, gate_up: Tensor, activation: Activation) -> Result<Tensor> {
        let both = gate_up.chunk(2, D::Minus1).map_err(failed)?;
        let gate = match activation {
            Activation::Silu => both[0].silu(),
            Activation::GeluTanh => both[0].gelu(),
        };
        gate.and_then(|g| g * &both[1]).map_err(failed)
    }

    fn add(&self, x: &mut Tensor, y: Tensor) -> Result<()> {
        *x = (&*x + y).map_err(failed)?;
        Ok(())
    }

    fn pick(&self, x: Tensor, batch: &Batch, (): &()) -> Result<Tensor> {
        self.ids(batch.wanted.clone()).and_then(|ids| x.index_select(&ids, 0)).map_err(failed)
    }

    fn logits(&self, x: &Tensor, head: &Linear, cap: Option<f32>) -> Result<Vec<f32>> {
        let y = self.linear(x, head)?.to_dtype(DType::F32).map_err(failed)?;
        let y = match cap {
            Some(cap) => (y / f64::from(cap)).and_then(|y| y.tanh()? * f64::from(cap)).map_err(failed)?,
            None => y,
        };
        y.flatten_all().and_then(|y| y.to_vec1()).map_err(failed)
    }

    fn ask(&self, x: Tensor, head: &Linear, cap: Option<f32>, asks: &[Ask<'_>]) -> Result<Vec<Option<u32>>> {
        answer::on_host(self, &x, head, cap, asks)
    }

    fn answers(&self, answers: Vec<Option<u32>>) -> Result<Vec<Option<u32>>> {
        Ok(answers)
    }
}

impl HostLogits for Candle {
    fn rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        self.ids(rows.iter().map(|r| *r as u32).collect()).and_then(|ids| x.index_select(&ids, 0)).map_err(failed)
    }

    fn logits_at(&self, x: &Tensor, row: usize, head: &Linear, cap: Option<f32>, tokens: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let part = |tokens: Vec<u32>| -> candle_core::Result<Linear> {
            let ids = self.ids(tokens)?;
            let bias = head.bias.as_ref().map(|b| b.index_select(&ids, 0)).transpose()?;
            Ok(Linear { weight: head.weight.index_select(&ids, 0)?, bias })
        };
        let part = part(tokens.to_vec()).map_err(failed)?;
        *out = self.logits(&x.narrow(0, row, 1).map_err(failed)?, &part, cap)?;
        Ok(())
    }

    fn vocab(&self, head: &Linear) -> usize {
        head.weight.dims()[0]
    }
}
