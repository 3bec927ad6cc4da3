//! Participants with many sequences: their mini-batches packed by host threads, micro-batch by micro-batch, and trained by a [`BatchTrainer`]; then
//! their change is added to the round's sums like that of any client.

use super::added::OnHost;
use super::batches::BatchTrainer;
use super::packing::{ReadyCohort, Visit};
use super::round::CudaEngine;
use crate::Result;
use crate::backend::cuda::kernels::{AverageDense, AverageRows, UpdateNorms};
use crate::device::interface::{Buffer, bytes_of};
use crate::device::launch::Pointer;
use crate::engine::mini_batches::MiniBatches;
use crate::engine::{Moments, Occasion, PrivateState, Progress, VisitPlan, Work, fixed};

/// What a device needs to train participants with many sequences.
pub(super) struct Large {
    pub trainer: BatchTrainer,
    /// Items of all rows `[I]`, and whether each is uploaded, a byte each.
    rows: Buffer,
    uploads: Buffer,
    /// Bounds of the one client's rows: 0 and `I`.
    bounds: Buffer,
    /// Norm and factor of an update, where rules ask for them.
    norm: Buffer,
    factor: Buffer,
}

/// What came of the participants with many sequences, in the order in which they were trained.
#[derive(Default)]
pub(super) struct LargeVisits {
    /// Sums over steps of the next-item loss and the contrast.
    pub losses: Vec<[f64; 2]>,
    /// How many were left out because a gradient was not finite or too large, the lowest of them, and what happened.
    pub left_out: u64,
    /// See `left_out`.
    pub diverged: Option<(u32, String)>,
    /// Launches' worth of micro-batches.
    pub chunks: usize,
    /// What they keep to themselves.
    pub private: Vec<(u32, PrivateState)>,
}

impl Large {
    fn new(engine: &CudaEngine) -> Result<Large> {
        let (on, rows) = (&engine.chunks, engine.slot.len());
        let device = on.device();
        let items: Vec<u32> = (0..rows as u32).collect();
        Ok(Large {
            trainer: BatchTrainer::new(on, rows, engine.participants.len() == 1)?,
            rows: device.upload_new(&items)?,
            uploads: device.upload_new(&vec![u8::from(on.shared.items); rows])?,
            bounds: device.upload_new(&[0, rows as u32])?,
            norm: device.alloc(8)?,
            factor: device.alloc(4)?,
        })
    }

    fn bytes(&self) -> u64 {
        let buffers = [&self.rows, &self.uploads, &self.bounds, &self.norm, &self.factor];
        self.trainer.fixed_bytes() + buffers.map(|b| b.bytes() as u64).iter().sum::<u64>()
    }
}

impl CudaEngine {
    /// Trains `clients`, each of many sequences, and adds what they changed to the round's sums, behind the clients of `cohort`.
    pub(super) fn train_large(
        &mut self,
        work: &Work,
        clients: &[u32],
        cohort: &mut ReadyCohort,
        host: &mut Option<OnHost>,
        progress: &Progress,
    ) -> Result<LargeVisits> {
        let mut visits = LargeVisits::default();
        if clients.is_empty() {
            return Ok(visits);
        }
        let mut large = match self.large.take() {
            Some(large) => large,
            None => {
                let large = Large::new(self)?;
                self.budget = self.budget.saturating_sub(large.bytes());
                large
            }
        };
        let (before, total) = (cohort.visits.len() as u64, work.clients.len() as u64);
        let mut trained = Ok(());
        for (i, &client) in clients.iter().enumerate() {
            let steps = |at: u64, of: u64| {
                if total == 1 {
                    progress(at, of);
                }
            };
            trained = self.visit_large(&mut large, work, client, cohort, host, &mut visits, &steps);
            if trained.is_err() {
                break;
            }
            if total > 1 {
                progress(before + i as u64 + 1, total);
            }
        }
        // Kept after a failure as well: it holds the moments of the rounds before.
        self.large = Some(large);
        trained.map(|()| visits)
    }

    #[allow(clippy::too_many_arguments)]
    fn visit_large(
        &mut self,
        large: &mut Large,
        work: &Work,
        client: u32,
        cohort: &mut ReadyCohort,
        host: &mut Option<OnHost>,
        visits: &mut LargeVisits,
        progress: &Progress,
    ) -> Result<()> {
        self.chunks.device().set_scope(&format!("round {}, client {client} of many sequences", work.round));
        let place = cohort.visits.len();
        let users = self.participants.users(client).to_vec();
        self.lanes.iter_mut().for_each(|lane| lane.packer.begin_batches(work.round));
        let plan = VisitPlan {
            steps: MiniBatches::steps(&self.settings, users.len()),
            rows: self.slot.len() as u32,
            examples: self.lanes[0].packer.examples_of(&users) as u32,
        };
        let account = self.mini_batches(large, work, client, &users, visits, progress)?;
        let (refused, of_parts) = large.trainer.finish(self.chunks.device(), account.parts.len())?;
        let mut losses = account.losses(&of_parts);
        let mut visit = Visit { client, plan, steps: account.factors.len() as u32, tokens: account.tokens };
        let kept = (!self.chunks.shared.all()).then(|| self.kept_by(large, work, client)).transpose()?;
        let fine = kept.as_ref().is_none_or(|(_, fine)| *fine);
        if refused.is_some() || !fine || !losses.iter().all(|loss| loss.is_finite()) {
            let [next_item, contrast] = losses.map(|loss| loss / f64::from(visit.steps.max(1)));
            visits.left_out += 1;
            if visits.diverged.as_ref().is_none_or(|(other, _)| client < *other) {
                visits.diverged = Some((client, fixed::diverged(next_item, contrast)));
            }
            (visit.steps, losses) = (0, [0.0; 2]);
        }
        visits.losses.push(losses);
        cohort.visits.push(visit);
        let weight = self.weight(&visit);
        cohort.weight += weight;
        if weight == 0 {
            return Ok(());
        }
        visits.private.extend(kept.map(|(state, _)| (client, state)));
        match host {
            Some(host) => self.add_on_host(large, work, client, place, weight, host),
            None => self.add_large(large, work, client, place, weight),
        }
    }

    /// Adds what the participant changed to the sums on the device.
    fn add_large(&mut self, large: &Large, work: &Work, client: u32, place: usize, weight: i64) -> Result<()> {
        let on = &self.chunks;
        let device = on.device();
        let sums = on.sums.as_ref().expect("a round has begun");
        let [dense, items] = large.trainer.weights();
        let (p, d, rows) = (on.sizes.dense, on.sizes.dim, self.slot.len());
        let (stride, length, clients) = (p as i64, on.uploaded_dense() as i32, 1);
        device.upload(&sums.weight, 8 * place, bytes_of(&[weight]))?;
        let (p_after, rows_after, d) = (Pointer::from(dense), Pointer::from(items), d as i32);
        let (global, table) = (Pointer::from(&on.dense), Pointer::from(&on.table));
        let (weight, client_rows) = (Pointer(sums.weight.at(8 * place)), Pointer::from(&large.bounds));
        let (item, uploads) = (Pointer::from(&large.rows), Pointer::from(&large.uploads));
        let mut factor = Pointer::NULL;
        if work.rules.see_updates() {
            let kernel = UpdateNorms {
                p: p_after,
                global,
                stride,
                length,
                rows: rows_after,
                table,
                item,
                uploads,
                client_rows,
                weight,
                clients,
                d,
                norms: (&large.norm).into(),
            };
            on.go([1, 1], kernel)?;
            let norm: Vec<f64> = device.download_vec(&large.norm, 0, 1)?;
            let occasion = Occasion { seed: self.settings.seed, round: work.round, weights: None };
            device.upload(&large.factor, 0, bytes_of(&[work.rules.factor(&occasion, client, norm[0])]))?;
            factor = (&large.factor).into();
        }
        let failing = Pointer(sums.failing.at(4 * place));
        let kernel =
            AverageDense { p: p_after, global, weight, factor, clients, each: 1, stride, length, sums: (&sums.dense).into(), failing };
        if length > 0 {
            on.go([p.div_ceil(256) as u32, 1], kernel)?;
        }
        let kernel = AverageRows {
            rows: rows_after,
            table,
            item,
            // The slot of an item is its number.
            slot: item,
            uploads,
            client_rows,
            weight,
            factor,
            clients,
            d,
            sums: (&sums.rows).into(),
            slot_weight: (&sums.row_weight).into(),
            uploaded: Pointer(sums.uploaded.at(4 * place)),
            failing,
        };
        Ok(on.go([1, rows.div_ceil(16).clamp(1, 65_535) as u32], kernel)?)
    }

    /// Waits for the participant's weights: dense `[P]` and item rows `[I, d]`.
    fn fetch_large(&self, large: &Large) -> Result<[Vec<f32>; 2]> {
        let [dense, items] = large.trainer.weights();
        let fetch = |buffer: &Buffer| self.chunks.device().download_vec(buffer, 0, buffer.bytes() / 4);
        Ok([fetch(dense)?, fetch(items)?])
    }

    /// What the participant keeps of its weights, and whether that is finite.
    fn kept_by(&self, large: &Large, work: &Work, client: u32) -> Result<(PrivateState, bool)> {
        let (shared, [dense, rows]) = (self.chunks.shared, self.fetch_large(large)?);
        let items: Vec<u32> = (0..self.slot.len() as u32).collect();
        let mut state = work.private.get(client)?.unwrap_or_default();
        state.keep(shared, &dense, &items, &rows);
        Ok((state, shared.rest_is_finite(&dense, &rows)))
    }

    /// Takes the participant's weights from the device and adds its update to the sums on the host, as the rules leave it.
    fn add_on_host(&mut self, large: &Large, work: &Work, client: u32, place: usize, weight: i64, host: &mut OnHost) -> Result<()> {
        let [dense, items] = self.fetch_large(large)?;
        let d = self.weights().spec.dim();
        let rows = items.chunks_exact(d).enumerate().map(|(item, row)| (item as u32, row));
        self.add_update(work.rules, host, (work.round, client, place, weight), &dense, rows);
        Ok(())
    }

    /// Whether there is a participant that keeps moments from round to round.
    pub(super) fn keeps_moments(&self) -> bool {
        self.participants.len() == 1 && self.participants.share_batches()
    }

    /// The moments after the last round that succeeded, wherever they are.
    pub(super) fn held_moments(&self) -> Result<Option<Moments>> {
        match &self.large {
            _ if !self.keeps_moments() => Ok(None),
            Some(large) if !self.moments_on_host => Ok(Some(large.trainer.fetch_moments(self.chunks.device())?)),
            _ => Ok(self.moments.clone()),
        }
    }

    /// The clients of many sequences, and the others.
    pub(super) fn by_size(&self, clients: &[u32]) -> (Vec<u32>, Vec<u32>) {
        clients.iter().partition(|&&client| self.participants.users(client).len() > 1)
    }

    /// The round has succeeded.
    pub(super) fn commit_moments(&mut self) {
        if let Some(large) = &mut self.large {
            large.trainer.commit();
        }
    }
}
