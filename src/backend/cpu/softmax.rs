//! The next-item loss over the whole catalogue. The matrix of logits is never stored: a few examples at a time have theirs.

use super::gemm::{self, GradSink};
use super::spread::Shared;
use super::worker::Worker;
use super::{losses, rows};
use crate::backend::Act;
use smallvec::SmallVec;

/// Examples whose logits are computed together.
const EXAMPLES: usize = 6;

/// Numbers that blocks of examples under way take together: 16 MB.
const MOST: usize = 1 << 22;

impl Worker {
    /// Adds to `dh [Q, d]` and to the gradients of all rows; gives the mean loss.
    pub(super) fn full_softmax(&mut self, h: Act, dh: Act) -> f64 {
        // Special rows lie behind the catalogue and are no candidates.
        let (d, n, count) = (self.shape.dim, self.row_count - self.step.special, self.step.example.len());
        // What a block of examples needs: its logits, hidden states and their gradients; and how many blocks are under way at a time.
        let room = EXAMPLES * (n + 2 * d);
        let most = if self.threads > 1 { (4 * self.threads).min(MOST / room).max(1) } else { 1 };
        if self.scratch.len() < most * room {
            self.scratch.resize(most * room);
        }
        let (hp, dhp, scratch, table) = (self.ptr(h), self.ptr(dh), self.scratch.as_mut_ptr(), self.rows.g.as_mut_ptr());
        let (example, cands) = (&self.step.example, &self.step.cands);
        let mut total = 0f64;
        for first in (0..count).step_by(EXAMPLES * most) {
            let blocks = (count - first).div_ceil(EXAMPLES).min(most);
            let mut sums: SmallVec<[f64; 64]> = SmallVec::from_elem(0.0, blocks);
            let size = |b: usize| (count - first - b * EXAMPLES).min(EXAMPLES);
            // SAFETY: a block stays inside its room.
            let places = move |scratch: *mut f32, b: usize| unsafe {
                let at = scratch.add(b * room);
                (at, at.add(EXAMPLES * n), at.add(EXAMPLES * (n + d)))
            };
            let at = Shared::new((hp.cast_const(), self.read_rows, scratch, sums.as_mut_ptr()));
            self.spread(blocks, EXAMPLES * 2 * n * d, |lo, hi| {
                let (hp, items, scratch, sums) = at.get();
                for b in lo..hi {
                    let (k, start, (logits, hidden, back)) = (size(b), first + b * EXAMPLES, places(scratch, b));
                    // SAFETY: examples name rows of `h`; the rest is this block's own.
                    unsafe {
                        for e in 0..k {
                            let q = example[start + e] as usize;
                            std::ptr::copy_nonoverlapping(hp.add(q * d), hidden.add(e * d), d);
                        }
                        gemm::linear_input(k, n, d, hidden, items, logits, false);
                        *sums.add(b) = losses::softmax_rows(k, n, count, cands.as_ptr().add(start), logits);
                        gemm::linear(k, n, d, logits, items, std::ptr::null(), back);
                    }
                }
            });
            for (b, sum) in sums.iter().enumerate() {
                total += sum;
                for e in 0..size(b) {
                    let q = example[first + b * EXAMPLES + e] as usize;
                    // SAFETY: as above; two examples may be of one output, so that this is one thread's work.
                    unsafe { rows::axpy(d, 1.0, places(scratch, b).2.add(e * d), dhp.add(q * d)) };
                }
            }
            let at = Shared::new((scratch, table));
            self.spread(n, blocks * EXAMPLES * d, |from, to| {
                let (scratch, table) = at.get();
                for b in 0..blocks {
                    let (logits, hidden, _) = places(scratch, b);
                    // SAFETY: spans are of different rows of the table.
                    unsafe { gemm::linear_weight_span(size(b), n, d, from, to, logits, hidden, GradSink::Add(table)) };
                }
            });
        }
        total / count as f64
    }
}
