//! The two things that a worker is used for, each as one call: training a client from given weights, and reading a shared model.

use super::Worker;
use crate::backend::Step;
use crate::base::rng::Stream;
use crate::config::LocalSettings;
use std::time::{Duration, Instant};

/// A client's visit, from the weights it starts with to the number of its last step.
pub struct Visit<'v> {
    /// Dense weights `[P]` at the start.
    pub dense: &'v [f32],
    /// Local steps.
    pub steps: u32,
    /// Optimiser and its rates.
    pub local: &'v LocalSettings,
    /// Second moments that the optimiser begins with, where it takes the server's: dense `[P]`, and of each row `[R]` of `[d]`.
    pub second: Option<(&'v [f32], &'v [&'v [f32]])>,
    /// Draws of dropout, where anything is dropped.
    pub dropout: Option<Stream>,
}

/// What came of a visit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visited {
    /// Sums over the steps of the next-item loss and of the contrast (without lambda).
    pub losses: [f64; 2],
    /// Steps that had tokens.
    pub steps: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Time of packing, the start included.
    pub packing: Duration,
    /// Time of forward and backward passes and of the optimiser.
    pub training: Duration,
}

impl Worker {
    /// Trains a client: takes its weights, then for each step calls `pack`, `pass` (forward and backward) and the optimiser. The weights
    /// that come of it are in [`Worker::dense`] and [`Worker::row`].
    ///
    /// `rows` are the item rows at the start `[R]` of `[d]`; `pack(number, step)` fills step `number`, counted from 0.
    pub fn visit<'r>(
        &mut self,
        visit: &Visit,
        rows: impl ExactSizeIterator<Item = &'r [f32]>,
        mut pack: impl FnMut(u32, &mut Step),
        pass: impl Fn(&mut Worker),
    ) -> Visited {
        let begun = Instant::now();
        self.begin_visit(visit.dense, rows.len());
        for (row, from) in rows.enumerate() {
            self.row_mut(row).copy_from_slice(from);
        }
        if let Some((dense, rows)) = visit.second {
            self.begin_moments(dense, rows.iter().copied());
        }
        if visit.local.proximal > 0.0 {
            self.keep_begun();
        }
        let mut visited = Visited { packing: begun.elapsed(), ..Visited::default() };
        let fuse = visit.local.clip == 0.0;
        for number in 0..visit.steps {
            let t = Instant::now();
            pack(number, &mut self.step);
            let packed = Instant::now();
            visited.packing += packed - t;
            if self.step.tokens() == 0 {
                if number == 0 && visit.second.is_none() {
                    // The first step would have started the moments.
                    self.clear_moments();
                }
                continue;
            }
            self.begin_step(visit.local, number + 1, visit.steps, fuse, visit.dropout.clone());
            pass(self);
            self.end_step(visit.local, number + 1, visit.steps);
            let (next_item, contrast) = self.losses();
            visited.losses[0] += next_item;
            visited.losses[1] += contrast;
            visited.steps += 1;
            visited.tokens += self.step.tokens() as u64;
            visited.training += packed.elapsed();
        }
        visited
    }

    /// Reads the shared model of `dense [P]` and `items [I, d]` without training it: `fill` packs the step, `run` works on it.
    pub fn read<T>(&mut self, dense: &[f32], items: &[f32], fill: impl FnOnce(&mut Step), run: impl FnOnce(&mut Worker) -> T) -> T {
        fill(&mut self.step);
        // SAFETY: both slices are borrowed until `run` has returned; every later use of the worker sets its weights first.
        unsafe { self.read_from(dense, items) };
        self.begin_pass();
        run(self)
    }
}
