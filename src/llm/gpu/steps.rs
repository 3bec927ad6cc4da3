//! Steps of decoding as recorded graphs: a batch in which every sequence adds one token launches the same kernels on the same memory each time, so that
//! nine launches a layer become one call.
//!
//! A size of batch is run as it comes the first time and recorded when it comes again. Recorded steps share memory of their own: the device works in the
//! order of its queue, so that a step may overwrite what the one before it no longer reads. A GPU serves one network, so that a size and the address of
//! the cache tell a step from all others.

use super::super::network::{Batch, Forward};
use super::memory::{Lent, Spare};
use super::plan::Lists;
use super::{Array, Cache, Gpu, Plan};
use crate::device::interface::Graph;
use crate::device::{Device, bytes_of};
use crate::{Error, Result};
use std::sync::Arc;

/// Sizes of batches that are remembered.
const KEPT: usize = 16;

/// A graph with the list of its batch and the array that it leaves.
struct Recording {
    graph: Graph,
    plan: Lent,
    out: Array,
}

/// What is known of batches of a size.
enum Known {
    /// One came.
    Once,
    /// The step is recorded.
    Recorded(Recording),
}

/// The sizes that came last, by their rows and the address of the cache; the last one came last.
pub(super) struct Steps {
    known: Vec<((usize, u64), Known)>,
    pub memory: Arc<Spare>,
}

impl Steps {
    pub fn new(device: Arc<dyn Device>) -> Steps {
        Steps { known: Vec::new(), memory: Spare::keeping(device) }
    }

    /// Lets go of all recordings and their memory.
    pub fn clear(&mut self) {
        self.known.clear();
        self.memory.clear();
    }

    /// Takes out what is known of a size.
    fn take(&mut self, key: (usize, u64)) -> Option<Known> {
        let place = self.known.iter().position(|(k, _)| *k == key)?;
        Some(self.known.remove(place).1)
    }

    fn put(&mut self, key: (usize, u64), known: Known) {
        if self.known.len() == KEPT {
            self.known.remove(0);
        }
        self.known.push((key, known));
    }
}

/// Whether each sequence of `batch` adds one token and asks for the next.
pub(super) fn decodes(batch: &Batch) -> bool {
    !batch.segments.is_empty() && batch.segments.iter().all(|s| s.rows == 1) && batch.wanted.len() == batch.segments.len()
}

/// Bytes for the lists of a recording that begins with `lists`: tables grow with the texts.
fn room(lists: &Lists) -> usize {
    4 * (lists.numbers.len() + lists.numbers.len() / 2)
}

/// Records `forward` for batches of the size of `lists`. A step in `memory` went right before it, so that all it takes lies ready there: nothing can be
/// allocated meanwhile.
fn record(
    gpu: &Gpu,
    memory: &Arc<Spare>,
    lists: &Lists,
    label: &str,
    forward: &mut dyn FnMut(&Plan) -> Result<Array>,
) -> Result<Recording> {
    let plan = Plan { memory: Lent::own(gpu.device.alloc(room(lists))?), lists: lists.clone() };
    let mut out = None;
    let mut launch = || {
        out = Some(forward(&plan));
        Ok(())
    };
    let graph = gpu.lending(memory, || Ok(gpu.device.capture(label, &mut launch)?))?;
    let out = out.unwrap_or_else(|| Err(Error::Usage(format!("{label} recorded nothing"))))?;
    Ok(Recording { graph, plan: plan.memory, out })
}

/// The step in the memory of recorded ones; nothing where its size has not come before.
fn in_memory(gpu: &Gpu, steps: &mut Steps, batch: &Batch, cache: &mut Cache, forward: &Forward<'_, Gpu>) -> Result<Option<Array>> {
    let key = (batch.tokens.len(), cache.buffer.address());
    let memory = steps.memory.clone();
    let lists = Lists::new(batch, gpu.group);
    let recording = match steps.take(key) {
        None => {
            steps.put(key, Known::Once);
            return Ok(None);
        }
        Some(Known::Recorded(recording)) if recording.plan.buffer().bytes() >= 4 * lists.numbers.len() => recording,
        Some(other) => {
            // What an outgrown recording held is of use to the next.
            drop(other);
            let out = gpu.lending(&memory, || forward(&gpu.plan_in(&memory, batch)?, cache))?;
            let result = gpu.copied(&out)?;
            drop(out);
            let recording = record(gpu, &memory, &lists, &format!("a step of {} texts", key.0), &mut |plan| forward(plan, cache))?;
            steps.put(key, Known::Recorded(recording));
            return Ok(Some(result));
        }
    };
    gpu.device.upload(recording.plan.buffer(), 0, bytes_of(&lists.numbers))?;
    // SAFETY: the graph holds the launches of `forward`, whose buffers are those of the weights, of the cache at this address, and of the
    // memory that recorded steps keep.
    unsafe { gpu.device.replay(&recording.graph) }?;
    let out = gpu.copied(&recording.out)?;
    steps.put(key, Known::Recorded(recording));
    Ok(Some(out))
}

/// Runs `forward` on a batch that [`decodes`], or replays its recording.
pub(super) fn run(gpu: &Gpu, batch: &Batch, cache: &mut Cache, forward: &Forward<'_, Gpu>) -> Result<Array> {
    let mut steps = gpu.steps.lock();
    match in_memory(gpu, &mut steps, batch, cache, forward) {
        Ok(Some(out)) => return Ok(out),
        Ok(None) => (),
        // Memory is short: recordings make room, and the step runs as it comes.
        Err(Error::Device(e)) if e.is_out_of_memory() => steps.clear(),
        Err(other) => return Err(other),
    }
    drop(steps);
    forward(&gpu.plan_in(&gpu.spare, batch)?, cache)
}
