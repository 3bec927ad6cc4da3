//! An attack that begins in a later round: on a model that has learnt something.

use super::{Needs, Occasion, Rule};
use crate::Result;
use crate::cluster::Reduce;
use crate::data::Dataset;
use crate::engine::{Mean, NamedTensor, Participants, Tensors, Update};
use std::sync::Arc;

/// `rule` from round `from` on; before it nothing happens.
pub(super) struct Delayed {
    pub rule: Box<dyn Rule>,
    pub from: u64,
}

impl Rule for Delayed {
    fn meet(&mut self, participants: &Participants, data: &Arc<Dataset>) {
        self.rule.meet(participants, data);
    }

    fn begin(&self) {
        self.rule.begin();
    }

    fn left_out(&self, client: u32) {
        self.rule.left_out(client);
    }

    fn weighs_rows(&self) -> bool {
        self.rule.weighs_rows()
    }

    fn join(&self, reduce: &dyn Reduce) -> Result<()> {
        self.rule.join(reduce)
    }

    fn factor(&self, occasion: &Occasion, client: u32, norm: f64) -> f32 {
        if occasion.round < self.from { 1.0 } else { self.rule.factor(occasion, client, norm) }
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        if occasion.round >= self.from {
            self.rule.client(occasion, update);
        }
    }

    fn collude(&self, occasion: &Occasion, updates: &mut [Update]) -> Vec<usize> {
        if occasion.round < self.from { Vec::new() } else { self.rule.collude(occasion, updates) }
    }

    fn colludes(&self) -> bool {
        self.rule.colludes()
    }

    fn reads_weights(&self) -> bool {
        self.rule.reads_weights()
    }

    fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        if occasion.round >= self.from {
            self.rule.server(occasion, mean);
        }
    }

    fn tensors(&self) -> Vec<NamedTensor> {
        self.rule.tensors()
    }

    fn restore(&self, tensors: &Tensors) -> Result<()> {
        self.rule.restore(tensors)
    }

    fn needs(&self) -> Needs {
        self.rule.needs()
    }
}
