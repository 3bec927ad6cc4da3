//! Attention of a worker's step, on as many threads as the step has.

use super::attention::{self, Shape};
use super::spread::Shared;
use super::worker::Worker;
use crate::backend::{Act, Mask, RowKind};

/// Calls `work` with `own`, the worker's scratch memory, where it has it to itself, else with `n` numbers of its own.
fn with_scratch(own: *mut f32, n: usize, alone: bool, work: impl FnOnce(*mut f32)) {
    if alone { work(own) } else { work(vec![0f32; n].as_mut_ptr()) }
}

impl Worker {
    fn attention_shape(&self, mask: Mask, q: Act, heads: usize) -> Shape {
        let (start, token) = match q.rows {
            RowKind::Tokens => (&self.step.start, &self.step.token),
            RowKind::Outputs => (&self.step.out_start, &self.step.out_token),
        };
        let whole = if mask == Mask::Full { self.step.start.as_ptr() } else { std::ptr::null() };
        let tokens = self.step.tokens();
        Shape { rows: token.len(), d: q.width, heads, start: start.as_ptr(), token: token.as_ptr(), whole, tokens }
    }

    /// Multiply-add operations of a query row, at most.
    fn attention_cost(&self, shape: Shape) -> usize {
        2 * shape.d * self.step.longest
    }

    /// [`Backend::attention`](crate::backend::Backend::attention), cut into query rows.
    pub(super) fn attend(&mut self, mask: Mask, heads: usize, [q, k, v]: [Act; 3], y: Act, stats: Act) {
        let (shape, longest) = (self.attention_shape(mask, q, heads), self.step.longest);
        let (q, k, v, y, stats) = (self.ptr(q), self.ptr(k), self.ptr(v), self.ptr(y), self.ptr(stats));
        let at = Shared::new((shape, q, k, v, y, stats, self.scratch.as_mut_ptr()));
        self.spread(shape.rows, self.attention_cost(shape), |lo, hi| {
            let (shape, q, k, v, y, stats, scratch) = at.get();
            // SAFETY: row `lo` lies inside the activations.
            let (q, y, stats) = unsafe { (q.add(lo * shape.d), y.add(lo * shape.d), stats.add(lo * heads)) };
            with_scratch(scratch, longest, shape.rows == hi - lo, |scratch| {
                // SAFETY: the activations of a step lie apart, and a span of query rows writes its own rows alone.
                unsafe { attention::attention(shape.span(lo, hi), q, k, v, y, stats, scratch) }
            });
        });
    }

    /// [`Backend::attention_backward`](crate::backend::Backend::attention_backward) into `dk` and `dv` of zeros, cut into sequences.
    pub(super) fn attend_backward(&mut self, mask: Mask, heads: usize, [q, k, v]: [Act; 3], stats: Act, dy: Act, [dq, dk, dv]: [Act; 3]) {
        let (shape, longest) = (self.attention_shape(mask, q, heads), self.step.longest);
        let (q, k, v, stats, dy) = (self.ptr(q), self.ptr(k), self.ptr(v), self.ptr(stats), self.ptr(dy));
        let (dq, dk, dv) = (self.ptr(dq), self.ptr(dk), self.ptr(dv));
        let at = Shared::new((shape, q, k, v, dy, stats, dq, dk, dv, self.scratch.as_mut_ptr()));
        // Rows of one sequence add to the same keys and values.
        let cut = |mut row: usize| {
            let (shape, ..) = at.get();
            // SAFETY: a row below the number of rows has a start, and so has the one before it.
            let goes_on = |row: usize| unsafe { *shape.start.add(row) == *shape.start.add(row - 1) };
            while row > 0 && row < shape.rows && goes_on(row) {
                row += 1;
            }
            row
        };
        self.spread_at(shape.rows, 2 * self.attention_cost(shape), cut, |lo, hi| {
            let (shape, q, k, v, dy, stats, dq, dk, dv, scratch) = at.get();
            // SAFETY: row `lo` lies inside the activations.
            let (q, dy, stats, dq) = unsafe { (q.add(lo * shape.d), dy.add(lo * shape.d), stats.add(lo * heads), dq.add(lo * shape.d)) };
            with_scratch(scratch, 2 * longest, shape.rows == hi - lo, |scratch| {
                // SAFETY: the activations of a step lie apart, and a span of whole sequences adds to its own keys and values alone.
                unsafe { attention::attention_backward(shape.span(lo, hi), q, k, v, dy, stats, dq, dk, dv, scratch) }
            });
        });
    }
}
