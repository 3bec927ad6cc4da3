//! The next-item loss where the examples of a client have the same negatives: their scores are one product `[E, d] x [d, K]`, and so are
//! both gradients. The rows of the negatives are read and written once a step instead of once an example.

use super::gemm;
use super::labelled::dot;
use super::losses::{self, Examples};
use super::rows::axpy;
use super::weight::{self, GradSink};
use super::worker::Worker;
use crate::backend::Step;

/// Negatives from which on a product is worth its copies.
const FEWEST: usize = 8;

/// Whether all examples of `step` have the same negatives in the same order, at least [`FEWEST`] of them.
pub(super) fn has_shared_negatives(step: &Step) -> bool {
    step.width > FEWEST && step.example.len() > 1 && {
        let first = &step.cands[1..step.width];
        step.cands.chunks_exact(step.width).all(|candidates| candidates[1..] == *first)
    }
}

impl Worker {
    /// The loss of the examples `ex` of a step with shared negatives; adds to `dh [Q, d]` and to the gradients of rows.
    ///
    /// # Safety
    /// As for [`losses::next_item`].
    pub(super) unsafe fn shared_loss(&mut self, ex: Examples, h: *const f32, dh: *mut f32) -> f64 {
        let Examples { count, width, d, .. } = ex;
        let n = width - 1;
        self.scratch.resize(self.scratch.len().max(2 * (count + n) * d + count * n + width));
        let (hidden, rest) = self.scratch.split_at_mut(count * d);
        let (back, rest) = rest.split_at_mut(count * d);
        let (negatives, rest) = rest.split_at_mut(n * d);
        let (gradients, rest) = rest.split_at_mut(n * d);
        let (scores, rest) = rest.split_at_mut(count * n);
        let candidates = &mut rest[..width];
        let (table, grad) = (self.read_rows, self.rows.g.as_mut_ptr());
        let mut total = 0f64;
        // SAFETY: the caller's promise: outputs and rows lie inside their arrays; the parts of the scratch are as long as the products take.
        unsafe {
            let output = |e: usize| *ex.row.add(e) as usize * d;
            let row = |c: usize| (*ex.cands.add(c)).index() * d;
            for e in 0..count {
                hidden[e * d..][..d].copy_from_slice(std::slice::from_raw_parts(h.add(output(e)), d));
            }
            for k in 0..n {
                negatives[k * d..][..d].copy_from_slice(std::slice::from_raw_parts(table.add(row(1 + k)), d));
            }
            gemm::linear_input(count, n, d, hidden.as_ptr(), negatives.as_ptr(), scores.as_mut_ptr(), false);
            for e in 0..count {
                let (h, at) = (&hidden[e * d..][..d], row(e * width));
                let positive = std::slice::from_raw_parts(table.add(at), d);
                let scores = &mut scores[e * n..][..n];
                candidates[0] = dot(h, positive);
                candidates[1..].copy_from_slice(scores);
                let share = losses::example_at(&ex, e, candidates.as_mut_ptr(), &mut total);
                scores.iter_mut().zip(&candidates[1..]).for_each(|(to, g)| *to = g * share);
                let g = candidates[0] * share;
                axpy(d, g, positive.as_ptr(), dh.add(output(e)));
                axpy(d, g, h.as_ptr(), grad.add(at));
            }
            gemm::linear(count, n, d, scores.as_ptr(), negatives.as_ptr(), std::ptr::null(), back.as_mut_ptr());
            // Two examples may be of one output, two negatives of one row.
            for e in 0..count {
                axpy(d, 1.0, back.as_ptr().add(e * d), dh.add(output(e)));
            }
            weight::linear_weight(count, n, d, scores.as_ptr(), hidden.as_ptr(), GradSink::Store(gradients.as_mut_ptr()));
            for k in 0..n {
                axpy(d, 1.0, gradients.as_ptr().add(k * d), grad.add(row(1 + k)));
            }
        }
        if ex.share.is_null() { total / count as f64 } else { total }
    }
}
