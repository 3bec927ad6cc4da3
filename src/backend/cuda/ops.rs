//! [`Backend`] on a device: each operation is a launch (or two) of the kernels in `kernels/`, for all clients of a chunk.
//!
//! Launches are sized by a [`Shape`]; what a step really holds is read by the kernels from its [`Packed`](crate::engine::cuda::packed::Packed).
//! So the same calls, recorded once, serve every step of every chunk of that shape.

use super::kernels::*;
use super::meter::place;
use super::shape::Shape;
use crate::backend::{Act, Backend, Mask, RowKind, attention_scratch, gru_scratch};
use crate::config::{Contrast, InBatchSettings, LossSettings, Precision, RecLoss, Similarity};
use crate::device::DeviceError;
use crate::device::interface::{Device, Result};
use crate::device::launch::{KernelSet, Launch, Pointer};

/// Device addresses that a step works on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    /// The `Packed` of the step at hand.
    pub step: u64,
    /// The clients' dense weights `[C, P]`.
    pub dense: u64,
    /// Their gradients `[C, P]`.
    pub dense_grad: u64,
    /// The clients' item rows `[R, d]`.
    pub rows: u64,
    /// Their gradients `[R, d]`.
    pub row_grad: u64,
    /// Item rows as a step with dropout on the item table sees them `[R, d]`; 0 where there is none, or where `rows` are dropped out already.
    pub dropped: u64,
    /// Activations.
    pub arena: u64,
    /// Derivatives by the candidates' logits `[E, width]`.
    pub coef: u64,
    /// Next-item losses `[E]`.
    pub loss: u64,
    /// Contrasts `[G]`.
    pub contrast: u64,
    /// Losses of paired outputs `[2 N]`.
    pub paired: u64,
    /// Log partition sums of a full softmax `[E]`.
    pub lse: u64,
    /// Where dropout draws from (`DropoutClock`); 0: no dropout.
    pub clock: u64,
}

/// The operations of training as launches on a device.
pub struct DeviceBackend<'d> {
    device: &'d dyn Device,
    kernels: &'d KernelSet,
    shape: Shape,
    /// Width of item rows, floats of a client's slab.
    d: usize,
    stride: usize,
    places: Places,
    precision: Precision,
    /// Where item rows are read: the table or its dropped-out copy.
    read_rows: u64,
    top: usize,
    arena_floats: usize,
    /// Where products of gradients step on their weights at once.
    stepping: Option<Stepping>,
    failure: Option<DeviceError>,
}

/// What a step on weights takes beside their gradients: the `OptimiserStep`, both moments `[C, P]` (null for gradient descent) and the weights
/// `[P]` that the visit began with.
#[derive(Clone, Copy, Debug)]
pub struct Stepping {
    /// See above.
    pub opt: Pointer,
    /// First moments.
    pub first: Pointer,
    /// Second moments.
    pub second: Pointer,
    /// The global weights.
    pub global: Pointer,
}

fn int(n: usize) -> i32 {
    i32::try_from(n).expect("sizes were checked when the chunk was planned")
}

/// `RowKind` of `kernels/packed.cuh`.
fn kind(rows: RowKind) -> i32 {
    match rows {
        RowKind::Tokens => 0,
        RowKind::Outputs => 1,
    }
}

impl<'d> DeviceBackend<'d> {
    /// A backend for steps of `shape` of a model with item rows of width `d` and `stride` dense weights. `arena_floats` are at
    /// `places.arena`.
    pub fn new(
        device: &'d dyn Device,
        kernels: &'d KernelSet,
        shape: Shape,
        (d, stride): (usize, usize),
        places: Places,
        arena_floats: usize,
        precision: Precision,
    ) -> DeviceBackend<'d> {
        let (read_rows, stepping, failure) = (places.rows, None, None);
        DeviceBackend { device, kernels, shape, d, stride, places, precision, read_rows, top: 0, arena_floats, stepping, failure }
    }

    /// The same, that steps on the weights of linear layers and of the GRU as soon as their gradients are there.
    pub fn stepping(self, stepping: Option<Stepping>) -> DeviceBackend<'d> {
        DeviceBackend { stepping, ..self }
    }

    /// What failed first; operations after it did nothing.
    pub fn finish(self) -> Result<()> {
        match self.failure {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Address of an activation.
    pub fn address(&self, act: Act) -> u64 {
        self.places.arena + 4 * act.at as u64
    }

    fn rows(&self, rows: RowKind) -> u32 {
        match rows {
            RowKind::Tokens => self.shape.tokens,
            RowKind::Outputs => self.shape.outputs,
        }
    }

    fn tiles(&self, rows: RowKind) -> u32 {
        match rows {
            RowKind::Tokens => self.shape.token_tiles,
            RowKind::Outputs => self.shape.output_tiles,
        }
    }

    /// Launches a kernel, unless one failed before.
    pub(crate) fn go<L: Launch>(&mut self, grid: [u32; 2], kernel: L) {
        if self.failure.is_some() {
            return;
        }
        // SAFETY: activations come from `act`, which keeps them inside the arena; weights come from the model's layout; the
        // step's arrays were packed by `Step`, and all buffers outlive the queue.
        if let Err(e) = unsafe { self.kernels.launch(self.device, self.precision as usize, grid, &kernel) } {
            self.failure = Some(e);
        }
    }

    /// The packed step.
    pub(crate) fn step(&self) -> Pointer {
        Pointer(self.places.step)
    }

    fn at(&self, act: Act) -> Pointer {
        Pointer(self.address(act))
    }

    fn stride(&self) -> i64 {
        self.stride as i64
    }

    fn elementwise<L: Launch>(&mut self, rows: RowKind, width: usize, kernel: L) {
        let count = self.rows(rows) as usize * width;
        self.go([(count.div_ceil(1024) as u32).min(8192), 1], kernel);
    }

    fn item_rows<L: Launch>(&mut self, kernel: L) {
        let blocks = (self.shape.client_rows as usize * self.d).div_ceil(2048).clamp(1, 65_535) as u32;
        self.go([self.shape.clients, blocks], kernel);
    }

    /// Threshold, factor and clock of a dropout mask, where there is dropout.
    fn mask(&self, rate: f32) -> Option<(u32, f32, Pointer)> {
        if rate <= 0.0 || self.places.clock == 0 {
            return None;
        }
        let (threshold, keep) = crate::base::rng::dropout_threshold(rate);
        Some((threshold, keep, Pointer(self.places.clock)))
    }

    fn linear_weight(&mut self, x: Act, dy: Act, w: usize, b: usize) {
        let tiles = x.width.div_ceil(64) * dy.width.div_ceil(64);
        let grid = [self.shape.clients, tiles as u32];
        let (step, kind, grad, stride) = (self.step(), kind(x.rows), Pointer(self.places.dense_grad), self.stride());
        let (r#in, out, w, b) = (int(x.width), int(dy.width), int(w), int(b));
        let (x, dy) = (self.at(x), self.at(dy));
        match self.stepping {
            None => self.go(grid, LinearWeight { step, kind, x, r#in, dy, out, grad, stride, w, b }),
            Some(Stepping { opt, first: m, second: s, global }) => {
                let p = Pointer(self.places.dense);
                self.go(grid, LinearStep { step, kind, x, r#in, dy, out, grad, opt, p, m, s, global, stride, w, b });
            }
        }
    }

    fn full_softmax(&mut self, h: Act, dh: Act) {
        let (clients, step, d) = (self.shape.clients, self.step(), int(self.d));
        let (h, dh, rows) = (self.at(h), self.at(dh), Pointer(self.read_rows));
        let [lse, loss, row_grad] = [self.places.lse, self.places.loss, self.places.row_grad].map(Pointer);
        let examples = self.shape.client_examples.div_ceil(16).clamp(1, 65_535);
        self.go([clients, examples], FullSoftmaxStats { step, h, rows, lse, loss, d });
        self.go([clients, examples], FullSoftmaxHidden { step, h, rows, lse, dh, d });
        let table = self.shape.client_rows.div_ceil(128).clamp(1, 65_535);
        self.go([clients, table], FullSoftmaxRows { step, h, rows, lse, row_grad, d });
    }
}

impl Backend for DeviceBackend<'_> {
    fn act(&mut self, rows: RowKind, width: usize) -> Act {
        let act = place(&self.shape, &mut self.top, rows, width);
        assert!(self.top <= self.arena_floats, "the arena holds {} floats, the step needs {}", self.arena_floats, self.top);
        act
    }

    fn embed(&mut self, scale: f32, positions: Option<usize>, y: Act) {
        let lanes = if self.d.is_multiple_of(4) { self.d / 4 } else { self.d };
        let each = 256 / lanes.next_power_of_two().min(32) as u32;
        let (step, stride) = (self.step(), self.stride());
        let (rows, dense, positions) = (self.read_rows, self.places.dense, positions.map_or(-1, int));
        let kernel = Embed { step, scale, positions, rows: Pointer(rows), dense: Pointer(dense), stride, y: self.at(y), d: int(self.d) };
        self.go([self.shape.tokens.div_ceil(each), 1], kernel);
    }

    fn embed_backward(&mut self, scale: f32, positions: Option<usize>, dy: Act) {
        let (step, d, row_grad) = (self.step(), int(self.d), Pointer(self.places.row_grad));
        let (dy, clients) = (self.at(dy), self.shape.clients);
        let rows = self.shape.client_rows.div_ceil(64).clamp(1, 65_535);
        self.go([clients, rows], EmbedBackwardRows { step, scale, dy, row_grad, d });
        if let Some(at) = positions {
            let span = (self.shape.positions.1 - self.shape.positions.0).div_ceil(4).clamp(1, 65_535);
            let (grad, stride) = (Pointer(self.places.dense_grad), self.stride());
            self.go([clients, span], EmbedBackwardPositions { step, dy, grad, stride, positions: int(at), d });
        }
    }

    fn select(&mut self, x: Act, y: Act) {
        let kernel = SelectRows { step: self.step(), x: self.at(x), y: self.at(y), width: int(x.width) };
        self.elementwise(RowKind::Outputs, x.width, kernel);
    }

    fn select_backward(&mut self, dy: Act, dx: Act) {
        let kernel = SelectRowsBackward { step: self.step(), dy: self.at(dy), dx: self.at(dx), width: int(dx.width) };
        self.elementwise(RowKind::Outputs, dx.width, kernel);
    }

    fn layer_norm(&mut self, x: Act, g: usize, b: usize, y: Act, stats: Act) {
        let kernel = LayerNorm {
            step: self.step(),
            kind: kind(x.rows),
            x: self.at(x),
            width: int(x.width),
            dense: Pointer(self.places.dense),
            stride: self.stride(),
            g: int(g),
            b: int(b),
            y: self.at(y),
            stats: self.at(stats),
        };
        self.go([self.rows(x.rows).div_ceil(8), 1], kernel);
    }

    fn layer_norm_backward(&mut self, x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act) {
        let (rows, columns) = (self.rows(x.rows).div_ceil(8), x.width.div_ceil(32) as u32);
        let (step, kind, width, stride, g) = (self.step(), kind(x.rows), int(x.width), self.stride(), int(g));
        let (dense, grad) = (Pointer(self.places.dense), Pointer(self.places.dense_grad));
        let (x, stats, dy, dx) = (self.at(x), self.at(stats), self.at(dy), self.at(dx));
        self.go([self.shape.clients, columns], LayerNormWeight { step, kind, x, stats, width, dy, grad, stride, g, b: int(b) });
        self.go([rows, 1], LayerNormBackward { step, kind, x, stats, width, dense, stride, g, dy, dx });
    }

    fn linear(&mut self, x: Act, w: usize, b: usize, y: Act) {
        let kernel = LinearForward {
            step: self.step(),
            kind: kind(x.rows),
            x: self.at(x),
            r#in: int(x.width),
            dense: Pointer(self.places.dense),
            stride: self.stride(),
            w: int(w),
            b: int(b),
            y: self.at(y),
            out: int(y.width),
        };
        self.go([self.tiles(x.rows), y.width.div_ceil(64) as u32], kernel);
    }

    fn linear_backward(&mut self, x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool) {
        if let Some(dx) = dx {
            let kernel = LinearInput {
                step: self.step(),
                kind: kind(x.rows),
                dy: self.at(dy),
                out: int(dy.width),
                dense: Pointer(self.places.dense),
                stride: self.stride(),
                w: int(w),
                dx: self.at(dx),
                r#in: int(x.width),
                add: i32::from(add),
            };
            self.go([self.tiles(x.rows), x.width.div_ceil(64) as u32], kernel);
        }
        self.linear_weight(x, dy, w, b);
    }

    fn attention(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        let rows = self.rows(q.rows);
        let kernel = AttentionForward {
            step: self.step(),
            kind: kind(q.rows),
            mask: i32::from(mask == Mask::Full),
            heads: int(heads),
            q: self.at(q),
            k: self.at(k),
            v: self.at(v),
            d: int(q.width),
            y: self.at(y),
            stats: self.at(stats),
        };
        self.go([(rows * heads as u32).div_ceil(8), 1], kernel);
    }

    fn attention_backward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, stats: Act, dy: Act, dq: Act, dk: Act, dv: Act) {
        let (rows, width) = attention_scratch(q, heads);
        let scratch = self.act(rows, width);
        let scratch = self.at(scratch);
        let warps = |rows: u32| [(rows * heads as u32).div_ceil(8), 1];
        let (queries, keys) = (warps(self.rows(q.rows)), warps(self.shape.tokens));
        let (step, kind, mask, heads, d) = (self.step(), kind(q.rows), i32::from(mask == Mask::Full), int(heads), int(q.width));
        let (q, k, v, stats, dy) = (self.at(q), self.at(k), self.at(v), self.at(stats), self.at(dy));
        let (dq, dk, dv) = (self.at(dq), self.at(dk), self.at(dv));
        self.go(queries, AttentionBackwardQ { step, kind, mask, heads, q, k, v, d, stats, dy, dq, scratch });
        self.go(keys, AttentionBackwardKv { step, kind, mask, heads, q, k, v, d, stats, dy, scratch, dk, dv });
    }

    fn gru(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        let kernel = GruForward {
            step: self.step(),
            xw: self.at(xw),
            dense: Pointer(self.places.dense),
            stride: self.stride(),
            w: int(w),
            b: int(b),
            h: self.at(h),
            gates: self.at(gates),
            previous: self.at(previous),
            d: int(h.width),
        };
        self.go([self.shape.sequences, 1], kernel);
    }

    fn gru_backward(&mut self, w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act) {
        let (rows, width) = gru_scratch(dh);
        let dhw = self.act(rows, width);
        let kernel = GruBackward {
            step: self.step(),
            dense: Pointer(self.places.dense),
            stride: self.stride(),
            w: int(w),
            gates: self.at(gates),
            previous: self.at(previous),
            dh: self.at(dh),
            dxw: self.at(dxw),
            dhw: self.at(dhw),
            d: int(dh.width),
        };
        self.go([self.shape.sequences, 1], kernel);
        self.linear_weight(previous, dhw, w, b);
    }

    fn relu(&mut self, x: Act) {
        let kernel = Relu { step: self.step(), kind: kind(x.rows), x: self.at(x), width: int(x.width) };
        self.elementwise(x.rows, x.width, kernel);
    }

    fn relu_backward(&mut self, y: Act, dx: Act) {
        let kernel = ReluBackward { step: self.step(), kind: kind(y.rows), y: self.at(y), dx: self.at(dx), width: int(y.width) };
        self.elementwise(y.rows, y.width, kernel);
    }

    fn gelu(&mut self, x: Act, y: Act) {
        let kernel = Gelu { step: self.step(), kind: kind(x.rows), x: self.at(x), y: self.at(y), width: int(x.width) };
        self.elementwise(x.rows, x.width, kernel);
    }

    fn gelu_backward(&mut self, x: Act, dx: Act) {
        let kernel = GeluBackward { step: self.step(), kind: kind(x.rows), x: self.at(x), dx: self.at(dx), width: int(x.width) };
        self.elementwise(x.rows, x.width, kernel);
    }

    fn dropout(&mut self, site: u32, rate: f32, x: Act) {
        let Some((threshold, keep, clock)) = self.mask(rate) else { return };
        let (step, site, width) = (self.step(), site as i32, int(x.width));
        self.elementwise(x.rows, x.width, Dropout { step, kind: kind(x.rows), site, threshold, keep, clock, x: self.at(x), width });
    }

    fn drop_items(&mut self, rate: f32) {
        let Some((threshold, keep, clock)) = self.mask(rate).filter(|_| self.places.dropped != 0) else { return };
        let [rows, dropped] = [self.places.rows, self.places.dropped].map(Pointer);
        self.item_rows(DropItems { step: self.step(), threshold, keep, clock, rows, dropped, d: int(self.d) });
        self.read_rows = self.places.dropped;
    }

    fn drop_items_backward(&mut self, rate: f32) {
        let Some((threshold, keep, clock)) = self.mask(rate).filter(|_| self.places.dropped != 0) else { return };
        let grad = Pointer(self.places.row_grad);
        self.item_rows(DropItemsBackward { step: self.step(), threshold, keep, clock, grad, d: int(self.d) });
        self.read_rows = self.places.rows;
    }

    fn add(&mut self, x: Act, y: Act) {
        let kernel = Add { step: self.step(), kind: kind(y.rows), x: self.at(x), y: self.at(y), width: int(y.width) };
        self.elementwise(y.rows, y.width, kernel);
    }

    fn add_mean(&mut self, factor: f32, x: Act, y: Act) {
        let kernel = AddMean { step: self.step(), kind: kind(y.rows), factor, x: self.at(x), y: self.at(y), width: int(y.width) };
        self.elementwise(y.rows, y.width, kernel);
    }

    fn copy(&mut self, x: Act, y: Act) {
        let kernel = CopyAll { step: self.step(), kind: kind(y.rows), x: self.at(x), y: self.at(y), width: int(y.width) };
        self.elementwise(y.rows, y.width, kernel);
    }

    fn zero(&mut self, x: Act) {
        let kernel = Zero { step: self.step(), kind: kind(x.rows), x: self.at(x), width: int(x.width) };
        self.elementwise(x.rows, x.width, kernel);
    }

    fn next_item_loss(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let kind = match loss.rec {
            RecLoss::Bce => 0,
            RecLoss::SampledSoftmax => 1,
            RecLoss::Gbce => 2,
            RecLoss::Softmax => return self.full_softmax(h, dh),
        };
        let (step, h, dh, d) = (self.step(), self.at(h), self.at(dh), int(self.d));
        let [rows, row_grad, coef, loss] = [self.read_rows, self.places.row_grad, self.places.coef, self.places.loss].map(Pointer);
        self.go([self.shape.examples.div_ceil(4), 1], NextItemLoss { step, kind, h, rows, dh, coef, loss, d });
        let blocks = self.shape.client_rows.div_ceil(64).clamp(1, 65_535);
        self.go([self.shape.clients, blocks], NextItemRows { step, h, coef, row_grad, d });
    }

    fn in_batch_info_nce(&mut self, settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act) {
        let (step, [z, inverse, lse], d) = (self.step(), scratch.map(|act| self.at(act)), int(self.d));
        let (cosine, tau, weight) = (i32::from(settings.similarity == Similarity::Cosine), settings.tau, settings.weight);
        let (h, dh, loss) = (self.at(h), self.at(dh), Pointer(self.places.paired));
        self.go([(2 * self.shape.pairs).div_ceil(4), 1], InBatchGather { step, cosine, h, z, inverse, d });
        let grid = [self.shape.clients, (2 * self.shape.client_pairs).div_ceil(16).min(65_535)];
        self.go(grid, InBatchInfoNceStats { step, z, inverse, tau, lse, loss, d });
        self.go(grid, InBatchInfoNceGrad { step, cosine, z, inverse, lse, tau, weight, dh, d });
    }

    fn info_nce(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let contrast = match loss.contrast {
            Contrast::None => return,
            Contrast::Joint => 1,
            Contrast::Decoupled => 2,
        };
        let views = self.shape.members.saturating_sub(1).max(1) as i32;
        let (step, tau, h, dh, d) = (self.step(), loss.tau, self.at(h), self.at(dh), int(self.d));
        let loss = Pointer(self.places.contrast);
        self.go([self.shape.groups.div_ceil(4), 1], InfoNce { step, contrast, tau, h, dh, loss, views, d });
    }
}
