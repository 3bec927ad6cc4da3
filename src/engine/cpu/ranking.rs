//! Full ranking of users' targets and top-K lists under a trainer's weights, private groups included.

use crate::backend::Step;
use crate::backend::cpu::rank::Panels;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::base::parallel;
use crate::config::{Clients, Group};
use crate::data::Split;
use crate::engine::PrivateState;
use crate::eval::{best_items, rank_from_count};
use crate::federation::Trainer;
use crate::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};

/// Users encoded and ranked together: their hidden states and counts stay in the first cache.
const BLOCK: usize = 96;

/// One thread's share of a ranking.
struct RankLane {
    worker: Worker,
    /// Block number and its ranks.
    blocks: Vec<(usize, Vec<u32>)>,
    failure: Option<Error>,
}

/// Packs the last items of a history as one sequence of at most `max` rows, whose last hidden state is used: that of the last item,
/// or of the special row `asked` behind it.
pub(crate) fn pack_input(step: &mut Step, input: &[u32], max: usize, asked: Option<u32>) {
    let input = &input[input.len().saturating_sub(max - usize::from(asked.is_some()))..];
    step.push_sequence(input.iter().copied().chain(asked));
    step.push_output(step.tokens() as u32 - 1);
}

impl Trainer<'_> {
    /// Hidden states `[n, d]` of `inputs` under dense weights and an item table.
    fn encode(&self, worker: &mut Worker, inputs: &[&[u32]], dense: &[f32], items: &[f32]) -> Vec<f32> {
        // Safety: both slices outlive this call, and nothing runs on the worker after it.
        unsafe { worker.read_from(dense, items) };
        let mut step = std::mem::take(&mut worker.step);
        step.clear();
        step.align = self.weights.spec.settings.align();
        let asked = self.weights.spec.asked_row(self.data.item_count());
        for input in inputs {
            pack_input(&mut step, input, self.weights.spec.settings.max_len as usize, asked);
        }
        step.end_client();
        worker.step = step;
        worker.begin_pass();
        let hidden = self.model.encode(worker);
        worker.values(hidden).to_vec()
    }

    /// Rank of each user's target among all items that `eval.mask` leaves, 1 the best; [`crate::eval::MISS`] where it hides the
    /// target, 0 for a user without one. Ties count against the model.
    pub fn rank(&mut self, split: Split, users: &[u32], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Vec<u32>> {
        if let Some(device) = &mut self.device {
            return device.rank(split, users, &self.weights, &self.server, progress);
        }
        self.rank_here(split, users, progress)
    }

    fn rank_here(&self, split: Split, users: &[u32], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Vec<u32>> {
        let personal = !self.private.is_empty();
        let panels = Panels::new(self.weights.catalogue(), self.weights.spec.dim());
        let shape = WorkerShape::new(&self.weights.spec);
        let done = AtomicU64::new(0);
        let mut lanes: Vec<RankLane> =
            (0..self.threads).map(|_| RankLane { worker: Worker::new(shape.clone()), blocks: Vec::new(), failure: None }).collect();
        parallel::for_each(&mut lanes, users.len().div_ceil(BLOCK), 1, |RankLane { worker, blocks, failure }, b| {
            let block = &users[b * BLOCK..users.len().min((b + 1) * BLOCK)];
            let ranks =
                if personal { self.rank_personal(worker, split, block) } else { Ok(self.rank_block(worker, &panels, split, block)) };
            match ranks {
                Ok(ranks) => blocks.push((b, ranks)),
                Err(e) => *failure = Some(e),
            }
            progress(done.fetch_add(block.len() as u64, Ordering::Relaxed) + block.len() as u64, users.len() as u64);
        });
        let mut blocks = Vec::new();
        for lane in lanes {
            if let Some(e) = lane.failure {
                return Err(e);
            }
            blocks.extend(lane.blocks);
        }
        blocks.sort_by_key(|(b, _)| *b);
        Ok(blocks.into_iter().flat_map(|(_, r)| r).collect())
    }

    fn rank_block(&self, worker: &mut Worker, panels: &Panels, split: Split, users: &[u32]) -> Vec<u32> {
        let d = self.weights.spec.dim();
        let asked: Vec<_> = users.iter().map(|&u| self.data.input_and_target(u as usize, split)).collect();
        let known: Vec<_> = asked.iter().flatten().copied().collect();
        let inputs: Vec<&[u32]> = known.iter().map(|(input, _)| *input).collect();
        let hidden = self.encode(worker, &inputs, &self.weights.dense, &self.weights.items);
        let thresholds: Vec<f32> = known.iter().zip(hidden.chunks_exact(d)).map(|((_, t), h)| panels.score(h, *t)).collect();
        let mut counts = vec![0u32; known.len()];
        panels.count(&hidden, &thresholds, &mut counts);
        let mut ranks = known.iter().enumerate().map(|(i, (input, target))| {
            let h = &hidden[i * d..][..d];
            let masked = self.settings.eval.mask.masked(input);
            rank_from_count(counts[i], *target, masked, |item| not_less(panels.score(h, item), thresholds[i]))
        });
        asked.iter().map(|a| a.map_or(0, |_| ranks.next().unwrap_or(0))).collect()
    }

    /// The same with each user's own weights; a user costs a table of its own, so this is the slow path.
    fn rank_personal(&self, worker: &mut Worker, split: Split, users: &[u32]) -> Result<Vec<u32>> {
        users
            .iter()
            .map(|&user| {
                let Some((input, target)) = self.data.input_and_target(user as usize, split) else { return Ok(0) };
                let scores = self.personal_scores(worker, Some(user), input)?;
                let threshold = scores[target as usize];
                let counted = scores.iter().filter(|&&s| not_less(s, threshold)).count() as u32;
                let masked = self.settings.eval.mask.masked(input);
                Ok(rank_from_count(counted, target, masked, |i| not_less(scores[i as usize], threshold)))
            })
            .collect()
    }

    /// Scores of all items `[I]` for an input, under the user's private groups if it has any.
    fn personal_scores(&self, worker: &mut Worker, user: Option<u32>, input: &[u32]) -> Result<Vec<f32>> {
        let d = self.weights.spec.dim();
        let client = if self.settings.federation.clients == Clients::One { Some(0) } else { user };
        let state = match client {
            Some(c) => self.private.get(c)?.unwrap_or_default(),
            None => PrivateState::default(),
        };
        let shared = &self.settings.federation.shared;
        let dense = state.dense.as_deref().filter(|_| !shared.contains(&Group::Encoder)).unwrap_or(&self.weights.dense);
        let mut items = self.weights.items.clone();
        for (&item, row) in &state.rows {
            items[item as usize * d..][..d].copy_from_slice(row);
        }
        let hidden = self.encode(worker, &[input], dense, &items);
        let panels = Panels::new(&items[..self.data.item_count() * d], d);
        let mut scores = vec![0f32; panels.items()];
        panels.scores(&hidden, &mut scores);
        Ok(scores)
    }

    /// The `k` best items for `history` (oldest first) of those that `eval.mask` leaves, best first; ties by item index. With `user`
    /// the user's private groups are used.
    pub fn recommend(&mut self, user: Option<u32>, history: &[u32], k: usize) -> Result<Vec<(u32, f32)>> {
        if history.is_empty() {
            return Err(Error::Usage("a recommendation needs a history of at least one item".into()));
        }
        self.keep()?;
        let mut worker = Worker::new(WorkerShape::new(&self.weights.spec));
        let scores = self.personal_scores(&mut worker, user, history)?;
        Ok(best_items(&scores, self.settings.eval.mask.masked(history), k))
    }
}

/// Whether `a` is not below `b`; a NaN on either side counts.
fn not_less(a: f32, b: f32) -> bool {
    a.partial_cmp(&b).is_none_or(|o| o.is_ge())
}
