//! Training and ranking on the cores of this machine: one worker a thread, each client from start to end inside its cache.

mod ranking;
mod visit;

pub(crate) use ranking::{own_state, pack_input, personal_scores};

use super::{Engine, Global, Mean, Moments, PrivateStore, Progress, Reduce, Server, Totals, Trained, Work, fixed};
use crate::base::parallel;
use crate::config::{Clients, Settings};
use crate::data::{Dataset, Split};
use crate::model::{Model, ModelSpec, Weights};
use crate::views::Views;
use crate::{Error, Result};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use visit::{Lane, Place};

/// The engine of the CPU.
pub struct CpuEngine<'a> {
    settings: &'a Settings,
    data: &'a Dataset,
    model: Model,
    global: Global,
    /// Round that the global model is of, and the one that was trained last.
    round: u64,
    trained: u64,
    lanes: Vec<Lane<'a>>,
    threads: usize,
    /// Users in order, for the participant that holds all sequences.
    everyone: Vec<u32>,
    /// Moments of the one participant, as restored from a checkpoint.
    restored: Option<Moments>,
}

impl<'a> CpuEngine<'a> {
    /// An engine with initial weights.
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views) -> CpuEngine<'a> {
        let spec = ModelSpec::new(&settings.model);
        let threads = parallel::threads(settings.threads as usize);
        let lanes = if settings.federation.clients == Clients::One { 1 } else { threads };
        CpuEngine {
            settings,
            data,
            model: Model::new(&spec),
            global: Global::new(&settings.federation, Weights::init(&spec, data.item_count(), settings.seed)),
            round: 0,
            trained: 0,
            lanes: (0..lanes).map(|_| Lane::new(settings, data, views, &spec)).collect(),
            threads,
            everyone: (0..data.users() as u32).collect(),
            restored: None,
        }
    }

    fn single(&self) -> bool {
        self.settings.federation.clients == Clients::One
    }

    /// Optimiser steps that the one participant takes in `rounds` rounds.
    fn steps_of_one(&self, rounds: u64) -> u32 {
        let batches = self.everyone.len().div_ceil(self.settings.local.batch.max(1) as usize) as u64;
        (rounds * batches * u64::from(self.settings.local.epochs)) as u32
    }

    /// Runs the visits of the clients; their sums end up in the lanes.
    fn visit_all(&mut self, work: &Work, progress: &Progress) -> Result<()> {
        let (single, shared) = (self.single(), &self.settings.federation.shared);
        let keeps = super::private::kept_by_clients(shared);
        for lane in &mut self.lanes {
            lane.clear();
        }
        if single && self.lanes[0].earlier.is_none() {
            self.lanes[0].earlier = Some(self.steps_of_one(self.round));
            if let Some([a, b, c, d]) = &self.restored.take() {
                self.lanes[0].worker.set_moments([a, b, c, d]);
            }
        }
        let done = AtomicU64::new(0);
        let place =
            Place { settings: self.settings, model: &self.model, global: &self.global.weights, round: work.round, rules: work.rules };
        let everyone = &self.everyone;
        let clients = work.clients;
        let quiet = |_: u64, _: u64| {};
        parallel::for_each(&mut self.lanes, clients.len(), 8, |lane, i| {
            let client = clients[i];
            let state = match if keeps { work.private.get(client) } else { Ok(None) } {
                Ok(state) => state,
                Err(e) => return lane.failure = Some((client, e.to_string())),
            };
            let users = if single { everyone.as_slice() } else { &everyone[client as usize..][..1] };
            let steps: &dyn Fn(u64, u64) = if single { progress } else { &quiet };
            lane.visit(&place, client, users, state.as_ref(), steps);
            if !single {
                let n = done.fetch_add(1, Ordering::Relaxed) + 1;
                if n.is_multiple_of(64) || n == clients.len() as u64 {
                    progress(n, clients.len() as u64);
                }
            }
        });
        // The lowest failing client is named, whichever thread met it first.
        match self.lanes.iter().filter_map(|l| l.failure.clone()).min() {
            Some((client, message)) => Err(Error::Training { round: work.round, client: u64::from(client), message }),
            None => Ok(()),
        }
    }
}

impl Engine for CpuEngine<'_> {
    fn train(&mut self, work: &Work, progress: &Progress) -> Result<Trained> {
        self.visit_all(work, progress)?;
        let mut totals = Totals::default();
        self.lanes.iter().for_each(|lane| totals.add(&lane.totals));
        let seconds = [0, 1, 2].map(|i| self.lanes.iter().map(|l| l.seconds[i]).sum::<f64>() / self.lanes.len() as f64);
        let private = self.lanes.iter_mut().flat_map(|l| l.private.drain(..)).collect();
        let (first, rest) = self.lanes.split_first_mut().expect("an engine has a lane");
        for lane in rest {
            first.sums.merge(&lane.sums);
            first.updates.append(&mut lane.updates);
        }
        self.trained = work.round;
        Ok(Trained { totals, private, seconds })
    }

    fn reduce(&mut self, reduce: &dyn Reduce) -> Result<()> {
        self.lanes[0].sums.reduce(reduce)
    }

    fn touched_rows(&self) -> u64 {
        self.lanes[0].sums.items.len() as u64
    }

    fn mean(&mut self) -> Result<Option<Mean>> {
        let Lane { sums, updates, .. } = &mut self.lanes[0];
        fixed::check_weight(sums.weight)?;
        let d = self.global.weights.spec.dim();
        Ok((sums.weight > 0).then(|| Server::mean(&self.settings.federation, sums, d, std::mem::take(updates))))
    }

    fn serve(&mut self, mean: Option<&Mean>) -> Result<()> {
        let (sums, fed) = (&self.lanes[0].sums, &self.settings.federation);
        fixed::check_weight(sums.weight)?;
        let Global { weights, server } = &mut self.global;
        match mean {
            Some(mean) => server.apply_mean(fed, mean, weights),
            None => server.apply(fed, sums, weights),
        }
        self.round = self.trained;
        Ok(())
    }

    fn global(&self) -> Result<Cow<'_, Global>> {
        Ok(Cow::Borrowed(&self.global))
    }

    fn set_global(&mut self, global: Global, round: u64) {
        (self.global, self.round) = (global, round);
    }

    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }

    fn last_snapshot(&self) -> (&Global, u64) {
        (&self.global, self.round)
    }

    fn rank(&mut self, split: Split, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        ranking::rank(self, split, users, private, progress)
    }

    fn moments(&self) -> Option<Moments> {
        match (&self.restored, self.lanes[0].earlier) {
            // As restored: the worker takes them over when it begins its next round.
            (Some(restored), _) => Some(restored.clone()),
            (None, Some(_)) => Some(self.lanes[0].worker.moments().map(<[f32]>::to_vec)),
            (None, None) => None,
        }
    }

    fn set_moments(&mut self, moments: Option<Moments>, _: u64) {
        self.restored = moments;
        for lane in &mut self.lanes {
            lane.earlier = None;
        }
    }

    fn bytes(&self) -> usize {
        self.global.bytes() + self.lanes.iter().map(|l| l.worker.bytes() + l.sums.bytes() + 4 * self.data.item_count()).sum::<usize>()
    }
}
