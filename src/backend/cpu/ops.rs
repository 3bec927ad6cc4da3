//! [`Backend`] on a [`Worker`]: each operation is a call of a kernel on the arena.

use super::dropout::{ITEM_SITE, drop_out};
use super::gemm;
use super::gru::Recurrence;
use super::in_batch::Pairs;
use super::losses::{self, Examples, Group};
use super::rows;
use super::shared_negatives::has_shared_negatives;
use super::spread::Shared;
use super::transpose::transpose;
use super::weight::{self, GradSink};
use super::worker::Worker;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::base::floats::LINE;
use crate::config::{InBatchSettings, LossSettings, RecLoss};

impl Worker {
    fn count(&self, rows: RowKind) -> usize {
        match rows {
            RowKind::Tokens => self.step.tokens(),
            RowKind::Outputs => self.step.outputs(),
        }
    }

    pub(super) fn ptr(&mut self, a: Act) -> *mut f32 {
        debug_assert!(a.at + self.count(a.rows) * a.width <= self.top);
        // SAFETY: `act` made the arena large enough.
        unsafe { self.arena.as_mut_ptr().add(a.at) }
    }

    /// The values of an activation, row-major.
    pub fn values(&self, a: Act) -> &[f32] {
        &self.arena[a.at..][..self.count(a.rows) * a.width]
    }

    /// The values of an activation, row-major.
    pub fn values_mut(&mut self, a: Act) -> &mut [f32] {
        let n = self.count(a.rows) * a.width;
        &mut self.arena[a.at..][..n]
    }

    fn weight(&self, at: usize) -> *const f32 {
        // SAFETY: offsets come from the model's layout.
        unsafe { self.read_dense.add(at) }
    }

    /// Memory for a transposed weight `[out, in]`.
    fn transposed(&mut self, inner: usize, cols: usize) -> *mut f32 {
        if self.turned.len() < inner * cols {
            self.turned.resize(inner * cols);
        }
        self.turned.as_mut_ptr()
    }

    fn weight_sink(&mut self, w: usize) -> GradSink {
        // SAFETY: offsets come from the model's layout, and the slabs hold it whole.
        unsafe {
            match self.fused {
                Some(step) => GradSink::Adam(
                    self.dense.p.as_mut_ptr().add(w),
                    self.dense.m.as_mut_ptr().add(w),
                    self.dense.s.as_mut_ptr().add(w),
                    step,
                ),
                None => GradSink::Store(self.dense.g.as_mut_ptr().add(w)),
            }
        }
    }
}

// Safety of the blocks below: activations come from `act`, which sized the arena for the step at hand; weights come from the
// model's layout; rows and tokens were packed by `Step`, whose indices are in range.

impl Backend for Worker {
    fn act(&mut self, rows: RowKind, width: usize) -> Act {
        let at = self.top;
        self.top += (self.count(rows) * width).next_multiple_of(LINE);
        if self.arena.len() < self.top {
            self.arena.resize((2 * self.top).max(1 << 16));
        }
        Act { at, rows, width }
    }

    fn embed(&mut self, scale: f32, positions: Option<usize>, y: Act) {
        let d = self.shape.dim;
        let yp = self.ptr(y);
        for t in 0..self.step.tokens() {
            let row = self.step.row[t].index();
            // SAFETY: tokens, rows and positions of the step lie inside the activation, the table and the slab.
            unsafe {
                let out = std::slice::from_raw_parts_mut(yp.add(t * d), d);
                let item = std::slice::from_raw_parts(self.read_rows.add(row * d), d);
                match positions {
                    Some(at) => {
                        let pos = std::slice::from_raw_parts(self.weight(at + self.step.position[t] as usize * d), d);
                        for k in 0..d {
                            out[k] = item[k] * scale + pos[k];
                        }
                    }
                    None => {
                        for k in 0..d {
                            out[k] = item[k] * scale;
                        }
                    }
                }
            }
        }
    }

    fn embed_backward(&mut self, scale: f32, positions: Option<usize>, dy: Act) {
        let d = self.shape.dim;
        let g = self.ptr(dy);
        for t in 0..self.step.tokens() {
            let row = self.step.row[t];
            // SAFETY: `dy` holds a row a token; rows of the step lie inside the table.
            unsafe {
                match &mut self.row_log {
                    None => rows::axpy(d, scale, g.add(t * d), self.rows.g[row.index() * d..][..d].as_mut_ptr()),
                    Some(log) => {
                        let vector = log.push_vector(std::slice::from_raw_parts(g.add(t * d), d));
                        log.push(row, vector, scale);
                    }
                }
                if let Some(at) = positions {
                    let p = at + self.step.position[t] as usize * d;
                    rows::axpy(d, 1.0, g.add(t * d), self.dense.g[p..][..d].as_mut_ptr());
                }
            }
        }
    }

    fn select(&mut self, x: Act, y: Act) {
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        for (q, &t) in self.step.out_token.iter().enumerate() {
            // SAFETY: outputs name tokens of the step, and the two activations lie apart.
            unsafe { std::ptr::copy_nonoverlapping(xp.add(t as usize * x.width), yp.add(q * x.width), x.width) };
        }
    }

    fn select_backward(&mut self, dy: Act, dx: Act) {
        let (gp, xp) = (self.ptr(dy), self.ptr(dx));
        for (q, &t) in self.step.out_token.iter().enumerate() {
            // SAFETY: outputs name tokens of the step, and the two activations lie apart.
            unsafe { rows::axpy(dx.width, 1.0, gp.add(q * dx.width), xp.add(t as usize * dx.width)) };
        }
    }

    fn layer_norm(&mut self, x: Act, g: usize, b: usize, y: Act, stats: Act) {
        let n = self.count(x.rows);
        let (xp, yp, sp) = (self.ptr(x), self.ptr(y), self.ptr(stats));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { rows::layer_norm(n, x.width, xp, self.weight(g), self.weight(b), yp, sp) };
    }

    fn layer_norm_backward(&mut self, x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act) {
        let n = self.count(x.rows);
        let (xp, sp, gp, dp) = (self.ptr(x), self.ptr(stats), self.ptr(dy), self.ptr(dx));
        let w = self.weight(g);
        let grads = self.dense.g.as_mut_ptr();
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { rows::layer_norm_backward(n, x.width, xp, sp, w, gp, dp, grads.add(g), grads.add(b)) };
    }

    fn linear(&mut self, x: Act, w: usize, b: usize, y: Act) {
        let n = self.count(x.rows);
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        let at = Shared::new((xp, self.weight(w), self.weight(b), yp));
        self.spread(n, x.width * y.width, |lo, hi| {
            let (xp, w, b, yp) = at.get();
            // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
            unsafe { gemm::linear(hi - lo, x.width, y.width, xp.add(lo * x.width), w, b, yp.add(lo * y.width)) };
        });
    }

    fn linear_backward(&mut self, x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool) {
        let n = self.count(x.rows);
        let (xp, gp) = (self.ptr(x), self.ptr(dy));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe {
            if let Some(dx) = dx {
                let (dp, wt) = (self.ptr(dx), self.transposed(x.width, dy.width));
                transpose(x.width, dy.width, self.weight(w), wt);
                let at = Shared::new((gp, wt, dp));
                self.spread(n, x.width * dy.width, |lo, hi| {
                    let (gp, wt, dp) = at.get();
                    gemm::linear_from(hi - lo, dy.width, x.width, gp.add(lo * dy.width), wt, std::ptr::null(), dp.add(lo * x.width), add);
                });
            }
            gemm::column_sums(n, dy.width, gp, self.dense.g.as_mut_ptr().add(b));
            // Last, because it may move the weight.
            let sink = self.weight_sink(w);
            let at = Shared::new((xp, gp, sink));
            self.spread(x.width, n * dy.width, |from, to| {
                let (xp, gp, sink) = at.get();
                weight::linear_weight_span(n, x.width, dy.width, from, to, xp, gp, sink);
            });
        }
    }

    fn attention(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        self.attend(mask, heads, [q, k, v], y, stats);
    }

    fn attention_backward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, stats: Act, dy: Act, dq: Act, dk: Act, dv: Act) {
        self.zero(dk);
        self.zero(dv);
        self.attend_backward(mask, heads, [q, k, v], stats, dy, [dq, dk, dv]);
    }

    fn gru(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        let (x, hp, g, p) = (self.ptr(xw), self.ptr(h), self.ptr(gates), self.ptr(previous));
        let r = Recurrence { bounds: &self.step.bounds, d: h.width };
        debug_assert!(self.scratch.len() >= r.scratch_len());
        // SAFETY: as for all activations; the scratch is as long as the recurrence asks, which is asserted above.
        unsafe { r.forward(x, self.weight(w), self.weight(b), hp, g, p, self.scratch.as_mut_ptr()) };
    }

    fn gru_backward(&mut self, w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act) {
        let n = self.count(RowKind::Tokens);
        let d = dh.width;
        let dhw = self.act(RowKind::Tokens, 3 * d);
        let (g, p, dhp, dx, du) = (self.ptr(gates), self.ptr(previous), self.ptr(dh), self.ptr(dxw), self.ptr(dhw));
        let wt = self.transposed(d, 3 * d);
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe {
            transpose(d, 3 * d, self.weight(w), wt);
            let r = Recurrence { bounds: &self.step.bounds, d };
            r.backward(wt, g, p, dhp, dx, du, self.scratch.as_mut_ptr());
            gemm::column_sums(n, 3 * d, du, self.dense.g.as_mut_ptr().add(b));
            let sink = self.weight_sink(w);
            weight::linear_weight(n, d, 3 * d, p, du, sink);
        }
    }

    fn relu(&mut self, x: Act) {
        rows::relu(self.values_mut(x));
    }

    fn relu_backward(&mut self, y: Act, dx: Act) {
        let n = self.count(y.rows) * y.width;
        let (yp, dp) = (self.ptr(y), self.ptr(dx));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { rows::relu_backward(std::slice::from_raw_parts(yp, n), std::slice::from_raw_parts_mut(dp, n)) };
    }

    fn gelu(&mut self, x: Act, y: Act) {
        let n = self.count(x.rows) * x.width;
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        // SAFETY: both activations hold `n` numbers and lie apart.
        unsafe { rows::gelu(n, xp, yp) };
    }

    fn gelu_backward(&mut self, x: Act, dx: Act) {
        let n = self.count(x.rows) * x.width;
        let (xp, dp) = (self.ptr(x), self.ptr(dx));
        // SAFETY: both activations hold `n` numbers and lie apart.
        unsafe { rows::gelu_backward(n, xp, dp) };
    }

    fn dropout(&mut self, site: u32, rate: f32, x: Act) {
        let Some((stream, base)) = self.dropout.clone() else { return };
        let (base, n, xp) = (base | (u64::from(site) << 32), self.count(x.rows) * x.width, Shared::new(self.ptr(x)));
        // Blocks of draws, of eight elements each.
        self.spread(n.div_ceil(8), 64, |lo, hi| {
            // SAFETY: spans are apart, and each ends with the activation at most.
            let span = unsafe { std::slice::from_raw_parts_mut(xp.get().add(8 * lo), n.min(8 * hi) - 8 * lo) };
            drop_out(&stream, base + lo as u64, rate, span);
        });
    }

    fn drop_items(&mut self, rate: f32) {
        let Some((stream, base)) = self.dropout.clone() else { return };
        if rate <= 0.0 || self.items_dropped {
            return;
        }
        let n = self.row_count * self.shape.dim;
        self.dropped.resize(n);
        self.dropped.copy_from_slice(&self.rows.p[..n]);
        drop_out(&stream, base | (ITEM_SITE << 32), rate, &mut self.dropped);
        self.read_rows = self.dropped.as_ptr();
    }

    fn drop_items_backward(&mut self, rate: f32) {
        let Some((stream, base)) = self.dropout.clone() else { return };
        if self.items_dropped {
            return;
        }
        let n = self.row_count * self.shape.dim;
        drop_out(&stream, base | (ITEM_SITE << 32), rate, &mut self.rows.g[..n]);
        self.read_rows = self.rows.p.as_ptr();
    }

    fn add(&mut self, x: Act, y: Act) {
        let n = self.count(y.rows) * y.width;
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { rows::axpy(n, 1.0, xp, yp) };
    }

    fn add_mean(&mut self, factor: f32, x: Act, y: Act) {
        let rows = self.count(y.rows);
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { rows::axpy(rows * y.width, factor / rows as f32, xp, yp) };
    }

    fn copy(&mut self, x: Act, y: Act) {
        let n = self.count(y.rows) * y.width;
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        // SAFETY: activations and weights of a step lie apart in their arenas, each as long as the operation reads or writes.
        unsafe { std::ptr::copy_nonoverlapping(xp, yp, n) };
    }

    fn zero(&mut self, x: Act) {
        self.values_mut(x).fill(0.0);
    }

    fn next_item_loss(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        self.add_pull(dh);
        let count = self.step.example.len();
        if count == 0 {
            return;
        }
        self.losses.0 = if !self.step.labels.is_empty() {
            self.labelled_loss(h, dh)
        } else if loss.rec == RecLoss::Softmax {
            debug_assert!(self.step.share.is_empty(), "settings refuse weighted examples of the full softmax");
            self.full_softmax(h, dh)
        } else {
            let width = self.step.width;
            debug_assert_eq!(self.step.cands.len(), count * width);
            debug_assert!(self.step.offset.is_empty() || self.step.offset.len() == count * width);
            let ex = Examples {
                count,
                row: self.step.example.as_ptr(),
                cands: self.step.cands.as_ptr(),
                offset: if self.step.offset.is_empty() { std::ptr::null() } else { self.step.offset.as_ptr() },
                width,
                share: if self.step.share.is_empty() { std::ptr::null() } else { self.step.share.as_ptr() },
                d: self.shape.dim,
                kind: loss.rec,
                beta: self.step.positive_weight,
            };
            let (hp, dhp) = (self.ptr(h), self.ptr(dh));
            self.factors.resize(if self.row_log.is_some() { count * width } else { 0 }, 0.0);
            let factors = if self.row_log.is_some() { self.factors.as_mut_ptr() } else { std::ptr::null_mut() };
            if self.row_log.is_none() && has_shared_negatives(&self.step) {
                // SAFETY: examples name outputs and rows of the step.
                unsafe { self.shared_loss(ex, hp, dhp) }
            } else {
                // SAFETY: examples name outputs and rows of the step; the scratch holds an example's candidates, the factors all of them.
                let loss =
                    unsafe { losses::next_item(ex, hp, self.read_rows, dhp, self.rows.g.as_mut_ptr(), factors, self.scratch.as_mut_ptr()) };
                self.log_candidates(h);
                loss
            }
        };
    }

    fn in_batch_info_nce(&mut self, settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act) {
        let (n, d) = (self.step.pair.len(), self.shape.dim);
        if n == 0 {
            return;
        }
        let need = n * (n + d + 2);
        if self.scratch.len() < need {
            self.scratch.resize(need);
        }
        let (z, hp, dhp) = (self.ptr(scratch[0]), self.ptr(h), self.ptr(dh));
        let pairs = Pairs { rows: &self.step.pair, d, settings };
        // SAFETY: paired outputs are rows of `h` and `dh`, no two alike, so that `z` holds as many; scratch was sized above.
        self.losses.1 += unsafe { pairs.info_nce(hp, z, dhp, self.scratch.as_mut_ptr()) };
    }

    fn info_nce(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let groups = self.step.positives.len();
        if groups == 0 {
            return;
        }
        let d = self.shape.dim;
        let n = self.count(h.rows) * d;
        let (hp, dhp) = (self.ptr(h), self.ptr(dh));
        // SAFETY: both activations hold `n` numbers and lie apart.
        let (h, dh) = unsafe { (std::slice::from_raw_parts(hp, n), std::slice::from_raw_parts_mut(dhp, n)) };
        let mut total = 0f64;
        for g in 0..groups {
            let (lo, hi) = (self.step.group_bounds[g] as usize, self.step.group_bounds[g + 1] as usize);
            let members = &self.step.group[lo..hi];
            let group = Group { anchor: members[0], views: &members[1..], positives: self.step.positives[g] as usize };
            total += losses::info_nce(group, loss.contrast, loss.tau, loss.lambda / groups as f32, d, h, dh, &mut self.scratch);
        }
        self.losses.1 = total / groups as f64;
    }
}
