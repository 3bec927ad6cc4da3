//! The gradient of a part of a mini-batch at weights that several workers share.

use super::Worker;
use crate::backend::Step;
use crate::base::rng::Stream;

/// Where the gradient of a part is taken.
pub struct Part<'p> {
    /// Dense weights `[P]`.
    pub dense: &'p [f32],
    /// Item rows `[I, d]`, dropped out already where that is asked for.
    pub items: &'p [f32],
    /// Draws of dropout, where anything is dropped, and the number of the local step, from 1.
    pub dropout: Option<Stream>,
    /// See `dropout`.
    pub number: u32,
}

impl Worker {
    /// Runs `pass` (forward and backward) over the step that `fill` packs, whose item rows are items. The gradient is then in
    /// [`Worker::dense_gradient`] and, for the rows that the step names, in [`Worker::take_row_gradient`]. Gives the losses of the step.
    pub fn gradient(&mut self, part: &Part, fill: impl FnOnce(&mut Step), pass: impl FnOnce(&mut Worker)) -> [f64; 2] {
        fill(&mut self.step);
        if self.step.tokens() == 0 {
            return [0.0; 2];
        }
        // Rows are zero between calls: `take_row_gradient` leaves them so.
        if std::mem::take(&mut self.rows_used) {
            self.rows.g.fill(0.0);
        }
        if self.rows.g.len() < part.items.len() {
            self.rows.g.resize(part.items.len(), 0.0);
        }
        // SAFETY: both slices are borrowed until `pass` has returned; every later use of the worker sets its weights first.
        unsafe { self.read_from(part.dense, part.items) };
        self.dropout = part.dropout.clone().map(|stream| (stream, u64::from(part.number) << 40));
        self.begin_pass();
        if let Some((at, rows)) = self.shape.positions {
            self.dense.g[at..at + rows * self.shape.dim].fill(0.0);
        }
        pass(self);
        let (next_item, contrast) = self.losses();
        [next_item, contrast]
    }

    /// The gradient of item row `row`, which is then zero again.
    pub fn take_row_gradient(&mut self, row: u32, with: impl FnOnce(&[f32])) {
        let d = self.shape.dim;
        let g = &mut self.rows.g[row as usize * d..][..d];
        with(g);
        g.fill(0.0);
    }
}
