//! Masked items, for backbones that read their sequences both ways (Cloze objective of BERT4Rec, Sun et al., CIKM 2019): some items
//! of the training sequence are hidden behind the mask row and predicted from all the others.
//!
//! One masked copy of a sequence a local epoch. Each position is masked with probability `rho`, at least one always. In a share
//! `last` of the copies only the last item is masked, as it is when a recommendation is asked for; the published code of BERT4Rec
//! has one such copy to ten of the others, the paper says no share.

use super::{Out, Output, RowTable, Sequence, Term};
use crate::backend::{Act, Backend};
use crate::base::rng::Purpose;
use crate::config::{LossSettings, Settings};
use crate::{Error, Result};
use smallvec::SmallVec;

/// Items left out of a sequence, at a mask row in their place. The loss is `loss.rec`.
pub struct MaskedItem;

fn inputs<'a>(s: &Sequence<'a>) -> &'a [u32] {
    &s.train[s.train.len().saturating_sub(s.settings.model.max_len as usize)..]
}

/// Which of `n` positions are masked in `epoch`; at least one where there is any. A function of seed, round, user and epoch.
fn masked(s: &Sequence, epoch: u32, n: usize) -> SmallVec<[bool; 64]> {
    let (stream, settings) = (s.stream(Purpose::Masks), &s.settings.loss.masked);
    let at = |i: usize| (u64::from(epoch) << 32) + i as u64;
    let unit = |i: usize| (stream.u32_at(at(i)) >> 8) as f32 * (1.0 / 16_777_216.0);
    let mut all = SmallVec::from_elem(false, n);
    if n == 0 {
        return all;
    }
    if unit(0) < settings.last {
        all[n - 1] = true;
        return all;
    }
    for (i, hidden) in all.iter_mut().enumerate() {
        *hidden = unit(1 + i) < settings.rho;
    }
    if !all.contains(&true) {
        all[stream.below_at(at(1 + n), n as u64) as usize] = true;
    }
    all
}

impl Term for MaskedItem {
    fn name(&self) -> &'static str {
        "masked items"
    }

    fn on(&self, _: &LossSettings, asked: bool) -> bool {
        asked
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let s = &settings.loss.masked;
        let fail = |key: &str, value: f32, wanted: &str| Err(Error::setting(key, format!("is {value}, must be {wanted}")));
        if !(s.rho > 0.0 && s.rho <= 1.0) {
            return fail("loss.masked.rho", s.rho, "above 0 and at most 1 (a probability)");
        }
        if !(0.0..=1.0).contains(&s.last) {
            return fail("loss.masked.last", s.last, "between 0 and 1 (a share)");
        }
        Ok(())
    }

    /// Every position: each is masked in its turn.
    fn examples(&self, s: &Sequence) -> usize {
        inputs(s).len()
    }

    fn steady(&self, _: &LossSettings) -> bool {
        false
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        let items = inputs(s);
        if items.is_empty() {
            return;
        }
        for &item in items {
            table.row(item, true);
        }
        s.asked.iter().for_each(|&row| {
            table.row(row, true);
        });
        for epoch in 0..s.settings.local.epochs {
            for (position, _) in masked(s, epoch, items.len()).iter().enumerate().filter(|(_, hidden)| **hidden) {
                s.touch_negatives(table, (epoch, position));
            }
        }
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let (items, Some(mask)) = (inputs(s), s.asked) else { return };
        if items.is_empty() {
            return;
        }
        let hidden = masked(s, epoch, items.len());
        let table = &mut *out.table;
        let first = out.step.push_sequence(items.iter().zip(&hidden).map(|(&item, &h)| table.row(if h { mask } else { item }, true)));
        for (position, &item) in items.iter().enumerate().filter(|(i, _)| hidden[*i]) {
            let output = Output(out.step.push_output(first + position as u32));
            out.example(s, output, item, (epoch, position));
        }
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        be.next_item_loss(loss, h, dh);
    }
}
