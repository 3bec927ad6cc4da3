//! The decoder on a GPU by the kernels of `kernels/decoder*.cu`, over the device layer that clients are trained on.
//!
//! Residual stream and sums are f32; what goes into a product, weights and the cache are f32, bf16 or f16. A text does not depend on
//! its batch: every number of a row is summed in the same order whatever else is computed. A step is nine launches a layer, or one recorded
//! graph where every text adds one token ([`steps`]), one upload before it, one of what is asked for, and a copy of the chosen tokens that is
//! waited for when the next step has begun.

pub(crate) mod ask;
pub(crate) mod attention;
pub(crate) mod kernels;
mod memory;
mod plan;
mod steps;
mod weights;
mod wide;

use super::network::{Attention, BLOCK, Batch, Forward, Norm, Ops, SampleRequest, StoredMatrix};
use super::spec::{Activation, Spec};
use super::weights::Stored;
use crate::device::interface::{Arriving, Limits, bytes_of_mut};
use crate::device::launch::{Blocks, KernelSet, Launch, Pointer};
use crate::device::{Buffer, Device, DeviceError, bytes_of};
use crate::{Error, Result};
use ask::RequestBytes;
use kernels::{AddRows, ChooseTokens, Embed, Gate, KERNELS, Multiply, Normalise, PickRows, Product, Shape, SomeOutputs};
use memory::{Lent, Spare};
use parking_lot::Mutex;
use plan::Lists;
use std::sync::Arc;
use steps::Steps;
pub use weights::Linear;

/// Rows are padded with zeros to a multiple of this number of elements.
const PAD: usize = 32;
/// Widest head.
const WIDEST: usize = 256;

/// Rows of activations: sums in f32 `[rows, width]`, or the input of a product `[rows, ld]`.
pub struct Array {
    memory: Lent,
    rows: usize,
    width: usize,
    is_input: bool,
}

impl Array {
    fn at(&self) -> Pointer {
        Pointer(self.memory.address())
    }
}

/// Factors of a norm `[width]`.
pub struct Vector {
    buffer: Buffer,
}

/// Cosines and sines `[positions, 2, rotated / 2]`.
pub struct Table {
    buffer: Buffer,
    rotated: usize,
}

/// Keys and values `[blocks, layers, kv_heads, 2, 16, padded]`.
pub struct Cache {
    buffer: Buffer,
    block_bytes: usize,
}

/// A batch's lists on the device.
pub struct Plan {
    memory: Lent,
    lists: Lists,
}

impl Plan {
    fn at(&self, range: &std::ops::Range<usize>) -> Pointer {
        Pointer(self.memory.buffer().at(4 * range.start))
    }
}

/// Chosen tokens on their way.
pub struct Answers {
    arriving: Box<dyn Arriving>,
    count: usize,
    vocab: usize,
}

/// A GPU with the kernels of one model.
pub struct Gpu {
    device: Arc<dyn Device>,
    kernels: KernelSet,
    limits: Limits,
    spare: Arc<Spare>,
    /// Where activations come from while a step runs in the memory of recorded ones.
    lent: Mutex<Option<Arc<Spare>>>,
    steps: Mutex<Steps>,
    number: Stored,
    group: usize,
    wide: bool,
}

impl Gpu {
    /// The decoder's kernels on `device`, for a model of `spec` computed with `number`.
    ///
    /// # Errors
    /// Where the kernels cannot be had there, or heads are wider than they take.
    pub fn new(device: Arc<dyn Device>, number: Stored, spec: &Spec) -> Result<Gpu> {
        if !Gpu::takes(spec) {
            return Err(Error::Usage(format!(
                "heads of {} numbers are wider than the GPU's kernels take ({WIDEST}); generate on the CPU (device `cpu`)",
                spec.head_dim
            )));
        }
        let kernels = KernelSet::load(&*device, &[KERNELS])?;
        let wide = wide::agrees(&*device, &kernels, number)?;
        let (spare, limits) = (Spare::new(device.clone()), device.limits());
        let steps = Mutex::new(Steps::new(device.clone()));
        Ok(Gpu { device, kernels, limits, spare, lent: Mutex::new(None), steps, number, group: spec.group(), wide })
    }

    /// Whether the kernels take a model of this shape.
    pub fn takes(spec: &Spec) -> bool {
        spec.head_dim <= WIDEST
    }

    /// Whether large products go by warpgroups; where there are such, a trial has given the same bits by them and by other tiles.
    pub fn wide(&self) -> bool {
        self.wide
    }

    /// What it computes on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Launches a kernel under the name of this GPU's numbers.
    fn go<L: Launch>(&self, blocks: impl Into<Blocks>, kernel: L) -> Result<()> {
        self.go_as(self.number as usize, blocks, kernel)
    }

    /// Launches a kernel under the name at `place`.
    fn go_as<L: Launch>(&self, place: usize, blocks: impl Into<Blocks>, kernel: L) -> Result<()> {
        // SAFETY: every pointer is of a buffer that outlives the queue's use of it (weights and cache by their owner, activations by
        // `Spare`), and sizes follow from the arrays' own.
        Ok(unsafe { self.kernels.launch(&*self.device, place, blocks, &kernel) }?)
    }

    /// Numbers of a padded row.
    pub(crate) fn ld(width: usize) -> usize {
        width.next_multiple_of(PAD)
    }

    /// Numbers of a head in the cache.
    fn padded(&self, head: usize) -> usize {
        head.next_multiple_of(16 / self.number.bytes())
    }

    /// Bytes of a block of the cache.
    fn block_bytes(&self, spec: &Spec) -> usize {
        spec.layers * spec.kv_heads * 2 * BLOCK * self.padded(spec.head_dim) * self.number.bytes()
    }

    /// Texts of `tokens` tokens that a cache may hold beside the weights, with a fifth of the free memory left for activations: at most
    /// 256.
    ///
    /// # Errors
    /// The device's.
    pub fn slots(&self, spec: &Spec, tokens: usize) -> Result<usize> {
        let free = self.device.memory()?.free as usize;
        Ok((free / 5 * 4 / (tokens.div_ceil(BLOCK).max(1) * self.block_bytes(spec))).clamp(1, 256))
    }

    fn take(&self, bytes: usize) -> Result<Lent> {
        if let Some(spare) = &*self.lent.lock() {
            return Ok(spare.take(bytes)?);
        }
        match self.spare.take(bytes) {
            // Recorded steps make room, where none is under way: that makes room by itself.
            Err(e) if e.is_out_of_memory() => match self.steps.try_lock() {
                Some(mut steps) => {
                    steps.clear();
                    Ok(self.spare.take(bytes)?)
                }
                None => Err(e.into()),
            },
            other => Ok(other?),
        }
    }

    /// Runs `work` with activations from `spare`.
    fn lending<T>(&self, spare: &Arc<Spare>, work: impl FnOnce() -> Result<T>) -> Result<T> {
        *self.lent.lock() = Some(spare.clone());
        let result = work();
        *self.lent.lock() = None;
        result
    }

    fn sums(&self, rows: usize, width: usize) -> Result<Array> {
        Ok(Array { memory: self.take(4 * rows * width)?, rows, width, is_input: false })
    }

    fn input(&self, rows: usize, width: usize) -> Result<Array> {
        let memory = self.take(self.number.bytes() * rows * Gpu::ld(width))?;
        Ok(Array { memory, rows, width, is_input: true })
    }

    /// A product's input of its own with the numbers of `x`.
    fn copied(&self, x: &Array) -> Result<Array> {
        let to = self.input(x.rows, x.width)?;
        let bytes = self.number.bytes() * x.rows * Gpu::ld(x.width);
        self.device.copy(Gpu::expect(x, true, "a step")?.memory.buffer(), 0, to.memory.buffer(), 0, bytes)?;
        Ok(to)
    }

    /// The lists of `batch` on the device, in memory of `spare`.
    fn plan_in(&self, spare: &Arc<Spare>, batch: &Batch) -> Result<Plan> {
        let lists = Lists::new(batch, self.group);
        let memory = spare.take(4 * lists.numbers.len())?;
        self.device.upload(memory.buffer(), 0, bytes_of(&lists.numbers))?;
        Ok(Plan { memory, lists })
    }

    /// The array where it is of the form that an operation takes.
    fn expect<'a>(x: &'a Array, is_input: bool, what: &str) -> Result<&'a Array> {
        if x.is_input == is_input {
            return Ok(x);
        }
        Err(DeviceError::Misuse(format!("{what} of {}", if is_input { "sums" } else { "a product's input" })).into())
    }

    /// `y = x w`, or `y += x w`.
    fn multiply(&self, y: &Array, x: &Array, w: &Linear, add: bool) -> Result<()> {
        let x = Gpu::expect(x, true, "a product")?;
        let (number, limits, wide) = (self.number, &self.limits, self.wide);
        let shape = Shape { number, rows: x.rows, depth: w.inputs, outputs: w.outputs, limits, wide };
        let Product { place, blocks, groups } = shape.product();
        let kernel = Multiply {
            y: y.at(),
            x: x.at(),
            w: (&w.weights).into(),
            bias: w.bias(),
            rows: x.rows as i32,
            outputs: w.outputs as i32,
            ld: Gpu::ld(w.inputs) as i32,
            add: i32::from(add),
            groups,
        };
        self.go_as(place, blocks, kernel)
    }

    /// `rows` of `x`, which are numbers at `list`.
    fn gather(&self, x: &Array, list: Pointer, rows: usize) -> Result<Array> {
        let (to, words) = if x.is_input {
            (self.input(rows, x.width)?, Gpu::ld(x.width) * self.number.bytes() / 4)
        } else {
            (self.sums(rows, x.width)?, x.width)
        };
        self.go([rows as u32, 1], PickRows { to: to.at(), from: x.at(), rows: list, words: words as i32 })?;
        Ok(to)
    }
}

impl Ops for Gpu {
    type Array = Array;
    type Matrix = Linear;
    type Vector = Vector;
    type Table = Table;
    type Cache = Cache;
    type Plan = Plan;
    type Answers = Answers;

    fn depth(&self) -> usize {
        2
    }

    fn step_rows(&self) -> usize {
        2048
    }

    fn matrix(&self, parts: &[StoredMatrix<'_>], bias: Option<Vec<f32>>) -> Result<Linear> {
        Linear::upload(&*self.device, self.number, parts, bias)
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vector> {
        Ok(Vector { buffer: self.device.upload_new(&values)? })
    }

    fn table(&self, values: Vec<f32>, rotated: usize) -> Result<Table> {
        Ok(Table { buffer: self.device.upload_new(&values)?, rotated })
    }

    fn cache(&self, spec: &Spec, blocks: usize) -> Result<Cache> {
        let block_bytes = self.block_bytes(spec);
        let buffer = self.device.alloc(blocks.saturating_mul(block_bytes)).map_err(|e| match e {
            DeviceError::OutOfMemory { device, wanted, free, .. } => Error::Usage(format!(
                "{} tokens of keys and values need {:.2} GiB, {device} has {:.2} GiB free beside the weights; write fewer texts side by \
                 side (`views.llm.batch`, `--batch`) or shorter ones",
                blocks * BLOCK,
                wanted as f64 / f64::from(1 << 30),
                free as f64 / f64::from(1 << 30),
            )),
            other => other.into(),
        })?;
        Ok(Cache { buffer, block_bytes })
    }

    fn copy_block(&self, cache: &mut Cache, from: u32, to: u32) -> Result<()> {
        let at = |block: u32| block as usize * cache.block_bytes;
        Ok(self.device.copy(&cache.buffer, at(from), &cache.buffer, at(to), cache.block_bytes)?)
    }

    fn plan(&self, batch: &Batch) -> Result<Plan> {
        self.plan_in(&self.spare, batch)
    }

    fn run(&self, batch: &Batch, cache: &mut Cache, forward: &Forward<'_, Gpu>) -> Result<Array> {
        if steps::decodes(batch) { steps::run(self, batch, cache, forward) } else { forward(&self.plan(batch)?, cache) }
    }

    fn embed(&self, table: &Linear, batch: &Batch, plan: &Plan, scale: f32) -> Result<Array> {
        let rows = batch.tokens.len();
        let x = self.sums(rows, table.inputs)?;
        let (width, ld) = (table.inputs as i32, Gpu::ld(table.inputs) as i32);
        let tokens = plan.at(&plan.lists.tokens);
        self.go([rows as u32, 1], Embed { x: x.at(), table: (&table.weights).into(), tokens, width, ld, scale })?;
        Ok(x)
    }

    fn norm(&self, x: &Array, norm: &Norm<Vector>) -> Result<Array> {
        let x = Gpu::expect(x, false, "a norm")?;
        let y = self.input(x.rows, x.width)?;
        let (width, ld) = (x.width as i32, Gpu::ld(x.width) as i32);
        let kernel = Normalise { y: y.at(), x: x.at(), weight: (&norm.weight.buffer).into(), width, ld, eps: norm.eps };
        self.go([x.rows as u32, 1], kernel)?;
        Ok(y)
    }

    fn linear(&self, x: &Array, w: &Linear) -> Result<Array> {
        let y = self.sums(x.rows, w.outputs)?;
        self.multiply(&y, x, w, false)?;
        Ok(y)
    }

    fn attend(&self, qkv: Array, a: &Attention<'_, Gpu>, batch: &Batch, plan: &Plan, cache: &mut Cache) -> Result<Array> {
        attention::attend(self, &qkv, a, batch.tokens.len(), plan, cache)
    }

    fn gated(&self, gate_up: Array, activation: Activation) -> Result<Array> {
        let inner = gate_up.width / 2;
        let y = self.input(gate_up.rows, inner)?;
        let ld = Gpu::ld(inner);
        let gelu = i32::from(activation == Activation::GeluTanh);
        let kernel = Gate { y: y.at(), gate_up: gate_up.at(), inner: inner as i32, ld: ld as i32, gelu };
        self.go([gate_up.rows as u32, ld.div_ceil(128).min(8) as u32], kernel)?;
        Ok(y)
    }

    fn add(&self, x: &mut Array, y: Array) -> Result<()> {
        let y = Gpu::expect(&y, true, "a sum")?;
        let (width, ld) = (x.width as i32, Gpu::ld(x.width) as i32);
        self.go([x.rows as u32, 1], AddRows { x: x.at(), y: y.at(), width, ld })
    }

    fn add_linear(&self, x: &mut Array, y: &Array, w: &Linear) -> Result<()> {
        self.multiply(Gpu::expect(x, false, "a sum")?, y, w, true)
    }

    fn pick(&self, x: Array, batch: &Batch, plan: &Plan) -> Result<Array> {
        self.gather(&x, plan.at(&plan.lists.wanted), batch.wanted.len())
    }

    fn logits(&self, x: &Array, head: &Linear, cap: Option<f32>) -> Result<Vec<f32>> {
        let logits = self.linear(x, head)?;
        let mut values = vec![0f32; x.rows * head.outputs];
        self.device.download(logits.memory.buffer(), 0, bytes_of_mut(&mut values))?;
        if let Some(cap) = cap {
            values.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh());
        }
        Ok(values)
    }

    fn ask(&self, x: Array, head: &Linear, cap: Option<f32>, asks: &[SampleRequest<'_>]) -> Result<Answers> {
        let vocab = head.outputs;
        let packed = RequestBytes::new(asks, vocab);
        let lists = self.take(packed.bytes.len())?;
        self.device.upload(lists.buffer(), 0, &packed.bytes)?;
        let at = |range: &std::ops::Range<usize>| Pointer(lists.buffer().at(range.start));
        let wide = if packed.row_count == x.rows && asks.iter().enumerate().all(|(i, ask)| ask.row == i) {
            self.linear(&x, head)?
        } else {
            self.linear(&self.gather(&x, at(&packed.rows), packed.row_count)?, head)?
        };
        let narrow = self.take(4 * packed.pair_count)?;
        let some = SomeOutputs {
            y: Pointer(narrow.address()),
            x: x.at(),
            w: (&head.weights).into(),
            bias: head.bias(),
            pairs: at(&packed.pairs),
            count: packed.pair_count as i32,
            ld: Gpu::ld(head.inputs) as i32,
        };
        self.go([packed.pair_count.div_ceil(8) as u32, 1], some)?;
        let tokens = self.take(4 * asks.len())?;
        let choose = ChooseTokens {
            tokens: Pointer(tokens.address()),
            logits: wide.at(),
            some: Pointer(narrow.address()),
            asks: at(&packed.asks),
            allowed: at(&packed.allowed),
            seen: at(&packed.seen),
            biases: at(&packed.biases),
            vocab: vocab as i32,
            cap: cap.unwrap_or(0.0),
        };
        self.go([asks.len() as u32, 1], choose)?;
        let arriving = self.device.fetch(tokens.buffer(), 0, 4 * asks.len())?;
        Ok(Answers { arriving, count: asks.len(), vocab })
    }

    fn answers(&self, answers: Answers) -> Result<Vec<Option<u32>>> {
        let mut tokens = vec![0i32; answers.count];
        answers.arriving.take(bytes_of_mut(&mut tokens))?;
        if let Some(token) = tokens.iter().find(|t| **t >= answers.vocab as i32) {
            let message =
                format!("{} chose token {token} of {}; check the GPU: lumos gpu-check --only text", self.device.name(), answers.vocab);
            return Err(Error::Usage(message));
        }
        Ok(tokens.into_iter().map(|t| u32::try_from(t).ok()).collect())
    }
}
