//! The contrast of a history with its views: future, paraphrase, counterfactuals (LUMOS, arXiv 2602.09306). Its settings are
//! `loss.contrast`, `lambda`, `lambda_rounds`, `tau`, `anchor`, `pool`, `future`, `paraphrase` and `counterfactual`.

use super::{Out, Output, RowTable, Sequence, Term};
use crate::Result;
use crate::backend::{Act, Backend, Mask, RowKind};
use crate::config::range::refuse;
use crate::config::{Anchor, Contrast, CounterfactualStates, LossSettings, Pool, Settings};
use crate::model::ModelSpec;
use crate::views::UserViews;
use smallvec::SmallVec;

/// Most counterfactual states of a group: a GPU's kernel holds 48 bytes of shared memory for each.
const MOST_STATES: u64 = 1000;

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

/// The contrast of means of hidden states. `h`, `dh [Q, d]`; every token that is averaged is an output.
///
/// Attention whose scores are all 0 is a mean over the tokens that a query sees, which a causal mask lets end with its own.
fn contrast_of_means(be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
    let mut zeros = |rows| {
        let x = be.act(rows, h.width);
        be.zero(x);
        x
    };
    let [k, v] = [RowKind::Tokens; 2].map(&mut zeros);
    let [q, d_means] = [RowKind::Outputs; 2].map(&mut zeros);
    let [means, dq] = [h.width; 2].map(|width| be.act(RowKind::Outputs, width));
    let [dk, dv] = [h.width; 2].map(|width| be.act(RowKind::Tokens, width));
    let stats = be.act(RowKind::Outputs, 1);
    be.select_backward(h, v);
    be.attention(Mask::Causal, 1, q, k, v, means, stats);
    be.info_nce(loss, means, d_means);
    be.attention_backward(Mask::Causal, 1, q, k, v, stats, d_means, dq, dk, dv);
    be.select(dv, dq);
    be.add(dq, dh);
}

impl Term for TriView {
    fn name(&self) -> &'static str {
        "tri-view contrast"
    }

    fn on(&self, loss: &LossSettings, _: bool) -> bool {
        loss.contrast != Contrast::None
    }

    fn check(&self, settings: &Settings) -> Result<()> {
        let asked = || ModelSpec::new(&settings.model).asked.is_some();
        if settings.loss.contrast != Contrast::None && settings.loss.pool != Pool::Last && asked() {
            let backbone = settings.model.backbone.name();
            let wanted = format!("last, because {backbone} is asked about a sequence at one row of its own");
            return refuse("loss.pool", settings.loss.pool.name(), &wanted);
        }
        if settings.loss.contrast != Contrast::None && settings.loss.counterfactual_states != CounterfactualStates::Last && asked() {
            let backbone = settings.model.backbone.name();
            let wanted = format!("last, because {backbone} is asked about a sequence at one row of its own");
            return refuse("loss.counterfactual_states", settings.loss.counterfactual_states.name(), &wanted);
        }
        let states = u64::from(settings.views.counterfactuals) * u64::from(settings.model.max_len);
        if settings.loss.contrast != Contrast::None
            && settings.loss.counterfactual_states == CounterfactualStates::Every
            && states > MOST_STATES
        {
            let wanted = format!("last, or at most {MOST_STATES} states: views.counterfactuals times model.max_len is {states}");
            return refuse("loss.counterfactual_states", "every", &wanted);
        }
        Ok(())
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

    fn steady(&self, loss: &LossSettings) -> bool {
        loss.contrast_epochs == 0
    }

    fn pack(&self, s: &Sequence, epoch: u32, out: &mut Out) {
        let now = s.settings.loss.contrast_epochs == 0 || epoch < s.settings.loss.contrast_epochs;
        let (true, Some(views)) = (s.contrast && now, s.views) else { return };
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
        let state = |out: &mut Out, view: &[u32]| match s.settings.loss.pool {
            Pool::Last => out.summary(s, view),
            Pool::Mean => out.states(s, view),
        };
        let near: SmallVec<[Output; 2]> = views[..positives].iter().map(|view| packed(view).unwrap_or_else(|| state(out, view))).collect();
        let mut far = SmallVec::<[Output; 8]>::new();
        for view in &views[positives..] {
            match s.settings.loss.counterfactual_states {
                CounterfactualStates::Last => far.push(state(out, view)),
                CounterfactualStates::Every => {
                    let last = out.states(s, view);
                    far.extend((0..s.clip(view).len()).rev().map(|n| last.before(n)));
                }
            }
        }
        out.group(anchor, &near, &far);
    }

    fn backward(&self, be: &mut dyn Backend, loss: &LossSettings, h: Act, dh: Act) {
        match loss.pool {
            Pool::Last => be.info_nce(loss, h, dh),
            Pool::Mean => contrast_of_means(be, loss, h, dh),
        }
    }
}
