//! CL4SRec's contrast for a client of one sequence (ours; the paper has mini-batches): two augmented copies of the history are positives, and
//! sequences of random items, as long as the history and augmented like it, are the negatives that a mini-batch would have held.
//!
//! Its settings are those of `loss.in_batch`, with `strangers` above 0. The items of a stranger are the same throughout a visit, and their
//! rows are not uploaded under `federation.upload_rows = "trained"`.

use super::augment::{Copy, Draws, augmented};
use super::in_batch::inputs;
use super::{Out, Output, RowTable, Sequence, Term};
use crate::backend::{Act, Backend};
use crate::base::rng::Purpose;
use crate::config::{Clients, Contrast, Copies, LossSettings, Settings, Similarity};
use crate::model::Layout;
use crate::{Error, Result};
use smallvec::SmallVec;

/// Two augmented copies of the history against random sequences.
pub struct LoneContrast;

/// Refuses what the term cannot be meant with, where it is on.
pub(super) fn check(settings: &Settings) -> Result<()> {
    let refuse = |key: &str, found: &str, wanted: &str| {
        let message = format!("is {found}, and loss.in_batch.strangers is above 0: wanted {wanted}");
        Err(Error::setting(key, message))
    };
    let s = &settings.loss.in_batch;
    if settings.federation.clients != Clients::User {
        let clients = settings.federation.clients.to_string();
        return refuse("federation.clients", &clients, "user; other participants have mini-batches of true sequences");
    }
    if settings.loss.contrast != Contrast::None {
        return refuse("loss.contrast", settings.loss.contrast.name(), "none, because both contrasts are one loss of the step");
    }
    if s.similarity != Similarity::Cosine {
        return refuse("loss.in_batch.similarity", s.similarity.name(), "cosine");
    }
    if s.copies != Copies::Augmented {
        return refuse("loss.in_batch.copies", s.copies.name(), "augmented, because one sequence has no other of its target");
    }
    if s.strangers > 64 {
        return refuse("loss.in_batch.strangers", &s.strangers.to_string(), "at most 64");
    }
    Ok(())
}

/// The items of stranger number `k`: as many as the history has, uniform over the catalogue without the history (after eight tries whatever
/// came last).
fn stranger(s: &Sequence, k: u32) -> Copy {
    let stream = s.stream(Purpose::Views);
    let draw = |place: usize| {
        let at = ((u64::from(k) << 32) | place as u64) << 3;
        let mut tries = (0..8).map(|n| stream.below_at(at + n, s.items as u64) as u32);
        tries.clone().find(|item| !s.train.contains(item)).or(tries.next_back()).unwrap_or_default()
    };
    (0..inputs(s).len()).map(draw).collect()
}

impl Term for LoneContrast {
    fn name(&self) -> &'static str {
        "contrast with strangers"
    }

    fn on(&self, loss: &LossSettings, _: bool) -> bool {
        loss.contrast_with_strangers()
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
        for k in 0..s.settings.loss.in_batch.strangers {
            for item in stranger(s, k) {
                table.row(item, false);
            }
        }
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let (items, Some(mask)) = (inputs(s), s.mask) else { return };
        if items.is_empty() {
            return;
        }
        let (settings, mut draws) = (&s.settings.loss.in_batch, Draws::of(s, epoch));
        let [one, two] = draws.operators().map(|operator| augmented(items, operator, settings, mask, &mut draws));
        let [one, two] = [one, two].map(|copy| out.summary(s, &copy));
        let negatives: SmallVec<[Output; 8]> = (0..settings.strangers)
            .map(|k| {
                let operator = draws.below(3);
                let copy = augmented(&stranger(s, k), operator, settings, mask, &mut draws);
                out.summary(s, &copy)
            })
            .collect();
        out.group(one, &[two], &negatives);
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        // One positive: both forms of the contrast are InfoNCE. A device has the weight from the step (`LossSettings::group_weight_at`).
        let s = &loss.in_batch;
        let form = LossSettings { contrast: Contrast::Decoupled, lambda: s.weight, tau: s.tau, terms: Vec::new(), ..loss.clone() };
        be.info_nce(&form, h, dh);
    }
}
