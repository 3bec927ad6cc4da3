//! What may be done to an update between a client's visit and the server's step.

use super::{Mean, NamedTensor, Participants, Tensors, Update, quantised, wire};
use crate::Result;
use crate::cluster::Reduce;
use crate::data::Dataset;
use crate::model::Weights;
use std::sync::Arc;

/// What a rule needs, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// An update's norm at most: [`Rule::factor`] is all that the rule does at the client. On a device updates stay there.
    Linear,
    /// The values of each update, one at a time, in [`Rule::client`]. From a device they are fetched chunk by chunk.
    Each,
    /// Every update of the round at once as well, in [`Mean::updates`]. Costs the memory of the cohort's uploads.
    All,
}

/// Where and when a rule is applied.
#[derive(Clone, Copy, Debug)]
pub struct Occasion<'w> {
    /// Seed of the run.
    pub seed: u64,
    /// Round, counted from 1.
    pub round: u64,
    /// The global weights that the clients of the round began with. There in [`Rule::client`]; in [`Rule::collude`] and [`Rule::server`] where a
    /// rule [`Rule::reads_weights`].
    pub weights: Option<&'w Weights>,
}

/// One thing that is done to updates. Equal occasions and updates must give equal bits.
pub trait Rule: Send + Sync {
    /// Tells who the clients are: `participants` of `data`, those of an attack's own among them. Called once, before the first round. A rule may
    /// look at the training items of a client in [`Rule::client`], which the client itself computes.
    fn meet(&mut self, _participants: &Participants, _data: &Arc<Dataset>) {}

    /// The clients of a round are about to be trained, or all of them again because one was left out: what the rule has counted of single clients
    /// since the last server's step is to be forgotten.
    fn begin(&self) {}

    /// The update of `client`, which [`Rule::client`] has seen, is not in the sums: it is not finite or too large. May be called for a client that
    /// the rule has not seen.
    fn left_out(&self, _client: u32) {}

    /// Whether the rule weighs the item rows of an update one by one: [`Rule::client`] multiplies each by a weight in (0, 1], which the client uploads
    /// beside the row, and [`Rule::server`] turns the mean into one over these weights. Its server part then comes before those of other rules.
    fn weighs_rows(&self) -> bool {
        false
    }

    /// What the update of `client`, of Euclidean norm `norm`, is multiplied by. Called for every client of a round, in any order.
    fn factor(&self, _occasion: &Occasion, _client: u32, _norm: f64) -> f32 {
        1.0
    }

    /// Whether the rule does anything at the client. One of the server alone spares the look at each update.
    fn at_client(&self) -> bool {
        true
    }

    /// Changes what a client uploads: by its factor, unless the rule needs [`Needs::Each`] or [`Needs::All`] and does more. Called for every client
    /// of a round, in any order, where the rule is [`Rule::at_client`].
    fn client(&self, occasion: &Occasion, update: &mut Update) {
        let factor = self.factor(occasion, update.client, update.norm());
        if factor != 1.0 {
            update.scale(factor);
        }
    }

    /// Changes the updates of a round `[n]`, ascending by client, with a look at all of them, before anything else is done on the server: malicious
    /// clients who work together. Gives the places of those that it has changed. Called where the rule [`Rule::colludes`].
    fn collude(&self, _occasion: &Occasion, _updates: &mut [Update]) -> Vec<usize> {
        Vec::new()
    }

    /// Whether [`Rule::collude`] does anything. It then needs [`Needs::All`].
    fn colludes(&self) -> bool {
        false
    }

    /// Whether [`Rule::collude`] or [`Rule::server`] looks at the global weights.
    fn reads_weights(&self) -> bool {
        false
    }

    /// Whether clients may be trained in several processes.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the rule keeps in one process what clients keep to themselves.
    fn may_divide(&self) -> Result<()> {
        Ok(())
    }

    /// Adds up what the rule has counted of this process's clients with what other processes have, before [`Rule::server`]. Called where there are
    /// several.
    ///
    /// # Errors
    /// Where the transport fails.
    fn join(&self, _reduce: &dyn Reduce) -> Result<()> {
        Ok(())
    }

    /// Changes the mean before the server's step.
    fn server(&self, _occasion: &Occasion, _mean: &mut Mean) {}

    /// The norm that updates are shortened to at present, where it changes from round to round.
    fn clip(&self) -> Option<f64> {
        None
    }

    /// What the rule keeps from round to round, for a checkpoint.
    fn tensors(&self) -> Vec<NamedTensor> {
        Vec::new()
    }

    /// Takes back what [`Rule::tensors`] gave; nothing where the checkpoint holds none of it.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] with the name of a tensor that does not fit.
    fn restore(&self, _tensors: &Tensors) -> Result<()> {
        Ok(())
    }

    /// Bits in which a number is uploaded, where the rule says so.
    fn bits(&self) -> Option<u32> {
        None
    }

    /// What the rule needs.
    fn needs(&self) -> Needs {
        Needs::Linear
    }
}

/// Bytes of the weight that a client uploads beside a row, where a rule weighs rows.
const ROW_WEIGHT_BYTES: u64 = 4;

/// The rules of a run, in the order in which a client applies them.
#[derive(Default)]
pub struct Rules(Vec<Box<dyn Rule>>);

impl Rules {
    /// `list` in the order in which a client applies it.
    pub fn new(list: Vec<Box<dyn Rule>>) -> Rules {
        Rules(list)
    }

    /// These rules with `rule` as the last one of a client.
    pub fn then(mut self, rule: Box<dyn Rule>) -> Rules {
        self.0.push(rule);
        self
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells every rule who the clients are.
    pub fn meet(&mut self, participants: &Participants, data: &Arc<Dataset>) {
        self.0.iter_mut().for_each(|rule| rule.meet(participants, data));
    }

    /// Whether clients may be trained in several processes.
    ///
    /// # Errors
    /// That of [`Rule::may_divide`].
    pub fn may_divide(&self) -> Result<()> {
        self.0.iter().try_for_each(|rule| rule.may_divide())
    }

    /// Tells every rule that the clients of a round are about to be trained, or trained again.
    pub fn begin(&self) {
        self.0.iter().for_each(|rule| rule.begin());
    }

    /// Tells every rule that nothing of `client` is in the sums.
    pub fn left_out(&self, client: u32) {
        self.0.iter().for_each(|rule| rule.left_out(client));
    }

    /// How many rules weigh the rows of an update one by one.
    pub fn weighing_rows(&self) -> usize {
        self.0.iter().filter(|rule| rule.weighs_rows()).count()
    }

    /// Whether some rule looks at single updates. Otherwise they are added up as they come.
    pub fn see_updates(&self) -> bool {
        self.needs() > Needs::Linear || self.at_client().next().is_some()
    }

    fn at_client(&self) -> impl Iterator<Item = &dyn Rule> {
        self.0.iter().map(|rule| &**rule).filter(|rule| rule.at_client())
    }

    /// The most that a rule needs.
    pub fn needs(&self) -> Needs {
        self.0.iter().map(|rule| rule.needs()).max().unwrap_or(Needs::Linear)
    }

    /// Applies every rule to a client's update.
    pub fn client(&self, occasion: &Occasion, update: &mut Update) {
        self.at_client().for_each(|rule| rule.client(occasion, update));
    }

    /// The product of the factors of linear rules, for an update of norm `norm`.
    pub fn factor(&self, occasion: &Occasion, client: u32, norm: f64) -> f32 {
        let (mut factor, mut norm) = (1.0, norm);
        for rule in self.at_client() {
            let next = rule.factor(occasion, client, norm);
            factor *= next;
            norm *= f64::from(next.abs());
        }
        factor
    }

    /// Bytes of an upload of `dense` weights and `rows` rows of width `d`: in the bits that the last rule says which says any, with a weight
    /// for each row where a rule weighs them.
    pub fn upload_bytes(&self, dense: usize, rows: usize, d: usize) -> u64 {
        let values = match self.0.iter().rev().find_map(|rule| rule.bits()) {
            Some(bits) => quantised::encoded_len(dense, rows, d, bits),
            None => wire::encoded_len(dense, rows, d),
        };
        values + ROW_WEIGHT_BYTES * (rows * self.weighing_rows()) as u64
    }

    /// Whether some rule changes updates with a look at all of them.
    pub fn collude_at_all(&self) -> bool {
        self.0.iter().any(|rule| rule.colludes())
    }

    /// Whether the server's part of some rule looks at the global weights.
    pub fn read_weights(&self) -> bool {
        self.0.iter().any(|rule| rule.reads_weights())
    }

    /// Lets malicious clients work together. What they change passes the rules behind theirs as any upload does.
    pub fn collude(&self, occasion: &Occasion, updates: &mut [Update]) {
        for (i, rule) in self.0.iter().enumerate().filter(|(_, rule)| rule.colludes()) {
            for place in rule.collude(occasion, updates) {
                self.0[i + 1..].iter().filter(|rule| rule.at_client()).for_each(|rule| rule.client(occasion, &mut updates[place]));
            }
        }
    }

    /// Adds up what rules have counted with other processes.
    ///
    /// # Errors
    /// As [`Rule::join`].
    pub fn join(&self, reduce: &dyn Reduce) -> Result<()> {
        self.0.iter().try_for_each(|rule| rule.join(reduce))
    }

    /// The clip of the rule whose clip changes from round to round.
    pub fn clip(&self) -> Option<f64> {
        self.0.iter().find_map(|rule| rule.clip())
    }

    /// What all rules keep from round to round.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        self.0.iter().flat_map(|rule| rule.tensors()).collect()
    }

    /// Takes back what [`Rules::tensors`] gave.
    ///
    /// # Errors
    /// As [`Rule::restore`].
    pub fn restore(&self, tensors: &Tensors) -> Result<()> {
        self.0.iter().try_for_each(|rule| rule.restore(tensors))
    }

    /// Applies every rule to the mean, the last one first. Those that weigh rows come before all others, which are to see a mean.
    pub fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        for first in [true, false] {
            self.0.iter().rev().filter(|rule| rule.weighs_rows() == first).for_each(|rule| rule.server(occasion, mean));
        }
    }
}
