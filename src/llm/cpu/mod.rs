//! The decoder's operations on the CPU, all cores, f32 arithmetic. Every row's result has the same bits whatever its
//! neighbours are: sums run in an order that depends on the row alone.

mod attention;
pub(super) mod matrix;
mod panels;
mod rows;

use super::answer::{self, HostLogits};
use super::network::{Attention, Batch, Norm, Ops, SampleRequest, StoredMatrix};
use super::spec::{Activation, Spec};
use crate::Result;
use matrix::Matrix;
use parking_lot::Mutex;
use rayon::prelude::*;

pub use attention::Cache;

/// Packed rows of activations `[rows, width]`.
pub struct Rows {
    data: Vec<f32>,
    width: usize,
}

impl Rows {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data.len() / self.width
    }

    /// All numbers, row by row.
    pub fn values(&self) -> &[f32] {
        &self.data
    }
}

/// A rotary table.
pub struct Table {
    values: Vec<f32>,
    rotated: usize,
}

/// The CPU.
#[derive(Default)]
pub struct Cpu {
    /// Round weights to bf16 when they are loaded.
    pub round: bool,
    /// Memory of arrays that are no longer used.
    spare: Mutex<Vec<Vec<f32>>>,
}

/// Elements below which a pass over rows is not worth a second core.
const WORTH: usize = 1 << 15;

impl Cpu {
    /// A CPU that keeps weights as they are stored, or rounds them to bf16.
    pub fn new(round: bool) -> Cpu {
        Cpu { round, ..Cpu::default() }
    }

    fn take(&self, rows: usize, width: usize) -> Rows {
        let mut data = self.spare.lock().pop().unwrap_or_default();
        data.resize(rows * width, 0.0);
        Rows { data, width }
    }

    fn give(&self, rows: Rows) {
        self.spare.lock().push(rows.data);
    }

    fn product(&self, x: &Rows, w: &Matrix) -> Result<Rows> {
        let mut y = self.take(x.rows(), w.outputs);
        w.apply(&x.data, &mut y.data);
        Ok(y)
    }
}

/// `work(row, input row, output row)` for every row, on all cores where it pays.
fn by_rows(x: &[f32], width_in: usize, y: &mut [f32], width_out: usize, work: impl Fn(&[f32], &mut [f32]) + Sync) {
    if x.len() < WORTH {
        x.chunks_exact(width_in).zip(y.chunks_exact_mut(width_out)).for_each(|(x, y)| work(x, y));
    } else {
        let least = (WORTH / width_in / 4).max(1);
        x.par_chunks_exact(width_in).zip(y.par_chunks_exact_mut(width_out)).with_min_len(least).for_each(|(x, y)| work(x, y));
    }
}

impl Ops for Cpu {
    type Array = Rows;
    type Matrix = Matrix;
    type Vector = Vec<f32>;
    type Table = Table;
    type Cache = Cache;
    type Plan = ();
    type Answers = Vec<Option<u32>>;

    fn matrix(&self, parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Matrix> {
        let taken = parts.iter().map(StoredMatrix::dequantised).collect::<Result<Vec<_>>>()?;
        let plain = parts.iter().zip(&taken).map(|(part, taken)| part.plain(taken)).collect::<Result<Vec<_>>>()?;
        Ok(Matrix::new(&plain, bias, self.round))
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn table(&self, values: Vec<f32>, rotated: usize) -> Result<Table> {
        Ok(Table { values, rotated })
    }

    fn cache(&self, spec: &Spec, blocks: usize) -> Result<Cache> {
        Cache::new(spec, blocks)
    }

    fn copy_block(&self, cache: &mut Cache, from: u32, to: u32) -> Result<()> {
        cache.copy_block(from, to);
        Ok(())
    }

    fn plan(&self, _: &Batch) -> Result<()> {
        Ok(())
    }

    fn embed(&self, table: &Matrix, batch: &Batch, (): &(), scale: f32) -> Result<Rows> {
        let tokens = &batch.tokens;
        let mut x = self.take(tokens.len(), 1);
        let width = table.inputs;
        x.width = width;
        x.data.resize(tokens.len() * width, 0.0);
        for (row, token) in x.data.chunks_exact_mut(width).zip(tokens) {
            table.row(*token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
        Ok(x)
    }

    fn norm(&self, x: &Rows, norm: &Norm<Vec<f32>>) -> Result<Rows> {
        let mut y = self.take(x.rows(), x.width);
        // SAFETY: rows and weights have the same width.
        by_rows(&x.data, x.width, &mut y.data, x.width, |x, y| unsafe {
            rows::norm(x.len(), x.as_ptr(), norm.weight.as_ptr(), norm.eps, y.as_mut_ptr());
        });
        Ok(y)
    }

    fn linear(&self, x: &Rows, w: &Matrix) -> Result<Rows> {
        self.product(x, w)
    }

    fn attend(&self, mut qkv: Rows, a: &Attention<'_, Cpu>, batch: &Batch, (): &(), cache: &mut Cache) -> Result<Rows> {
        let s = a.spec;
        let mut out = self.take(qkv.rows(), s.heads * s.head_dim);
        attention::store(&mut qkv.data, a, batch, cache);
        attention::attend(&qkv.data, &mut out.data, a, batch, cache);
        self.give(qkv);
        Ok(out)
    }

    fn gated(&self, gate_up: Rows, activation: Activation) -> Result<Rows> {
        let inner = gate_up.width / 2;
        let mut y = self.take(gate_up.rows(), inner);
        // SAFETY: an input row holds the gate and, after it, what is gated.
        by_rows(&gate_up.data, 2 * inner, &mut y.data, inner, |x, y| unsafe {
            let (gate, up) = (x.as_ptr(), x.as_ptr().add(inner));
            match activation {
                Activation::Silu => rows::silu_gate(inner, gate, up, y.as_mut_ptr()),
                Activation::GeluTanh => rows::gelu_gate(inner, gate, up, y.as_mut_ptr()),
            }
        });
        self.give(gate_up);
        Ok(y)
    }

    fn add(&self, x: &mut Rows, y: Rows) -> Result<()> {
        x.data.iter_mut().zip(&y.data).for_each(|(x, y)| *x += y);
        self.give(y);
        Ok(())
    }

    fn pick(&self, x: Rows, batch: &Batch, (): &()) -> Result<Rows> {
        let mut y = self.take(batch.wanted.len(), x.width);
        for (to, from) in y.data.chunks_exact_mut(x.width).zip(&batch.wanted) {
            to.copy_from_slice(&x.data[*from as usize * x.width..][..x.width]);
        }
        self.give(x);
        Ok(y)
    }

    fn logits(&self, x: &Rows, head: &Matrix, cap: Option<f32>) -> Result<Vec<f32>> {
        let mut y = self.product(x, head)?;
        if let Some(cap) = cap {
            y.data.par_chunks_mut(1 << 14).for_each(|part| rows::soft_cap(part, cap));
        }
        Ok(y.data)
    }

    fn ask(&self, x: Rows, head: &Matrix, cap: Option<f32>, asks: &[SampleRequest<'_>]) -> Result<Vec<Option<u32>>> {
        let answers = answer::on_host(self, &x, head, cap, asks);
        self.give(x);
        answers
    }

    fn answers(&self, answers: Vec<Option<u32>>) -> Result<Vec<Option<u32>>> {
        Ok(answers)
    }
}

impl HostLogits for Cpu {
    fn rows(&self, x: &Rows, rows: &[usize]) -> Result<Rows> {
        let mut y = self.take(rows.len(), x.width);
        for (to, from) in y.data.chunks_exact_mut(x.width).zip(rows) {
            to.copy_from_slice(&x.data[from * x.width..][..x.width]);
        }
        Ok(y)
    }

    fn logits_at(&self, x: &Rows, row: usize, head: &Matrix, cap: Option<f32>, tokens: &[u32], out: &mut Vec<f32>) -> Result<()> {
        let hidden = &x.data[row * x.width..(row + 1) * x.width];
        head.apply_at(hidden, tokens, out);
        if let Some(cap) = cap {
            rows::soft_cap(out, cap);
        }
        Ok(())
    }

    fn vocab(&self, head: &Matrix) -> usize {
        head.outputs
    }
}
