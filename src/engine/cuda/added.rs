//! What a round's clients have added up to: sums on the device or, where rules or other processes have to see them, on the host; counts.

use super::chunks::RoundResult;
use super::packing::ReadyCohort;
use super::round::CudaEngine;
use crate::Result;
use crate::engine::{Needs, Occasion, Rules, Sums, Totals, Update, fixed, wire};
use std::collections::BTreeSet;

/// The sums of the round at hand.
pub(super) enum RoundSums {
    /// On the device: the item of each slot, its weight, and the weight of all clients.
    Device { items: Vec<u32>, row_weight: Vec<i64>, weight: i64 },
    /// On the host, where rules or other processes had to see them.
    Host(Box<Sums>),
}

/// A round whose updates the host adds up, because rules have to see them.
pub(super) struct OnHost {
    pub sums: Box<Sums>,
    /// Rows that each client of the cohort uploaded.
    pub uploaded: Vec<i32>,
    /// Clients, by their places in the cohort, whose updates are not finite or too large.
    pub failing: Vec<usize>,
}

impl CudaEngine {
    /// Takes the updates of chunk `i` from the device, applies `rules` and adds them up.
    pub(super) fn fetch_updates(&mut self, cohort: &ReadyCohort, i: usize, rules: &Rules, host: &mut OnHost) -> Result<()> {
        let chunk = &cohort.chunks[i];
        let (dense, rows) = self.chunks.fetch_clients(chunk)?;
        let weights = &self.snapshot.weights;
        let (p, d) = (weights.dense.len(), weights.spec.dim());
        for (c, &weight) in chunk.weight.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            let own = chunk.rows.client_rows[c] as usize..chunk.rows.client_rows[c + 1] as usize;
            let uploaded = own.filter(|&row| chunk.rows.uploads[row]).map(|row| (chunk.rows.items[row], &rows[row * d..][..d]));
            let place = chunk.first + c;
            let of = (cohort.round, cohort.visits[place].client, place, weight);
            self.add_update(rules, host, of, &dense[c * p..][..p], uploaded);
        }
        Ok(())
    }

    /// Adds an update up as the rules leave it: of a client with its place in the cohort and its weight, with `dense` weights `[P]` and
    /// item `rows` after training.
    pub(super) fn add_update<'u>(
        &mut self,
        rules: &Rules,
        host: &mut OnHost,
        (round, client, place, weight): (u64, u32, usize, i64),
        dense: &[f32],
        rows: impl Iterator<Item = (u32, &'u [f32])>,
    ) {
        let (weights, shared) = (&self.snapshot.weights, self.chunks.shared);
        let mut update = Update::default();
        update.begin(client, weight as u32);
        if shared.dense {
            update.set_dense(&weights.dense, dense);
        }
        for (item, after) in rows.filter(|_| shared.items) {
            let before = weights.item(item as usize);
            if before != after {
                update.push_row(item, before, after);
            }
        }
        rules.client(&Occasion { seed: self.settings.seed, round, weights: Some(weights) }, &mut update);
        host.uploaded[place] = update.items.len() as i32;
        host.sums.weight += weight;
        if !host.sums.add(&update) {
            host.failing.push(place);
        }
        if rules.needs() == Needs::All {
            self.updates.push(update);
        }
    }

    /// The sums of the round on the host, fetched from the device if need be.
    pub(super) fn host_sums(&mut self) -> Result<&mut Sums> {
        if let RoundSums::Device { items, row_weight, weight } = &self.sums {
            let spec = &self.snapshot.weights.spec;
            let (dense, rows) = self.chunks.fetch_sums(items.len())?;
            let sums = Sums::from_parts(spec, self.slot.len(), (dense, *weight), items, &rows, row_weight);
            self.sums = RoundSums::Host(Box::new(sums));
        }
        match &mut self.sums {
            RoundSums::Host(sums) => Ok(sums),
            RoundSums::Device { .. } => unreachable!("fetched above"),
        }
    }

    /// The clients of `cohort` whose change or loss is not finite, or too large, and what happened.
    pub(super) fn diverged(&self, cohort: &ReadyCohort, result: &RoundResult) -> Vec<(u32, String)> {
        let lost = |c: &usize| result.losses[*c].iter().any(|l| !l.is_finite());
        let places: BTreeSet<usize> = (0..cohort.visits.len()).filter(lost).chain(result.failing.iter().copied()).collect();
        let describe = |c: usize| {
            let visit = &cohort.visits[c];
            let [next_item, contrast] = result.losses[c].map(|l| l / f64::from(visit.steps.max(1)));
            (visit.client, fixed::diverged(next_item, contrast))
        };
        places.into_iter().map(describe).collect()
    }

    /// Counts, losses and bytes of the round.
    pub(super) fn totals(&self, cohort: &ReadyCohort, result: &RoundResult, rules: &Rules) -> Totals {
        let weights = &self.snapshot.weights;
        let shared = self.chunks.shared;
        let (d, p) = (weights.spec.dim(), if shared.dense { weights.dense.len() } else { 0 });
        let mut totals = Totals::default();
        for (c, visit) in cohort.visits.iter().enumerate().filter(|(_, v)| v.steps > 0) {
            let uploaded = result.uploaded[c] as u64;
            let rows = if shared.items { visit.plan.rows as usize } else { 0 };
            totals.add(&Totals {
                counts: [1, visit.steps.into(), visit.tokens, visit.plan.examples.into(), uploaded, visit.plan.rows.into(), 0],
                losses: result.losses[c].map(|loss| fixed::from_f64(loss / f64::from(visit.steps))),
                bytes: [
                    wire::sent_len(p, rows, d, self.settings.local.optimizer.takes_second()),
                    rules.upload_bytes(p, uploaded as usize, d),
                ],
            });
        }
        totals
    }
}
