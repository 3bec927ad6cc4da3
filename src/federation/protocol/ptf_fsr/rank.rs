//! Who recommends: the server's model, or each client's own.

use super::PtfFsr;
use super::constants::RankBy;
use crate::backend::Step;
use crate::backend::cpu::rank::Panels;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::base::parallel;
use crate::data::Split;
use crate::engine::{PrivateState, Progress, cpu};
use crate::eval::{rank_from_count, rank_of};
use crate::model::{Model, Weights};
use crate::{Error, Result};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Users encoded and ranked together.
const BLOCK: usize = 96;

/// One thread's share of a ranking: blocks and their ranks.
struct Lane {
    worker: Worker,
    blocks: Vec<(usize, Vec<u32>)>,
    failure: Option<Error>,
}

/// Hidden states `[n, d]` after each of `inputs`.
fn encode(worker: &mut Worker, model: &Model, weights: &Weights, inputs: &[Cow<[u32]>]) -> Vec<f32> {
    let settings = &weights.spec.settings;
    let fill = |step: &mut Step| {
        step.clear();
        step.align = settings.align();
        inputs.iter().for_each(|input| cpu::pack_input(step, input, settings.max_len as usize, None));
        step.end_client();
    };
    worker.read(&weights.dense, &weights.items, fill, |worker| {
        let hidden = model.encode(worker);
        worker.values(hidden).to_vec()
    })
}

impl PtfFsr<'_> {
    /// What the server's model reads in place of `history`: the upload of `user` and the true items from the last training item on, where
    /// that is what ranks and there is one.
    fn asked<'h>(&self, user: Option<u32>, history: &'h [u32]) -> Cow<'h, [u32]> {
        let uploaded = user.filter(|_| self.constants.rank == RankBy::Uploaded).and_then(|user| {
            let upload = self.uploads.get(user as usize)?.as_ref()?;
            let train = self.data.train(user as usize);
            history.starts_with(train).then(|| [&upload.items, &history[train.len() - 1..]].concat())
        });
        uploaded.map_or(Cow::Borrowed(history), Cow::Owned)
    }

    /// The weights of `user`: the initial ones where it has not been trained yet.
    fn own(&self, user: Option<u32>) -> Result<Weights> {
        let state = user.map(|user| self.private.get(user)).transpose()?.flatten();
        let PrivateState { dense, rows } = state.unwrap_or_default();
        let mut weights = self.initial.clone();
        let d = weights.spec.dim();
        if let Some(dense) = dense {
            weights.dense = dense;
        }
        rows.iter().for_each(|(&item, row)| weights.items[item as usize * d..][..d].copy_from_slice(row));
        Ok(weights)
    }

    pub(super) fn all_scores(&self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        let (model, weights) = match self.constants.rank {
            RankBy::Own => (&self.client_model, Cow::Owned(self.own(user)?)),
            _ => (&self.server_model, Cow::Borrowed(&self.server.weights)),
        };
        let mut worker = Worker::new(WorkerShape::new(&weights.spec));
        let hidden = encode(&mut worker, model, &weights, &[self.asked(user, history)]);
        let panels = Panels::new(&weights.items, weights.spec.dim());
        let mut scores = vec![0f32; panels.items()];
        panels.scores(&hidden, &mut scores);
        Ok(scores)
    }

    pub(super) fn all_ranks(&self, split: Split, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let weights = &self.server.weights;
        let panels = Panels::new(&weights.items, weights.spec.dim());
        let done = AtomicU64::new(0);
        let lane = || Lane { worker: Worker::new(WorkerShape::new(&weights.spec)), blocks: Vec::new(), failure: None };
        let mut lanes: Vec<Lane> = (0..self.threads).map(|_| lane()).collect();
        parallel::for_each(&mut lanes, users.len().div_ceil(BLOCK), 1, |Lane { worker, blocks, failure }, b| {
            let block = &users[b * BLOCK..users.len().min((b + 1) * BLOCK)];
            match if self.constants.rank == RankBy::Own {
                self.own_block(split, block)
            } else {
                Ok(self.block(worker, &panels, split, block))
            } {
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
        Ok(blocks.into_iter().flat_map(|(_, ranks)| ranks).collect())
    }

    /// Under the server's model, which all users share.
    fn block(&self, worker: &mut Worker, panels: &Panels, split: Split, users: &[u32]) -> Vec<u32> {
        let (weights, mask) = (&self.server.weights, self.settings.eval.mask);
        let asked: Vec<_> = users.iter().map(|&u| Some((u, self.data.input_and_target(u as usize, split)?))).collect();
        let known: Vec<_> = asked.iter().flatten().copied().collect();
        let inputs: Vec<_> = known.iter().map(|(user, (input, _))| self.asked(Some(*user), input)).collect();
        let hidden = encode(worker, &self.server_model, weights, &inputs);
        let states = || hidden.chunks_exact(weights.spec.dim());
        let thresholds: Vec<f32> = known.iter().zip(states()).map(|((_, (_, target)), h)| panels.score(h, *target)).collect();
        let mut counts = vec![0u32; known.len()];
        panels.count(&hidden, &thresholds, &mut counts);
        let each = known.iter().zip(states()).zip(counts.iter().zip(&thresholds));
        let mut ranks = each.map(|(((_, (input, target)), h), (&count, &threshold))| {
            let counts = |item| panels.score(h, item).partial_cmp(&threshold).is_none_or(|o| o.is_ge());
            rank_from_count(count, *target, mask.masked(input), counts)
        });
        asked.iter().map(|a| a.map_or(0, |_| ranks.next().unwrap_or(0))).collect()
    }

    /// Under each user's own model; a table of items for each of them, so this is the slow path.
    fn own_block(&self, split: Split, users: &[u32]) -> Result<Vec<u32>> {
        let rank = |&user: &u32| {
            let Some((input, target)) = self.data.input_and_target(user as usize, split) else { return Ok(0) };
            Ok(rank_of(&self.all_scores(Some(user), input)?, target, self.settings.eval.mask.masked(input)))
        };
        users.iter().map(rank).collect()
    }
}
