//! The next item at every position, for backbones that read their sequences forwards: hidden state `t` predicts item `t + 1`.

use super::{Out, Output, RowTable, Sequence, Term};
use crate::backend::{Act, Backend};
use crate::config::LossSettings;

/// The next item at every position. The loss is `loss.rec`.
pub struct NextItem;

impl Term for NextItem {
    fn name(&self) -> &'static str {
        "next item"
    }

    fn on(&self, _: &LossSettings, asked: bool) -> bool {
        !asked
    }

    fn examples(&self, s: &Sequence) -> usize {
        s.positions()
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        let (inputs, target) = s.inputs();
        for &item in inputs.iter().chain(&target) {
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
        let table = &mut *out.table;
        let first = out.step.push_sequence(inputs.iter().map(|&item| table.row(item, false)));
        for position in 0..inputs.len() {
            let output = Output(out.step.push_output(first + position as u32));
            if let Some(positive) = inputs.get(position + 1).copied().or(target) {
                out.example(s, output, positive, (epoch, position));
            }
            out.anchor = Some(output);
        }
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        be.next_item_loss(loss, h, dh);
    }
}
