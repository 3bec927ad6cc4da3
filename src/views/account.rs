//! What is on record of views that a language model wrote.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::generator::{Counts, Part};
use super::text::{NameCounts, Writer};

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
    /// Numbers that the weights were kept in.
    pub dtype: String,
}

impl Provenance {
    /// What is the same whoever answers: prompts and names.
    pub(super) fn of(writer: &Writer<'_>) -> Provenance {
        let prompts = [Part::Future, Part::Paraphrase, Part::Counterfactual(0)].map(|p| (p.name().into(), writer.prompts.hash(p).into()));
        Provenance { prompts: prompts.into(), names: writer.names.counts, ..Default::default() }
    }
}

/// What the work of one start of a build took. Seconds are all of it where reading and writing cannot be told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Seconds in which prompts were read.
    pub prompt_seconds: f64,
    /// Tokens of answers.
    pub output_tokens: u64,
    /// Seconds in which answers were written.
    pub output_seconds: f64,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.prompt_tokens += more.prompt_tokens;
        self.prompt_seconds += more.prompt_seconds;
        self.output_tokens += more.output_tokens;
        self.output_seconds += more.output_seconds;
    }
}

/// What a generator says of itself and of the work since a build was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Who wrote.
    pub provenance: Provenance,
    /// What it took.
    pub spent: Spent,
}

/// What the manifest keeps of it, over all starts of a build.
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
    /// Seconds of generation over all starts of a build.
    pub seconds: f64,
    /// Energy of the GPU over all starts of a build in joules, where it tells.
    pub joules: Option<f64>,
    /// Tokens of prompts a second, in the last build that wrote anything.
    pub prompt_tokens_per_s: Option<f64>,
    /// Tokens of answers a second, in the last build that wrote anything.
    pub output_tokens_per_s: Option<f64>,
}

/// Sums of [`Counts`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    lines: u64,
    grounded: u64,
    own: u64,
    prompt_tokens: u64,
    output_tokens: u64,
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
    /// `account` with the totals of all starts.
    pub(super) fn new(account: Account, totals: Totals, seconds: f64, joules: Option<f64>) -> Generation {
        let share = |part: u64| if totals.lines == 0 { 0.0 } else { part as f64 / totals.lines as f64 };
        let rate = |tokens: u64, seconds: f64| (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds);
        Generation {
            provenance: account.provenance,
            prompt_tokens_per_s: rate(account.spent.prompt_tokens, account.spent.prompt_seconds),
            output_tokens_per_s: rate(account.spent.output_tokens, account.spent.output_seconds),
            lines: totals.lines,
            grounded_share: share(totals.grounded),
            own_share: share(totals.own),
            prompt_tokens: totals.prompt_tokens,
            output_tokens: totals.output_tokens,
            seconds,
            joules,
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
