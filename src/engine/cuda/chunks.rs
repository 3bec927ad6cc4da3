//! Local training of chunks of clients on a device, and the sums of what they changed.
//!
//! The global weights stay on the device. A chunk is uploaded packed; every client starts from the global weights; each local
//! step is one recorded graph (one a launch shape) that reads what step it is from device memory; then one pass adds the changes
//! in fixed point.

use super::across::CommonRows;
use super::activations::arena_floats;
use super::chunk_memory::{ChunkMemory, Layout, Region, Sizes, bytes, layout};
use super::kept::Own;
use super::launches::{factor_bytes, slot_room};
use super::packed::{DeviceChunk, HostChunk, PACKED_BYTES};
use super::ranker::RankMemory;
use super::resident::{Addresses, Resident};
use super::server_state::{ServerMoments, Spans};
use crate::backend::cpu::WorkerShape;
use crate::backend::cuda::kernels::KERNELS;
use crate::backend::cuda::optimiser::{DropoutClock, OPTIMISER_BYTES, OptimiserStep};
use crate::backend::cuda::shape::Shape;
use crate::config::{LocalOptimizer, Settings};
use crate::device::interface::{Buffer, Device, Fill, Result, bytes_of};
use crate::device::launch::KernelSet;
use crate::device::recent::RecentGraphs;
use crate::engine::{Chunk, Shared};
use crate::model::{Model, ModelSpec};
use std::sync::Arc;

/// Local steps whose coefficients are kept; a visit of more steps uploads them again.
const KEPT_STEPS: u32 = 256;

/// Bytes of the `Packed` and the `OptimiserStep` of the step at hand.
const STEP_BYTES: usize = PACKED_BYTES + OPTIMISER_BYTES;

/// Sums over the clients of a round, on the device.
pub(super) struct RoundSums {
    pub(super) dense: Buffer,
    /// `[slots, d]`, and the weight of each slot.
    pub(super) rows: Buffer,
    pub(super) row_weight: Buffer,
    /// `[C]` over the whole cohort: weights, uploaded rows, losses `[C, 2]`.
    pub(super) weight: Buffer,
    pub(super) uploaded: Buffer,
    pub(super) losses: Buffer,
    /// `[C]`: 1 where a client's change is not finite or too large.
    pub(super) failing: Buffer,
}

/// What the host learns of a round's clients. The sums of their changes stay on the device, for [`ChunkTrainer::serve`].
pub struct RoundResult {
    /// Weight of the clients that uploaded each slot's row.
    pub row_weight: Vec<i64>,
    /// Rows that each client uploaded.
    pub uploaded: Vec<i32>,
    /// Sums over each client's steps of the next-item loss and the contrast.
    pub losses: Vec<[f64; 2]>,
    /// Clients (by their places in the cohort) whose changes are not finite or too large.
    pub failing: Vec<usize>,
}

/// A chunk ready for the device: packed, laid out, with the slot of each row.
pub struct ReadyChunk {
    /// Tells it from every other chunk of the engine.
    pub number: u64,
    /// Place of its first client in the cohort.
    pub first: usize,
    /// The packed arrays.
    pub host: HostChunk,
    /// Its launch shape.
    pub shape: Shape,
    /// Weight of each client, 0 for those that have nothing to train on.
    pub weight: Vec<i64>,
    /// Slot of each row in the round's sums.
    pub slot: Vec<u32>,
    /// What was packed: clients, their rows and which of them are uploaded.
    pub rows: Chunk,
}

/// What a client's change is multiplied by, from its place in the cohort and the norm of the change.
pub type FactorOf<'f> = dyn Fn(usize, f64) -> f32 + 'f;

/// Where the changes of a chunk's clients go.
pub enum Adding<'f> {
    /// To the round's sums on the device.
    ToSums,
    /// The same, each change times a factor. The host waits for the norms.
    Scaled(&'f FactorOf<'f>),
    /// Nowhere yet: the host fetches the clients' weights, or changes them and calls [`ChunkTrainer::add`].
    Nowhere,
}

/// Trains chunks of clients on a device and keeps the sums of their changes there.
pub struct ChunkTrainer {
    pub(super) device: Arc<dyn Device>,
    pub(super) kernels: KernelSet,
    pub(super) settings: Settings,
    pub(super) spec: ModelSpec,
    /// Groups that clients upload.
    pub(super) shared: Shared,
    pub(super) model: Model,
    pub(super) sizes: Sizes,
    pub(super) room: Option<ChunkMemory>,
    pub(super) arrays: Option<DeviceChunk>,
    /// Number of the chunk that `arrays` holds already, before it is trained.
    ahead: Option<u64>,
    graphs: RecentGraphs<Shape>,
    /// The dense weights that the optimiser steps on behind the backward pass `[n]` i32, where the others are stepped on within it.
    pub(super) unfused: Option<Buffer>,
    /// How clients are resident, where they are.
    resident: Option<Resident>,
    /// Coefficients of steps 1, 2, ... in a round.
    optimiser: Buffer,
    first_step: u32,
    round: u64,
    pub(super) clock: Option<Buffer>,
    /// Global weights: dense `[P]`, item rows `[I + S, d]`.
    pub(super) dense: Buffer,
    pub(super) table: Buffer,
    /// Moments of the server's optimiser, where it has any.
    pub(super) server: ServerMoments,
    pub(super) sums: Option<RoundSums>,
    pub(super) slots: Option<Buffer>,
    /// Norms `[C]` f64 and factors `[C]` f32 of a chunk, where rules ask for them.
    pub(super) factors: Option<[Buffer; 2]>,
    /// Item of each slot, for the server's step.
    pub(super) slot_items: Option<Buffer>,
    /// Where several processes add up on their devices.
    pub(super) common: Option<CommonRows>,
    pub(super) ranking: Option<RankMemory>,
    pub(super) spans: Spans,
    /// Bytes that the plan foresaw for what was done so far, at most.
    pub(super) predicted: u64,
}

/// Dense weights whose gradients are no product: all but the matrices of linear layers and of the GRU.
fn unfused(spec: &ModelSpec) -> Vec<i32> {
    let WorkerShape { plain, positions, .. } = WorkerShape::new(spec);
    let table = positions.map(|(at, rows)| (at, rows * spec.dim()));
    let spans = plain.into_iter().chain(table);
    let mut places: Vec<i32> = spans.flat_map(|(at, len)| at as i32..(at + len) as i32).collect();
    places.sort_unstable();
    places
}

impl ChunkTrainer {
    /// An engine for the model and the local training of `settings`, with room for a catalogue of `items`.
    pub fn new(device: Arc<dyn Device>, settings: &Settings, items: usize) -> Result<ChunkTrainer> {
        let spec = ModelSpec::of(settings);
        let rows = spec.rows(items);
        let sizes = Sizes {
            dim: spec.dim(),
            dense: spec.dense_len,
            items,
            moments: settings.local.optimizer != LocalOptimizer::Sgd,
            item_dropout: settings.model.item_dropout > 0.0,
            clip: settings.local.clip > 0.0,
        };
        let kernels = KernelSet::load(&*device, &[KERNELS])?;
        let resident = Resident::new(&*device, settings, &spec, sizes)?;
        let unfused = if sizes.clip { None } else { Some(device.upload_new(&unfused(&spec))?) };
        let drops = settings.model.dropout.max(settings.model.item_dropout) > 0.0;
        let mut engine = ChunkTrainer {
            optimiser: device.alloc(KEPT_STEPS as usize * OPTIMISER_BYTES)?,
            first_step: 0,
            round: 1,
            clock: if drops { Some(device.alloc(size_of::<DropoutClock>())?) } else { None },
            dense: device.alloc(4 * sizes.dense)?,
            table: device.alloc(4 * sizes.dim * rows)?,
            model: Model::for_training(&spec, &settings.loss),
            settings: settings.clone(),
            kernels,
            spec,
            shared: Shared::of(&settings.federation),
            sizes,
            room: None,
            arrays: None,
            ahead: None,
            graphs: RecentGraphs::default(),
            unfused,
            resident,
            server: ServerMoments::new(&*device, &settings.federation, sizes.dense, rows, sizes.dim)?,
            sums: None,
            slots: None,
            factors: None,
            slot_items: None,
            common: None,
            ranking: None,
            spans: Spans::default(),
            predicted: 0,
            device,
        };
        engine.upload_steps(1)?;
        Ok(engine)
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    fn upload_steps(&mut self, first: u32) -> Result<()> {
        let local = self.settings.local_at(self.round);
        let steps: Vec<OptimiserStep> = (first..first + KEPT_STEPS).map(|t| OptimiserStep::new(&local, t)).collect();
        self.device.upload(&self.optimiser, 0, bytes_of(&steps))?;
        self.first_step = first;
        Ok(())
    }

    /// Whether hidden states are asked for at a special row behind the history.
    pub fn asked(&self) -> bool {
        self.spec.asked.is_some()
    }

    /// Bytes of a chunk of `shape` as the plan counts them, without its packed arrays.
    pub fn chunk_bytes(&self, shape: &Shape) -> u64 {
        bytes(&self.layout(&shape.rounded()))
    }

    fn layout(&self, shape: &Shape) -> Layout {
        match self.resident_for(shape) {
            Some(resident) => resident.layout(shape),
            None => layout(&self.sizes, shape, arena_floats(&self.model, &self.settings.loss, shape)),
        }
    }

    /// How the clients of a chunk of `shape` are resident; `None` where they are trained step by step.
    fn resident_for(&self, shape: &Shape) -> Option<&Resident> {
        self.resident.as_ref().filter(|r| r.holds(shape))
    }

    /// Whether clients are resident in one block of threads, each for its whole visit.
    pub fn is_resident(&self) -> bool {
        self.resident.is_some()
    }

    /// Bytes that were foreseen for weights, sums, packed arrays and the room of what was done so far.
    pub fn predicted_bytes(&self) -> u64 {
        self.predicted
    }

    /// Counts what the device will hold once a chunk of `shape` is trained on it, before anything is allocated.
    pub(super) fn foresee(&mut self, shape: &Shape, chunk: &ReadyChunk, scaled: bool) {
        let layout = self.layout(shape);
        let room = self.room.as_ref().map_or(layout.clone(), |r| r.grown(&layout));
        let arrays = chunk.host.room().max(self.arrays.as_ref().map_or(0, DeviceChunk::bytes));
        let slots = self.slots.as_ref().map_or(0, Buffer::bytes).max(slot_room(chunk.slot.len()));
        let ranking = self.ranking.as_ref().map_or(0, RankMemory::bytes);
        let graphs = match self.resident_for(shape) {
            Some(_) => self.graphs.bytes(),
            None => self.graphs.bytes_with(&shape.of_launches(), self.device.graph_bytes()),
        };
        let held = self.factors.iter().flatten().map(Buffer::bytes).sum::<usize>();
        let factors = held.max(if scaled { factor_bytes(chunk.weight.len()).iter().sum() } else { 0 });
        let total = self.fixed_bytes() + bytes(&room) + (STEP_BYTES + arrays + slots + factors) as u64 + ranking + graphs;
        self.predicted = self.predicted.max(total);
    }

    /// Bytes of the room, the arrays, the slots and the graphs of chunks.
    pub(super) fn held_for_training(&self) -> u64 {
        let buffers = self.slots.iter().chain(self.factors.iter().flatten());
        let slots = buffers.map(Buffer::bytes).sum::<usize>() + self.arrays.as_ref().map_or(0, DeviceChunk::bytes);
        self.room.as_ref().map_or(0, ChunkMemory::bytes) + slots as u64 + self.graphs.bytes()
    }

    /// Bytes of what is held from round to round: weights, moments, sums, coefficients.
    pub(super) fn fixed_bytes(&self) -> u64 {
        let buffers =
            [&self.optimiser, &self.dense, &self.table].into_iter().chain(&self.clock).chain(&self.slot_items).chain(&self.unfused);
        let sums = self.sums.iter().flat_map(|s| [&s.dense, &s.rows, &s.row_weight, &s.weight, &s.uploaded, &s.losses, &s.failing]);
        let common = self.common.as_ref().map_or(0, CommonRows::bytes) as u64;
        buffers.chain(self.server.buffers()).chain(sums).map(|b| b.bytes() as u64).sum::<u64>() + common
    }

    /// Begins a round of `clients` clients that touch `slots` distinct items.
    pub fn begin_round(&mut self, round: u64, clients: usize, slots: usize, key: [u32; 2]) -> Result<()> {
        if let Some(clock) = &self.clock {
            self.device.upload(clock, 0, bytes_of(&[DropoutClock::new(key, round as u32)]))?;
        }
        self.round = round;
        if self.settings.local.decay > 0.0 {
            self.upload_steps(1)?;
        }
        let d = self.sizes.dim;
        // One row more, of zeros: that of items which only other processes have.
        let rows = slots + 1;
        let fits = |s: &RoundSums| s.rows.bytes() >= 8 * rows * d && s.row_weight.bytes() >= 8 * rows && s.weight.bytes() >= 8 * clients;
        if !self.sums.as_ref().is_some_and(fits) {
            self.sums = None;
            let alloc = |bytes: usize| self.device.alloc(bytes + bytes / 8);
            self.sums = Some(RoundSums {
                dense: self.device.alloc(8 * self.sizes.dense)?,
                rows: alloc(8 * rows * d)?,
                row_weight: alloc(8 * rows)?,
                weight: alloc(8 * clients)?,
                uploaded: alloc(4 * clients)?,
                losses: alloc(16 * clients)?,
                failing: alloc(4 * clients)?,
            });
        }
        let sums = self.sums.as_ref().expect("made above");
        for buffer in [&sums.dense, &sums.rows, &sums.row_weight, &sums.uploaded, &sums.losses, &sums.failing] {
            self.device.fill(buffer, 0, buffer.bytes(), Fill::Byte(0))?;
        }
        Ok(())
    }

    /// Trains a chunk, whose clients may have weights of their `own`, and adds its changes to the round's sums. Returns when everything is in the
    /// device's queue.
    pub fn train(&mut self, chunk: &ReadyChunk, own: Option<&Own>, adding: Adding) -> Result<()> {
        let shape = chunk.shape.rounded();
        let device = self.device.clone();
        self.foresee(&shape, chunk, matches!(adding, Adding::Scaled(_)));
        self.make_room(&shape)?;
        let arrays = match (self.arrays.take(), self.ahead.take()) {
            (Some(arrays), Some(number)) if number == chunk.number => arrays,
            (room, _) => DeviceChunk::upload(&*device, &chunk.host, room)?,
        };
        let begun = self.spans.begin(&*device)?;
        let result = self.train_on(&shape, &arrays, own.map(|own| (own, &chunk.rows))).and_then(|()| self.average(&arrays, chunk, adding));
        self.spans.end(&*device, begun)?;
        self.arrays = Some(arrays);
        result
    }

    /// Gives the memory of chunks back; the next one takes what it needs.
    pub fn release(&mut self) -> Result<()> {
        self.device.synchronize()?;
        self.graphs.clear();
        self.room = None;
        self.arrays = None;
        self.slots = None;
        self.factors = None;
        self.ranking = None;
        Ok(())
    }

    fn make_room(&mut self, shape: &Shape) -> Result<()> {
        let layout = self.layout(shape);
        if self.room.as_ref().is_some_and(|r| r.holds(&layout)) {
            return Ok(());
        }
        let layout = self.room.as_ref().map_or(layout.clone(), |r| r.grown(&layout));
        // Graphs keep addresses: none may outlive the room. Work that still runs in it is waited for.
        self.device.synchronize()?;
        self.graphs.clear();
        self.room = None;
        self.room = Some(ChunkMemory::new(&*self.device, &layout, OPTIMISER_BYTES)?);
        Ok(())
    }

    fn train_on(&mut self, shape: &Shape, arrays: &DeviceChunk, own: Option<(&Own, &Chunk)>) -> Result<()> {
        let device = self.device.clone();
        if let Some(resident) = self.resident_for(shape) {
            assert!(own.is_none(), "`Settings::why_not_resident` names what clients keep");
            assert!(arrays.steps <= KEPT_STEPS as usize && self.first_step == 1, "a visit has a step an epoch, and they are few");
            let room = self.room.as_ref().expect("made before training");
            let at = Addresses {
                optimiser: self.optimiser.address(),
                clock: self.clock.as_ref().map_or(0, Buffer::address),
                dense: self.dense.address(),
                table: self.table.address(),
            };
            return resident.launch(&*device, room, shape, arrays, &at);
        }
        let shape = &shape.of_launches();
        if !self.graphs.has(shape) {
            let label = format!("local step of {} clients, {} tokens", shape.clients, shape.tokens);
            let graph = device.capture(&label, &mut || self.record_step(shape))?;
            self.graphs.add(*shape, graph);
        }
        self.start_from_global(arrays)?;
        if let Some((own, clients)) = own {
            self.start_from_own(own, clients)?;
        }
        for number in 1..=arrays.steps as u32 {
            if number < self.first_step || number >= self.first_step + KEPT_STEPS {
                self.upload_steps(number)?;
            }
            let room = self.room.as_ref().expect("made before training");
            let place = (number - self.first_step) as usize * OPTIMISER_BYTES;
            device.copy(&self.optimiser, place, &room.optimiser, 0, OPTIMISER_BYTES)?;
            device.copy(arrays.table(), (number as usize - 1) * PACKED_BYTES, &room.step, 0, PACKED_BYTES)?;
            // SAFETY: the graph holds the launches of `record_step`, whose buffers are the room's.
            unsafe { device.replay(self.graphs.get(shape).expect("added above")) }?;
        }
        Ok(())
    }

    /// Waits for the chunk trained last and takes its clients' weights: dense `[C, P]`, item rows `[R, d]`.
    pub fn fetch_clients(&self, chunk: &ReadyChunk) -> Result<(Vec<f32>, Vec<f32>)> {
        let room = self.room.as_ref().expect("made before training");
        let (clients, rows) = (chunk.weight.len(), chunk.slot.len());
        let dense = self.device.download_vec(room.region(Region::Dense), 0, clients * self.sizes.dense)?;
        Ok((dense, self.device.download_vec(room.region(Region::Rows), 0, rows * self.sizes.dim)?))
    }

    /// The sums of the round: dense `[P]`, rows `[slots, d]`.
    pub fn fetch_sums(&self, slots: usize) -> Result<(Vec<i64>, Vec<i64>)> {
        let sums = self.sums.as_ref().expect("a round has begun");
        let dense = self.device.download_vec(&sums.dense, 0, self.sizes.dense)?;
        Ok((dense, self.device.download_vec(&sums.rows, 0, slots * self.sizes.dim)?))
    }

    /// Puts the copy of `chunk`, which is trained next, into the queue behind everything that reads the arrays of the chunk before it.
    /// Where its arrays do not fit those, nothing is done.
    fn upload_ahead(&mut self, chunk: &ReadyChunk) -> Result<()> {
        let fits = |arrays: &mut DeviceChunk| arrays.holds(&chunk.host);
        if let Some(arrays) = self.arrays.take_if(fits) {
            self.arrays = Some(DeviceChunk::upload(&*self.device, &chunk.host, Some(arrays))?);
            self.ahead = Some(chunk.number);
        }
        Ok(())
    }

    /// Waits for the round and takes what the host wants to know: of `clients` clients and `slots` distinct items. `next` is on its way
    /// meanwhile.
    pub fn finish_round(&mut self, clients: usize, slots: usize, next: Option<&ReadyChunk>) -> Result<RoundResult> {
        let sums = self.sums.as_ref().expect("a round has begun");
        let device = self.device.clone();
        let losses = device.fetch_vec(&sums.losses, 0, 2 * clients)?;
        let failing = device.fetch_vec(&sums.failing, 0, clients)?;
        let row_weight = device.fetch_vec(&sums.row_weight, 0, slots)?;
        let uploaded = device.fetch_vec(&sums.uploaded, 0, clients)?;
        if let Some(next) = next {
            self.upload_ahead(next)?;
        }
        let (losses, failing): (Vec<f64>, Vec<u32>) = (losses()?, failing()?);
        Ok(RoundResult {
            row_weight: row_weight()?,
            uploaded: uploaded()?,
            losses: losses.chunks_exact(2).map(|l| [l[0], l[1]]).collect(),
            failing: (0..clients).filter(|&c| failing[c] != 0).collect(),
        })
    }
}
