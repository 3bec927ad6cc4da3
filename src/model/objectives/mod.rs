//! A client's objective: a sum of terms. A term is one file: its settings, what it packs into a step, and its share of the gradient.
//!
//! One more term is a file beside this one and a line in [`TERMS`]. One of another crate is made known by [`register`] and switched on by an
//! entry of `loss.terms`, a name with options such as `"two-ahead weight=0.5"`.

mod augment;
mod future_targets;
mod hard_negatives;
mod in_batch;
mod lone_contrast;
mod masked_item;
mod next_item;
mod packing;
mod paraphrase_inputs;
mod places;
mod popularity;
mod registered;
mod same_target;
mod tri_view;
mod view_checks;

pub use packing::*;
pub use places::{Output, Token};
pub use popularity::Popularity;
pub use registered::{TermKind, register};
pub use same_target::SameTarget;

use super::Layout;
use crate::backend::{Act, Backend, RowKind};
use crate::config::range::{ensure, number};
use crate::config::{LossSettings, RecLoss, Settings};
use crate::{Error, Result};
use std::sync::Arc;

/// Every term, in the order in which their rows are taken, their sequences packed and their gradients added.
pub const TERMS: &[&dyn Term] = &[
    &next_item::NextItem,
    &masked_item::MaskedItem,
    &future_targets::FutureTargets,
    &paraphrase_inputs::ParaphraseInputs,
    &tri_view::TriView,
    &in_batch::InBatch,
    &lone_contrast::LoneContrast,
];

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
    fn steady(&self, _loss: &LossSettings) -> bool {
        true
    }

    /// Whether the sequences of a mini-batch are compared with each other: it is then packed as one, and threads share its operations.
    fn whole_batches(&self) -> bool {
        false
    }

    /// Takes every item row that the term reads or trains in a visit of a client with this one sequence.
    fn touch(&self, sequence: &Sequence, table: &mut RowTable);

    /// Packs what the term needs of the sequence in a local epoch.
    fn pack(&self, sequence: &Sequence, epoch: u32, out: &mut Out);

    /// Adds the term's share to `dh [Q, d]` and to row gradients, from hidden states `h [Q, d]`. Does nothing where the step holds
    /// nothing of the term.
    ///
    /// A loss of the backend takes all that a step holds for it, whoever packed it: [`Backend::next_item_loss`] all examples,
    /// [`Backend::info_nce`] all groups, [`Backend::in_batch_info_nce`] all pairs. The first is always called by the term of LUMOS that
    /// trains on next or masked items, so that another term need only pack its examples. A term that packs groups or pairs calls the loss
    /// itself, and refuses settings ([`Term::check`]) with which a term of LUMOS would call it as well.
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
/// [`crate::Error::Setting`] for an entry that names no term or has an option that it does not take, and for a term that is listed twice.
pub(super) fn made(loss: &LossSettings) -> Result<Vec<Arc<dyn Term>>> {
    let name = |entry: &String| entry.split_whitespace().next().map(str::to_string);
    for (i, entry) in loss.terms.iter().enumerate() {
        if loss.terms[..i].iter().any(|other| name(other) == name(entry)) {
            let message = format!("lists `{}` twice; a term is a part of the objective once", name(entry).unwrap_or_default());
            return Err(Error::setting("loss.terms", message));
        }
    }
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
    hard_negatives::check(settings)?;
    popularity::check(settings)?;
    let (key, smoothing) = ("loss.smoothing", settings.loss.smoothing);
    number(|x| (0.0..1.0).contains(&x), key, smoothing, "at least 0 and below 1")?;
    let sampled = settings.loss.rec == RecLoss::SampledSoftmax;
    ensure(smoothing == 0.0 || sampled, key, smoothing, "0, because only loss.rec = \"sampled-softmax\" has targets to smooth")?;
    TERMS.iter().try_for_each(|term| term.check(settings))?;
    made(&settings.loss)?.iter().try_for_each(|term| term.check(settings))
}
