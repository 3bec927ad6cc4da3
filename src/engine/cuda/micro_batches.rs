//! The mini-batches of one participant: packed micro-batch by micro-batch by host threads, and put into the device's queue.

use super::batches::{MicroBatches, StepAt};
use super::kept::with_own;
use super::large::{Large, LargeVisits};
use super::packed::HostChunk;
use super::packing::PackLane;
use super::round::CudaEngine;
use crate::Result;
use crate::backend::cuda::shape::Shape;
use crate::backend::{Step, TableRow};
use crate::base::parallel;
use crate::config::RecLoss;
use crate::engine::mini_batches::{self, MICRO_BATCH, MiniBatches};
use crate::engine::{Chunk, Progress, Work, fixed};

/// A micro-batch of a mini-batch, packed.
pub(super) struct PackedMicroBatch {
    chunk: Chunk,
    key: [u32; 2],
}

/// Losses and steps of a visit while its micro-batches are in the queue.
#[derive(Default)]
pub(super) struct Account {
    /// Step and share of each micro-batch.
    pub parts: Vec<(usize, f32)>,
    /// Factor of each step.
    pub factors: Vec<f32>,
    pub tokens: u64,
}

impl Account {
    /// Sums over steps of the losses of the visit, from those of its micro-batches.
    pub fn losses(&self, of_parts: &[[f64; 2]]) -> [f64; 2] {
        [0, 1].map(|i| {
            let mut steps = vec![0i64; self.factors.len()];
            for (&(step, share), losses) in self.parts.iter().zip(of_parts) {
                steps[step] += fixed::from_f64(f64::from(share) * losses[i]);
            }
            steps.iter().zip(&self.factors).map(|(&sum, &factor)| f64::from(factor) * fixed::to_f64(sum)).sum()
        })
    }
}

impl CudaEngine {
    /// Puts the mini-batches of `client` into the device's queue.
    pub(super) fn mini_batches(
        &mut self,
        large: &mut Large,
        work: &Work,
        client: u32,
        users: &[u32],
        visits: &mut LargeVisits,
        progress: &Progress,
    ) -> Result<Account> {
        let (settings, round) = (self.settings.clone(), work.round);
        let mut batches = MiniBatches::new(&settings, round, client, users);
        let steps = batches.len();
        let size = settings.local.batch.max(1) as usize;
        let part = if self.lanes[0].packer.whole_batches() { size } else { MICRO_BATCH };
        let most = steps as usize * size.min(users.len()).div_ceil(part);
        // Who trains alone goes on with its moments from round to round.
        let earlier = if self.participants.len() == 1 { (round - 1) as u32 * steps } else { 0 };
        if std::mem::take(&mut self.moments_on_host)
            && let Some(moments) = &self.moments
        {
            large.trainer.set_moments(self.chunks.device(), moments)?;
        }
        large.trainer.begin(&self.chunks, most, earlier > 0)?;
        if !self.chunks.shared.all() {
            with_own(
                &self.snapshot.weights,
                |_| work.private.get(client),
                |own| Ok(large.trainer.start_from_own(self.chunks.device(), own)?),
            )?;
        }
        let key = mini_batches::draws(&settings, round, client, 0).key();
        let mut account = Account::default();
        for number in 0..steps {
            let (epoch, batch) = batches.get(number);
            let positions = self.lanes[0].packer.examples_of(batch);
            let at = StepAt { client, round, key, number, step: earlier + number + 1 };
            let packed = self.pack_micro_batches(batch, part, epoch, &at);
            let examples: usize = packed.iter().map(|p| p.chunk.plans[0].examples as usize).sum();
            if examples > 0 {
                account.tokens += packed.iter().map(|p| p.chunk.steps[0].tokens() as u64).sum::<u64>();
                large.trainer.begin_step(&self.chunks, &at)?;
                let share = |p: &PackedMicroBatch| p.chunk.plans[0].examples as f32 / positions as f32;
                let (first, step) = (account.parts.len(), account.factors.len());
                account.parts.extend(packed.iter().map(|p| (step, share(p))));
                visits.chunks += self.add_micro_batches(large, &packed, positions, &at, first)?;
                // Micro-batches are counted by their share of the positions; the loss is a mean over examples.
                let factor = positions as f32 / examples as f32;
                account.factors.push(factor);
                large.trainer.step(&self.chunks, &at, factor)?;
            }
            progress(u64::from(number) + 1, u64::from(steps));
        }
        Ok(account)
    }

    /// Packs the micro-batches of `batch`, of `part` sequences each; those without tokens are left out.
    fn pack_micro_batches(&mut self, batch: &[u32], part: usize, epoch: u32, at: &StepAt) -> Vec<PackedMicroBatch> {
        let (settings, whole) = (&self.settings, self.settings.loss.rec == RecLoss::Softmax);
        let (parts, rows): (Vec<&[u32]>, usize) = (batch.chunks(part).collect(), self.slot.len());
        parallel::for_each(&mut self.lanes, parts.len(), 1, |lane, i| {
            let mut step = Step::default();
            lane.packer.pack_batch(parts[i], epoch, &mut step);
            if step.tokens() == 0 {
                return;
            }
            let items = if whole { (0..rows as u32).collect() } else { lane.own_rows(&mut step, rows) };
            let key = mini_batches::draws(settings, at.round, at.client, 1 + i).key();
            lane.parts.push((i, PackedMicroBatch { chunk: Chunk::micro_batch(step, at.client, items), key }));
        });
        let mut packed: Vec<(usize, PackedMicroBatch)> = self.lanes.iter_mut().flat_map(|lane| lane.parts.drain(..)).collect();
        packed.sort_unstable_by_key(|(i, _)| *i);
        packed.into_iter().map(|(_, part)| part).collect()
    }

    /// Adds the gradients of `packed`, as many micro-batches at a time as memory takes; gives how many times that was.
    fn add_micro_batches(
        &mut self,
        large: &mut Large,
        packed: &[PackedMicroBatch],
        positions: usize,
        at: &StepAt,
        first: usize,
    ) -> Result<usize> {
        let lambda = self.settings.loss.group_weight_at(at.round);
        let (mut done, mut times, mut released, mut most) = (0, 0, false, usize::MAX);
        while done < packed.len() {
            let mut chunk = packed[done].chunk.clone();
            let mut shape = Shape::of(&chunk);
            let mut count = 1;
            for part in packed[done + 1..].iter().take(most - 1) {
                let joined = shape.plus(&Shape::of(&part.chunk));
                if large.trainer.part_bytes(&self.chunks, &joined) > self.budget {
                    break;
                }
                chunk.append(&part.chunk);
                (shape, count) = (joined, count + 1);
            }
            let of = &packed[done..done + count];
            let mut parts = MicroBatches {
                host: HostChunk::new(&chunk, lambda, at.step),
                shape,
                share: of.iter().map(|p| p.chunk.plans[0].examples as f32 / positions as f32).collect(),
                keys: of.iter().map(|p| p.key).collect(),
            };
            match large.trainer.add(&mut self.chunks, &mut parts, at, first + done) {
                Ok(()) => (done, times, released) = (done + count, times + 1, false),
                // What chunks and rankings hold is given back first. Nothing of these micro-batches has been added.
                Err(e) if e.is_out_of_memory() && (!released || count > 1) => {
                    if released {
                        // Something else took memory: fewer micro-batches at a time from here on.
                        self.budget = (large.trainer.part_bytes(&self.chunks, &shape) / 2).min(self.budget / 2);
                        most = count.div_ceil(2);
                    }
                    large.trainer.release(self.chunks.device())?;
                    self.chunks.release()?;
                    released = true;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(times)
    }
}

impl PackLane {
    /// Gives `step`, whose rows are items, rows of its own in the order in which it names them; returns the item of each.
    fn own_rows(&mut self, step: &mut Step, items: usize) -> Vec<u32> {
        self.row.resize(items, u32::MAX);
        let mut named = Vec::new();
        for row in step.row.iter_mut().chain(&mut step.cands) {
            let own = &mut self.row[row.index()];
            if *own == u32::MAX {
                *own = named.len() as u32;
                named.push(row.0);
            }
            *row = TableRow(*own);
        }
        named.iter().for_each(|&item| self.row[item as usize] = u32::MAX);
        named
    }
}
