//! The next-item loss over the whole catalogue. The matrix of logits is never stored: a few examples at a time have theirs.

use super::gemm;
use super::spread::Shared;
use super::worker::Worker;
use super::{losses, outer, rows, scores};
use crate::backend::Act;
use crate::base::floats::LINE;
use smallvec::SmallVec;

/// Examples of a block, whose logits are a tile's rows.
const EXAMPLES: usize = outer::BLOCK;
/// Most blocks under way, so that what is read of the catalogue serves all of them.
const BLOCKS: usize = 16;
/// Numbers that blocks under way take together: 16 MB, or one block.
const MOST: usize = 1 << 22;
/// Items whose rows stay in the second cache while the blocks under way multiply with them.
const READ: usize = 512;

impl Worker {
    /// Adds to `dh [Q, d]` and to the gradients of all rows; gives the mean loss.
    pub(super) fn full_softmax(&mut self, h: Act, dh: Act) -> f64 {
        // Special rows lie behind the catalogue and are no candidates.
        let (d, n, count) = (self.shape.dim, self.row_count - self.step.special, self.step.example.len());
        // What a block of examples needs: its logits, hidden states and their gradients, each from the beginning of a cache line on.
        let [wide, narrow] = [EXAMPLES * n, EXAMPLES * d].map(|numbers| numbers.next_multiple_of(LINE));
        let room = wide + 2 * narrow;
        let most = (MOST / room).min(BLOCKS.max(4 * self.threads)).min(count.div_ceil(EXAMPLES)).max(1);
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
                (at, at.add(wide), at.add(wide + narrow))
            };
            for b in 0..blocks {
                for e in 0..size(b) {
                    let q = example[first + b * EXAMPLES + e] as usize;
                    // SAFETY: examples name rows of `h`.
                    unsafe { std::ptr::copy_nonoverlapping(hp.add(q * d), places(scratch, b).1.add(e * d), d) };
                }
            }
            let at = Shared::new((self.read_rows, scratch, sums.as_mut_ptr(), table));
            let turned = |place: usize| place.next_multiple_of(scores::ITEMS).min(n);
            self.spread_at(n, blocks * EXAMPLES * d, turned, |from, to| {
                let (items, scratch, ..) = at.get();
                let own = |b: usize| (places(scratch, b).1.cast_const(), places(scratch, b).0);
                // SAFETY: spans are of different columns of the logits.
                unsafe { scores::scores(blocks, size, own, [from, to, n, d], items) };
            });
            self.spread(blocks, EXAMPLES * n * d, |lo, hi| {
                let (items, scratch, sums, _) = at.get();
                for b in lo..hi {
                    // SAFETY: a block's logits and sum are its own.
                    unsafe {
                        *sums.add(b) =
                            losses::softmax_rows(size(b), n, count, cands.as_ptr().add(first + b * EXAMPLES), places(scratch, b).0)
                    };
                }
                for from in (0..n).step_by(READ) {
                    let inner = READ.min(n - from);
                    for b in lo..hi {
                        let (logits, _, back) = places(scratch, b);
                        // SAFETY: as above; rows of logits are `n` long.
                        unsafe {
                            let (x, w) = (logits.add(from), items.add(from * d));
                            gemm::linear_part(size(b), inner, n, d, x, w, std::ptr::null(), back, from > 0);
                        }
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
            self.spread(n, blocks * EXAMPLES * d, |from, to| {
                let (_, scratch, _, table) = at.get();
                let (logits, hidden, _) = places(scratch, 0);
                // SAFETY: spans are of different rows of the table.
                unsafe { outer::add_outer((count - first).min(blocks * EXAMPLES), room, n, d, from, to, logits, hidden, table) };
            });
        }
        total / count as f64
    }
}
