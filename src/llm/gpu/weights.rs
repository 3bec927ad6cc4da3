//! Weights of a product on a GPU, converted on the way there.

use super::super::gguf::first_line;
use super::super::network::StoredMatrix;
use super::super::weights::Stored;
use super::Gpu;
use crate::device::launch::Pointer;
use crate::device::{Buffer, Device};
use crate::{Error, Result};
use half::{bf16, f16};
use rayon::prelude::*;

/// Weights `[outputs, ld]` and a bias `[outputs]`.
pub struct Linear {
    pub(super) weights: Buffer,
    bias: Option<Buffer>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
}

/// Bytes converted at a time.
const PIECE: usize = 16 << 20;

/// `values` as numbers of the device, into the beginning of `bytes`.
fn convert(number: Stored, values: &[f32], bytes: &mut [u8]) {
    match number {
        Stored::F32 => bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes()),
        Stored::F16 => bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = f16::from_f32(*v).to_le_bytes()),
        Stored::Bf16 => bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = bf16::from_f32(*v).to_le_bytes()),
    }
}

impl Linear {
    /// Where the bias lies; null where there is none.
    pub(super) fn bias(&self) -> Pointer {
        self.bias.as_ref().map_or(Pointer::NULL, Pointer::from)
    }

    /// Stacks `parts` along the outputs.
    pub(super) fn upload(device: &dyn Device, number: Stored, parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Linear> {
        let shape = |part: &StoredMatrix<'_>| match part {
            StoredMatrix::Plain(p) => (p.rows, p.cols),
            StoredMatrix::Quantised(t) => (t.shape().dims()[0], t.shape().dims()[1]),
        };
        let inputs = parts.first().map_or(0, |p| shape(p).1);
        let outputs = parts.iter().map(|p| shape(p).0).sum();
        let line = Gpu::ld(inputs) * number.bytes();
        let weights = device.alloc(outputs * line)?;
        let mut start = 0;
        for part in parts {
            let rows = shape(part).0;
            // Quantised blocks are taken into the device's numbers: its products are of plain ones.
            let plain = match part {
                StoredMatrix::Plain(_) => Vec::new(),
                StoredMatrix::Quantised(t) => {
                    let values = t.dequantize(&candle_core::Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
                    values.map_err(|e| Error::Usage(format!("quantised weights cannot be read: {}", first_line(&e))))?
                }
            };
            let step = (PIECE / line).max(1);
            for first in (0..rows).step_by(step) {
                let mut bytes = vec![0u8; step.min(rows - first) * line];
                bytes.par_chunks_exact_mut(line).enumerate().for_each_init(
                    || vec![0f32; inputs],
                    |row, (i, bytes)| match part {
                        StoredMatrix::Plain(p) => {
                            p.row(first + i, row);
                            convert(number, row, bytes);
                        }
                        StoredMatrix::Quantised(_) => convert(number, &plain[(first + i) * inputs..][..inputs], bytes),
                    },
                );
                device.upload(&weights, (start + first) * line, &bytes)?;
            }
            start += rows;
        }
        let bias = bias.map(|b| device.upload_new(&b)).transpose()?;
        Ok(Linear { weights, bias, outputs, inputs })
    }
}
