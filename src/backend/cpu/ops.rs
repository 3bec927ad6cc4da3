//! [`Backend`] on a [`Worker`]: each operation is a call of a kernel on the arena.

use super::attention::{self, Shape};
use super::gemm::{self, GradSink};
use super::gru::Recurrence;
use super::in_batch::Pairs;
use super::losses::{self, Examples, Group};
use super::rows;
use super::worker::Worker;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::base::rng::{Stream, dropout_threshold};
use crate::config::{InBatchSettings, LossSettings, RecLoss};

/// Logits of a full softmax are computed for so many examples at a time, so that the matrix is never stored.
const SOFTMAX_ROWS: usize = 6;

impl Worker {
    fn count(&self, rows: RowKind) -> usize {
        match rows {
            RowKind::Tokens => self.step.tokens(),
            RowKind::Outputs => self.step.outputs(),
        }
    }

    fn ptr(&mut self, a: Act) -> *mut f32 {
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

    fn attention_shape(&self, mask: Mask, q: Act, heads: usize) -> Shape {
        let (start, token) = match q.rows {
            RowKind::Tokens => (&self.step.start, &self.step.token),
            RowKind::Outputs => (&self.step.out_start, &self.step.out_token),
        };
        let whole = if mask == Mask::Full { self.step.start.as_ptr() } else { std::ptr::null() };
        let tokens = self.step.tokens();
        Shape { rows: token.len(), d: q.width, heads, start: start.as_ptr(), token: token.as_ptr(), whole, tokens }
    }

    /// Memory for a transposed weight `[out, in]`.
    fn transposed(&mut self, inner: usize, cols: usize) -> *mut f32 {
        if self.turned.len() < inner * cols {
            self.turned.resize(inner * cols, 0.0);
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

    fn full_softmax(&mut self, h: Act, dh: Act) -> f64 {
        // Special rows lie behind the catalogue and are no candidates.
        let (d, n, count) = (self.shape.dim, self.row_count - self.step.special, self.step.example.len());
        let need = SOFTMAX_ROWS * (n + 2 * d);
        if self.scratch.len() < need {
            self.scratch.resize(need, 0.0);
        }
        let (hp, dhp) = (self.ptr(h), self.ptr(dh));
        let mut total = 0f64;
        for lo in (0..count).step_by(SOFTMAX_ROWS) {
            let k = (count - lo).min(SOFTMAX_ROWS);
            let scratch = self.scratch.as_mut_ptr();
            // SAFETY: `scratch` holds k rows of logits, hidden states and their gradients.
            unsafe {
                let (hidden, back) = (scratch.add(SOFTMAX_ROWS * n), scratch.add(SOFTMAX_ROWS * (n + d)));
                for e in 0..k {
                    let q = self.step.example[lo + e] as usize;
                    std::ptr::copy_nonoverlapping(hp.add(q * d), hidden.add(e * d), d);
                }
                gemm::linear_input(k, n, d, hidden, self.read_rows, scratch, false);
                total += losses::softmax_rows(k, n, count, self.step.cands.as_ptr().add(lo), scratch);
                gemm::linear(k, n, d, scratch, self.read_rows, std::ptr::null(), back);
                gemm::linear_weight(k, n, d, scratch, hidden, GradSink::Add(self.rows.g.as_mut_ptr()));
                for e in 0..k {
                    let q = self.step.example[lo + e] as usize;
                    rows::axpy(d, 1.0, back.add(e * d), dhp.add(q * d));
                }
            }
        }
        total / count as f64
    }
}

// Safety of the blocks below: activations come from `act`, which sized the arena for the step at hand; weights come from the
// model's layout; rows and tokens were packed by `Step`, whose indices are in range.
/// The dropout site of the item table, beyond those of any model (64 blocks have fewer than 200).
const ITEM_SITE: u64 = 255;

/// Where the draws for the item table of step `number` begin.
fn item_base(number: u32) -> u64 {
    u64::from(number) << 40 | ITEM_SITE << 32
}

/// Inverted dropout of the item table of step `number`, on the elements from `first` (a multiple of 8) on: the mask that
/// [`Backend::drop_items`] puts on the whole table.
pub fn drop_items_span(stream: &Stream, number: u32, rate: f32, first: usize, x: &mut [f32]) {
    assert!(first.is_multiple_of(8), "a span of the item table begins at a block of draws");
    drop_out(stream, item_base(number) + first as u64 / 8, rate, x);
}

/// Inverted dropout in place, a function of the stream and of `base` alone.
fn drop_out(stream: &Stream, base: u64, rate: f32, x: &mut [f32]) {
    if rate <= 0.0 {
        return;
    }
    // Sixteen random bits an element: eight elements a block.
    let (threshold, keep) = dropout_threshold(rate);
    for (i, eight) in x.chunks_mut(8).enumerate() {
        let words = stream.block_at(base + i as u64);
        for (k, v) in eight.iter_mut().enumerate() {
            let bits = (words[k / 2] >> (16 * (k as u32 % 2))) & 0xffff;
            *v *= if bits < threshold { 0.0 } else { keep };
        }
    }
}

impl Backend for Worker {
    fn act(&mut self, rows: RowKind, width: usize) -> Act {
        let at = self.top;
        self.top += (self.count(rows) * width).next_multiple_of(8);
        if self.arena.len() < self.top {
            self.arena.resize((2 * self.top).max(1 << 16), 0.0);
        }
        Act { at, rows, width }
    }

    fn embed(&mut self, scale: f32, positions: Option<usize>, y: Act) {
        let d = self.shape.dim;
        let yp = self.ptr(y);
        for t in 0..self.step.tokens() {
            let row = self.step.row[t] as usize;
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
            let row = self.step.row[t] as usize;
            unsafe {
                match &mut self.row_log {
                    None => rows::axpy(d, scale, g.add(t * d), self.rows.g[row * d..][..d].as_mut_ptr()),
                    Some(log) => {
                        let vector = log.push_vector(std::slice::from_raw_parts(g.add(t * d), d));
                        log.push(row as u32, vector, scale);
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
            unsafe { std::ptr::copy_nonoverlapping(xp.add(t as usize * x.width), yp.add(q * x.width), x.width) };
        }
    }

    fn select_backward(&mut self, dy: Act, dx: Act) {
        let (gp, xp) = (self.ptr(dy), self.ptr(dx));
        for (q, &t) in self.step.out_token.iter().enumerate() {
            unsafe { rows::axpy(dx.width, 1.0, gp.add(q * dx.width), xp.add(t as usize * dx.width)) };
        }
    }

    fn layer_norm(&mut self, x: Act, g: usize, b: usize, y: Act, stats: Act) {
        let n = self.count(x.rows);
        let (xp, yp, sp) = (self.ptr(x), self.ptr(y), self.ptr(stats));
        unsafe { rows::layer_norm(n, x.width, xp, self.weight(g), self.weight(b), yp, sp) };
    }

    fn layer_norm_backward(&mut self, x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act) {
        let n = self.count(x.rows);
        let (xp, sp, gp, dp) = (self.ptr(x), self.ptr(stats), self.ptr(dy), self.ptr(dx));
        let w = self.weight(g);
        let grads = self.dense.g.as_mut_ptr();
        unsafe { rows::layer_norm_backward(n, x.width, xp, sp, w, gp, dp, grads.add(g), grads.add(b)) };
    }

    fn linear(&mut self, x: Act, w: usize, b: usize, y: Act) {
        let n = self.count(x.rows);
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        unsafe { gemm::linear(n, x.width, y.width, xp, self.weight(w), self.weight(b), yp) };
    }

    fn linear_backward(&mut self, x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool) {
        let n = self.count(x.rows);
        let (xp, gp) = (self.ptr(x), self.ptr(dy));
        unsafe {
            if let Some(dx) = dx {
                let (dp, wt) = (self.ptr(dx), self.transposed(x.width, dy.width));
                gemm::transpose(x.width, dy.width, self.weight(w), wt);
                gemm::linear_from(n, dy.width, x.width, gp, wt, std::ptr::null(), dp, add);
            }
            gemm::column_sums(n, dy.width, gp, self.dense.g.as_mut_ptr().add(b));
            // Last, because it may move the weight.
            let sink = self.weight_sink(w);
            gemm::linear_weight(n, x.width, dy.width, xp, gp, sink);
        }
    }

    fn attention(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        let shape = self.attention_shape(mask, q, heads);
        let (q, k, v, y, stats) = (self.ptr(q), self.ptr(k), self.ptr(v), self.ptr(y), self.ptr(stats));
        unsafe { attention::attention(shape, q, k, v, y, stats, self.scratch.as_mut_ptr()) };
    }

    fn attention_backward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, stats: Act, dy: Act, dq: Act, dk: Act, dv: Act) {
        self.zero(dk);
        self.zero(dv);
        let shape = self.attention_shape(mask, q, heads);
        let (q, k, v, stats, dy) = (self.ptr(q), self.ptr(k), self.ptr(v), self.ptr(stats), self.ptr(dy));
        let (dq, dk, dv) = (self.ptr(dq), self.ptr(dk), self.ptr(dv));
        unsafe { attention::attention_backward(shape, q, k, v, dy, stats, dq, dk, dv, self.scratch.as_mut_ptr()) };
    }

    fn gru(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        let (x, hp, g, p) = (self.ptr(xw), self.ptr(h), self.ptr(gates), self.ptr(previous));
        let r = Recurrence { bounds: &self.step.bounds, d: h.width };
        debug_assert!(self.scratch.len() >= r.scratch_len());
        unsafe { r.forward(x, self.weight(w), self.weight(b), hp, g, p, self.scratch.as_mut_ptr()) };
    }

    fn gru_backward(&mut self, w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act) {
        let n = self.count(RowKind::Tokens);
        let d = dh.width;
        let dhw = self.act(RowKind::Tokens, 3 * d);
        let (g, p, dhp, dx, du) = (self.ptr(gates), self.ptr(previous), self.ptr(dh), self.ptr(dxw), self.ptr(dhw));
        let wt = self.transposed(d, 3 * d);
        unsafe {
            gemm::transpose(d, 3 * d, self.weight(w), wt);
            let r = Recurrence { bounds: &self.step.bounds, d };
            r.backward(wt, g, p, dhp, dx, du, self.scratch.as_mut_ptr());
            gemm::column_sums(n, 3 * d, du, self.dense.g.as_mut_ptr().add(b));
            let sink = self.weight_sink(w);
            gemm::linear_weight(n, d, 3 * d, p, du, sink);
        }
    }

    fn relu(&mut self, x: Act) {
        rows::relu(self.values_mut(x));
    }

    fn relu_backward(&mut self, y: Act, dx: Act) {
        let n = self.count(y.rows) * y.width;
        let (yp, dp) = (self.ptr(y), self.ptr(dx));
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
        drop_out(&stream, base | (u64::from(site) << 32), rate, self.values_mut(x));
    }

    fn drop_items(&mut self, rate: f32) {
        let Some((stream, base)) = self.dropout.clone() else { return };
        if rate <= 0.0 || self.items_dropped {
            return;
        }
        let n = self.row_count * self.shape.dim;
        self.dropped.clear();
        self.dropped.extend_from_slice(&self.rows.p[..n]);
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
        unsafe { rows::axpy(n, 1.0, xp, yp) };
    }

    fn add_mean(&mut self, factor: f32, x: Act, y: Act) {
        let rows = self.count(y.rows);
        let (xp, yp) = (self.ptr(x), self.ptr(y));
        unsafe { rows::axpy(rows * y.width, factor / rows as f32, xp, yp) };
    }

    fn copy(&mut self, x: Act, y: Act) {
        let n = self.count(y.rows) * y.width;
        let (xp, yp) = (self.ptr(x), self.ptr(y));
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
            let ex = Examples {
                count,
                row: self.step.example.as_ptr(),
                cands: self.step.cands.as_ptr(),
                width,
                share: if self.step.share.is_empty() { std::ptr::null() } else { self.step.share.as_ptr() },
                d: self.shape.dim,
                kind: loss.rec,
                beta: self.step.gbce_beta,
            };
            let (hp, dhp) = (self.ptr(h), self.ptr(dh));
            self.factors.resize(if self.row_log.is_some() { count * width } else { 0 }, 0.0);
            let factors = if self.row_log.is_some() { self.factors.as_mut_ptr() } else { std::ptr::null_mut() };
            let loss =
                unsafe { losses::next_item(ex, hp, self.read_rows, dhp, self.rows.g.as_mut_ptr(), factors, self.scratch.as_mut_ptr()) };
            self.log_candidates(h);
            loss
        };
    }

    fn in_batch_info_nce(&mut self, settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act) {
        let (n, d) = (self.step.pair.len(), self.shape.dim);
        if n == 0 {
            return;
        }
        let need = n * (n + d + 2);
        if self.scratch.len() < need {
            self.scratch.resize(need, 0.0);
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
