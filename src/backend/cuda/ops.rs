//! [`Backend`] on a device: each operation is a launch (or two) of the kernels in `kernels/`, for all clients of a chunk.
//!
//! Launches are sized by a [`Shape`]; what a step really holds is read by the kernels from its [`Packed`](crate::engine::cuda::packed::Packed).
//! So the same calls, recorded once, serve every step of every chunk of that shape.

use super::meter::place;
use super::shape::Shape;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::{Contrast, InBatchSettings, LossSettings, Precision, RecLoss, Similarity};
use crate::device::interface::{Arg, Device, Kernel, Result};
use crate::device::{DeviceError, Geometry};
use std::collections::HashMap;

/// Kernels that the backend and the round use, looked up before anything is recorded.
pub(crate) const KERNELS: &[&str] = &[
    "adam_dense",
    "adam_rows",
    "add",
    "add_gradients",
    "add_mean",
    "add_row_gradients",
    "attention_backward_kv",
    "attention_backward_q",
    "attention_forward",
    "average_dense",
    "average_rows",
    "broadcast",
    "client_losses",
    "clip_factor",
    "clip_norm",
    "copy",
    "drop_items",
    "drop_items_backward",
    "drop_table",
    "dropout",
    "embed",
    "embed_backward_positions",
    "embed_backward_rows",
    "full_softmax_hidden",
    "full_softmax_rows",
    "full_softmax_stats",
    "gather_rows",
    "gelu",
    "gelu_backward",
    "gradient_squares",
    "gru_backward",
    "gru_forward",
    "in_batch_gather",
    "in_batch_info_nce_grad",
    "in_batch_info_nce_stats",
    "info_nce",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_weight",
    "linear_forward",
    "linear_forward_bf16",
    "linear_forward_tf32",
    "linear_input",
    "linear_input_bf16",
    "linear_input_tf32",
    "linear_weight",
    "linear_weight_bf16",
    "linear_weight_tf32",
    "next_item_loss",
    "next_item_rows",
    "rank_count",
    "rank_masked",
    "rank_targets",
    "relu",
    "relu_backward",
    "select_rows",
    "select_rows_backward",
    "server_dense",
    "server_rows",
    "step_span",
    "take_gradients",
    "update_norms",
    "zero",
];

/// The kernels of one device by name.
pub struct KernelSet(HashMap<&'static str, Kernel>);

impl KernelSet {
    /// Looks all kernels up, which loads or compiles them.
    pub fn load(device: &dyn Device) -> Result<KernelSet> {
        KERNELS.iter().map(|&name| Ok((name, device.kernel(name)?))).collect::<Result<_>>().map(KernelSet)
    }

    pub(crate) fn get(&self, name: &'static str) -> Kernel {
        *self.0.get(name).unwrap_or_else(|| panic!("kernel {name} is missing from the list of kernels"))
    }
}

/// Floats of scratch that the backward pass of attention needs for each query.
pub(super) fn attention_scratch(heads: usize) -> usize {
    2 * heads
}

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
    failure: Option<DeviceError>,
}

fn int(n: usize) -> Arg<'static> {
    Arg::Int(i32::try_from(n).expect("sizes were checked when the chunk was planned"))
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
        DeviceBackend { device, kernels, shape, d, stride, places, precision, read_rows: places.rows, top: 0, arena_floats, failure: None }
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

    /// Launches `name` with the step as its first argument.
    pub(crate) fn go(&mut self, name: &'static str, grid: [u32; 2], block: u32, shared: usize, args: &[Arg]) {
        if self.failure.is_some() || grid.contains(&0) {
            return;
        }
        let mut all = Vec::with_capacity(args.len() + 1);
        all.push(Arg::Pointer(self.places.step));
        all.extend_from_slice(args);
        let geometry = Geometry { grid: [grid[0], grid[1], 1], block: [block, 1, 1], shared };
        // SAFETY: activations come from `act`, which keeps them inside the arena; weights come from the model's layout; the
        // step's arrays were packed by `Step`, and all buffers outlive the queue.
        if let Err(e) = unsafe { self.device.launch(self.kernels.get(name), geometry, &all) } {
            self.failure = Some(e);
        }
    }

    fn act_arg(&self, act: Act) -> Arg<'static> {
        Arg::Pointer(self.address(act))
    }

    fn kind(rows: RowKind) -> Arg<'static> {
        Arg::Int(match rows {
            RowKind::Tokens => 0,
            RowKind::Outputs => 1,
        })
    }

    fn stride(&self) -> Arg<'static> {
        Arg::Long(self.stride as i64)
    }

    fn pick(&self, plain: &'static str, tf32: &'static str, bf16: &'static str) -> &'static str {
        match self.precision {
            Precision::Fp32 => plain,
            Precision::Tf32 => tf32,
            Precision::Bf16 => bf16,
        }
    }

    fn elementwise(&mut self, name: &'static str, rows: RowKind, width: usize, args: &[Arg]) {
        let count = self.rows(rows) as usize * width;
        self.go(name, [(count.div_ceil(1024) as u32).min(8192), 1], 256, 0, args);
    }

    fn item_rows(&mut self, name: &'static str, args: &[Arg]) {
        let blocks = (self.shape.client_rows as usize * self.d).div_ceil(2048).clamp(1, 65_535) as u32;
        self.go(name, [self.shape.clients, blocks], 256, 0, args);
    }

    /// Threshold and factor of a dropout mask, where there is dropout.
    fn mask(&self, rate: f32) -> Option<[Arg<'static>; 2]> {
        if rate <= 0.0 || self.places.clock == 0 {
            return None;
        }
        let (threshold, keep) = crate::base::rng::dropout_threshold(rate);
        Some([Arg::Uint(threshold), Arg::Float(keep)])
    }

    fn linear_weight(&mut self, x: Act, dy: Act, w: usize, b: usize) {
        let name = self.pick("linear_weight", "linear_weight_tf32", "linear_weight_bf16");
        let tiles = x.width.div_ceil(64) * dy.width.div_ceil(64);
        let args = [
            Self::kind(x.rows),
            self.act_arg(x),
            int(x.width),
            self.act_arg(dy),
            int(dy.width),
            Arg::Pointer(self.places.dense_grad),
            self.stride(),
            int(w),
            int(b),
        ];
        self.go(name, [self.shape.clients, tiles as u32], 128, 18_432, &args);
    }

    fn full_softmax(&mut self, h: Act, dh: Act) {
        let (clients, d) = (self.shape.clients, int(self.d));
        let (h, dh, rows) = (self.act_arg(h), self.act_arg(dh), Arg::Pointer(self.read_rows));
        let (lse, loss) = (Arg::Pointer(self.places.lse), Arg::Pointer(self.places.loss));
        let examples = self.shape.client_examples.div_ceil(16).clamp(1, 65_535);
        self.go("full_softmax_stats", [clients, examples], 128, 19_456, &[h, rows, lse, loss, d]);
        self.go("full_softmax_hidden", [clients, examples], 128, 27_648, &[h, rows, lse, dh, d]);
        let table = self.shape.client_rows.div_ceil(128).clamp(1, 65_535);
        let grad = Arg::Pointer(self.places.row_grad);
        self.go("full_softmax_rows", [clients, table], 128, 27_904, &[h, rows, lse, grad, d]);
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
        let args = [
            Arg::Float(scale),
            Arg::Int(positions.map_or(-1, |p| p as i32)),
            Arg::Pointer(self.read_rows),
            Arg::Pointer(self.places.dense),
            self.stride(),
            self.act_arg(y),
            int(self.d),
        ];
        self.go("embed", [self.shape.tokens.div_ceil(each), 1], 256, 0, &args);
    }

    fn embed_backward(&mut self, scale: f32, positions: Option<usize>, dy: Act) {
        let rows = self.shape.client_rows.div_ceil(64).clamp(1, 65_535);
        let args = [Arg::Float(scale), self.act_arg(dy), Arg::Pointer(self.places.row_grad), int(self.d)];
        self.go("embed_backward_rows", [self.shape.clients, rows], 128, 6_160, &args);
        if let Some(at) = positions {
            let span = (self.shape.positions.1 - self.shape.positions.0).div_ceil(4).clamp(1, 65_535);
            let args = [self.act_arg(dy), Arg::Pointer(self.places.dense_grad), self.stride(), int(at), int(self.d)];
            self.go("embed_backward_positions", [self.shape.clients, span], 128, 0, &args);
        }
    }

    fn select(&mut self, x: Act, y: Act) {
        self.elementwise("select_rows", RowKind::Outputs, x.width, &[self.act_arg(x), self.act_arg(y), int(x.width)]);
    }

    fn select_backward(&mut self, dy: Act, dx: Act) {
        self.elementwise("select_rows_backward", RowKind::Outputs, dx.width, &[self.act_arg(dy), self.act_arg(dx), int(dx.width)]);
    }

    fn layer_norm(&mut self, x: Act, g: usize, b: usize, y: Act, stats: Act) {
        let args = [
            Self::kind(x.rows),
            self.act_arg(x),
            int(x.width),
            Arg::Pointer(self.places.dense),
            self.stride(),
            int(g),
            int(b),
            self.act_arg(y),
            self.act_arg(stats),
        ];
        self.go("layer_norm", [self.rows(x.rows).div_ceil(8), 1], 256, 0, &args);
    }

    fn layer_norm_backward(&mut self, x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act) {
        let (kind, width) = (Self::kind(x.rows), int(x.width));
        let (x_at, s_at, dy_at) = (self.act_arg(x), self.act_arg(stats), self.act_arg(dy));
        let grad = [kind, x_at, s_at, width, dy_at, Arg::Pointer(self.places.dense_grad), self.stride(), int(g), int(b)];
        self.go("layer_norm_weight", [self.shape.clients, x.width.div_ceil(32) as u32], 256, 2_048, &grad);
        let input = [kind, x_at, s_at, width, Arg::Pointer(self.places.dense), self.stride(), int(g), dy_at, self.act_arg(dx)];
        self.go("layer_norm_backward", [self.rows(x.rows).div_ceil(8), 1], 256, 0, &input);
    }

    fn linear(&mut self, x: Act, w: usize, b: usize, y: Act) {
        let name = self.pick("linear_forward", "linear_forward_tf32", "linear_forward_bf16");
        let args = [
            Self::kind(x.rows),
            self.act_arg(x),
            int(x.width),
            Arg::Pointer(self.places.dense),
            self.stride(),
            int(w),
            int(b),
            self.act_arg(y),
            int(y.width),
        ];
        self.go(name, [self.tiles(x.rows), y.width.div_ceil(64) as u32], 128, 27_648, &args);
    }

    fn linear_backward(&mut self, x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool) {
        if let Some(dx) = dx {
            let name = self.pick("linear_input", "linear_input_tf32", "linear_input_bf16");
            let args = [
                Self::kind(x.rows),
                self.act_arg(dy),
                int(dy.width),
                Arg::Pointer(self.places.dense),
                self.stride(),
                int(w),
                self.act_arg(dx),
                int(x.width),
                Arg::Int(i32::from(add)),
            ];
            self.go(name, [self.tiles(x.rows), x.width.div_ceil(64) as u32], 128, 27_648, &args);
        }
        self.linear_weight(x, dy, w, b);
    }

    fn attention(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        let rows = self.rows(q.rows);
        let args = [
            Self::kind(q.rows),
            Arg::Int(i32::from(mask == Mask::Full)),
            int(heads),
            self.act_arg(q),
            self.act_arg(k),
            self.act_arg(v),
            int(q.width),
            self.act_arg(y),
            self.act_arg(stats),
        ];
        self.go("attention_forward", [(rows * heads as u32).div_ceil(8), 1], 256, 0, &args);
    }

    fn attention_backward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, stats: Act, dy: Act, dq: Act, dk: Act, dv: Act) {
        let scratch = self.act(q.rows, attention_scratch(heads));
        let common = [
            Self::kind(q.rows),
            Arg::Int(i32::from(mask == Mask::Full)),
            int(heads),
            self.act_arg(q),
            self.act_arg(k),
            self.act_arg(v),
            int(q.width),
            self.act_arg(stats),
            self.act_arg(dy),
        ];
        let queries = [&common[..], &[self.act_arg(dq), self.act_arg(scratch)]].concat();
        self.go("attention_backward_q", [(self.rows(q.rows) * heads as u32).div_ceil(8), 1], 256, 0, &queries);
        let keys = [&common[..], &[self.act_arg(scratch), self.act_arg(dk), self.act_arg(dv)]].concat();
        self.go("attention_backward_kv", [(self.shape.tokens * heads as u32).div_ceil(8), 1], 256, 0, &keys);
    }

    fn gru(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        let args = [
            self.act_arg(xw),
            Arg::Pointer(self.places.dense),
            self.stride(),
            int(w),
            int(b),
            self.act_arg(h),
            self.act_arg(gates),
            self.act_arg(previous),
            int(h.width),
        ];
        self.go("gru_forward", [self.shape.sequences, 1], 128, 8 * h.width + 12 * h.width.max(128), &args);
    }

    fn gru_backward(&mut self, w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act) {
        let dhw = self.act(RowKind::Tokens, 3 * dh.width);
        let args = [
            Arg::Pointer(self.places.dense),
            self.stride(),
            int(w),
            self.act_arg(gates),
            self.act_arg(previous),
            self.act_arg(dh),
            self.act_arg(dxw),
            self.act_arg(dhw),
            int(dh.width),
        ];
        self.go("gru_backward", [self.shape.sequences, 1], 128, 16 * dh.width, &args);
        self.linear_weight(previous, dhw, w, b);
    }

    fn relu(&mut self, x: Act) {
        self.elementwise("relu", x.rows, x.width, &[Self::kind(x.rows), self.act_arg(x), int(x.width)]);
    }

    fn relu_backward(&mut self, y: Act, dx: Act) {
        self.elementwise("relu_backward", y.rows, y.width, &[Self::kind(y.rows), self.act_arg(y), self.act_arg(dx), int(y.width)]);
    }

    fn gelu(&mut self, x: Act, y: Act) {
        self.elementwise("gelu", x.rows, x.width, &[Self::kind(x.rows), self.act_arg(x), self.act_arg(y), int(x.width)]);
    }

    fn gelu_backward(&mut self, x: Act, dx: Act) {
        self.elementwise("gelu_backward", x.rows, x.width, &[Self::kind(x.rows), self.act_arg(x), self.act_arg(dx), int(x.width)]);
    }

    fn dropout(&mut self, site: u32, rate: f32, x: Act) {
        let Some([threshold, keep]) = self.mask(rate) else { return };
        let clock = Arg::Pointer(self.places.clock);
        let args = [Self::kind(x.rows), Arg::Int(site as i32), threshold, keep, clock, self.act_arg(x), int(x.width)];
        self.elementwise("dropout", x.rows, x.width, &args);
    }

    fn drop_items(&mut self, rate: f32) {
        let Some([threshold, keep]) = self.mask(rate).filter(|_| self.places.dropped != 0) else { return };
        let [clock, rows, dropped] = [self.places.clock, self.places.rows, self.places.dropped].map(Arg::Pointer);
        self.item_rows("drop_items", &[threshold, keep, clock, rows, dropped, int(self.d)]);
        self.read_rows = self.places.dropped;
    }

    fn drop_items_backward(&mut self, rate: f32) {
        let Some([threshold, keep]) = self.mask(rate).filter(|_| self.places.dropped != 0) else { return };
        let [clock, grad] = [self.places.clock, self.places.row_grad].map(Arg::Pointer);
        self.item_rows("drop_items_backward", &[threshold, keep, clock, grad, int(self.d)]);
        self.read_rows = self.places.rows;
    }

    fn add(&mut self, x: Act, y: Act) {
        self.elementwise("add", y.rows, y.width, &[Self::kind(y.rows), self.act_arg(x), self.act_arg(y), int(y.width)]);
    }

    fn add_mean(&mut self, factor: f32, x: Act, y: Act) {
        let args = [Self::kind(y.rows), Arg::Float(factor), self.act_arg(x), self.act_arg(y), int(y.width)];
        self.elementwise("add_mean", y.rows, y.width, &args);
    }

    fn copy(&mut self, x: Act, y: Act) {
        self.elementwise("copy", y.rows, y.width, &[Self::kind(y.rows), self.act_arg(x), self.act_arg(y), int(y.width)]);
    }

    fn zero(&mut self, x: Act) {
        self.elementwise("zero", x.rows, x.width, &[Self::kind(x.rows), self.act_arg(x), int(x.width)]);
    }

    fn next_item_loss(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let kind = match loss.rec {
            RecLoss::Bce => 0,
            RecLoss::SampledSoftmax => 1,
            RecLoss::Gbce => 2,
            RecLoss::Softmax => return self.full_softmax(h, dh),
        };
        let args = [
            Arg::Int(kind),
            self.act_arg(h),
            Arg::Pointer(self.read_rows),
            self.act_arg(dh),
            Arg::Pointer(self.places.coef),
            Arg::Pointer(self.places.loss),
            int(self.d),
        ];
        self.go("next_item_loss", [self.shape.examples.div_ceil(4), 1], 128, 0, &args);
        let rows = self.shape.client_rows.div_ceil(64).clamp(1, 65_535);
        let args = [self.act_arg(h), Arg::Pointer(self.places.coef), Arg::Pointer(self.places.row_grad), int(self.d)];
        self.go("next_item_rows", [self.shape.clients, rows], 128, 6_160, &args);
    }

    fn in_batch_info_nce(&mut self, settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act) {
        let ([z, inverse, lse], d) = (scratch.map(|act| self.act_arg(act)), int(self.d));
        let (cosine, tau) = (Arg::Int(i32::from(settings.similarity == Similarity::Cosine)), Arg::Float(settings.tau));
        self.go("in_batch_gather", [(2 * self.shape.pairs).div_ceil(4), 1], 128, 0, &[cosine, self.act_arg(h), z, inverse, d]);
        let grid = [self.shape.clients, (2 * self.shape.client_pairs).div_ceil(16).min(65_535)];
        let loss = Arg::Pointer(self.places.paired);
        self.go("in_batch_info_nce_stats", grid, 128, 19_456, &[z, inverse, tau, lse, loss, d]);
        let args = [cosine, z, inverse, lse, tau, Arg::Float(settings.weight), self.act_arg(dh), d];
        self.go("in_batch_info_nce_grad", grid, 128, 27_648, &args);
    }

    fn info_nce(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let kind = match loss.contrast {
            Contrast::None => return,
            Contrast::Joint => 1,
            Contrast::Decoupled => 2,
        };
        let views = self.shape.members.saturating_sub(1).max(1);
        let args = [
            Arg::Int(kind),
            Arg::Float(loss.tau),
            self.act_arg(h),
            self.act_arg(dh),
            Arg::Pointer(self.places.contrast),
            Arg::Int(views as i32),
            int(self.d),
        ];
        self.go("info_nce", [self.shape.groups.div_ceil(4), 1], 128, 48 * views as usize, &args);
    }
}
