//! One client's visit: from the global weights through all local epochs to its update in the tally of its thread.

use super::batches::GradientSums;
use super::tally::{After, Place, Tally};
use crate::backend::Step;
use crate::backend::cpu::{Visit, Visited, Worker, WorkerShape};
use crate::base::rng::{Purpose, Stream};
use crate::config::LossSettings;
use crate::engine::personal::{merged, split};
use crate::engine::{Packer, PrivateState, Shared, VisitPlan};
use crate::model::ModelSpec;
use std::time::Instant;

/// Everything one thread needs to train clients. Allocated once a run.
pub(super) struct Lane {
    pub packer: Packer,
    /// Item of each row of the client at hand.
    items: Vec<u32>,
    pub worker: Worker,
    pub tally: Tally,
    /// Gradients of micro-batches of mini-batches that all threads share.
    pub gradient: GradientSums,
    /// Seconds spent packing, training and adding.
    pub seconds: [f64; 3],
}

impl Lane {
    pub fn new(packer: Packer, spec: &ModelSpec, items: usize) -> Lane {
        Lane {
            packer,
            items: Vec::new(),
            worker: Worker::new(WorkerShape::new(spec)),
            tally: Tally::new(spec, spec.rows(items)),
            gradient: GradientSums::default(),
            seconds: [0.0; 3],
        }
    }

    pub fn clear(&mut self) {
        self.tally.clear();
        self.seconds = [0.0; 3];
    }

    /// Trains `client`, which holds the sequence of `user`, and adds its change to the tally.
    pub fn visit(&mut self, at: &Place, client: u32, user: u32, private: Option<&PrivateState>) {
        let start = Instant::now();
        let plan = self.packer.begin(&[user], at.round);
        let planned = start.elapsed();
        let visited = self.train(at, client, &plan, private);
        let trained = Instant::now();
        let personal = (at.settings.federation.personal > 0.0).then(|| {
            let start = merged(&at.global.dense, private.and_then(|p| p.dense.as_deref()));
            split(at.settings.federation.personal, &at.global.dense, &start, self.worker.dense())
        });
        let (shown, kept) = personal.map_or((None, None), |split| (Some(split.shown), Some(split.kept)));
        let dense = shown.as_deref().unwrap_or_else(|| self.worker.dense());
        let after = After { dense, items: &self.items, rows: self.worker.rows(), uploaded: self.packer.uploaded(), kept };
        self.tally.add(at, client, &plan, &visited, &after, private);
        self.seconds[0] += (planned + visited.packing).as_secs_f64();
        self.seconds[1] += visited.training.as_secs_f64();
        self.seconds[2] += trained.elapsed().as_secs_f64();
    }

    fn train(&mut self, at: &Place, client: u32, plan: &VisitPlan, private: Option<&PrivateState>) -> Visited {
        let (settings, global) = (at.settings, at.global);
        let (d, shared) = (global.spec.dim(), Shared::of(&settings.federation));
        let kept = |on: bool| private.filter(|_| !on);
        let own = private.filter(|_| settings.federation.personal > 0.0).and_then(|p| p.dense.as_deref());
        let start = merged(&global.dense, own);
        let local = settings.local_at(at.round);
        let second = local.optimizer.takes_second().then(|| {
            let (dense, rows) = at.second;
            (&dense[..], self.packer.items().iter().map(|&item| &rows[item as usize * d..][..d]).collect::<Vec<_>>())
        });
        let visit = Visit {
            second: second.as_ref().map(|(dense, rows)| (*dense, &rows[..])),
            dense: kept(shared.dense).and_then(|p| p.dense.as_deref()).unwrap_or(&start),
            steps: plan.steps,
            local: &local,
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
        let repeats = self.packer.repeats();
        let packer = &mut self.packer;
        let pack = |number, step: &mut Step| {
            if number == 0 || !repeats {
                packer.pack(number, step);
            }
        };
        self.worker.visit(&visit, rows, pack, |worker| at.model.train(worker, &loss))
    }
}
