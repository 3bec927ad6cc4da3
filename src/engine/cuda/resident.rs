//! The other way of local training: a whole visit of a client in one block of threads (`kernels/resident.cu`), its weights in
//! shared memory. Same arithmetic in the same order as step by step.

use super::chunk_memory::{ChunkMemory, Layout, Region, Sizes};
use super::packed::DeviceChunk;
use crate::backend::cuda::shape::Shape;
use crate::config::{Contrast, Pool, RecLoss, Resident as Choice, Residual, Settings};
use crate::device::DeviceError;
use crate::device::interface::{Buffer, Device, Fill, Limits, Result};
use crate::device::launch::{KernelSet, kernels};
use crate::device::mirror::mirrored;
use crate::model::{ModelSpec, Sasrec};

/// Activations of a block and behind the blocks, as in `kernels/resident.cuh`.
const ACTS: usize = 26;
const TAILS: usize = 6;
/// `MEANS` there: what is added to the kind of contrast where it compares means of hidden states.
const MEANS: i32 = 4;
/// Bytes kept for `Visit` there.
const VISIT_BYTES: usize = 512;
/// Shared memory that a block should have for activations, where several blocks could share a multiprocessor.
const WANTED_ACTIVATIONS: usize = 16 << 10;
/// Shared memory that the driver keeps of every block.
const RESERVED: usize = 1 << 10;

mirrored! {
    /// `struct Job` of `kernels/resident.cuh`, field by field.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub(crate) struct Job {
        steps: u64,
        optimiser: u64,
        clock: u64,
        order: u64,
        next: u64,
        global: u64,
        table: u64,
        items: u64,
        dense: u64,
        rows: u64,
        losses: u64,
        slots: u64,
        slot: i64,
        clients: i32,
        step_count: i32,
        at_first: i32,
        at_second: i32,
        at_row_first: i32,
        at_row_second: i32,
        at_gradient: i32,
        at_row_gradient: i32,
        at_dropped: i32,
        at_coef: i32,
        at_loss: i32,
        at_contrast: i32,
        at_arena: i32,
        arena_fast: i32,
        table_at: i32,
        scratch_at: i32,
        fast_at: i32,
        views: i32,
        length: i32,
        position_rows: i32,
        block_at: i32,
        block_length: i32,
        norm_at: i32,
        fast_block: i32,
        dim: i32,
        inner: i32,
        heads: i32,
        blocks: i32,
        normed: i32,
        scale: f32,
        rec: i32,
        contrast: i32,
        tau: f32,
        clip: f32,
        threshold: u32,
        keep: f32,
        item_threshold: u32,
        item_keep: f32,
    }
}

kernels! {
    // resident.cu: shared memory ends where the part of it for activations does.
    ResidentVisits = resident_visits resident_visits_tf32 resident_visits_bf16 (job: Job; threads: u32)
        threads as usize, (job.fast_at + 4 * job.arena_fast) as usize;
}

/// Addresses of a launch that do not belong to the chunk's room.
pub(super) struct Addresses {
    /// Coefficients of steps 1, 2, ...
    pub optimiser: u64,
    /// The `DropoutClock`, 0 without dropout.
    pub clock: u64,
    /// Global dense weights and item rows.
    pub dense: u64,
    /// See `dense`.
    pub table: u64,
}

/// How clients of a model are resident on a device.
pub(super) struct Resident {
    kernels: KernelSet,
    /// Place of the kernel's name: that of the precision.
    precision: usize,
    /// Threads of a block, and bytes of shared memory that a block has.
    threads: u32,
    shared: usize,
    /// Most blocks that run at a time.
    most_slots: u32,
    /// What does not depend on the chunk.
    job: Job,
    sizes: Sizes,
    /// Bytes of shared memory before the scratch of the warps.
    weights_bytes: usize,
    /// Place in the queue of clients.
    next: Buffer,
}

/// Width of a row of a matrix in shared memory, as in the kernel.
fn padded(width: usize) -> usize {
    if width.is_multiple_of(8) { width + 4 } else { width }
}

/// Floats of a slot being laid out, at multiples of 32.
struct Slot(usize);

impl Slot {
    fn put(&mut self, floats: usize) -> usize {
        let at = self.0;
        self.0 = (at + floats).next_multiple_of(32);
        at
    }
}

/// Bytes of weights, the client and the table of activations in shared memory.
fn weights_bytes(job: &Job) -> usize {
    let floats = (job.blocks * job.fast_block + 2 * job.dim) as usize;
    (4 * floats).next_multiple_of(16) + VISIT_BYTES + (8 * (job.blocks as usize * ACTS + TAILS)).next_multiple_of(16)
}

/// Bytes of the scratch of `warps` warps, for groups of `views` views; the clip uses 32 doubles of it.
fn scratch_bytes(warps: usize, views: usize) -> usize {
    (4 * 3 * views * warps).max(256).next_multiple_of(16)
}

impl Resident {
    /// Whether and how clients are resident. `None` where `gpu.resident` or the shapes say step by step.
    pub fn new(device: &dyn Device, settings: &Settings, spec: &ModelSpec, sizes: Sizes) -> Result<Option<Resident>> {
        let fitted = match settings.gpu.resident {
            Choice::Off => return Ok(None),
            _ => settings.why_not_resident().map_or_else(|| fit(settings, spec, &device.limits()), Err),
        };
        let (job, threads, shared) = match fitted {
            Ok(fitted) => fitted,
            Err(reason) if settings.gpu.resident == Choice::On => {
                return Err(DeviceError::Resident { device: device.name().into(), reason });
            }
            Err(_) => return Ok(None),
        };
        let (kernels, precision) = (KernelSet::load(device, &[KERNELS])?, settings.precision as usize);
        let resident = device.resident_blocks(kernels.find::<ResidentVisits>(precision)?, threads, shared)?.max(1);
        let most_slots = device.limits().multiprocessors.max(1) * resident;
        let (weights_bytes, next) = (weights_bytes(&job), device.alloc(4)?);
        Ok(Some(Resident { kernels, precision, threads, shared, most_slots, weights_bytes, job, sizes, next }))
    }

    /// Whether the warps' scratch fits beside the weights, each group of a client has a warp, and a slot's floats can be counted.
    pub fn holds(&self, shape: &Shape) -> bool {
        let warps = self.threads as usize / 32;
        shape.client_groups as usize <= warps
            && self.weights_bytes + self.scratch(shape) <= self.shared
            && self.slot(shape).1 <= i32::MAX as usize
    }

    fn scratch(&self, shape: &Shape) -> usize {
        scratch_bytes(self.threads as usize / 32, shape.members.saturating_sub(1) as usize)
    }

    /// Blocks that work on a chunk of `shape`.
    fn slots(&self, shape: &Shape) -> u32 {
        self.most_slots.min(shape.clients).max(1)
    }

    /// The job with its places in a slot, and the floats of a slot.
    fn slot(&self, shape: &Shape) -> (Job, usize) {
        let (p, rows) = (self.sizes.dense, shape.client_rows as usize * self.sizes.dim);
        let some = |on: bool, floats: usize| if on { floats } else { 0 };
        let mut slot = Slot(0);
        let mut put = |floats: usize| slot.put(floats) as i32;
        let (moments, clip) = (self.sizes.moments, self.sizes.clip);
        let examples = shape.client_examples as usize;
        let job = Job {
            at_first: put(some(moments, p)),
            at_second: put(some(moments, p)),
            at_row_first: put(some(moments, rows)),
            at_row_second: put(some(moments, rows)),
            at_gradient: put(some(clip, p)),
            at_row_gradient: put(some(clip, rows)),
            at_dropped: put(some(self.sizes.item_dropout, rows)),
            at_coef: put(examples * shape.width as usize),
            at_loss: put(examples),
            at_contrast: put(shape.client_groups as usize),
            at_arena: put(self.arena(shape)),
            ..self.job
        };
        (job, slot.0)
    }

    /// Floats of the activations of the largest client, as the kernel takes them, none in shared memory.
    fn arena(&self, shape: &Shape) -> usize {
        let j = &self.job;
        let (d, f, h) = (j.dim as usize, j.inner as usize, j.heads as usize);
        let take = |floats: usize| floats.next_multiple_of(8);
        let drops = usize::from(j.threshold > 0);
        let (tokens, outputs) = (shape.client_tokens as usize, shape.client_outputs as usize);
        let block = |rows: usize, last: usize| {
            let (wide, narrow) = (12 + last + 2 * drops, 2 * take(2 * rows) + take(2 * rows * h) + take(rows * h));
            5 * take(tokens * d) + wide * take(rows * d) + 2 * take(rows * f) + narrow
        };
        let blocks = j.blocks as usize;
        (blocks - 1) * block(tokens, 0) + block(outputs, 1) + 3 * take(outputs * d) + take(2 * outputs) + take(tokens * d) + take(tokens)
    }

    /// The memory of a chunk of `shape`: slabs and rows of the clients, and the slots.
    pub fn layout(&self, shape: &Shape) -> Layout {
        let clients = shape.clients as usize;
        let mut layout = super::chunk_memory::layout(&Sizes { moments: false, item_dropout: false, clip: false, ..self.sizes }, shape, 0);
        for (part, (_, bytes)) in layout.iter_mut().enumerate() {
            let kept = [Region::Dense, Region::Rows].iter().any(|&p| p as usize == part);
            *bytes = if kept { *bytes } else { 0 };
        }
        layout[Region::Arena as usize].1 = 4 * self.slots(shape) as usize * self.slot(shape).1;
        layout[Region::Losses as usize].1 = 16 * clients;
        layout
    }

    /// Puts the visits of a chunk's clients into the queue of the device.
    pub fn launch(&self, device: &dyn Device, room: &ChunkMemory, shape: &Shape, arrays: &DeviceChunk, at: &Addresses) -> Result<()> {
        let slots = self.slots(shape).min(arrays.clients as u32);
        let (job, slot) = self.slot(shape);
        let views = shape.members.saturating_sub(1) as i32;
        let fast_at = self.weights_bytes + self.scratch(shape);
        let job = Job {
            steps: arrays.table().address(),
            optimiser: at.optimiser,
            clock: at.clock,
            order: arrays.order(),
            next: self.next.address(),
            global: at.dense,
            table: at.table,
            items: arrays.items(),
            dense: room.region(Region::Dense).address(),
            rows: room.region(Region::Rows).address(),
            losses: room.region(Region::Losses).address(),
            slots: room.region(Region::Arena).address(),
            slot: slot as i64,
            clients: arrays.clients as i32,
            step_count: arrays.steps as i32,
            // No more than the largest client fills: what is left is the level 1 cache's, or a tool's that watches memory.
            arena_fast: ((self.shared - fast_at) / 4).min(self.arena(shape)) as i32,
            scratch_at: self.weights_bytes as i32,
            fast_at: fast_at as i32,
            views,
            ..job
        };
        device.fill(&self.next, 0, 4, Fill::Byte(0))?;
        // SAFETY: every address is that of a buffer of the engine or of the chunk, sized by `layout` for a shape that holds it.
        unsafe { self.kernels.launch(device, self.precision, [slots, 1], &ResidentVisits { job, threads: self.threads }) }
    }
}

/// The job of a model, threads and bytes of shared memory of a block; or what does not fit.
fn fit(settings: &Settings, spec: &ModelSpec, limits: &Limits) -> std::result::Result<(Job, u32, usize), String> {
    let m = &settings.model;
    let (d, f, blocks) = (spec.dim(), if m.ffn == 0 { m.dim as usize } else { m.ffn as usize }, m.blocks as usize);
    let square = |wide: &dyn Fn(usize) -> usize| 4 * (d * wide(d) + d) + d * wide(f) + f + f * wide(d) + d + 4 * d;
    let (block_length, fast_block) = (square(&|n| n), square(&padded));
    let (block_at, norm_at) = Sasrec::places(m);
    debug_assert_eq!((block_at, norm_at), (m.max_len as usize * d, block_at + blocks * block_length));
    let ((threshold, keep), (item_threshold, item_keep)) =
        (crate::base::rng::dropout_threshold(m.dropout), crate::base::rng::dropout_threshold(m.item_dropout));
    let means = settings.loss.contrast != Contrast::None && settings.loss.pool == Pool::Mean;
    let mut job = Job {
        length: spec.dense_len as i32,
        position_rows: m.max_len as i32,
        block_at: block_at as i32,
        block_length: block_length as i32,
        norm_at: norm_at as i32,
        fast_block: fast_block as i32,
        dim: d as i32,
        inner: f as i32,
        heads: m.heads as i32,
        blocks: blocks as i32,
        normed: i32::from(m.residual == Residual::Normed),
        scale: if m.scale_items { (d as f32).sqrt() } else { 1.0 },
        rec: match settings.loss.rec {
            RecLoss::Bce => 0,
            RecLoss::SampledSoftmax => 1,
            RecLoss::Gbce => 2,
            RecLoss::Softmax => return Err("loss.rec is `softmax`".into()),
        },
        contrast: match settings.loss.contrast {
            Contrast::None => 0,
            Contrast::Joint => 1,
            Contrast::Decoupled => 2,
        } | if means { MEANS } else { 0 },
        tau: settings.loss.tau,
        clip: settings.local.clip,
        threshold,
        keep,
        item_threshold,
        item_keep,
        ..Job::default()
    };
    let weights = weights_bytes(&job);
    job.table_at = (weights - VISIT_BYTES - (8 * (blocks * ACTS + TAILS)).next_multiple_of(16)) as i32;
    // Two blocks share a multiprocessor where both have room for a client's activations; they have 256 threads each, for their
    // registers must be shared too.
    let half = (limits.shared_per_multiprocessor / 2).saturating_sub(RESERVED);
    let (threads, shared) = match half >= weights + WANTED_ACTIVATIONS {
        true => (256, half.min(limits.shared_per_block)),
        false => (512, limits.shared_per_block),
    };
    // The scratch grows with the views of a group; three is what clients usually have.
    let need = weights + scratch_bytes(threads as usize / 32, 3);
    if need > shared {
        return Err(format!("its weights take {need} bytes of shared memory, a block has {shared}"));
    }
    Ok((job, threads, shared / 16 * 16))
}
