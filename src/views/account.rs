//! What is on record of views that a language model wrote.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::generator::Counts;
#[cfg(any(feature = "endpoint", feature = "llm"))]
use super::generator::ViewKind;
use super::text::NameCounts;
#[cfg(any(feature = "endpoint", feature = "llm"))]
use super::text::Writer;

/// Who wrote, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the model, or its folder.
    pub model: String,
    /// SHA-256 of the weights; empty where an endpoint keeps them.
    pub model_hash: String,
    /// Hash of the prompt file of each kind of view.
    pub prompts: BTreeMap<String, String>,
    /// How tokens were chosen.
    pub sampling: serde_json::Value,
    /// How lines became items.
    pub grounding: String,
    /// How items take part.
    pub names: NameCounts,
    /// What computed.
    pub device: String,
    /// Numbers that the weights were stored in.
    pub dtype: String,
}

impl Provenance {
    /// What is the same whoever answers: prompts and names.
    #[cfg(any(feature = "endpoint", feature = "llm"))]
    pub(super) fn of(writer: &Writer<'_>) -> Provenance {
        let prompts =
            [ViewKind::Future, ViewKind::Paraphrase, ViewKind::Counterfactual(0)].map(|p| (p.name().into(), writer.prompts.hash(p).into()));
        Provenance { prompts: prompts.into(), names: writer.names.counts, ..Default::default() }
    }
}

/// What language-model work took over all starts of a build.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Seconds of wall time in which views were asked for.
    pub seconds: f64,
    /// Tokens of the prompts of these views.
    pub prompt_tokens: f64,
    /// Tokens of their answers.
    pub output_tokens: f64,
    /// Energy of the GPU in joules, where it reports it.
    pub joules: Option<f64>,
}

/// What the manifest keeps, over all starts of a build.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// Who wrote.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Lines of all answers.
    pub lines: u64,
    /// Share of lines that name an item of the catalogue.
    pub grounded_share: f64,
    /// Share of lines that name an item of the user's own history.
    pub own_share: f64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub output_tokens: u64,
    /// Seconds of wall time in which views were asked for, over all starts of a build.
    pub seconds: f64,
    /// Energy of the GPU over all starts of a build in joules, where it reports it.
    pub joules: Option<f64>,
    /// Tokens of the prompts of these starts over their wall time. What a shared start of prompts saved counts as read.
    pub prompt_tokens_per_s: Option<f64>,
    /// Tokens of the answers of these starts over their wall time.
    pub output_tokens_per_s: Option<f64>,
}

/// Sums of [`Counts`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    lines: u64,
    grounded: u64,
    own: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

impl Totals {
    pub(super) fn add(&mut self, counts: &Counts) {
        self.lines += u64::from(counts.lines);
        self.grounded += u64::from(counts.grounded);
        self.own += u64::from(counts.own);
        self.prompt_tokens += u64::from(counts.prompt_tokens);
        self.output_tokens += u64::from(counts.output_tokens);
    }
}

impl Generation {
    /// Of views with `totals`, whose build took what `spent` says.
    pub(super) fn new(provenance: Provenance, totals: Totals, spent: Spent) -> Generation {
        let share = |part: u64| if totals.lines == 0 { 0.0 } else { part as f64 / totals.lines as f64 };
        let rate = |tokens: f64| (tokens > 0.0 && spent.seconds > 0.0).then(|| tokens / spent.seconds);
        Generation {
            provenance,
            prompt_tokens_per_s: rate(spent.prompt_tokens),
            output_tokens_per_s: rate(spent.output_tokens),
            lines: totals.lines,
            grounded_share: share(totals.grounded),
            own_share: share(totals.own),
            prompt_tokens: totals.prompt_tokens,
            output_tokens: totals.output_tokens,
            seconds: spent.seconds,
            joules: spent.joules,
        }
    }
}

/// A user for whom a language model gave no views.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Token of the user.
    pub user: String,
    /// Why.
    pub reason: String,
    /// Whether anything was asked.
    pub asked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_tokens_over_wall_time() {
        let mut totals = Totals::default();
        totals.add(&Counts { lines: 10, grounded: 5, own: 1, prompt_tokens: 90_000, output_tokens: 300 });
        let spent = Spent { seconds: 1.59, prompt_tokens: 87_267.0, output_tokens: 159.0, joules: None };
        let g = Generation::new(Provenance::default(), totals, spent);
        assert_eq!(g.prompt_tokens_per_s.map(f64::round), Some(54_885.0));
        assert_eq!(g.output_tokens_per_s.map(f64::round), Some(100.0));
        assert_eq!((g.prompt_tokens, g.seconds, g.grounded_share), (90_000, 1.59, 0.5));
        let idle = Generation::new(Provenance::default(), totals, Spent::default());
        assert_eq!((idle.prompt_tokens_per_s, idle.output_tokens_per_s), (None, None));
    }
}
