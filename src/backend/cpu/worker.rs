//! The state of one CPU worker: weights, moments and gradients of the client at hand, its packed step, its arena.

use super::optim::{AdamStep, adam_span, pull_back, sums_of_squares};
use super::row_log::RowLog;
use crate::backend::Step;
use crate::base::floats::Floats;
use crate::base::rng::Stream;
use crate::config::LocalSettings;

/// Spans of the dense slab that a worker treats alike.
#[derive(Clone, Debug)]
pub struct WorkerShape {
    /// Width `d` of item rows.
    pub dim: usize,
    /// Length `P` of the slab.
    pub dense_len: usize,
    /// `(offset, length)` of weights that linear layers may update on the spot.
    pub fused: Vec<(usize, usize)>,
    /// `(offset, length)` of biases and norms, updated after the backward pass.
    pub plain: Vec<(usize, usize)>,
    /// Offset of the position table, if the model has one, and its rows.
    pub positions: Option<(usize, usize)>,
}

/// Weights, moments and gradients `[n]` each.
#[derive(Default)]
pub(super) struct Slab {
    pub p: Floats,
    pub m: Floats,
    pub s: Floats,
    pub g: Floats,
}

impl Slab {
    fn grow(&mut self, n: usize) {
        if self.p.len() < n {
            // Only ever reached while a worker meets its largest client so far.
            for v in [&mut self.p, &mut self.m, &mut self.s, &mut self.g] {
                v.resize(n.next_multiple_of(1024));
            }
        }
    }
}

/// One CPU worker. Implements [`crate::backend::Backend`] for steps of one client.
pub struct Worker {
    pub(super) shape: WorkerShape,
    /// The packed step that operations run on.
    pub step: Step,
    pub(super) dense: Slab,
    pub(super) rows: Slab,
    pub(super) row_count: usize,
    /// Where operations read weights: the worker's own slabs in training, the global model in evaluation.
    pub(super) read_dense: *const f32,
    pub(super) read_rows: *const f32,
    /// The item table as this step sees it, where it is dropped out.
    pub(super) dropped: Floats,
    pub(super) arena: Floats,
    pub(super) top: usize,
    pub(super) scratch: Floats,
    /// A transposed weight.
    pub(super) turned: Floats,
    pub(super) fused: Option<AdamStep>,
    /// The client's weights as the visit began, where a proximal term asks for them: dense `[P]` and rows `[R, d]`.
    begun: [Vec<f32>; 2],
    pub(super) dropout: Option<(Stream, u64)>,
    /// The item table is read as whoever shares it has dropped it out.
    pub(super) items_dropped: bool,
    /// Where gradients of item rows go instead of into a table, while a part of a mini-batch is at work.
    pub(super) row_log: Option<RowLog>,
    /// What each candidate's example is multiplied by for its row's gradient `[E, width]`.
    pub(super) factors: Vec<f32>,
    /// Loss sums of the step at hand: next-item and contrast (the latter without lambda).
    pub(super) losses: (f64, f64),
    /// Threads that operations of a large step may use (see `spread`).
    pub(super) threads: usize,
}

// SAFETY: the raw pointers name either the worker's own slabs or a model that outlives the evaluation that set them.
unsafe impl Send for Worker {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Worker {}

impl Worker {
    /// A worker for models of `shape`.
    pub fn new(shape: WorkerShape) -> Worker {
        let mut dense = Slab::default();
        dense.grow(shape.dense_len);
        Worker {
            shape,
            step: Step::default(),
            dense,
            rows: Slab::default(),
            row_count: 0,
            read_dense: std::ptr::null(),
            read_rows: std::ptr::null(),
            dropped: Floats::default(),
            arena: Floats::default(),
            top: 0,
            scratch: Floats::default(),
            turned: Floats::default(),
            fused: None,
            begun: Default::default(),
            dropout: None,
            items_dropped: false,
            row_log: None,
            factors: Vec::new(),
            losses: (0.0, 0.0),
            threads: 1,
        }
    }

    /// Begins a visit: takes `dense [P]` as the client's own weights and makes room for `rows` item rows, to be filled
    /// through [`Worker::row_mut`].
    pub fn begin_visit(&mut self, dense: &[f32], rows: usize) {
        self.dense.p[..dense.len()].copy_from_slice(dense);
        self.row_count = rows;
        self.items_dropped = false;
        self.rows.grow(rows * self.shape.dim);
        self.read_dense = self.dense.p.as_ptr();
        self.read_rows = self.rows.p.as_ptr();
    }

    /// Keeps the weights as they are, for [`LocalStep::pull`](crate::backend::LocalStep::pull) to come back to.
    pub(super) fn keep_begun(&mut self) {
        let [mut dense, mut rows] = std::mem::take(&mut self.begun);
        for (kept, now) in [(&mut dense, self.dense()), (&mut rows, self.rows())] {
            kept.clear();
            kept.extend_from_slice(now);
        }
        self.begun = [dense, rows];
    }

    /// Sets the second moments that the visit begins with: `dense [P]` and `rows [R]` of `[d]`; the first ones are zero.
    pub(super) fn begin_moments<'r>(&mut self, dense: &[f32], rows: impl Iterator<Item = &'r [f32]>) {
        let (p, d) = (self.shape.dense_len, self.shape.dim);
        self.dense.m[..p].fill(0.0);
        self.dense.s[..p].copy_from_slice(dense);
        self.rows.m[..self.row_count * d].fill(0.0);
        self.rows.s[..self.row_count * d].chunks_exact_mut(d).zip(rows).for_each(|(to, from)| to.copy_from_slice(from));
    }

    /// Weights of item row `row` of the client.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let d = self.shape.dim;
        &mut self.rows.p[row * d..][..d]
    }

    /// Weights of item row `row` of the client.
    pub fn row(&self, row: usize) -> &[f32] {
        let d = self.shape.dim;
        &self.rows.p[row * d..][..d]
    }

    /// Weights of the client's item rows `[R, d]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows.p[..self.row_count * self.shape.dim]
    }

    /// The client's dense weights `[P]`.
    pub fn dense(&self) -> &[f32] {
        &self.dense.p[..self.shape.dense_len]
    }

    /// Gradients of the dense weights as the last backward pass left them (positions and biases always, weights where
    /// nothing was updated on the spot).
    pub fn dense_gradient(&self) -> &[f32] {
        &self.dense.g[..self.shape.dense_len]
    }

    /// Gradients of the client's item rows `[R, d]`.
    pub fn row_gradient(&self) -> &[f32] {
        &self.rows.g[..self.row_count * self.shape.dim]
    }

    /// Reads weights from a shared model (evaluation): the rows of a step are then item indices.
    ///
    /// # Safety
    /// Both slices must outlive every operation until the next [`Worker::begin_visit`] or call of this.
    pub unsafe fn read_from(&mut self, dense: &[f32], items: &[f32]) {
        self.read_dense = dense.as_ptr();
        self.read_rows = items.as_ptr();
        self.row_count = items.len() / self.shape.dim;
        self.items_dropped = true;
        self.dropout = None;
        self.fused = None;
    }

    /// Begins step `number` (from 1) of `total` in the visit. `fuse` lets linear layers update their weights as soon as
    /// their gradients are complete; it must be off where the gradient's norm is clipped.
    pub fn begin_step(&mut self, local: &LocalSettings, number: u32, total: u32, fuse: bool, dropout: Option<Stream>) {
        self.fused = fuse.then(|| AdamStep::new(local, number, total, 1.0));
        self.dropout = dropout.map(|s| (s, u64::from(number) << 40));
        self.begin_pass();
        let d = self.shape.dim;
        self.rows.g[..self.row_count * d].fill(0.0);
        if let Some((at, _)) = self.shape.positions {
            let (lo, hi) = self.step.positions();
            self.dense.g[at + lo * d..at + hi * d].fill(0.0);
        }
    }

    /// Gives back all activations and makes sure that scratch space fits the step.
    pub fn begin_pass(&mut self) {
        self.top = 0;
        self.losses = (0.0, 0.0);
        let need = 2 * self.step.longest + self.step.width.max(16) + 5 * self.shape.dim * self.step.bounds.len();
        if self.scratch.len() < need {
            self.scratch.resize(need);
        }
    }

    /// Losses of the step: next-item and contrast (without lambda), means over examples and groups.
    pub fn losses(&self) -> (f64, f64) {
        self.losses
    }

    /// Offset and length of the position rows that the step reaches.
    fn position_span(&self) -> Option<(usize, usize)> {
        let (lo, hi) = self.step.positions();
        self.shape.positions.map(|(at, _)| (at + lo * self.shape.dim, (hi - lo) * self.shape.dim))
    }

    /// Norm of the whole gradient (only where nothing was updated on the spot).
    fn gradient_norm(&self) -> f64 {
        let rows = &self.rows.g[..self.row_count * self.shape.dim];
        let spans = self.shape.fused.iter().chain(&self.shape.plain).copied().chain(self.position_span());
        let dense = spans.map(|(at, len)| &self.dense.g[at..at + len]);
        sums_of_squares(std::iter::once(rows).chain(dense)).iter().sum::<f64>().sqrt()
    }

    /// Ends the step: clips, then updates whatever was not updated on the spot. Position rows that no sequence of the step
    /// reaches are left alone, moments included.
    pub fn end_step(&mut self, local: &LocalSettings, number: u32, total: u32) {
        let mut scale = 1.0;
        if local.clip > 0.0 {
            let norm = self.gradient_norm();
            if norm > f64::from(local.clip) {
                scale = (f64::from(local.clip) / norm) as f32;
            }
        }
        let step = AdamStep::new(local, number, total, scale);
        let d = self.shape.dim;
        // Position rows are met or not from step to step, so their moments are kept at zero from the start of a visit.
        if let Some((at, rows)) = self.shape.positions {
            if number == 1 && step.begins() {
                self.dense.m[at..at + rows * d].fill(0.0);
                self.dense.s[at..at + rows * d].fill(0.0);
            }
            let steady = step.with_stored_moments();
            if let Some((at, len)) = self.position_span() {
                self.update_dense(at, len, &steady);
            }
        }
        for i in 0..self.shape.plain.len() {
            let (at, len) = self.shape.plain[i];
            self.update_dense(at, len, &step);
        }
        if self.fused.is_none() {
            for i in 0..self.shape.fused.len() {
                let (at, len) = self.shape.fused[i];
                self.update_dense(at, len, &step);
            }
        }
        let n = self.row_count * d;
        let r = &mut self.rows;
        // SAFETY: all four vectors hold at least `n` numbers.
        unsafe { adam_span(n, r.p.as_mut_ptr(), r.m.as_mut_ptr(), r.s.as_mut_ptr(), r.g.as_ptr(), &step) };
        if step.pull() > 0.0 {
            let [dense, rows] = &self.begun;
            for (at, len) in self.shape.fused.iter().chain(&self.shape.plain).copied().chain(self.position_span()) {
                pull_back(&mut self.dense.p[at..at + len], &dense[at..at + len], step.pull());
            }
            pull_back(&mut self.rows.p[..n], rows, step.pull());
        }
    }

    fn update_dense(&mut self, at: usize, len: usize, step: &AdamStep) {
        let x = &mut self.dense;
        assert!(at + len <= self.shape.dense_len);
        // SAFETY: the span lies inside all four vectors.
        unsafe {
            adam_span(len, x.p.as_mut_ptr().add(at), x.m.as_mut_ptr().add(at), x.s.as_mut_ptr().add(at), x.g.as_ptr().add(at), step);
        }
    }

    /// Optimiser moments, for a participant that keeps them between rounds: dense first and second `[P]`, rows first and
    /// second `[R, d]`.
    pub fn moments(&self) -> [&[f32]; 4] {
        let (p, r) = (self.shape.dense_len, self.row_count * self.shape.dim);
        [&self.dense.m[..p], &self.dense.s[..p], &self.rows.m[..r], &self.rows.s[..r]]
    }

    /// Sets all moments to zero; needed only where the first step of a visit, which takes them as zero, does not run.
    pub fn clear_moments(&mut self) {
        for v in [&mut self.dense.m, &mut self.dense.s, &mut self.rows.m, &mut self.rows.s] {
            v.fill(0.0);
        }
    }

    /// Takes back what [`Worker::moments`] gave; to be called before the first visit that goes on with them.
    pub fn set_moments(&mut self, moments: [&[f32]; 4]) {
        let [m, s, rm, rs] = moments;
        self.rows.grow(rm.len());
        self.dense.m[..m.len()].copy_from_slice(m);
        self.dense.s[..s.len()].copy_from_slice(s);
        self.rows.m[..rm.len()].copy_from_slice(rm);
        self.rows.s[..rs.len()].copy_from_slice(rs);
    }

    /// Bytes that the worker holds.
    pub fn bytes(&self) -> usize {
        let slab = |s: &Slab| s.p.bytes() + s.m.bytes() + s.s.bytes() + s.g.bytes();
        slab(&self.dense) + slab(&self.rows) + self.arena.bytes() + self.scratch.bytes() + self.dropped.bytes() + self.turned.bytes()
    }
}
