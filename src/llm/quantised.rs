//! Products with quantised weights through candle, row by row with the same bits.

use super::gguf::first_line;
use super::network::StoredMatrix;
use crate::{Error, Result};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use std::sync::Arc;

/// Quantised weights `[outputs, inputs]`, in parts where several were stacked.
pub struct Quantised {
    /// Inputs.
    pub inputs: usize,
    /// Outputs.
    pub outputs: usize,
    parts: Vec<(Arc<QTensor>, QMatMul)>,
    bias: Option<Vec<f32>>,
}

fn failed(e: candle_core::Error) -> Error {
    Error::Usage(format!("a product with quantised weights failed: {}", first_line(&e)))
}

impl Quantised {
    /// Stacks `parts` along the outputs; plain parts are taken into the same form in f32.
    ///
    /// # Errors
    /// candle's, where a part cannot be read.
    pub fn new(parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Quantised> {
        let mut all = Quantised { inputs: 0, outputs: 0, parts: Vec::new(), bias };
        for part in parts {
            let tensor = match part {
                StoredMatrix::Quantised(t) => t.clone(),
                StoredMatrix::Plain(p) => {
                    let plain = Tensor::from_vec(p.to_vec(), (p.rows, p.cols), &Device::Cpu).map_err(failed)?;
                    Arc::new(QTensor::quantize(&plain, candle_core::quantized::GgmlDType::F32).map_err(failed)?)
                }
            };
            let (rows, cols) = tensor.shape().dims2().map_err(failed)?;
            all.inputs = cols;
            all.outputs += rows;
            all.parts.push((tensor.clone(), QMatMul::from_arc(tensor).map_err(failed)?));
        }
        Ok(all)
    }

    /// `y [rows, outputs]` from `x [rows, inputs]`.
    ///
    /// # Errors
    /// candle's.
    pub fn apply(&self, x: &[f32]) -> Result<Vec<f32>> {
        let rows = x.len() / self.inputs;
        let mut out = vec![0f32; rows * self.outputs];
        let x = Tensor::from_slice(x, (rows, self.inputs), &Device::Cpu).map_err(failed)?;
        let mut column = 0;
        for (tensor, product) in &self.parts {
            let n = tensor.shape().dims()[0];
            let y = product.forward(&x).and_then(|y| y.flatten_all()?.to_vec1::<f32>()).map_err(failed)?;
            for (to, from) in out.chunks_exact_mut(self.outputs).zip(y.chunks_exact(n)) {
                to[column..column + n].copy_from_slice(from);
            }
            column += n;
        }
        if let Some(bias) = &self.bias {
            out.chunks_exact_mut(self.outputs).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        Ok(out)
    }

    /// Row `n` of the weights, for a table of embeddings.
    ///
    /// # Errors
    /// candle's.
    pub fn row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        let mut n = n;
        for (tensor, _) in &self.parts {
            let rows = tensor.shape().dims()[0];
            if n < rows {
                let id = Tensor::from_slice(&[n as u32], 1, &Device::Cpu).map_err(failed)?;
                let row = tensor.embedding(&id).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).map_err(failed)?;
                out.copy_from_slice(&row);
                return Ok(());
            }
            n -= rows;
        }
        Err(Error::Usage(format!("token row {n} is beyond the embedding table")))
    }
}
