//! Settings of the terms of the objective that have a table of their own.

use crate::config::choice::choice;
use serde::{Deserialize, Serialize};

/// Which items are masked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskedSettings {
    /// Probability that an item is masked, above 0 and at most 1 (BERT4Rec).
    pub rho: f32,
    /// Share of the masked copies in which only the last item is, in `[0, 1]` (BERT4Rec).
    pub last: f32,
}

impl Default for MaskedSettings {
    fn default() -> Self {
        MaskedSettings { rho: 0.2, last: 0.1 }
    }
}

choice! {
    /// How alike two hidden states are.
    Similarity {
        /// Their inner product.
        Dot = "dot",
        /// The cosine of their angle.
        Cosine = "cosine",
    }
}

choice! {
    /// What the contrast within a mini-batch compares.
    Copies {
        /// Two augmented copies of each sequence (CL4SRec).
        Augmented = "augmented",
        /// The sequence under another dropout, and another one with the same target (DuoRec).
        SameTarget = "same-target",
    }
}

choice! {
    /// Which states of a counterfactual the history is kept apart from (ours; the paper takes the last one).
    CounterfactualStates {
        /// The one that stands for it (`loss.pool`).
        Last = "last",
        /// That of every item: its hidden state, or under `loss.pool = "mean"` the mean up to it. So one counterfactual gives as many negatives as it
        /// has items.
        Every = "every",
    }
}

choice! {
    /// What stands for a sequence in the tri-view contrast (ours; the paper takes the last hidden state).
    Pool {
        /// Its last hidden state.
        Last = "last",
        /// The mean of its hidden states.
        Mean = "mean",
    }
}

/// Contrast within a mini-batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InBatchSettings {
    /// Weight of the term; 0: off. Needs mini-batches of several sequences, so `federation.clients = "one"`, `"groups:N"` or `"column"`.
    pub weight: f32,
    /// Temperature.
    pub tau: f32,
    /// How alike two hidden states are.
    pub similarity: Similarity,
    /// What the two copies of a sequence are.
    pub copies: Copies,
    /// Sequences of random items that stand for the other sequences of a mini-batch, for a client of one sequence; 0: a mini-batch's own.
    pub strangers: u32,
    /// Share of the items that a crop keeps, in `[0, 1]`.
    pub crop: f32,
    /// Share of the items that are masked, in `[0, 1]`.
    pub mask: f32,
    /// Share of the items that are shuffled, in `[0, 1]`.
    pub reorder: f32,
}

impl Default for InBatchSettings {
    fn default() -> Self {
        InBatchSettings {
            weight: 0.0,
            tau: 1.0,
            similarity: Similarity::Dot,
            copies: Copies::Augmented,
            strangers: 0,
            crop: 0.6,
            mask: 0.3,
            reorder: 0.6,
        }
    }
}
