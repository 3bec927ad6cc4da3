//! `result.json`: the figures of the best checkpoint.

use crate::base::json::is_zero;
use crate::data::Split;
use crate::eval::Metrics;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Metrics by name, such as `HR@20`, with `users` and `masked_targets`.
pub type Scores = serde_json::Map<String, serde_json::Value>;

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Method.
    pub method: String,
    /// Name of the data set.
    pub data: String,
    /// Fingerprint of the data set.
    pub fingerprint: String,
    /// Seed.
    pub seed: u64,
    /// Rounds trained.
    pub rounds: u64,
    /// Round of the best validation, whose checkpoint the figures below are of; 0 for a method that trains nothing.
    pub best_round: u64,
    /// Selection metric.
    pub select: String,
    /// Why training ended: `rounds`, `patience` or `nothing to train`.
    pub ended_by: String,
    /// Validation metrics of the best checkpoint, all users.
    pub validation: Scores,
    /// Test metrics of the best checkpoint, all users.
    pub test: Scores,
    /// Where the latest start of the run trained and tested.
    #[serde(default)]
    pub device: String,
    /// Energy of the GPU in joules while rounds were trained, as its meters tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_joules: Option<f64>,
    /// Energy of the machine's processors in joules while rounds were trained, where they count it and the counters may be read. Other programs'
    /// work is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_joules: Option<f64>,
    /// Seconds spent in rounds, evaluation left out.
    pub train_seconds: f64,
    /// Local steps of all clients.
    pub client_epochs: u64,
    /// Local steps per second of training.
    pub client_epochs_per_s: f64,
    /// Visits of clients that diverged and were left out, over all rounds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub diverged: u64,
    /// Bytes that all clients uploaded.
    pub bytes_up: u64,
    /// Bytes that all clients downloaded.
    pub bytes_down: u64,
    /// What of users the promise of `privacy.epsilon` or `privacy.noise` does not cover, where it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside_promise: Option<String>,
}

/// A sentence about visits that diverged, if any did.
pub fn diverged(result: &RunResult) -> Option<String> {
    let why = "were left out because they diverged (federation.on_divergence); a lower local.lr or a local.clip keeps them";
    (result.diverged > 0).then(|| format!("{} visits of clients {why}", result.diverged))
}

/// Validation and test targets that may not be recommended and count as misses, where there are any.
pub fn masked_targets(result: &RunResult) -> Option<[u64; 2]> {
    let count = |scores: &Scores| scores.get("masked_targets").and_then(serde_json::Value::as_u64).unwrap_or(0);
    Some([count(&result.validation), count(&result.test)]).filter(|counts| counts.iter().any(|n| *n > 0))
}

/// Name of a split in files and on the command line.
pub(super) fn split_name(split: Split) -> &'static str {
    match split {
        Split::Validation => "validation",
        Split::Test => "test",
    }
}

/// Metrics as a map.
pub(super) fn scores(metrics: &Metrics) -> Result<Scores> {
    match serde_json::to_value(metrics) {
        Ok(serde_json::Value::Object(map)) => Ok(map),
        Ok(_) => Err(Error::Usage("metrics are not a table".into())),
        Err(e) => Err(Error::Usage(format!("metrics cannot be written: {e}"))),
    }
}
