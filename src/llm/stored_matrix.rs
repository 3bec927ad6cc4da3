//! A matrix as it is stored, before a device has it.

use super::gguf::first_line;
use super::weights::{Plain, Stored};
use crate::{Error, Result};
use std::sync::Arc;

/// A stored matrix before a device has it.
pub enum StoredMatrix<'a> {
    /// Numbers as they are.
    Plain(Plain<'a>),
    /// Quantised blocks.
    Quantised(Arc<candle_core::quantized::QTensor>),
}

impl StoredMatrix<'_> {
    /// The numbers of quantised blocks as little-endian f32; nothing for numbers as they are. Products with blocks would round the
    /// activations as well, and take many times longer.
    pub(super) fn dequantised(&self) -> Result<Vec<u8>> {
        let StoredMatrix::Quantised(blocks) = self else { return Ok(Vec::new()) };
        let values = blocks.dequantize(&candle_core::Device::Cpu).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
        let values = values.map_err(|e| Error::Usage(format!("quantised weights cannot be read: {}", first_line(&e))))?;
        Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// The matrix as numbers, `taken` being what [`StoredMatrix::dequantised`] gave.
    pub(super) fn plain<'b>(&'b self, taken: &'b [u8]) -> Result<Plain<'b>> {
        let blocks = match self {
            StoredMatrix::Plain(plain) => return Ok(*plain),
            StoredMatrix::Quantised(blocks) => blocks,
        };
        let odd = |_| Error::Usage("quantised weights are no matrix".into());
        let (rows, cols) = blocks.shape().dims2().map_err(odd)?;
        Plain::new(Stored::F32, rows, cols, taken).ok_or_else(|| Error::Usage("quantised weights do not fit their shape".into()))
    }
}
