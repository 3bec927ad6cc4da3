//! InfoNCE within a mini-batch between two copies of each sequence: each copy against its twin, with the copies of all other sequences of
//! the mini-batch as negatives. What a copy is, `loss.in_batch.copies` says:
//!
//! * `augmented`: the sequence changed by one of three operators ([`super::augment`]), the two copies by two different ones (CL4SRec, Xie et
//!   al., ICDE 2022). The stored sequence is never touched.
//! * `same-target`: the sequence itself once more, under another dropout, and what came before the same target in another training sequence,
//!   uniform among them; where no other sequence has it, the sequence itself (DuoRec, Qiu et al., WSDM 2022).

use super::augment::{Draws, augmented};
use super::{Out, RowTable, Sequence, Term};
use crate::backend::{Act, Backend, RowKind};
use crate::config::{Clients, Copies, LossSettings, Settings};
use crate::model::{Layout, ModelSpec};
use crate::{Error, Result};

/// Two copies of each sequence are positives; the copies of the other sequences are negatives.
pub struct InBatch;

/// The items that copies are made of: what the history is encoded from.
pub(super) fn inputs<'a>(s: &Sequence<'a>) -> &'a [u32] {
    if s.asked.is_some() { s.clip(s.train) } else { s.inputs().0 }
}

impl Term for InBatch {
    fn name(&self) -> &'static str {
        "in-batch contrast"
    }

    fn whole_batches(&self) -> bool {
        true
    }

    fn on(&self, loss: &LossSettings, _: bool) -> bool {
        loss.in_batch.weight > 0.0 && loss.in_batch.strangers == 0
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let s = &settings.loss.in_batch;
        let fail = |key: &str, value: f32, wanted: &str| Err(Error::setting(key, format!("is {value}, must be {wanted}")));
        if !(s.weight.is_finite() && s.weight >= 0.0) {
            return fail("loss.in_batch.weight", s.weight, "a finite number, 0 or more");
        }
        if !(s.tau.is_finite() && s.tau > 0.0) {
            return fail("loss.in_batch.tau", s.tau, "a finite number above 0");
        }
        let shares = [("loss.in_batch.crop", s.crop), ("loss.in_batch.mask", s.mask), ("loss.in_batch.reorder", s.reorder)];
        if let Some((key, value)) = shares.into_iter().find(|(_, x)| !(0.0..=1.0).contains(x)) {
            return fail(key, value, "between 0 and 1 (a share)");
        }
        if s.weight > 0.0 && s.strangers > 0 {
            return super::lone_contrast::check(settings);
        }
        if s.weight > 0.0 && settings.federation.clients == Clients::User {
            let message = "has negatives only where a mini-batch holds several sequences, and a client of its own user has one: \
                           set federation.clients = \"one\", \"groups:N\" or \"column\", loss.in_batch.strangers above 0, or the weight to 0";
            return Err(Error::setting("loss.in_batch.weight", message));
        }
        if s.weight > 0.0 && s.copies == Copies::SameTarget && ModelSpec::new(&settings.model).asked.is_some() {
            let backbone = settings.model.backbone.name();
            let message = format!("is same-target, and {backbone} has no next item as a target; set augmented");
            return Err(Error::setting("loss.in_batch.copies", message));
        }
        if s.weight > 0.0 && settings.local.batch < 2 {
            let message =
                format!("is {}, wanted at least 2: loss.in_batch.weight needs mini-batches of several sequences", settings.local.batch);
            return Err(Error::setting("local.batch", message));
        }
        Ok(())
    }

    fn declare(&self, layout: &mut Layout) {
        layout.special("mask");
    }

    fn steady(&self, _: &LossSettings) -> bool {
        false
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        for &item in inputs(s).iter().chain(&s.mask).chain(&s.asked) {
            table.row(item, true);
        }
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let (items, Some(mask)) = (inputs(s), s.mask) else { return };
        if items.is_empty() {
            return;
        }
        let mut draws = Draws::of(s, epoch);
        if s.settings.loss.in_batch.copies == Copies::SameTarget {
            let place = s.train.len() - 1;
            let other = s.same_target.and_then(|all| all.draw(s.train[place], (s.user, place as u32), |n| draws.below(n)));
            let [one, two] = [items, other.map_or(items, |prefix| s.clip(prefix))].map(|copy| out.summary(s, copy));
            out.pair(one, two);
            return;
        }
        for operator in draws.operators() {
            let copy = augmented(items, operator, &s.settings.loss.in_batch, mask, &mut draws);
            let output = out.summary(s, &copy);
            out.step.pair.push(output.0);
        }
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        let scratch = [h.width, 1, 1].map(|width| be.act(RowKind::Outputs, width));
        be.in_batch_info_nce(&loss.in_batch, h, scratch, dh);
    }
}
