//! The next item at every position, for backbones that read their sequences forwards: hidden state `t` predicts item `t + 1`. Or, with
//! `loss.examples = "prefixes"`, the next item of every prefix, each a sequence of its own whose last hidden state alone is trained on.

use super::{Out, Output, RowTable, Sequence, Term};
use crate::Result;
use crate::backend::{Act, Backend};
use crate::config::range::refuse;
use crate::config::{Examples, LossSettings, Settings};
use crate::model::ModelSpec;

/// The next item at every position, or of every prefix. The loss is `loss.rec`.
pub struct NextItem;

/// Targets before those of the positions that one input holds: prefixes train on them, too.
fn older(s: &Sequence) -> usize {
    match s.settings.loss.examples {
        Examples::Positions => 0,
        Examples::Prefixes => s.train.len().saturating_sub(1 + s.positions()),
    }
}

/// Packs the first `n` training items as a sequence and the item behind them as the target of its last state. `place` is where its negatives are drawn.
fn prefix(s: &Sequence, n: usize, place: (u32, usize), out: &mut Out) {
    let items = s.clip(&s.train[..n]);
    let first = out.sequence(s, items, false);
    let output = out.output(first.after(items.len() - 1));
    out.example(s, output, s.train[n], place);
}

impl Term for NextItem {
    fn name(&self) -> &'static str {
        "next item"
    }

    fn on(&self, _: &LossSettings, asked: bool) -> bool {
        !asked
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        if settings.loss.examples == Examples::Prefixes && ModelSpec::new(&settings.model).asked.is_some() {
            let wanted = "`positions`, because the backbone reads both ways and is trained on masked items; or another model.backbone";
            return refuse("loss.examples", "prefixes", wanted);
        }
        Ok(())
    }

    fn examples(&self, s: &Sequence) -> usize {
        older(s) + s.positions()
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        let (inputs, target) = s.inputs();
        // Older items are inputs and targets of prefixes.
        let before = if older(s) > 0 { s.train } else { &[] };
        for &item in inputs.iter().chain(&target).chain(before) {
            table.row(item, true);
        }
        for epoch in 0..s.draws() {
            for position in 0..self.examples(s) {
                s.touch_negatives(table, (epoch, position));
            }
        }
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let (inputs, target) = s.inputs();
        if inputs.is_empty() {
            return;
        }
        // Positions in the input are numbered first, for other terms share their negatives; older targets come behind them.
        let (older, positions) = (older(s), s.positions());
        for n in 0..older {
            prefix(s, n + 1, (epoch, positions + n), out);
        }
        let prefixes = s.settings.loss.examples == Examples::Prefixes;
        if prefixes {
            for position in 0..positions - usize::from(target.is_some()) {
                prefix(s, older + position + 1, (epoch, position), out);
            }
        }
        let table = &mut *out.table;
        let first = out.step.push_sequence(inputs.iter().map(|&item| table.row(item, false)));
        for position in 0..inputs.len() {
            let output = Output(out.step.push_output(first + position as u32));
            let next = inputs.get(position + 1).copied().filter(|_| !prefixes);
            let last = target.filter(|_| position + 1 == inputs.len());
            if let Some(positive) = next.or(last) {
                out.example(s, output, positive, (epoch, position));
            }
            out.anchor = Some(output);
        }
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        be.next_item_loss(loss, h, dh);
    }
}
