//! Who recommends: the server's model, or each client's own.

use super::PtfFsr;
use super::constants::RankBy;
use crate::Result;
use crate::backend::cpu::rank::Panels;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::data::Sought;
use crate::engine::{PrivateState, Progress, cpu};
use crate::eval::rank_of;
use crate::model::Weights;
use std::borrow::Cow;

impl PtfFsr {
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
        let hidden = cpu::encode(&mut worker, model, &weights.spec, &[self.asked(user, history)], &weights.dense, &weights.items);
        let panels = Panels::new(&weights.items, weights.spec.dim());
        let mut scores = vec![0f32; panels.items()];
        panels.scores(&hidden, &mut scores);
        Ok(scores)
    }

    pub(super) fn all_ranks(&self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let (weights, mask) = (&self.server.weights, self.settings.eval.mask);
        let panels = Panels::new(&weights.items, weights.spec.dim());
        cpu::in_blocks(self.threads, &weights.spec, users, progress, |worker, users| {
            if self.constants.rank == RankBy::Own {
                return self.own_block(sought, users);
            }
            let asked: Vec<_> = users.iter().map(|&u| self.data.sought(u as usize, sought)).collect();
            let known = users.iter().zip(&asked).filter_map(|(&user, asked)| Some((user, asked.as_ref()?.0)));
            let inputs: Vec<_> = known.map(|(user, input)| self.asked(Some(user), input)).collect();
            let hidden = cpu::encode(worker, &self.server_model, &weights.spec, &inputs, &weights.dense, &weights.items);
            Ok(cpu::ranks_of(&panels, &hidden, weights.spec.dim(), mask, &asked))
        })
    }

    /// Under each user's own model; a table of items for each of them, so this is the slow path.
    fn own_block(&self, sought: Sought, users: &[u32]) -> Result<Vec<u32>> {
        let rank = |&user: &u32| {
            let Some((input, target)) = self.data.sought(user as usize, sought) else { return Ok(0) };
            Ok(rank_of(&self.all_scores(Some(user), input)?, target, self.settings.eval.mask.masked(input)))
        };
        users.iter().map(rank).collect()
    }
}
