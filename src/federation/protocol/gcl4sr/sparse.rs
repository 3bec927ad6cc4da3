//! Sums of rows with fixed weights, as an operation that has a gradient.

use crate::llm::tune::{by_rows, floats};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// A matrix `[rows, columns]` of few entries, by rows: `y = A x`, and `A^T g` back. Every row is summed by one thread, in the order of its entries, so
/// that the number of threads changes no bit.
#[derive(Clone, Debug)]
pub struct Sparse {
    inner: Arc<Entries>,
}

#[derive(Debug)]
struct Entries {
    columns: usize,
    /// Bounds of rows `[rows + 1]`.
    bounds: Vec<usize>,
    /// Column and value of each entry.
    entries: Vec<(u32, f32)>,
}

impl Sparse {
    /// A matrix of `columns` from its rows.
    pub fn new(columns: usize, rows: impl IntoIterator<Item = impl IntoIterator<Item = (u32, f32)>>) -> Sparse {
        let (mut bounds, mut entries) = (vec![0], Vec::new());
        for row in rows {
            entries.extend(row);
            bounds.push(entries.len());
        }
        debug_assert!(entries.iter().all(|(column, _)| (*column as usize) < columns));
        Sparse { inner: Arc::new(Entries { columns, bounds, entries }) }
    }

    /// Row `i` is row `places[i]` of what it is applied to, or 0.
    pub fn placed(columns: usize, places: impl IntoIterator<Item = Option<u32>>) -> Sparse {
        Sparse::new(columns, places.into_iter().map(|place| place.map(|column| (column, 1.0))))
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.inner.bounds.len() - 1
    }

    /// `A x [rows, width]` of `x [columns, width]`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(self.clone())
    }

    /// `A^T`: entries of a row in the order of the rows that they were in.
    pub fn transposed(&self) -> Sparse {
        let Entries { columns, bounds, entries } = &*self.inner;
        let mut ends = vec![0; columns + 1];
        entries.iter().for_each(|(column, _)| ends[*column as usize + 1] += 1);
        (1..=*columns).for_each(|i| ends[i] += ends[i - 1]);
        let (turned_bounds, mut turned) = (ends.clone(), vec![(0, 0.0); entries.len()]);
        for (row, span) in bounds.windows(2).enumerate() {
            for &(column, value) in &entries[span[0]..span[1]] {
                turned[ends[column as usize]] = (row as u32, value);
                ends[column as usize] += 1;
            }
        }
        Sparse { inner: Arc::new(Entries { columns: self.rows(), bounds: turned_bounds, entries: turned }) }
    }
}

impl CustomOp1 for Sparse {
    fn name(&self) -> &'static str {
        "sums of rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, (rows, width)) = (floats(x, layout)?, layout.shape().dims2()?);
        let Entries { columns, bounds, entries } = &*self.inner;
        if rows != *columns {
            return Err(candle_core::Error::Msg(format!("sums over {columns} rows of {rows}")));
        }
        Ok(by_rows(&Shape::from((self.rows(), width)), width, |row, out| {
            for &(column, value) in &entries[bounds[row]..bounds[row + 1]] {
                out.iter_mut().zip(&x[column as usize * width..][..width]).for_each(|(out, x)| *out += value * x);
            }
        }))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(&self.transposed()).map(Some)
    }
}
