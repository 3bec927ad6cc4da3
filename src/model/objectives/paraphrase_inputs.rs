//! The paraphrase as an input (`loss.paraphrase_inputs`; ours): the next-item loss of the paraphrase with the history's own next items as
//! targets, so that near substitutes lead to what was really taken.
//!
//! A paraphrase as long as the history, as every generator of LUMOS means it, has a target at each position. One of another length has
//! lost the alignment; its last state alone predicts the last training item.

use super::{Out, RowTable, Sequence, Term, view_checks};
use crate::Result;
use crate::config::{LossSettings, Settings};

/// True next items as targets of the paraphrase. The loss is `loss.rec`, called by the term of next items.
pub struct ParaphraseInputs;

/// What is packed of a paraphrase.
struct Packed<'a> {
    items: &'a [u32],
    /// Whether position `i` predicts what position `i` of the history does.
    aligned: bool,
    /// Whether it is the whole paraphrase, so that its last state stands for it.
    whole: bool,
}

fn packed<'a>(s: &Sequence<'a>) -> Option<Packed<'a>> {
    let paraphrase = s.views?.paraphrase.as_slice();
    let aligned = paraphrase.len() == s.train.len();
    // The last state of the whole paraphrase is the contrast's, and has no target.
    let whole = aligned && s.whole;
    let end = if whole { paraphrase.len() } else { paraphrase.len().checked_sub(1)? };
    let items = s.clip(&paraphrase[..end]);
    (!items.is_empty() && s.train.len() > 1).then_some(Packed { items, aligned, whole })
}

impl Term for ParaphraseInputs {
    fn name(&self) -> &'static str {
        "paraphrase inputs"
    }

    fn on(&self, loss: &LossSettings, asked: bool) -> bool {
        loss.paraphrase_inputs > 0.0 && !asked
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        view_checks::weight(settings, "loss.paraphrase_inputs", settings.loss.paraphrase_inputs)
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        for &item in packed(s).map_or(&[][..], |packed| packed.items) {
            table.row(item, false);
        }
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let Some(Packed { items, aligned, whole }) = packed(s) else { return };
        let (inputs, target) = s.inputs();
        let (weight, positions) = (s.settings.loss.paraphrase_inputs, s.positions());
        let first = out.sequence(s, items, false);
        if !aligned {
            let state = out.output(first.after(items.len() - 1));
            let last = s.train[s.train.len() - 1];
            out.weighted_example(s, state, last, weight * positions as f32, (epoch, positions - 1));
            return;
        }
        for position in 0..items.len() {
            let state = out.output(first.after(position));
            match inputs.get(position + 1).copied().or(target) {
                Some(next) => out.weighted_example(s, state, next, weight, (epoch, position)),
                None if whole => out.paraphrase = Some(state),
                None => {}
            }
        }
    }
}
