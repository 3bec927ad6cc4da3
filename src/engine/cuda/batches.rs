//! A participant with many sequences on the device: its weights, its optimiser, and mini-batches whose micro-batches are the clients of a launch.
//!
//! The micro-batches of a mini-batch start from the participant's weights. Forward and backward run for as many of them at a time as memory takes,
//! one recorded graph a launch shape; `kernels/batches.cu` adds their gradients up in fixed point, and the optimiser steps on all of the
//! participant's weights. So the weights have the same bits for any cutting of a mini-batch into launches.

use super::activations::arena_floats;
use super::chunk_memory::{ChunkMemory, Layout, Region, Sizes, bytes, layout};
use super::chunks::ChunkTrainer;
use super::kept::Own;
use super::packed::{DeviceChunk, HostChunk, PACKED_BYTES};
use crate::backend::cuda::kernels::{
    AddGradients, AddRowGradients, Broadcast, ClientLosses, ClipFactor, DropTable, GatherRows, GradientSquares, StepSpan, TakeGradients,
};
use crate::backend::cuda::ops::{DeviceBackend, Places};
use crate::backend::cuda::optimiser::{DropoutClock, OPTIMISER_BYTES, OptimiserStep};
use crate::backend::cuda::shape::Shape;
use crate::base::rng;
use crate::device::interface::{Buffer, Device, Fill, Result, bytes_of, bytes_of_mut};
use crate::device::launch::Pointer;
use crate::device::recent::RecentGraphs;
use crate::engine::Moments;

/// Weights that a block of `gradient_squares` adds up.
const SPAN: usize = 1 << 14;

/// `refused` while no mini-batch is.
const NOT_REFUSED: u32 = u32::MAX;

/// Weights, moments, gradients `[n]` f32 of one kind of parameters and the sums of their gradients `[n]` i64.
struct Parameters {
    p: Buffer,
    m: Buffer,
    s: Buffer,
    g: Buffer,
    sums: Buffer,
    n: usize,
}

impl Parameters {
    fn new(device: &dyn Device, n: usize) -> Result<Parameters> {
        let floats = || device.alloc(4 * n);
        Ok(Parameters { p: floats()?, m: floats()?, s: floats()?, g: floats()?, sums: device.alloc(8 * n)?, n })
    }

    fn buffers(&self) -> [&Buffer; 5] {
        [&self.p, &self.m, &self.s, &self.g, &self.sums]
    }

    /// Blocks of a kernel that walks over `each` weights a block.
    fn blocks(&self, each: usize) -> [u32; 2] {
        [self.n.div_ceil(each).clamp(1, 1 << 20) as u32, 1]
    }
}

/// Micro-batches of a mini-batch that are trained by the same launches.
pub(super) struct MicroBatches {
    /// Their packed arrays and launch shape.
    pub host: HostChunk,
    /// See `host`.
    pub shape: Shape,
    /// Share of each in the mini-batch's positions.
    pub share: Vec<f32>,
    /// Keys of their dropout.
    pub keys: Vec<[u32; 2]>,
}

/// What numbers a mini-batch's draws and its optimiser's step.
#[derive(Clone, Copy)]
pub(super) struct StepAt {
    /// Participant and round.
    pub client: u32,
    /// See `client`.
    pub round: u64,
    /// Key of the dropout on the item table.
    pub key: [u32; 2],
    /// Mini-batch of the visit, from 0.
    pub number: u32,
    /// Step of the optimiser, from 1.
    pub step: u32,
}

impl StepAt {
    fn clock(&self, key: [u32; 2], own: u32) -> DropoutClock {
        DropoutClock { own, ..DropoutClock::new(key, self.round as u32) }
    }
}

/// The participant at work. Its memory is kept for the next one.
pub(super) struct BatchTrainer {
    dense: Parameters,
    items: Parameters,
    /// The item table as the step at hand sees it, where it is dropped out.
    dropped: Option<Buffer>,
    /// Sums of squares of spans, the factor of the clip, the first mini-batch that is refused.
    squares: Buffer,
    scale: Buffer,
    refused: Buffer,
    /// What the micro-batches' memory depends on: they keep no moments.
    sizes: Sizes,
    room: Option<ChunkMemory>,
    arrays: Option<DeviceChunk>,
    graphs: RecentGraphs<Shape>,
    shape: Option<Shape>,
    /// Shares of the micro-batches at hand, and their clocks behind a first one.
    share: Option<Buffer>,
    clocks: Option<Buffer>,
    /// Losses `[micro-batches of the visit, 2]` f64.
    losses: Option<Buffer>,
    /// Moments before the round at hand, where the participant keeps them: dense first and second, rows first and second.
    before: Option<[Buffer; 4]>,
    /// Whether the round that trained last has not succeeded, or not yet: `before` is what holds.
    pending: bool,
}

impl BatchTrainer {
    /// Memory for a participant under the model of `on`, with `rows` item rows; `keeps`: its moments are kept from round to round.
    pub fn new(on: &ChunkTrainer, rows: usize, keeps: bool) -> Result<BatchTrainer> {
        let device = on.device();
        let (p, n) = (on.sizes.dense, rows * on.sizes.dim);
        let (dense, items) = (Parameters::new(device, p)?, Parameters::new(device, n)?);
        let before =
            |keeps: bool| keeps.then(|| Ok([device.alloc(4 * p)?, device.alloc(4 * p)?, device.alloc(4 * n)?, device.alloc(4 * n)?]));
        Ok(BatchTrainer {
            dropped: if on.sizes.item_dropout { Some(device.alloc(4 * n)?) } else { None },
            squares: device.alloc(8 * (p.div_ceil(SPAN) + n.div_ceil(SPAN)))?,
            scale: device.alloc(4)?,
            refused: device.alloc(4)?,
            sizes: Sizes { moments: false, item_dropout: false, clip: false, ..on.sizes },
            room: None,
            arrays: None,
            graphs: RecentGraphs::default(),
            shape: None,
            share: None,
            clocks: None,
            losses: None,
            before: before(keeps).transpose()?,
            pending: false,
            dense,
            items,
        })
    }

    /// Bytes of the participant's weights and what belongs to them, chunks of micro-batches aside.
    pub fn fixed_bytes(&self) -> u64 {
        let buffers = self.dense.buffers().into_iter().chain(self.items.buffers()).chain(&self.dropped).chain(&self.losses);
        let rest = [&self.squares, &self.scale, &self.refused].into_iter().chain(self.before.iter().flatten());
        buffers.chain(rest).map(|b| b.bytes() as u64).sum()
    }

    /// The dense weights `[P]` and the item rows `[I, d]` after training.
    pub fn weights(&self) -> [&Buffer; 2] {
        [&self.dense.p, &self.items.p]
    }

    fn moments(&self) -> [&Buffer; 4] {
        [&self.dense.m, &self.dense.s, &self.items.m, &self.items.s]
    }

    /// Waits and copies the moments after the last round that succeeded.
    pub fn fetch_moments(&self, device: &dyn Device) -> Result<Moments> {
        let held = self.before.as_ref().filter(|_| self.pending).map_or(self.moments(), |before| before.each_ref());
        let mut moments = held.map(|buffer| vec![0f32; buffer.bytes() / 4]);
        for (buffer, values) in held.into_iter().zip(&mut moments) {
            device.download(buffer, 0, bytes_of_mut(values))?;
        }
        Ok(moments)
    }

    /// Goes on with `moments`.
    pub fn set_moments(&mut self, device: &dyn Device, moments: &Moments) -> Result<()> {
        for (buffer, values) in self.moments().into_iter().zip(moments) {
            device.upload(buffer, 0, bytes_of(values))?;
        }
        self.pending = false;
        Ok(())
    }

    /// The round has succeeded: its moments hold.
    pub fn commit(&mut self) {
        self.pending = false;
    }

    /// Starts a visit of `parts` micro-batches from the global weights, with the moments of the rounds before where `goes_on`.
    pub fn begin(&mut self, on: &ChunkTrainer, parts: usize, goes_on: bool) -> Result<()> {
        let device = on.device();
        for (of, from) in [(&self.dense, &on.dense), (&self.items, &on.table)] {
            device.copy(from, 0, &of.p, 0, 4 * of.n)?;
            // Left over where a visit before it failed.
            device.zero(&of.sums)?;
        }
        if let Some(before) = &self.before {
            for (now, before) in self.moments().into_iter().zip(before) {
                let (from, to) = if self.pending { (before, now) } else { (now, before) };
                device.copy(from, 0, to, 0, now.bytes())?;
            }
            self.pending = true;
        }
        if !goes_on {
            self.moments().into_iter().try_for_each(|buffer| device.zero(buffer))?;
        }
        if let Some([dense, items]) = on.second() {
            device.copy(dense, 0, &self.dense.s, 0, 4 * self.dense.n)?;
            device.copy(items, 0, &self.items.s, 0, 4 * self.items.n)?;
        }
        device.fill(&self.refused, 0, 4, Fill::Word(NOT_REFUSED))?;
        if self.losses.as_ref().is_none_or(|b| b.bytes() < 16 * parts) {
            self.losses = None;
            self.losses = Some(device.alloc(16 * parts)?);
        }
        Ok(())
    }

    /// Puts weights that the participant keeps in the place of the global ones that it began with.
    pub fn start_from_own(&self, device: &dyn Device, own: &Own) -> Result<()> {
        let state = own.state(0);
        if let Some(dense) = own.dense(&state) {
            device.upload(&self.dense.p, 0, bytes_of(&dense))?;
        }
        if state.rows.is_empty() {
            return Ok(());
        }
        let all: Vec<u32> = (0..(self.items.n / self.sizes.dim) as u32).collect();
        device.upload(&self.items.p, 0, bytes_of(&own.rows(&state, &all)))
    }

    /// Bytes that micro-batches of `shape` take as the plan counts them, without their packed arrays.
    pub fn part_bytes(&self, on: &ChunkTrainer, shape: &Shape) -> u64 {
        bytes(&self.layout(on, &shape.rounded()))
    }

    fn layout(&self, on: &ChunkTrainer, shape: &Shape) -> Layout {
        layout(&self.sizes, shape, arena_floats(&on.model, &on.settings.loss, shape))
    }

    /// Gives the memory of micro-batches back; the next ones take what they need.
    pub fn release(&mut self, device: &dyn Device) -> Result<()> {
        device.synchronize()?;
        self.graphs.clear();
        (self.room, self.arrays, self.shape, self.share, self.clocks) = (None, None, None, None, None);
        Ok(())
    }

    /// Bytes of what micro-batches hold: the room, the packed arrays, shares, clocks and graphs.
    fn held_for_parts(&self) -> u64 {
        let arrays = self.arrays.as_ref().map_or(0, DeviceChunk::bytes);
        let buffers = self.share.iter().chain(&self.clocks).map(Buffer::bytes).sum::<usize>();
        self.room.as_ref().map_or(0, ChunkMemory::bytes) + (arrays + buffers) as u64 + self.graphs.bytes()
    }

    /// Makes room for micro-batches of `shape`, and counts what is then held.
    fn make_room(&mut self, on: &mut ChunkTrainer, shape: &Shape, arrays: usize) -> Result<()> {
        let layout = self.layout(on, shape);
        let (share, clocks) = (4 * shape.clients as usize, size_of::<DropoutClock>() * (1 + shape.clients as usize));
        let arrays = arrays.max(self.arrays.as_ref().map_or(0, DeviceChunk::bytes));
        let room = bytes(&layout)
            + (PACKED_BYTES + OPTIMISER_BYTES + share + clocks + arrays) as u64
            + self.graphs.bytes_with(shape, on.device().graph_bytes());
        on.predicted = on.predicted.max(on.fixed_bytes() + on.held_for_training() + self.fixed_bytes() + room.max(self.held_for_parts()));
        if self.shape == Some(*shape) {
            return Ok(());
        }
        // Graphs keep addresses: none may outlive the room. Work that still runs in it is waited for.
        let device = on.device();
        device.synchronize()?;
        self.graphs.clear();
        (self.room, self.share, self.clocks, self.shape) = (None, None, None, None);
        self.room = Some(ChunkMemory::new(device, &layout, OPTIMISER_BYTES)?);
        (self.share, self.clocks) = (Some(device.alloc(share)?), Some(device.alloc(clocks)?));
        self.shape = Some(*shape);
        Ok(())
    }

    /// Drops the item table out for a mini-batch, where it is dropped out.
    pub fn begin_step(&self, on: &ChunkTrainer, at: &StepAt) -> Result<()> {
        match &self.dropped {
            Some(dropped) => self.drop_table(on, at, &self.items.p, dropped),
            None => Ok(()),
        }
    }

    fn drop_table(&self, on: &ChunkTrainer, at: &StepAt, from: &Buffer, to: &Buffer) -> Result<()> {
        let (threshold, keep) = rng::dropout_threshold(on.settings.model.item_dropout);
        let clock = at.clock(at.key, 0);
        let (x, y, n) = (from.into(), to.into(), self.items.n as i64);
        on.go(self.items.blocks(2048), DropTable { clock, number: at.step, client: at.client, threshold, keep, x, y, n })
    }

    /// Adds the gradients of `parts` to the sums of the mini-batch; their losses go to place `first` of those of the visit. Returns when
    /// everything is in the device's queue. Where memory is short nothing has been added.
    pub fn add(&mut self, on: &mut ChunkTrainer, parts: &mut MicroBatches, at: &StepAt, first: usize) -> Result<()> {
        let shape = parts.shape.rounded().of_launches();
        let shape = self.shape.map_or(shape, |held| held.larger(&shape));
        self.make_room(on, &shape, parts.host.room())?;
        let device = on.device.clone();
        let arrays = DeviceChunk::upload(&*device, &parts.host, self.arrays.take())?;
        let begun = on.spans.begin(&*device)?;
        let result = self.add_on(on, parts, &arrays, at, first, &shape);
        on.spans.end(&*device, begun)?;
        self.arrays = Some(arrays);
        result
    }

    fn add_on(
        &mut self,
        on: &ChunkTrainer,
        parts: &MicroBatches,
        arrays: &DeviceChunk,
        at: &StepAt,
        first: usize,
        shape: &Shape,
    ) -> Result<()> {
        let device = on.device();
        let clocks = self.clocks.as_ref().expect("made with the room");
        let mut drawn = vec![at.clock(at.key, 1)];
        drawn.extend(parts.keys.iter().map(|&key| at.clock(key, 0)));
        device.upload(clocks, 0, bytes_of(&drawn))?;
        let share = self.share.as_ref().expect("made with the room");
        device.upload(share, 0, bytes_of(&parts.share))?;
        if !self.graphs.has(shape) {
            let label = format!("{} micro-batches of a mini-batch, {} tokens", shape.clients, shape.tokens);
            let graph = device.capture(&label, &mut || self.record(on, shape))?;
            self.graphs.add(*shape, graph);
        }
        let room = self.room.as_ref().expect("made before");
        let part = |p: Region| Pointer::from(room.region(p));
        let (p, d, count) = (self.sizes.dense, self.sizes.dim as i32, arrays.clients);
        let (parts, stride, length) = (count as i32, p as i64, p as i32);
        let kernel = Broadcast { global: (&self.dense.p).into(), slab: part(Region::Dense), clients: parts, stride, length };
        on.go([count as u32, p.div_ceil(2048) as u32], kernel)?;
        let (items, table) = (Pointer(arrays.items()), self.dropped.as_ref().unwrap_or(&self.items.p).into());
        let kernel = GatherRows { items, table, rows: part(Region::Rows), count: arrays.rows as i32, d };
        on.go([(arrays.rows.div_ceil(8) as u32).max(1), 1], kernel)?;
        device.fill(room.region(Region::Losses), 0, 16 * count, Fill::Byte(0))?;
        device.copy(arrays.table(), 0, &room.step, 0, PACKED_BYTES)?;
        // SAFETY: the graph holds the launches of `record`, whose buffers are the room's and the clocks, and both are held with it.
        unsafe { device.replay(self.graphs.get(shape).expect("added above")) }?;
        device.copy(room.region(Region::Losses), 0, self.losses.as_ref().expect("made by `begin`"), 16 * first, 16 * count)?;

        let (share, number, refused) = (Pointer::from(share), at.number, Pointer::from(&self.refused));
        let (g, sums) = (part(Region::DenseGrad), (&self.dense.sums).into());
        on.go([p.div_ceil(256) as u32, 1], AddGradients { g, share, parts, stride, length, sums, number, refused })?;
        let (g, sums, part_rows) = (part(Region::RowGrad), (&self.items.sums).into(), Pointer(arrays.client_rows()));
        let blocks = shape.client_rows.div_ceil(16).clamp(1, 65_535);
        on.go([count as u32, blocks], AddRowGradients { g, item: items, part_rows, share, parts, d, sums, number, refused })
    }

    /// Forward and backward of the micro-batches, and their losses.
    fn record(&self, on: &ChunkTrainer, shape: &Shape) -> Result<()> {
        let device = on.device();
        let room = self.room.as_ref().expect("made before recording");
        for gradient in [Region::DenseGrad, Region::RowGrad] {
            device.zero(room.region(gradient))?;
        }
        let clocks = self.clocks.as_ref().filter(|_| on.settings.model.dropout > 0.0).map_or(0, Buffer::address);
        // The rows are dropped out already.
        let places = Places { dropped: 0, ..room.places(clocks) };
        let floats = room.region(Region::Arena).bytes() / 4;
        let dims = (self.sizes.dim, self.sizes.dense);
        let mut be = DeviceBackend::new(device, &on.kernels, *shape, dims, places, floats, on.settings.precision);
        on.model.train(&mut be, &on.settings.loss);
        let at = |p: Region| Pointer::from(room.region(p));
        let some = |on: bool, p: Region| if on { at(p) } else { Pointer::NULL };
        let (contrast, pairs) = (some(shape.groups > 0, Region::Contrast), some(shape.pairs > 0, Region::Paired));
        let kernel = ClientLosses { step: be.step(), loss: at(Region::Loss), contrast, pairs, out: at(Region::Losses) };
        be.go([shape.clients.div_ceil(4), 1], kernel);
        be.finish()
    }

    /// The optimiser's step from the sums of a mini-batch, times `factor`.
    pub fn step(&self, on: &ChunkTrainer, at: &StepAt, factor: f32) -> Result<()> {
        let local = &on.settings.local;
        let kinds = [&self.dense, &self.items];
        for of in kinds {
            let kernel = TakeGradients { sums: (&of.sums).into(), factor, g: (&of.g).into(), n: of.n as i64 };
            on.go(of.blocks(1024), kernel)?;
        }
        if self.dropped.is_some() {
            self.drop_table(on, at, &self.items.g, &self.items.g)?;
        }
        let clips = local.clip > 0.0;
        if clips {
            let mut place = 0;
            for of in kinds {
                let spans = of.n.div_ceil(SPAN);
                let squares = Pointer(self.squares.at(8 * place));
                on.go([spans as u32, 1], GradientSquares { g: (&of.g).into(), n: of.n as i64, span: SPAN as i32, squares })?;
                place += spans;
            }
            let (squares, scale) = ((&self.squares).into(), (&self.scale).into());
            on.go([1, 1], ClipFactor { squares, count: place as i32, clip: local.clip, scale })?;
        }
        let opt = OptimiserStep::new(&on.settings.local_at(at.round), at.step);
        let (scale, refused) = (if clips { (&self.scale).into() } else { Pointer::NULL }, (&self.refused).into());
        for (of, start) in kinds.into_iter().zip([&on.dense, &on.table]) {
            let [p, m, s, g, start] = [&of.p, &of.m, &of.s, &of.g, start].map(Pointer::from);
            on.go(of.blocks(1024), StepSpan { opt, scale, refused, p, m, s, g, start, n: of.n as i64 })?;
        }
        Ok(())
    }

    /// Waits for the visit. Gives the first mini-batch whose gradient is not finite or too large, and the losses of `parts` micro-batches.
    pub fn finish(&self, device: &dyn Device, parts: usize) -> Result<(Option<u32>, Vec<[f64; 2]>)> {
        let losses: Vec<f64> = device.download_vec(self.losses.as_ref().expect("made by `begin`"), 0, 2 * parts)?;
        let refused: Vec<u32> = device.download_vec(&self.refused, 0, 1)?;
        Ok((Some(refused[0]).filter(|&number| number != NOT_REFUSED), losses.chunks_exact(2).map(|l| [l[0], l[1]]).collect()))
    }
}
