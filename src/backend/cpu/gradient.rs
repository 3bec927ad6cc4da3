//! The gradient of a micro-batch of a mini-batch at weights that several workers share.

use super::{RowLog, Worker};
use crate::backend::{Act, Step};
use crate::base::rng::Stream;

/// Where the gradient of a micro-batch is taken.
pub struct GradientAt<'p> {
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
    /// Runs `pass` (forward and backward) over the step that `fill` packs, whose item rows are items. The gradient of the dense weights is
    /// then in [`Worker::dense_gradient`]; that of the item rows is in `log`, or without one in [`Worker::item_gradient`]. Gives the losses
    /// of the step.
    pub fn gradient(
        &mut self,
        part: &GradientAt,
        mut log: Option<&mut RowLog>,
        fill: impl FnOnce(&mut Step),
        pass: impl FnOnce(&mut Worker),
    ) -> [f64; 2] {
        fill(&mut self.step);
        if self.step.tokens() == 0 {
            return [0.0; 2];
        }
        // SAFETY: both slices are borrowed until `pass` has returned; every later use of the worker sets its weights first.
        unsafe { self.read_from(part.dense, part.items) };
        if log.is_none() {
            // A full softmax has a gradient for every row.
            self.rows.g.resize(part.items.len().max(self.rows.g.len()));
            self.rows.g[..part.items.len()].fill(0.0);
        }
        self.row_log = log.as_ref().map(|_| RowLog::default());
        if let (Some(own), Some(log)) = (&mut self.row_log, log.as_deref_mut()) {
            log.clear();
            std::mem::swap(own, log);
        }
        self.dropout = part.dropout.clone().map(|stream| (stream, u64::from(part.number) << 40));
        self.begin_pass();
        if let Some((at, rows)) = self.shape.positions {
            self.dense.g[at..at + rows * self.shape.dim].fill(0.0);
        }
        pass(self);
        if let (Some(mut own), Some(log)) = (self.row_log.take(), log) {
            own.sort(part.items.len() / self.shape.dim);
            *log = own;
        }
        let (next_item, contrast) = self.losses();
        [next_item, contrast]
    }

    /// Gradient of the whole item table `[I, d]` after [`Worker::gradient`] without a log.
    pub fn item_gradient(&self) -> &[f32] {
        &self.rows.g[..self.row_count * self.shape.dim]
    }

    /// Notes the gradients of the candidates of the step's examples, whose hidden states are `h`, in the log, where there is one.
    pub(super) fn log_candidates(&mut self, h: Act) {
        let hidden = self.values(h).as_ptr();
        let Some(log) = &mut self.row_log else { return };
        let (d, width) = (self.shape.dim, self.step.width);
        for (e, &q) in self.step.example.iter().enumerate() {
            // SAFETY: an example's output row is one of `h [Q, d]`, which nothing writes to here.
            let vector = log.push_vector(unsafe { std::slice::from_raw_parts(hidden.add(q as usize * d), d) });
            for c in e * width..(e + 1) * width {
                log.push(self.step.cands[c], vector, self.factors[c]);
            }
        }
    }
}
