//! The contrast of a history with its views: future, paraphrase, counterfactuals (LUMOS, arXiv 2602.09306). Its settings are
//! `loss.contrast`, `lambda`, `lambda_rounds`, `tau`, `anchor`, `future`, `paraphrase` and `counterfactual`.

use super::{Out, RowTable, Sequence, Term};
use crate::backend::{Act, Backend};
use crate::config::{Anchor, Contrast, LossSettings};
use crate::views::UserViews;
use smallvec::SmallVec;

/// The contrast of a history with its future, paraphrase and counterfactuals.
pub struct TriView;

/// The views that the objective uses, positives first, and how many positives there are.
fn used<'a>(loss: &LossSettings, views: &'a UserViews) -> (SmallVec<[&'a [u32]; 8]>, usize) {
    let mut used = SmallVec::<[&[u32]; 8]>::new();
    if loss.future && !views.future.is_empty() {
        used.push(&views.future);
    }
    if loss.paraphrase && !views.paraphrase.is_empty() {
        used.push(&views.paraphrase);
    }
    let positives = used.len();
    if loss.counterfactual {
        used.extend(views.counterfactuals.iter().filter(|v| !v.is_empty()).map(Vec::as_slice));
    }
    (used, positives)
}

impl Term for TriView {
    fn name(&self) -> &'static str {
        "tri-view contrast"
    }

    fn on(&self, loss: &LossSettings, _: bool) -> bool {
        loss.contrast != Contrast::None
    }

    fn takes_target(&self, s: &Sequence) -> bool {
        s.contrast && s.settings.loss.anchor == Anchor::History
    }

    fn touch(&self, s: &Sequence, table: &mut RowTable) {
        let (true, Some(views)) = (s.contrast, s.views) else { return };
        for view in used(&s.settings.loss, views).0 {
            for &item in s.clip(view) {
                table.row(item, false);
            }
        }
    }

    fn pack(&self, s: &Sequence, _: u32, out: &mut Out) {
        let (true, Some(views)) = (s.contrast, s.views) else { return };
        let (views, positives) = used(&s.settings.loss, views);
        if positives == 0 || s.train.is_empty() {
            return;
        }
        // A backbone that reads both ways is asked about the history as it is about a view; others have its last hidden state.
        let anchor = match (s.asked, out.anchor) {
            (Some(_), _) => out.summary(s, if s.whole { s.train } else { &s.train[..(s.train.len() - 1).max(1)] }),
            (None, Some(anchor)) => anchor,
            (None, None) => return,
        };
        // The paraphrase may be packed already, as an input of its own.
        let paraphrase = s.views.map(|views| views.paraphrase.as_slice()).zip(out.paraphrase);
        let packed = |view: &[u32]| paraphrase.filter(|(items, _)| std::ptr::eq(*items, view)).map(|(_, output)| output);
        let outs: SmallVec<[u32; 8]> = views.iter().map(|view| packed(view).unwrap_or_else(|| out.summary(s, view))).collect();
        out.step.push_group(anchor, &outs[..positives], &outs[positives..]);
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        be.info_nce(loss, h, dh);
    }
}
