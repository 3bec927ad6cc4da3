//! InfoNCE within a mini-batch between two augmented copies of each sequence (CL4SRec, Xie et al., ICDE 2022): each copy against
//! its twin, with the copies of all other sequences of the mini-batch as negatives.
//!
//! A copy is made by one of three operators, and the two copies of a sequence by two different ones: *crop* keeps a stretch of
//! `floor(crop n)` items, at least one; *mask* puts the mask row for `floor(mask n)` of them; *reorder* shuffles a stretch of
//! `floor(reorder n)`. Sequences of one item stay as they are. The stored sequence is never touched.

use super::{Out, RowTable, Sequence, Term};
use crate::backend::{Act, Backend, RowKind};
use crate::base::rng::{Purpose, Stream};
use crate::config::{Clients, InBatchSettings, LossSettings, Settings};
use crate::model::Layout;
use crate::{Error, Result};
use smallvec::SmallVec;

/// Two augmented copies of each sequence are positives; the copies of the other sequences are negatives.
pub struct InBatch;

/// The items that copies are made of: what the history is encoded from.
fn inputs<'a>(s: &Sequence<'a>) -> &'a [u32] {
    if s.asked.is_some() { s.clip(s.train) } else { s.inputs().0 }
}

/// Draws of one sequence in one local epoch, one after another: a function of seed, round, user, epoch and how many came before.
struct Draws {
    stream: Stream,
    at: u64,
}

impl Draws {
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        self.stream.below_at(self.at - 1, n as u64) as usize
    }
}

type Copy = SmallVec<[u32; 64]>;

/// A copy of `items` changed by operator 0 (crop), 1 (mask) or 2 (reorder).
fn augmented(items: &[u32], operator: usize, settings: &InBatchSettings, mask: u32, draws: &mut Draws) -> Copy {
    let mut copy = Copy::from_slice(items);
    let n = copy.len();
    if n < 2 {
        return copy;
    }
    let share = |of: f32| ((f64::from(of) * n as f64) as usize).min(n);
    match operator {
        0 => {
            let kept = share(settings.crop).max(1);
            let from = draws.below(n - kept + 1);
            copy.truncate(from + kept);
            copy.drain(..from);
        }
        1 => {
            // Places at the head of a shuffled list of all places.
            let mut places: Copy = (0..n as u32).collect();
            for i in 0..share(settings.mask) {
                let other = i + draws.below(n - i);
                places.swap(i, other);
                copy[places[i] as usize] = mask;
            }
        }
        _ => {
            let window = share(settings.reorder);
            let from = draws.below(n - window + 1);
            for i in (1..window).rev() {
                let other = draws.below(i + 1);
                copy.swap(from + i, from + other);
            }
        }
    }
    copy
}

impl Term for InBatch {
    fn name(&self) -> &'static str {
        "in-batch contrast"
    }

    fn whole_batches(&self) -> bool {
        true
    }

    fn on(&self, loss: &LossSettings, _: bool) -> bool {
        loss.in_batch.weight > 0.0
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
        if s.weight > 0.0 && settings.federation.clients == Clients::User {
            let message = "has negatives only where a mini-batch holds several sequences, and a client of its own user has one: \
                           set federation.clients = \"one\", \"groups:N\" or \"column\", or the weight to 0";
            return Err(Error::setting("loss.in_batch.weight", message));
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

    fn steady(&self) -> bool {
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
        let mut draws = Draws { stream: s.stream(Purpose::Augment), at: u64::from(epoch) << 32 };
        let first = draws.below(3);
        let second = (first + 1 + draws.below(2)) % 3;
        for operator in [first, second] {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(seed: u64) -> Draws {
        Draws { stream: Stream::new(seed, Purpose::Augment, 1, 0), at: 0 }
    }

    #[test]
    fn operators_do_what_their_names_say() {
        let settings = InBatchSettings::default();
        for n in 1..40usize {
            let items: Vec<u32> = (0..n as u32).map(|i| 100 + i).collect();
            let (mut crops, mut masks, mut orders) = (Vec::new(), Vec::new(), Vec::new());
            for seed in 0..30 {
                let of = |operator| augmented(&items, operator, &settings, 7, &mut draws(seed));
                let (crop, mask, order) = (of(0), of(1), of(2));
                if n == 1 {
                    assert!([&crop, &mask, &order].iter().all(|copy| copy[..] == items[..]));
                    continue;
                }
                assert_eq!(crop.len(), (6 * n / 10).max(1));
                assert!(crop.windows(2).all(|w| w[1] == w[0] + 1), "neighbours stay neighbours");
                let hidden: Vec<usize> = (0..n).filter(|&i| mask[i] == 7).collect();
                assert_eq!((mask.len(), hidden.len()), (n, 3 * n / 10));
                assert!((0..n).all(|i| mask[i] == items[i] || mask[i] == 7));
                let mut sorted = order.clone();
                sorted.sort();
                assert_eq!(sorted[..], items[..]);
                let moved: Vec<usize> = (0..n).filter(|&i| order[i] != items[i]).collect();
                assert!(moved.is_empty() || moved[moved.len() - 1] - moved[0] < 6 * n / 10, "within the window");
                crops.push(crop);
                masks.push(hidden);
                orders.push(order);
            }
            for list in [crops.len(), masks.len(), orders.len()] {
                assert!(list == 30 || n == 1);
            }
            if n >= 10 {
                assert!(
                    crops.windows(2).any(|w| w[0] != w[1])
                        && masks.windows(2).any(|w| w[0] != w[1])
                        && orders.windows(2).any(|w| w[0] != w[1])
                );
            }
        }
    }
}
