//! One attempt at a round: the chunks of a cohort, then the participants with many sequences. Where a client diverges the round is tried
//! again without it.

use super::CudaEngine;
use super::added::OnHost;
use super::chunks::{Adding, RoundResult};
use super::kept::{Keepers, Left};
use super::large::LargeVisits;
use super::packing::ReadyCohort;
use crate::base::rng::{Purpose, Stream};
use crate::engine::{Engine, Needs, Occasion, PrivateState, Progress, Sums, Work, fixed, kept_by_clients};
use crate::{Error, Result};

/// A round as it was trained: with whom, and what came of it.
pub(super) struct Attempt {
    pub cohort: ReadyCohort,
    pub result: RoundResult,
    pub visits: LargeVisits,
    /// Sums of the host, where rules have to see updates.
    pub host: Option<OnHost>,
    /// What clients keep to themselves.
    pub private: Vec<(u32, PrivateState)>,
    /// Clients whose changes spoil the sums, and what happened.
    pub diverged: Vec<(u32, String)>,
}

impl CudaEngine {
    /// Trains `cohort` and then the clients of `large`, each of many sequences, and packs the round of the clients `next` meanwhile.
    pub(super) fn attempt(
        &mut self,
        work: &Work,
        (large, small): &(Vec<u32>, Vec<u32>),
        mut cohort: ReadyCohort,
        next: Option<&[u32]>,
        progress: &Progress,
    ) -> Result<Attempt> {
        let (round, total) = (work.round, large.len() + small.len());
        fixed::check_weight(cohort.weight)?;
        self.chunks.device().set_scope(&format!("round {round}"));
        self.updates.clear();
        work.rules.begin();
        let mut host = None;
        if work.rules.needs() > Needs::Linear || self.settings.federation.personal > 0.0 {
            // Updates, and which weights clients keep, follow from the model that they started from. Groups that are private whole change on the
            // clients alone.
            self.snapshot()?;
        }
        if work.rules.needs() > Needs::Linear {
            let sums = Box::new(Sums::new(&self.snapshot.weights.spec, self.slot.len()));
            host = Some(OnHost { sums, uploaded: vec![0; total], failing: Vec::new() });
        }
        self.upload()?;
        let key = Stream::new(self.settings.seed, Purpose::Dropout, round, 0).key();
        self.chunks.begin_round(round, total, cohort.items.len(), key)?;
        let mut left = self.train_chunks(&mut cohort, work, &mut host, progress)?;
        let mut visits = self.train_large(work, large, &mut cohort, &mut host, progress)?;
        fixed::check_weight(cohort.weight)?;
        let prepared = next.map(|clients| self.pack(&self.by_size(clients).1, round + 1)).transpose()?;
        // What failed in the queue shows only now, and any chunk may be the one.
        let last = total.saturating_sub(1);
        self.chunks.device().set_scope(&format!("round {round}, clients 0 to {last} of the cohort"));
        let first_of_next = prepared.as_ref().and_then(|next| next.chunks.first());
        let mut result = self.chunks.finish_round(total, cohort.items.len(), first_of_next)?;
        result.losses[small.len()..].copy_from_slice(&visits.losses);
        if next.is_some() {
            self.next = prepared;
        }
        if let Some(host) = &mut host {
            (result.failing, result.uploaded) = (std::mem::take(&mut host.failing), std::mem::take(&mut host.uploaded));
        }
        result.failing.append(&mut left.failing);
        left.private.append(&mut visits.private);
        let diverged = self.diverged(&cohort, &result);
        Ok(Attempt { cohort, result, visits, host, private: left.private, diverged })
    }

    /// Trains the chunks of `cohort`, each in pieces that fit the device's memory; gives what clients keep to themselves.
    fn train_chunks(&mut self, cohort: &mut ReadyCohort, work: &Work, host: &mut Option<OnHost>, progress: &Progress) -> Result<Left> {
        let (round, share, mut left) = (work.round, self.settings.federation.personal, Left::default());
        let (keep, shared) = (kept_by_clients(&self.settings.federation), self.chunks.shared);
        let (mut i, mut released) = (0, false);
        while i < cohort.chunks.len() {
            let (first, last) = (cohort.chunks[i].first, cohort.chunks[i].first + cohort.chunks[i].weight.len());
            self.chunks.device().set_scope(&format!("round {round}, clients {first} to {} of the cohort", last - 1));
            let (visits, rules) = (&cohort.visits, work.rules);
            let occasion = Occasion { seed: self.settings.seed, round, weights: None };
            let factor_of = |place: usize, norm: f64| rules.factor(&occasion, visits[place].client, norm);
            let adding = match host {
                Some(_) => Adding::Nowhere,
                None if !rules.see_updates() => Adding::ToSums,
                None => Adding::Scaled(&factor_of),
            };
            let (global, threads) = (&self.snapshot.weights, self.lanes.len());
            let keepers = Keepers { share, shared, global, private: work.private, visits, round, threads };
            let trained = match keep {
                true => keepers.train(&mut self.chunks, &cohort.chunks[i], adding),
                false => self.chunks.train(&cohort.chunks[i], None, adding).map(|()| Left::default()).map_err(Error::from),
            };
            match trained {
                Ok(of_chunk) => {
                    left.private.extend(of_chunk.private);
                    left.failing.extend(of_chunk.failing);
                    if let Some(host) = host {
                        self.fetch_updates(cohort, i, work.rules, host)?;
                    }
                    (i, released) = (i + 1, false);
                }
                // What earlier chunks and rankings hold is given back first. No sum has been touched by this chunk.
                Err(Error::Device(e)) if e.is_out_of_memory() && !released => {
                    self.chunks.release()?;
                    released = true;
                }
                Err(Error::Device(e)) if e.is_out_of_memory() && last - first > 1 => {
                    // Something else took memory: smaller chunks from here on.
                    self.piece = self.piece.min((last - first).div_ceil(2));
                    self.budget = (self.chunks.chunk_bytes(&cohort.chunks[i].shape) / 2).min(self.budget / 2);
                    self.chunks.release()?;
                    cohort.chunks.truncate(i);
                    self.pack_from(cohort, first)?;
                }
                Err(e) => return Err(e),
            }
            progress(last as u64, work.clients.len() as u64);
        }
        Ok(left)
    }
}
