//! The decoder's operations as candle tensors, for a GPU. On the CPU they serve as a second opinion in tests.
//!
//! Arithmetic has the dtype of the weights (f32, f16, bf16); norms and softmax compute in f32. Products go to candle's libraries,
//! which choose their kernel by the number of rows: a row's last bits may depend on its batch here.
//!
//! Attention is composed of candle's operations, or with feature `flash-attn` on a GPU, in f16 and bf16, one call a layer.

mod ask;
mod attention;
mod plan;
mod store;
// What only a kernel reads.
#[cfg_attr(not(feature = "flash-attn"), allow(dead_code))]
mod varlen;

use super::answer::HostLogits;
use super::gguf::first_line;
use super::network::{Attention, BLOCK, Batch, Norm, Ops, SampleRequest, StoredMatrix};
use super::spec::{Activation, Spec};
use crate::{Error, Result};
use ask::Count;
use candle_core::{D, DType, Device, Tensor};
use store::Store;
use varlen::Varlen;

pub use ask::Answers;
pub use plan::Plan;

/// A device of candle.
pub struct Candle {
    /// Where tensors live.
    pub device: Device,
    /// Numbers to compute with.
    pub dtype: DType,
    /// Attention of a whole batch in one call, where there is such a kernel.
    varlen: Option<Varlen>,
    store: Store,
    count: Count,
}

/// Weights `[outputs, inputs]` and a bias.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }
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

impl Candle {
    /// Tensors on `device`.
    pub fn new(device: Device, dtype: DType) -> Candle {
        Candle { varlen: varlen::on(&device, dtype), store: Store::on(&device), device, dtype, count: Count::default() }
    }

    fn ids(&self, ids: Vec<u32>) -> candle_core::Result<Tensor> {
        let n = ids.len();
        Tensor::from_vec(ids, n, &self.device)
    }

    /// Logits `[rows, vocab]` in f32.
    fn device_logits(&self, x: &Tensor, head: &Linear, cap: Option<f32>) -> Result<Tensor> {
        let y = self.linear(x, head)?.to_dtype(DType::F32).map_err(failed)?;
        match cap {
            Some(cap) => (y / f64::from(cap)).and_then(|y| y.tanh()? * f64::from(cap)).map_err(failed),
            None => Ok(y),
        }
    }
}

impl Ops for Candle {
    type Array = Tensor;
    type Matrix = Linear;
    type Vector = Tensor;
    type Table = Table;
    type Cache = Cache;
    type Plan = Plan;
    type Answers = Answers;

    fn matrix(&self, parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let one = |part: &StoredMatrix<'_>| match part {
            StoredMatrix::Plain(p) => {
                Tensor::from_vec(p.to_vec(), (p.rows, p.cols), &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)
            }
            // Taken into the dtype of the computation: a device of candle multiplies plain numbers here.
            StoredMatrix::Quantised(t) => t.dequantize(&Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device),
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

    fn plan(&self, batch: &Batch) -> Result<Plan> {
        Plan::new(batch, &self.device).map_err(failed)
    }

    fn embed(&self, table: &Linear, _: &Batch, plan: &Plan, scale: f32) -> Result<Tensor> {
        let rows = table.weight.index_select(&plan.tokens, 0).map_err(failed)?;
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

    fn attend(&self, qkv: Tensor, a: &Attention<'_, Candle>, batch: &Batch, plan: &Plan, cache: &mut Cache) -> Result<Tensor> {
        self.attention(&qkv, a, batch, plan, cache).map_err(failed)
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

    fn pick(&self, x: Tensor, _: &Batch, plan: &Plan) -> Result<Tensor> {
        x.index_select(&plan.wanted, 0).map_err(failed)
    }

    fn logits(&self, x: &Tensor, head: &Linear, cap: Option<f32>) -> Result<Vec<f32>> {
        let y = self.device_logits(x, head, cap)?;
        y.flatten_all().and_then(|y| y.to_vec1()).map_err(failed)
    }

    fn ask(&self, x: Tensor, head: &Linear, cap: Option<f32>, asks: &[SampleRequest<'_>]) -> Result<Answers> {
        self.begin(&x, head, cap, asks)
    }

    fn answers(&self, answers: Answers) -> Result<Vec<Option<u32>>> {
        self.end(answers)
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
        head.outputs()
    }
}
