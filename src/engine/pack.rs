//! From histories and views to packed steps: which item rows a client needs, and the tokens, negatives and contrast groups
//! of each local step. What is packed is up to the terms of the objective.

use super::Shared;
use crate::backend::Step;
use crate::base::rng::{Purpose, Stream};
use crate::config::{Contrast, RecLoss, Resample, Settings, UploadRows, Validated};
use crate::data::Dataset;
use crate::model::ModelSpec;
use crate::model::objectives::{Out, Popularity, RowTable, SameTarget, Sequence, Terms};
use crate::views::Views;
use std::sync::Arc;

/// The item rows of a visit and how many local steps it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisitPlan {
    /// Local steps: local epochs times mini-batches.
    pub steps: u32,
    /// Rows of the client's item table.
    pub rows: u32,
    /// Training positions of one local epoch.
    pub examples: u32,
}

/// Packs visits, one after another, reusing its memory. One packer a worker.
pub struct Packer {
    source: Source,
    table: RowTable,
    order: Vec<u32>,
    /// Negatives of the client with one sequence.
    negatives: Stream,
    users: Vec<u32>,
    epoch_of_order: Option<u32>,
}

/// Where the sequences of a round come from.
struct Source {
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    views: Arc<Views>,
    terms: Terms,
    /// Where each item is a target, where a term asks.
    same_target: Option<SameTarget>,
    /// What negatives are drawn by, where not uniformly.
    popularity: Option<Popularity>,
    /// Special rows: how many, the one that the backbone is asked with, the one that stands for an item left out.
    special: (usize, Option<u32>, Option<u32>),
    /// Whether item rows are averaged.
    shares_items: bool,
    round: u64,
    /// Weight of the contrast in the round at hand.
    lambda: f32,
}

impl Source {
    /// The sequence of `user`, with the stream of its negatives.
    fn sequence(&self, user: u32, negatives: Stream) -> Sequence<'_> {
        let contrast = self.settings.loss.contrast != Contrast::None && self.lambda != 0.0 && !self.views.users.is_empty();
        let mut sequence = Sequence {
            settings: &self.settings,
            user,
            round: self.round,
            train: self.data.train(user as usize),
            contrast,
            views: self.views.get(user as usize),
            same_target: self.same_target.as_ref(),
            popularity: self.popularity.as_ref(),
            items: self.data.item_count(),
            asked: self.special.1,
            mask: self.special.2,
            whole: false,
            negatives,
        };
        sequence.whole = self.terms.iter().any(|term| term.takes_target(&sequence));
        sequence
    }

    fn user_stream(&self, user: u32) -> Stream {
        Stream::new(self.settings.seed, Purpose::Negatives, self.round, u64::from(user))
    }

    /// What the positive weighs: without label smoothing all; under gBCE gSASRec's beta, `alpha (t (1 - 1 / alpha) + 1 / alpha)` with `alpha` the
    /// sampling rate of negatives.
    fn positive_weight(&self) -> f32 {
        if self.settings.loss.rec != RecLoss::Gbce {
            return 1.0 - self.settings.loss.smoothing;
        }
        let alpha = (f64::from(self.settings.loss.negatives) / (self.data.item_count().max(2) - 1) as f64).min(1.0);
        let t = f64::from(self.settings.loss.gbce_t);
        (alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha)) as f32
    }
}

impl Packer {
    /// A packer for the clients of `data`.
    pub fn new(settings: impl Into<Arc<Validated<Settings>>>, data: impl Into<Arc<Dataset>>, views: impl Into<Arc<Views>>) -> Packer {
        let (settings, data, views) = (settings.into(), data.into(), views.into());
        let (spec, items) = (ModelSpec::of(&settings), data.item_count());
        Packer {
            table: RowTable::new(spec.rows(items)),
            order: Vec::new(),
            negatives: Stream::new(0, Purpose::Negatives, 0, 0),
            users: Vec::new(),
            epoch_of_order: None,
            source: Source {
                terms: Terms::of(&settings.loss, spec.asked.is_some()),
                same_target: SameTarget::wanted(&settings.loss).then(|| SameTarget::new(data.clone())),
                popularity: Popularity::wanted(&settings.loss).then(|| Popularity::new(&data, &settings.loss)),
                special: (spec.special.len(), spec.asked_row(items), spec.special_row("mask", items)),
                shares_items: Shared::of(&settings.federation).items,
                round: 0,
                lambda: 0.0,
                settings,
                data,
                views,
            },
        }
    }

    /// Item of each row of the client's table. Special rows come behind the catalogue's items.
    pub fn items(&self) -> &[u32] {
        self.table.items()
    }

    /// Whether row `row` is uploaded: none is where item rows are private.
    pub fn uploads(&self, row: usize) -> bool {
        self.source.shares_items && self.uploaded().is_none_or(|uploaded| uploaded[row])
    }

    /// Which rows are uploaded `[R]`, where item rows are shared; nothing where all of them are.
    pub fn uploaded(&self) -> Option<&[bool]> {
        (self.source.settings.federation.upload_rows == UploadRows::Trained).then(|| self.table.trained())
    }

    /// Whether the steps of a visit of a client with one sequence differ in their candidates only.
    pub fn steady(&self) -> bool {
        self.source.terms.iter().all(|term| term.steady(&self.source.settings.loss))
    }

    /// Whether every step of the visit is the same as its first.
    pub fn repeats(&self) -> bool {
        self.users.len() == 1 && self.steady() && self.source.settings.loss.resample != Resample::Epoch
    }

    /// Plans a visit of the client that holds the sequences of `users`. Afterwards [`Packer::items`] lists its rows.
    pub fn begin(&mut self, users: &[u32], round: u64) -> VisitPlan {
        self.users.clear();
        self.users.extend_from_slice(users);
        self.source.round = round;
        self.epoch_of_order = None;
        self.source.lambda = self.source.settings.loss.lambda_at(round);
        self.table.begin(users.len() > 1 || self.source.settings.loss.rec == RecLoss::Softmax);
        let mut examples = 0;
        if let (false, &[user]) = (self.table.is_whole(), users) {
            self.negatives = self.source.user_stream(user);
            let sequence = self.source.sequence(user, self.negatives.clone());
            for term in self.source.terms.iter() {
                term.touch(&sequence, &mut self.table);
                examples += term.examples(&sequence);
            }
            self.table.seal();
        } else {
            examples = self.examples_of(users);
        }
        let batches = users.len().div_ceil(self.source.settings.local.batch.max(1) as usize);
        let steps = self.source.settings.local.epochs * batches as u32;
        VisitPlan { steps, rows: self.table.items().len() as u32, examples: examples as u32 }
    }

    /// Whether a mini-batch has to be packed as one, because its sequences are compared with each other.
    pub fn whole_batches(&self) -> bool {
        self.source.terms.iter().any(|term| term.whole_batches())
    }

    /// Prepares packing mini-batches of a participant of many sequences in `round`, whose item rows are the whole catalogue.
    pub fn begin_batches(&mut self, round: u64) {
        self.source.round = round;
        self.source.lambda = self.source.settings.loss.lambda_at(round);
        if !self.table.is_whole() {
            self.table.begin(true);
        }
    }

    /// Training positions of one local epoch over the sequences of `users`.
    pub fn examples_of(&self, users: &[u32]) -> usize {
        let of = |&user: &u32| {
            // Nothing is drawn here.
            let sequence = self.source.sequence(user, self.negatives.clone());
            self.source.terms.iter().map(|term| term.examples(&sequence)).sum::<usize>()
        };
        users.iter().map(of).sum()
    }

    /// Packs the sequences of `users` in local epoch `epoch` into `step`, as those of one client.
    pub fn pack_batch(&mut self, users: &[u32], epoch: u32, step: &mut Step) {
        step.clear();
        step.align = self.source.settings.model.align();
        step.width = 1 + self.source.settings.loss.sampled() as usize;
        step.positive_weight = self.source.positive_weight();
        step.special = self.source.special.0;
        for &user in users {
            let negatives = if self.table.is_whole() { self.source.user_stream(user) } else { self.negatives.clone() };
            let sequence = self.source.sequence(user, negatives);
            let mut out = Out::new(step, &mut self.table);
            for term in self.source.terms.iter() {
                term.pack(&sequence, epoch, &mut out);
            }
        }
        step.end_client();
    }

    /// Packs local step `number` (from 0) of the visit into `step`.
    pub fn pack(&mut self, number: u32, step: &mut Step) {
        let batch = self.source.settings.local.batch.max(1) as usize;
        let batches = self.users.len().div_ceil(batch) as u32;
        let (epoch, part) = (number / batches, (number % batches) as usize);
        if self.epoch_of_order != Some(epoch) {
            self.epoch_of_order = Some(epoch);
            self.order.clear();
            self.order.extend_from_slice(&self.users);
            if self.order.len() > 1 {
                Stream::new(self.source.settings.seed, Purpose::Shuffle, self.source.round, u64::from(epoch)).shuffle(&mut self.order);
            }
        }
        let order = std::mem::take(&mut self.order);
        self.pack_batch(&order[part * batch..((part + 1) * batch).min(order.len())], epoch, step);
        self.order = order;
    }
}
