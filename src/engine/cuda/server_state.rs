//! The global weights on the device: how they get there and back, the server's step on them, and how long the device was busy.

use super::chunks::ChunkTrainer;
use crate::backend::cuda::kernels::{ServerDense, ServerRows};
use crate::backend::cuda::optimiser::ServerStep;
use crate::config::{Average, FederationSettings};
use crate::device::interface::{Buffer, Device, Event, Result, bytes_of, bytes_of_mut};
use crate::device::launch::Pointer;
use crate::engine::{Scales, ServerSteps};

/// Moments of the server's optimiser on the device: dense `[P]` and rows `[I, d]` of the first and of the second. Steps are counted on the host.
pub(super) struct ServerMoments {
    first: Option<[Buffer; 2]>,
    second: Option<[Buffer; 2]>,
    steps: ServerSteps,
}

impl ServerMoments {
    /// Memory for what the optimiser of `federation` keeps.
    pub fn new(device: &dyn Device, federation: &FederationSettings, dense: usize, rows: usize, d: usize) -> Result<ServerMoments> {
        let step = ServerStep::new(federation, 1, 1);
        let pair = |on: bool| on.then(|| Ok([device.alloc(4 * dense)?, device.alloc(4 * rows * d)?])).transpose();
        let steps = ServerSteps::new(federation, rows);
        Ok(ServerMoments { first: pair(step.keeps_first())?, second: pair(step.keeps_second())?, steps })
    }

    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.first.iter().chain(&self.second).flatten()
    }

    /// Addresses of the first and the second moments of the dense weights (0) or the item rows (1).
    fn pointers(&self, of: usize) -> [Pointer; 2] {
        [&self.first, &self.second].map(|m| m.as_ref().map_or(Pointer::NULL, |pair| (&pair[of]).into()))
    }
}

/// What the server holds, as the host has it: weights and moments, each dense `[P]` and rows `[I, d]`. Moments are empty where the
/// optimiser has none.
pub type GlobalState<T> = [[T; 2]; 3];

impl ChunkTrainer {
    /// The server's second moments, dense `[P]` and rows `[I, d]`, where a visit begins with them.
    pub(super) fn second(&self) -> Option<&[Buffer; 2]> {
        self.server.second.as_ref().filter(|_| self.settings.local.optimizer.takes_second())
    }

    fn pairs(&self) -> [Option<[&Buffer; 2]>; 3] {
        [
            Some([&self.dense, &self.table]),
            self.server.first.as_ref().map(|[a, b]| [a, b]),
            self.server.second.as_ref().map(|[a, b]| [a, b]),
        ]
    }

    /// Copies weights and moments to the device, the moments after `steps`.
    pub fn set_global(&mut self, state: GlobalState<&[f32]>, steps: &ServerSteps) -> Result<()> {
        self.server.steps.clone_from(steps);
        for (pair, values) in self.pairs().into_iter().zip(state) {
            for (buffer, values) in pair.into_iter().flatten().zip(values) {
                self.device.upload(buffer, 0, bytes_of(values))?;
            }
        }
        Ok(())
    }

    /// Steps that the moments on the device have seen.
    pub fn server_steps(&self) -> &ServerSteps {
        &self.server.steps
    }

    /// Waits for the queue and copies weights and moments back. After an error what they hold is of no use.
    pub fn get_global(&self, state: GlobalState<&mut [f32]>) -> Result<()> {
        for (pair, values) in self.pairs().into_iter().zip(state) {
            for (buffer, values) in pair.into_iter().flatten().zip(values) {
                self.device.download(buffer, 0, bytes_of_mut(values))?;
            }
        }
        Ok(())
    }

    /// The server's step of `round` from its sums, with the bits of `federation::server`: clients weigh `weight` together, slot `s` of
    /// the sums is item `items[s]`, which clients of weight `row_weight[s]` changed. Returns when it is in the queue.
    pub fn serve(&mut self, federation: &FederationSettings, round: u64, weight: i64, rows: (&[u32], &[i64])) -> Result<()> {
        if weight == 0 {
            return Ok(());
        }
        let (device, (items, row_weight)) = (self.device.clone(), rows);
        let (p, d) = (self.uploaded_dense(), self.sizes.dim);
        // An item a slot, and behind them the two corrections of each.
        let each = if self.server.steps.correct() { 12 } else { 4 };
        let bytes = each * items.len();
        if self.slot_items.as_ref().is_none_or(|b| b.bytes() < bytes) {
            self.slot_items = None;
            self.slot_items = Some(device.alloc(bytes + bytes / 8)?);
        }
        let (Some(slots), Some(sums)) = (&self.slot_items, &self.sums) else { return Ok(()) };
        device.upload(slots, 0, bytes_of(items))?;
        let mut scales = Pointer::NULL;
        let mut step = ServerStep::new(federation, round, weight);
        if self.server.steps.correct() {
            let steps = &self.server.steps;
            let of = |&item: &u32| {
                let Scales { first, second } = steps.next_row(federation, item);
                [first, second]
            };
            let all: Vec<f32> = items.iter().flat_map(of).collect();
            device.upload(slots, 4 * items.len(), bytes_of(&all))?;
            scales = Pointer(slots.at(4 * items.len()));
            if p > 0 {
                let Scales { first, second } = steps.next_dense(federation);
                (step.first_scale, step.second_scale) = (first, second);
            }
        }
        let begun = self.spans.begin(&*device)?;
        let [first, second] = self.server.pointers(0);
        let w = Pointer::from(&self.dense);
        if p > 0 {
            let kernel = ServerDense { step, sums: (&sums.dense).into(), weight, w, first, second, length: p as i32 };
            self.go([p.div_ceil(256) as u32, 1], kernel)?;
        }
        let [first, second] = self.server.pointers(1);
        let kernel = ServerRows {
            step,
            sums: (&sums.rows).into(),
            slot_weight: (&sums.row_weight).into(),
            item: slots.into(),
            weight: if federation.average == Average::PerItem { 0 } else { weight },
            table: (&self.table).into(),
            first,
            second,
            scales,
            slots: items.len() as i32,
            d: d as i32,
        };
        if !items.is_empty() {
            self.go([(items.len() * d).div_ceil(256) as u32, 1], kernel)?;
        }
        // Counted once the step is in the queue: one that memory was missing for is taken again.
        if p > 0 {
            self.server.steps.count_dense();
        }
        items.iter().zip(row_weight).filter(|(_, weight)| **weight > 0).for_each(|(&item, _)| self.server.steps.count_row(item));
        self.spans.end(&*device, begun)
    }

    /// Seconds that the device spent between the marks around its work since this was last asked. Waits for that work.
    pub fn take_busy_seconds(&mut self) -> Result<f64> {
        self.spans.take(&*self.device)
    }
}

/// Marks around stretches of work in the queue.
#[derive(Default)]
pub(super) struct Spans(Vec<(Event, Event)>);

impl Spans {
    /// Marks the beginning of a stretch.
    pub fn begin(&self, device: &dyn Device) -> Result<Event> {
        device.event()
    }

    /// Marks its end.
    pub fn end(&mut self, device: &dyn Device, begun: Event) -> Result<()> {
        self.0.push((begun, device.event()?));
        Ok(())
    }

    fn take(&mut self, device: &dyn Device) -> Result<f64> {
        let spans = std::mem::take(&mut self.0);
        spans.iter().map(|(begun, ended)| Ok(f64::from(device.elapsed(begun, ended)?) / 1e3)).sum()
    }
}
