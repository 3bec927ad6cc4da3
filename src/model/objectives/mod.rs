//! A client's objective: a sum of terms. A term is one file: its settings, what it packs into a step, and its share of the gradient.
//!
//! One more term is a file beside this one and a line in [`TERMS`]. One of another crate is made known by [`register`] and switched on by an
//! entry of `loss.terms`, a name with options such as `"two-ahead weight=0.5"`.

mod in_batch;
mod masked_item;
mod next_item;
mod registered;
mod tri_view;

pub use registered::{TermKind, register};

use super::Layout;
use crate::Result;
use crate::backend::{Act, Backend, RowKind, Step};
use crate::base::rng::{Purpose, Stream};
use crate::config::{LossSettings, RecLoss, Resample, Settings};
use crate::views::UserViews;
use std::sync::Arc;

/// Every term, in the order in which their rows are taken, their sequences packed and their gradients added.
pub const TERMS: &[&dyn Term] = &[&next_item::NextItem, &masked_item::MaskedItem, &tri_view::TriView, &in_batch::InBatch];

/// One term of the objective.
pub trait Term: Send + Sync {
    /// Name, for messages.
    fn name(&self) -> &'static str;

    /// Whether the term is part of the objective; one of `loss.terms` is unless it says otherwise. `asked` says whether the backbone is asked at a special row, and so reads its
    /// sequences both ways.
    fn on(&self, _loss: &LossSettings, _asked: bool) -> bool {
        true
    }

    /// Refuses values of its own settings that cannot be meant, and a term that others rule out. Asked whether the term is on or not.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] with the key and what to do.
    fn check(&self, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    /// Declares the special rows that the term needs.
    fn declare(&self, _layout: &mut Layout) {}

    /// Whether the term wants the last training item encoded as well, so that it is no target.
    fn takes_target(&self, _sequence: &Sequence) -> bool {
        false
    }

    /// Training positions of a local epoch that an example stands for.
    fn examples(&self, _sequence: &Sequence) -> usize {
        0
    }

    /// Whether the steps of a visit differ in their candidates only.
    fn steady(&self) -> bool {
        true
    }

    /// Whether the sequences of a mini-batch are compared with each other: one worker then trains all of them.
    fn whole_batches(&self) -> bool {
        false
    }

    /// Takes every item row that the term reads or trains in a visit of a client with this one sequence.
    fn touch(&self, sequence: &Sequence, table: &mut RowTable);

    /// Packs what the term needs of the sequence in a local epoch.
    fn pack(&self, sequence: &Sequence, epoch: u32, out: &mut Out);

    /// Adds the term's share to `dh [Q, d]` and to row gradients, from hidden states `h [Q, d]`. Does nothing where the step holds
    /// nothing of the term. Examples that a term has packed are trained on by the next-item term, whoever packed them.
    fn backward(&self, _be: &mut dyn Backend, _loss: &LossSettings, _h: Act, _dh: Act) {}
}

/// The terms of an objective, in the order in which their rows are taken, their sequences packed and their gradients added.
#[derive(Clone, Default)]
pub struct Terms(Vec<TermRef>);

/// A term of LUMOS, or one that an entry of `loss.terms` made.
#[derive(Clone)]
enum TermRef {
    Own(&'static dyn Term),
    Made(Arc<dyn Term>),
}

impl Terms {
    /// Those that are part of the objective of `loss`, which was validated: each entry of `loss.terms` names a term.
    pub fn of(loss: &LossSettings, asked: bool) -> Terms {
        let own = TERMS.iter().map(|term| TermRef::Own(*term));
        let made = made(loss).expect("validated settings name terms that are known").into_iter().map(TermRef::Made);
        Terms(own.chain(made).filter(|term| term.get().on(loss, asked)).collect())
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Term> {
        self.0.iter().map(TermRef::get)
    }
}

/// The terms that the entries of `loss.terms` make.
///
/// # Errors
/// [`crate::Error::Setting`] for an entry that names no term, or has an option that it does not take.
pub(super) fn made(loss: &LossSettings) -> Result<Vec<Arc<dyn Term>>> {
    loss.terms.iter().map(|entry| registered::build(entry).map(Arc::from)).collect()
}

/// Gradient `[Q, d]` of the whole objective, the terms of `made` included, by the hidden states `h [Q, d]`.
pub(super) fn backward(be: &mut dyn Backend, loss: &LossSettings, asked: bool, made: &[Arc<dyn Term>], h: Act) -> Act {
    let dh = be.act(RowKind::Outputs, h.width);
    be.zero(dh);
    for term in TERMS.iter().copied().chain(made.iter().map(|term| &**term)).filter(|term| term.on(loss, asked)) {
        term.backward(be, loss, h, dh);
    }
    dh
}

impl TermRef {
    fn get(&self) -> &dyn Term {
        match self {
            TermRef::Own(term) => *term,
            TermRef::Made(term) => &**term,
        }
    }
}

/// Refuses settings that no term can be meant with, or that rule each other out.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(settings: &Settings) -> Result<()> {
    TERMS.iter().try_for_each(|term| term.check(settings))?;
    made(&settings.loss)?.iter().try_for_each(|term| term.check(settings))
}

/// One user's sequence and everything that is drawn for it. Borrowed data: a term copies before it edits.
pub struct Sequence<'a> {
    /// The run's settings.
    pub settings: &'a Settings,
    /// User, and the round, which key every draw.
    pub user: u32,
    /// See `user`.
    pub round: u64,
    /// Training items, oldest first.
    pub train: &'a [u32],
    /// Whether views are trained on in this round.
    pub contrast: bool,
    /// The user's views, where there are any.
    pub views: Option<&'a UserViews>,
    /// Items of the catalogue `I`.
    pub items: usize,
    /// The special row at which hidden states are asked for, if any.
    pub asked: Option<u32>,
    /// The special row that stands for an item left out, if any.
    pub mask: Option<u32>,
    /// Whether a term wants the last training item encoded as well.
    pub whole: bool,
    /// Stream of negatives.
    pub negatives: Stream,
}

impl<'a> Sequence<'a> {
    /// The last items of `sequence` that fit an input, beside the special row that is asked with.
    pub fn clip<'s>(&self, sequence: &'s [u32]) -> &'s [u32] {
        let max = self.settings.model.max_len as usize - usize::from(self.asked.is_some());
        &sequence[sequence.len().saturating_sub(max)..]
    }

    /// Training items that a backbone which reads forwards is shown, and the target of the last of them; no target where a term wants that
    /// encoded as well.
    pub fn inputs(&self) -> (&'a [u32], Option<u32>) {
        let max = self.settings.model.max_len as usize;
        let last = |items: &'a [u32]| &items[items.len().saturating_sub(max)..];
        if self.whole {
            return (last(self.train), None);
        }
        match self.train.split_last() {
            Some((&target, inputs)) => (last(inputs), Some(target)),
            None => (&[], None),
        }
    }

    /// Sampled negatives of an example.
    pub fn negatives_per_example(&self) -> usize {
        self.settings.loss.sampled() as usize
    }

    /// Local epochs with negatives of their own.
    pub fn draws(&self) -> u32 {
        if self.settings.loss.resample == Resample::Visit { 1 } else { self.settings.local.epochs }
    }

    /// Negative number `k` of the example at `position` in `epoch`: uniform over the catalogue without the user's training items
    /// (after 32 tries whatever came last, so that a user of every item does not stall).
    pub fn negative(&self, epoch: u32, position: usize, k: usize) -> u32 {
        let epoch = if self.settings.loss.resample == Resample::Visit { 0 } else { epoch };
        let items = self.items as u64;
        let k_total = self.settings.loss.negatives as u64;
        // One block of four words a draw: the first three tries come from it, further tries from later blocks.
        let at = (u64::from(epoch) << 44) | (((position as u64) * k_total + k as u64) << 4);
        let mut item = 0;
        'tries: for block in 0..8u64 {
            for word in self.negatives.block_at(at + block) {
                item = ((u64::from(word) * items) >> 32) as u32;
                if !self.train.contains(&item) {
                    break 'tries;
                }
            }
        }
        item
    }

    /// A stream of draws of this user in this round for `purpose`.
    pub fn stream(&self, purpose: Purpose) -> Stream {
        Stream::new(self.settings.seed, purpose, self.round, u64::from(self.user))
    }
}

impl LossSettings {
    /// Sampled negatives of an example; none under a softmax over the catalogue.
    pub fn sampled(&self) -> u32 {
        if self.rec == RecLoss::Softmax { 0 } else { self.negatives }
    }
}

/// Marks an item without a local row.
const NONE: u32 = u32::MAX;

/// The item rows of a client: which item each local row is, and whether it is trained.
#[derive(Default)]
pub struct RowTable {
    /// Local row of each item and special row `[I + S]`, [`NONE`] where it has none.
    local: Vec<u32>,
    /// Item of each local row.
    items: Vec<u32>,
    /// Whether a local row is trained by other terms than views (uploaded under `upload_rows = "trained"`).
    trained: Vec<bool>,
    /// Every item has a row, and the row is the item: clients with many sequences, or a softmax over the catalogue.
    whole: bool,
}

impl RowTable {
    /// An empty table over `rows` items and special rows.
    pub fn new(rows: usize) -> RowTable {
        RowTable { local: vec![NONE; rows], ..RowTable::default() }
    }

    /// Empties the table. With `whole` every item then has its row.
    pub fn begin(&mut self, whole: bool) {
        for &item in &self.items {
            self.local[item as usize] = NONE;
        }
        self.items.clear();
        self.trained.clear();
        self.whole = whole;
        if whole {
            self.items.extend(0..self.local.len() as u32);
            self.trained.resize(self.items.len(), true);
        }
    }

    /// Item of each row.
    pub fn items(&self) -> &[u32] {
        &self.items
    }

    /// Which rows are trained `[R]`.
    pub fn trained(&self) -> &[bool] {
        &self.trained
    }

    /// Whether every item has a row.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The row of `item`, which gets one if it has none. `trained` marks it as trained.
    pub fn row(&mut self, item: u32, trained: bool) -> u32 {
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
}

/// Where terms pack a sequence.
pub struct Out<'a> {
    /// The step.
    pub step: &'a mut Step,
    /// The client's item rows.
    pub table: &'a mut RowTable,
    /// Output row that stands for the history, once a term has packed it. Where a backbone reads forwards, the outputs of the items before
    /// it lie right before that row, in their order.
    pub anchor: Option<u32>,
}

impl Out<'_> {
    /// Packs `items` (not empty) as a sequence of its own and gives the output row that stands for it: its last item, or the special
    /// row that the backbone is asked with, appended.
    pub fn summary(&mut self, sequence: &Sequence, items: &[u32]) -> u32 {
        let (step, table) = (&mut *self.step, &mut *self.table);
        let asked = sequence.asked.map(|row| table.row(row, true));
        let first = step.push_sequence(sequence.clip(items).iter().map(|&item| table.row(item, false)).chain(asked));
        let last = step.row.len() as u32 - 1;
        debug_assert!(first <= last);
        step.push_output(last)
    }

    /// Appends an example at `output`: the positive `item`, then its negatives.
    pub fn example(&mut self, sequence: &Sequence, output: u32, item: u32, (epoch, position): (u32, usize)) {
        self.step.example.push(output);
        let row = self.table.row(item, true);
        self.step.cands.push(row);
        for k in 0..sequence.negatives_per_example() {
            let negative = sequence.negative(epoch, position, k);
            let row = self.table.row(negative, true);
            self.step.cands.push(row);
        }
    }
}
