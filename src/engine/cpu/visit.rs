//! One client's visit: from the global weights through all local epochs to its change.

use crate::backend::cpu::{Worker, WorkerShape};
use crate::base::rng::{Purpose, Stream};
use crate::config::{ClientWeighting, Group, LossSettings, Settings};
use crate::data::Dataset;
use crate::engine::{Occasion, Packer, PrivateState, Rule, Sums, Update, fixed, wire};
use crate::model::{Model, ModelSpec, Weights};
use crate::views::Views;
use std::time::Instant;

/// Everything one thread needs to train clients: packer, worker, sums. Allocated once a run.
pub(crate) struct Lane<'a> {
    pub packer: Packer<'a>,
    pub worker: Worker,
    pub sums: Sums,
    /// Seconds spent packing, training and adding.
    pub seconds: [f64; 3],
    /// Bytes down and up.
    pub bytes: [u64; 2],
    /// First failure: client and what happened.
    pub failure: Option<(u32, String)>,
    /// Optimiser steps already taken, where the one participant of centralised training keeps its moments between rounds.
    pub continued: Option<u32>,
    /// The update of the client at hand, where rules look at it.
    update: Update,
    /// Updates of the round, where a rule needs all of them.
    pub updates: Vec<Update>,
    /// Private state that visits have changed.
    pub private: Vec<(u32, PrivateState)>,
}

/// The rules of a run.
pub(crate) struct Rules {
    pub list: Vec<Box<dyn Rule>>,
    /// Whether the server wants every update.
    pub all: bool,
}

impl<'a> Lane<'a> {
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views, spec: &ModelSpec) -> Lane<'a> {
        Lane {
            packer: Packer::new(settings, data, views),
            worker: Worker::new(WorkerShape::new(spec)),
            sums: Sums::new(spec, spec.rows(data.item_count())),
            seconds: [0.0; 3],
            bytes: [0; 2],
            failure: None,
            continued: None,
            update: Update::default(),
            updates: Vec::new(),
            private: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.sums.clear();
        self.seconds = [0.0; 3];
        self.bytes = [0; 2];
        self.failure = None;
        self.updates.clear();
        self.private.clear();
    }

    /// Trains `client`, which holds the sequences of `users`, and adds its change, as `rules` leave it, to the sums.
    #[allow(clippy::too_many_arguments)]
    pub fn visit(
        &mut self,
        settings: &Settings,
        model: &Model,
        global: &Weights,
        client: u32,
        users: &[u32],
        round: u64,
        private: Option<&PrivateState>,
        rules: &Rules,
        progress: &dyn Fn(u64, u64),
    ) {
        let start = Instant::now();
        let (fed, local) = (&settings.federation, &settings.local);
        let d = global.spec.dim();
        let plan = self.packer.begin(users, round);
        let (share_dense, share_items) = (fed.shared.contains(&Group::Encoder), fed.shared.contains(&Group::Items));
        let kept = |on: bool| private.filter(|_| !on);
        let dense = kept(share_dense).and_then(|p| p.dense.as_deref()).unwrap_or(&global.dense);
        self.worker.begin_visit(dense, plan.rows as usize);
        for (row, &item) in self.packer.items().iter().enumerate() {
            let from = kept(share_items).and_then(|p| p.row(item, d)).unwrap_or_else(|| global.item(item as usize));
            self.worker.row_mut(row).copy_from_slice(from);
        }
        let mut packed = start.elapsed();
        let mut trained = std::time::Duration::ZERO;
        let loss = LossSettings { lambda: settings.loss.lambda_at(round), ..settings.loss.clone() };
        let fuse = local.clip == 0.0;
        let dropout = (settings.model.dropout.max(settings.model.item_dropout) > 0.0)
            .then(|| Stream::new(settings.seed, Purpose::Dropout, round, u64::from(client)));
        let (mut rec, mut contrast, mut steps) = (0f64, 0f64, 0u64);
        // A client's optimiser is fresh; the one participant of centralised training goes on where it was.
        let (done, total) = self.continued.map_or((0, plan.steps), |done| (done, u32::MAX));
        for number in 0..plan.steps {
            let t = Instant::now();
            self.packer.pack(number, &mut self.worker.step);
            let t2 = Instant::now();
            packed += t2 - t;
            if self.worker.step.tokens() == 0 {
                if done + number == 0 {
                    // The first step would have started the moments.
                    self.worker.clear_moments();
                }
                continue;
            }
            self.worker.begin_step(local, done + number + 1, total, fuse, dropout.clone());
            model.train(&mut self.worker, &loss);
            self.worker.end_step(local, done + number + 1, total);
            let (r, c) = self.worker.losses();
            rec += r;
            contrast += c;
            steps += 1;
            self.sums.counts[2] += self.worker.step.tokens() as u64;
            trained += t2.elapsed();
            progress(u64::from(number) + 1, u64::from(plan.steps));
        }
        if let Some(done) = &mut self.continued {
            *done += plan.steps;
        }
        if steps == 0 {
            return;
        }
        let t = Instant::now();
        let weight = if fed.weights == ClientWeighting::Examples { i64::from(plan.examples.max(1)) } else { 1 };
        let mut fine = true;
        let mut uploaded = 0;
        if !rules.list.is_empty() {
            self.update.begin(client, weight as u32);
            if share_dense {
                self.update.set_dense(&global.dense, self.worker.dense());
            }
            for (row, &item) in self.packer.items().iter().enumerate().filter(|_| share_items) {
                let (before, after) = (global.item(item as usize), self.worker.row(row));
                if self.packer.uploads(row) && before != after {
                    self.update.push_row(item, before, after);
                }
            }
            rules.list.iter().for_each(|rule| rule.client(&Occasion { seed: settings.seed, round }, &mut self.update));
            fine = self.sums.add(&self.update);
            uploaded = self.update.items.len() as u64;
            if rules.all {
                self.updates.push(self.update.clone());
            }
        } else if share_dense {
            fine &= self.sums.add_dense(&global.dense, self.worker.dense(), weight);
        }
        if share_items && rules.list.is_empty() {
            for (row, &item) in self.packer.items().iter().enumerate() {
                let (before, after) = (global.item(item as usize), self.worker.row(row));
                if self.packer.uploads(row) && before != after {
                    fine &= self.sums.add_row(item, before, after, weight);
                    uploaded += 1;
                }
            }
        }
        if !share_dense || !share_items {
            let mut state = private.cloned().unwrap_or_default();
            if !share_dense {
                state.dense = Some(self.worker.dense().to_vec());
                fine &= self.worker.dense().iter().all(|x| x.is_finite());
            }
            if !share_items {
                for (row, &item) in self.packer.items().iter().enumerate() {
                    fine &= self.worker.row(row).iter().all(|x| x.is_finite());
                    state.set_row(item, self.worker.row(row));
                }
            }
            self.private.push((client, state));
        }
        if !fine || !rec.is_finite() || !contrast.is_finite() {
            let (r, c) = (rec / steps as f64, contrast / steps as f64);
            let message = format!(
                "the client's change is not finite or exceeds {} (mean next-item loss {r:.4}, contrast {c:.4}); lower local.lr, raise loss.tau or set local.clip",
                fixed::LIMIT
            );
            if self.failure.as_ref().is_none_or(|(c, _)| client < *c) {
                self.failure = Some((client, message));
            }
            return;
        }
        self.sums.weight += weight;
        let rows = plan.rows as usize;
        for (slot, n) in [(0, 1), (1, steps), (3, u64::from(plan.examples)), (4, uploaded), (5, u64::from(plan.rows))] {
            self.sums.counts[slot] += n;
        }
        self.sums.losses[0] += fixed::from_f64(rec / steps as f64);
        self.sums.losses[1] += fixed::from_f64(contrast / steps as f64);
        let p = if share_dense { global.dense.len() } else { 0 };
        self.bytes[0] += wire::encoded_len(p, if share_items { rows } else { 0 }, d);
        self.bytes[1] += wire::encoded_len(p, uploaded as usize, d);
        self.seconds[0] += packed.as_secs_f64();
        self.seconds[1] += trained.as_secs_f64();
        self.seconds[2] += t.elapsed().as_secs_f64();
    }
}
