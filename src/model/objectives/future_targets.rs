//! The future view as targets (`loss.future_targets`; ours): at the state that `loss.anchor` names, the items that the future appends are
//! further positives of the next-item loss. They share the weight equally, wherever they stand in the future: generators give a likely
//! set rather than an order, so no position is discounted.
//!
//! Under `loss.anchor = "history"` the state has no true target. With `model.positions = "last"` the last position is then trained on the
//! future alone, and every recommendation is made there: `"input"` keeps the true target beside the future.

use super::{Out, RowTable, Sequence, Term, view_checks};
use crate::Result;
use crate::config::{Anchor, LossSettings, Settings};

/// Items of the future as positives of the history's last state. The loss is `loss.rec`, called by the term of next items.
pub struct FutureTargets;

/// The items that the future appends to the training items.
fn appended<'a>(s: &Sequence<'a>) -> &'a [u32] {
    let views = s.views.filter(|_| s.train.len() > 1);
    views.and_then(|views| views.future.strip_prefix(s.train)).unwrap_or_default()
}

impl Term for FutureTargets {
    fn name(&self) -> &'static str {
        "future targets"
    }

    fn on(&self, loss: &LossSettings, asked: bool) -> bool {
        loss.future_targets > 0.0 && !asked
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        view_checks::weight(settings, "loss.future_targets", settings.loss.future_targets)
    }

    fn takes_target(&self, s: &Sequence) -> bool {
        s.settings.loss.anchor == Anchor::History && !appended(s).is_empty()
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        appended(s).iter().for_each(|&item| {
            table.row(item, false);
        });
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let (items, positions) = (appended(s), s.positions());
        let (Some(state), 1..) = (out.anchor, positions) else { return };
        // Together the items weigh `loss.future_targets` times what all training positions weigh.
        let weight = s.settings.loss.future_targets * positions as f32 / items.len() as f32;
        for &item in items {
            // The negatives of the last training position: no more rows for the client to take.
            out.weighted_example(s, state, item, weight, (epoch, positions - 1));
        }
    }
}
