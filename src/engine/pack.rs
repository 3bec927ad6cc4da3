//! From histories and views to packed steps: which item rows a client needs, and the tokens, negatives and contrast groups
//! of each local step.

use crate::backend::Step;
use crate::base::rng::{Purpose, Stream};
use crate::config::{Anchor, Contrast, RecLoss, Resample, Settings, UploadRows};
use crate::data::Dataset;
use crate::views::{UserViews, Views};
use smallvec::SmallVec;

/// Marks an item without a local row.
const NONE: u32 = u32::MAX;

/// The item rows of a visit and how many local steps it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisitPlan {
    /// Local steps: local epochs times mini-batches.
    pub steps: u32,
    /// Rows of the client's item table.
    pub rows: u32,
    /// Next-item examples of one local epoch.
    pub examples: u32,
}

/// Packs visits, one after another, reusing its memory. One packer a worker.
pub struct Packer<'a> {
    settings: &'a Settings,
    data: &'a Dataset,
    views: &'a Views,
    /// Local row of each item `[I]`, [`NONE`] between visits.
    local: Vec<u32>,
    /// Item of each local row.
    items: Vec<u32>,
    /// Whether a local row is trained by the next-item loss (uploaded under `upload_rows = "trained"`).
    trained: Vec<bool>,
    /// Every item has a row, and the row is the item: clients with many sequences, or a softmax over the catalogue.
    whole: bool,
    order: Vec<u32>,
    negatives: Stream,
    shuffle: (u64, u64),
    users: Vec<u32>,
    epoch_of_order: Option<u32>,
    /// Weight of the contrast in the round at hand.
    lambda: f32,
}

impl<'a> Packer<'a> {
    /// A packer for the clients of `data`.
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views) -> Packer<'a> {
        Packer {
            settings,
            data,
            views,
            local: vec![NONE; data.item_count()],
            items: Vec::new(),
            trained: Vec::new(),
            whole: false,
            order: Vec::new(),
            negatives: Stream::new(0, Purpose::Negatives, 0, 0),
            shuffle: (0, 0),
            users: Vec::new(),
            epoch_of_order: None,
            lambda: 0.0,
        }
    }

    /// Item of each row of the client's table.
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// Whether row `row` is uploaded.
    pub fn uploads(&self, row: usize) -> bool {
        self.uploaded().is_none_or(|uploaded| uploaded[row])
    }

    /// Which rows are uploaded `[R]`; nothing where all of them are.
    pub fn uploaded(&self) -> Option<&[bool]> {
        (self.settings.federation.upload_rows == UploadRows::Trained).then_some(&self.trained[..])
    }

    fn contrast(&self) -> bool {
        self.settings.loss.contrast != Contrast::None && self.lambda != 0.0 && !self.views.users.is_empty()
    }

    /// Training items of `user` that are encoded, and whether the last of them has a target outside.
    fn history(&self, user: u32) -> (&'a [u32], Option<u32>) {
        let max = self.settings.model.max_len as usize;
        let train = self.data.train(user as usize);
        if self.contrast() && self.settings.loss.anchor == Anchor::History {
            return (&train[train.len().saturating_sub(max)..], None);
        }
        match train.split_last() {
            Some((&target, inputs)) => (&inputs[inputs.len().saturating_sub(max)..], Some(target)),
            None => (&[], None),
        }
    }

    fn examples(&self, user: u32) -> usize {
        let (inputs, target) = self.history(user);
        if target.is_some() { inputs.len() } else { inputs.len().saturating_sub(1) }
    }

    fn clip<'v>(&self, sequence: &'v [u32]) -> &'v [u32] {
        &sequence[sequence.len().saturating_sub(self.settings.model.max_len as usize)..]
    }

    /// The views that the objective uses, positives first.
    fn used_views<'v>(&self, views: &'v UserViews) -> (SmallVec<[&'v [u32]; 8]>, usize) {
        let loss = &self.settings.loss;
        let mut used = SmallVec::new();
        if loss.future && !views.future.is_empty() {
            used.push(self.clip(&views.future));
        }
        if loss.paraphrase && !views.paraphrase.is_empty() {
            used.push(self.clip(&views.paraphrase));
        }
        let positives = used.len();
        if loss.counterfactual {
            used.extend(views.counterfactuals.iter().filter(|v| !v.is_empty()).map(|v| self.clip(v)));
        }
        (used, positives)
    }

    fn negatives_per_example(&self) -> usize {
        if self.settings.loss.rec == RecLoss::Softmax { 0 } else { self.settings.loss.negatives as usize }
    }

    /// Negative number `k` of example `position` of `user` in `epoch`: uniform over the catalogue without the training
    /// items of the user (after 32 tries whatever came last, so that a user of every item does not stall).
    fn negative(&self, user: u32, epoch: u32, position: usize, k: usize) -> u32 {
        let epoch = if self.settings.loss.resample == Resample::Visit { 0 } else { epoch };
        let items = self.data.item_count() as u64;
        let seen = self.data.train(user as usize);
        let k_total = self.settings.loss.negatives as u64;
        // One block of four words a draw: the first three tries come from it, further tries from later blocks.
        let at = (u64::from(epoch) << 44) | (((position as u64) * k_total + k as u64) << 4);
        let mut item = 0;
        'tries: for block in 0..8u64 {
            for word in self.negatives.block_at(at + block) {
                item = ((u64::from(word) * items) >> 32) as u32;
                if !seen.contains(&item) {
                    break 'tries;
                }
            }
        }
        item
    }

    fn user_stream(&self, user: u32) -> Stream {
        Stream::new(self.shuffle.0, Purpose::Negatives, self.shuffle.1, u64::from(user))
    }

    fn row(&mut self, item: u32, trained: bool) -> u32 {
        if self.whole {
            return item;
        }
        let slot = &mut self.local[item as usize];
        if *slot == NONE {
            *slot = self.items.len() as u32;
            self.items.push(item);
            self.trained.push(false);
        }
        let row = *slot;
        self.trained[row as usize] |= trained;
        row
    }

    /// Plans a visit of the client that holds the sequences of `users`. Afterwards [`Packer::items`] lists its rows.
    pub fn begin(&mut self, users: &[u32], round: u64) -> VisitPlan {
        for &item in &self.items {
            self.local[item as usize] = NONE;
        }
        self.items.clear();
        self.trained.clear();
        self.users.clear();
        self.users.extend_from_slice(users);
        self.shuffle = (self.settings.seed, round);
        self.epoch_of_order = None;
        self.lambda = self.settings.loss.lambda_at(round);
        self.whole = users.len() > 1 || self.settings.loss.rec == RecLoss::Softmax;
        let epochs = self.settings.local.epochs;
        let mut examples = 0;
        if self.whole {
            self.items.extend(0..self.data.item_count() as u32);
            self.trained.resize(self.items.len(), true);
            examples = users.iter().map(|&u| self.examples(u)).sum();
        } else if let &[user] = users {
            self.negatives = self.user_stream(user);
            let (inputs, target) = self.history(user);
            for &item in inputs.iter().chain(&target) {
                self.row(item, true);
            }
            examples = self.examples(user);
            let draws = if self.settings.loss.resample == Resample::Visit { 1 } else { epochs };
            for epoch in 0..draws {
                for position in 0..examples {
                    for k in 0..self.negatives_per_example() {
                        let item = self.negative(user, epoch, position, k);
                        self.row(item, true);
                    }
                }
            }
            if self.contrast()
                && let Some(views) = self.views.get(user as usize)
            {
                for view in self.used_views(views).0 {
                    for &item in view {
                        self.row(item, false);
                    }
                }
            }
        }
        let batches = users.len().div_ceil(self.settings.local.batch.max(1) as usize);
        VisitPlan { steps: epochs * batches as u32, rows: self.items.len() as u32, examples: examples as u32 }
    }

    /// Prepares packing mini-batches of a participant of many sequences in `round`, whose item rows are the whole catalogue.
    pub fn begin_batches(&mut self, round: u64) {
        self.shuffle = (self.settings.seed, round);
        self.lambda = self.settings.loss.lambda_at(round);
        self.whole = true;
    }

    /// Packs the sequences of `users` in local epoch `epoch` into `step`, after [`Packer::begin_batches`].
    pub fn pack_batch(&mut self, users: &[u32], epoch: u32, step: &mut Step) {
        let negatives = self.start(step);
        for &user in users {
            self.pack_user(user, epoch, negatives, step);
        }
        step.end_client();
    }

    /// Next-item examples of one local epoch over the sequences of `users`.
    pub fn examples_of(&self, users: &[u32]) -> usize {
        users.iter().map(|&user| self.examples(user)).sum()
    }

    /// Empties `step` and sets what all of its sequences share; gives the negatives of an example.
    fn start(&self, step: &mut Step) -> usize {
        let negatives = self.negatives_per_example();
        step.clear();
        step.align = self.settings.model.align();
        step.width = 1 + negatives;
        step.gbce_beta = self.gbce_beta();
        negatives
    }

    /// Packs local step `number` (from 0) of the visit into `step`.
    pub fn pack(&mut self, number: u32, step: &mut Step) {
        let batch = self.settings.local.batch.max(1) as usize;
        let batches = self.users.len().div_ceil(batch) as u32;
        let (epoch, part) = (number / batches, (number % batches) as usize);
        if self.epoch_of_order != Some(epoch) {
            self.epoch_of_order = Some(epoch);
            self.order.clear();
            self.order.extend_from_slice(&self.users);
            if self.order.len() > 1 {
                let (seed, round) = self.shuffle;
                Stream::new(seed, Purpose::Shuffle, round, u64::from(epoch)).shuffle(&mut self.order);
            }
        }
        let negatives = self.start(step);
        for i in part * batch..((part + 1) * batch).min(self.order.len()) {
            let user = self.order[i];
            self.pack_user(user, epoch, negatives, step);
        }
        step.end_client();
    }

    fn pack_user(&mut self, user: u32, epoch: u32, negatives: usize, step: &mut Step) {
        let (inputs, target) = self.history(user);
        if inputs.is_empty() {
            return;
        }
        if self.whole {
            self.negatives = self.user_stream(user);
        }
        let first = step.row.len() as u32;
        step.push_sequence(inputs.iter().map(|&item| if self.whole { item } else { self.local[item as usize] }));
        let examples = self.examples(user);
        let mut last = 0;
        for position in 0..inputs.len() {
            last = step.push_output(first + position as u32);
            if position < examples {
                step.example.push(last);
                let positive = inputs.get(position + 1).copied().or(target).expect("an example has a target");
                step.cands.push(self.row(positive, true));
                for k in 0..negatives {
                    let item = self.negative(user, epoch, position, k);
                    step.cands.push(self.row(item, true));
                }
            }
        }
        if !self.contrast() {
            return;
        }
        let Some(views) = self.views.get(user as usize) else { return };
        let (used, positives) = self.used_views(views);
        if positives == 0 {
            return;
        }
        let mut outs = SmallVec::<[u32; 8]>::new();
        for view in &used {
            let first = step.push_sequence(view.iter().map(|&item| if self.whole { item } else { self.local[item as usize] }));
            outs.push(step.push_output(first + view.len() as u32 - 1));
        }
        step.push_group(last, &outs[..positives], &outs[positives..]);
    }

    /// gSASRec's beta: `alpha (t (1 - 1 / alpha) + 1 / alpha)` with `alpha` the sampling rate of negatives.
    fn gbce_beta(&self) -> f32 {
        if self.settings.loss.rec != RecLoss::Gbce {
            return 1.0;
        }
        let alpha = (f64::from(self.settings.loss.negatives) / (self.data.item_count().max(2) - 1) as f64).min(1.0);
        let t = f64::from(self.settings.loss.gbce_t);
        (alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha)) as f32
    }
}
