//! One client's visit: from the global weights through all local epochs to its update in the sums.

use crate::backend::cpu::{Visit, Visited, Worker, WorkerShape};
use crate::base::rng::{Purpose, Stream};
use crate::config::{ClientWeighting, Group, LossSettings, Settings};
use crate::data::Dataset;
use crate::engine::{Needs, Occasion, Packer, PrivateState, Rules, Sums, Totals, Update, VisitPlan, fixed, wire};
use crate::model::{Model, ModelSpec, Weights};
use crate::views::Views;
use std::time::Instant;

/// What the visits of a round have in common.
pub(super) struct Place<'p> {
    pub settings: &'p Settings,
    pub model: &'p Model,
    pub global: &'p Weights,
    pub round: u64,
    pub rules: &'p Rules,
}

/// Everything one thread needs to train clients: packer, worker, sums. Allocated once a run.
pub(super) struct Lane<'a> {
    packer: Packer<'a>,
    /// Item of each row of the client at hand.
    items: Vec<u32>,
    pub worker: Worker,
    pub sums: Sums,
    pub totals: Totals,
    /// Seconds spent packing, training and adding.
    pub seconds: [f64; 3],
    /// First failure: client and what happened.
    pub failure: Option<(u32, String)>,
    /// Optimiser steps already taken, where the one participant of centralised training keeps its moments between rounds.
    pub earlier: Option<u32>,
    /// The update of the client at hand, where rules look at it.
    update: Update,
    /// Updates of the round, where a rule needs all of them.
    pub updates: Vec<Update>,
    /// Private state that visits have changed.
    pub private: Vec<(u32, PrivateState)>,
}

/// Groups that are averaged.
#[derive(Clone, Copy)]
struct Shared {
    dense: bool,
    items: bool,
}

impl<'a> Lane<'a> {
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views, spec: &ModelSpec) -> Lane<'a> {
        Lane {
            packer: Packer::new(settings, data, views),
            items: Vec::new(),
            worker: Worker::new(WorkerShape::new(spec)),
            sums: Sums::new(spec, data.item_count()),
            totals: Totals::default(),
            seconds: [0.0; 3],
            failure: None,
            earlier: None,
            update: Update::default(),
            updates: Vec::new(),
            private: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.sums.clear();
        self.totals = Totals::default();
        self.seconds = [0.0; 3];
        self.failure = None;
        self.updates.clear();
        self.private.clear();
    }

    /// Trains `client`, which holds the sequences of `users`, and adds its change, as the rules leave it, to the sums.
    pub fn visit(&mut self, at: &Place, client: u32, users: &[u32], private: Option<&PrivateState>, progress: &dyn Fn(u64, u64)) {
        let start = Instant::now();
        let shared = &at.settings.federation.shared;
        let shared = Shared { dense: shared.contains(&Group::Encoder), items: shared.contains(&Group::Items) };
        let plan = self.packer.begin(users, at.round);
        let planned = start.elapsed();
        let visited = self.train(at, client, shared, &plan, private, progress);
        if let Some(earlier) = &mut self.earlier {
            *earlier += plan.steps;
        }
        if visited.steps == 0 {
            return;
        }
        let t = Instant::now();
        let weight = if at.settings.federation.weights == ClientWeighting::Examples { i64::from(plan.examples.max(1)) } else { 1 };
        let (mut fine, uploaded) =
            if at.rules.is_empty() { self.add(at.global, shared, weight) } else { self.add_as_rules_leave_it(at, shared, client, weight) };
        fine &= self.keep_private(shared, client, private);
        let [next_item, contrast] = visited.losses.map(|sum| sum / visited.steps as f64);
        if !fine || !next_item.is_finite() || !contrast.is_finite() {
            if self.failure.as_ref().is_none_or(|(c, _)| client < *c) {
                self.failure = Some((client, fixed::diverged(next_item, contrast)));
            }
            return;
        }
        self.sums.weight += weight;
        let rows = plan.rows as usize;
        let (d, p) = (at.global.spec.dim(), if shared.dense { at.global.dense.len() } else { 0 });
        self.totals.add(&Totals {
            counts: [1, visited.steps, visited.tokens, plan.examples.into(), uploaded, plan.rows.into()],
            losses: [fixed::from_f64(next_item), fixed::from_f64(contrast)],
            bytes: [wire::encoded_len(p, if shared.items { rows } else { 0 }, d), wire::encoded_len(p, uploaded as usize, d)],
        });
        self.seconds[0] += (planned + visited.packing).as_secs_f64();
        self.seconds[1] += visited.training.as_secs_f64();
        self.seconds[2] += t.elapsed().as_secs_f64();
    }

    fn train(
        &mut self,
        at: &Place,
        client: u32,
        shared: Shared,
        plan: &VisitPlan,
        private: Option<&PrivateState>,
        progress: &dyn Fn(u64, u64),
    ) -> Visited {
        let (settings, global) = (at.settings, at.global);
        let d = global.spec.dim();
        let kept = |on: bool| private.filter(|_| !on);
        let visit = Visit {
            dense: kept(shared.dense).and_then(|p| p.dense.as_deref()).unwrap_or(&global.dense),
            steps: plan.steps,
            // A client's optimiser is fresh; the one participant of centralised training goes on where it was.
            earlier: self.earlier,
            local: &settings.local,
            dropout: (settings.model.dropout.max(settings.model.item_dropout) > 0.0)
                .then(|| Stream::new(settings.seed, Purpose::Dropout, at.round, u64::from(client))),
        };
        let loss = LossSettings { lambda: settings.loss.lambda_at(at.round), ..settings.loss.clone() };
        self.items.clear();
        self.items.extend_from_slice(self.packer.items());
        let rows = self.items.iter().map(|&item| {
            let own = kept(shared.items).and_then(|p| p.row(item, d));
            own.unwrap_or_else(|| global.item(item as usize))
        });
        let packer = &mut self.packer;
        self.worker.visit(&visit, rows, |number, step| packer.pack(number, step), |worker| at.model.train(worker, &loss), progress)
    }

    /// Adds the change of the client at hand to the sums: whether it is finite and within bounds, and the rows that it uploads.
    fn add(&mut self, global: &Weights, shared: Shared, weight: i64) -> (bool, u64) {
        let (mut fine, mut uploaded) = (true, 0);
        if shared.dense {
            fine &= self.sums.add_dense(&global.dense, self.worker.dense(), weight);
        }
        for (row, &item) in self.packer.items().iter().enumerate().filter(|_| shared.items) {
            let (before, after) = (global.item(item as usize), self.worker.row(row));
            if self.packer.uploads(row) && before != after {
                fine &= self.sums.add_row(item, before, after, weight);
                uploaded += 1;
            }
        }
        (fine, uploaded)
    }

    /// The same by way of an update that rules may change.
    fn add_as_rules_leave_it(&mut self, at: &Place, shared: Shared, client: u32, weight: i64) -> (bool, u64) {
        self.update.begin(client, weight as u32);
        if shared.dense {
            self.update.set_dense(&at.global.dense, self.worker.dense());
        }
        for (row, &item) in self.packer.items().iter().enumerate().filter(|_| shared.items) {
            let (before, after) = (at.global.item(item as usize), self.worker.row(row));
            if self.packer.uploads(row) && before != after {
                self.update.push_row(item, before, after);
            }
        }
        at.rules.client(&Occasion { seed: at.settings.seed, round: at.round }, &mut self.update);
        if at.rules.needs() == Needs::All {
            self.updates.push(self.update.clone());
        }
        (self.sums.add(&self.update), self.update.items.len() as u64)
    }

    /// Notes the groups that are not shared as private state. False if they are not finite.
    fn keep_private(&mut self, shared: Shared, client: u32, private: Option<&PrivateState>) -> bool {
        if shared.dense && shared.items {
            return true;
        }
        let mut fine = true;
        let mut state = private.cloned().unwrap_or_default();
        if !shared.dense {
            state.dense = Some(self.worker.dense().to_vec());
            fine &= self.worker.dense().iter().all(|x| x.is_finite());
        }
        for (row, &item) in self.packer.items().iter().enumerate().filter(|_| !shared.items) {
            fine &= self.worker.row(row).iter().all(|x| x.is_finite());
            state.set_row(item, self.worker.row(row));
        }
        self.private.push((client, state));
        fine
    }
}
