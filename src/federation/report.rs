//! What a round reports.

use super::Cohort;
use crate::base::json::is_zero;
use crate::engine::cuda::DeviceRound;
use crate::engine::{Totals, fixed};
use crate::privacy::Cost;
use serde::Serialize;
use std::time::Instant;

/// What happened in one round.
#[derive(Clone, Debug, Serialize)]
pub struct RoundReport {
    /// Round, counted from 1.
    pub round: u64,
    /// Clients that trained and reported.
    pub clients: u64,
    /// Clients that were drawn and dropped out.
    pub dropped: u64,
    /// Clients that were left out because they diverged (`federation.on_divergence`).
    #[serde(skip_serializing_if = "is_zero")]
    pub diverged: u64,
    /// Malicious clients of an attack's own among those that were drawn.
    #[serde(skip_serializing_if = "is_zero")]
    pub malicious: u64,
    /// Local steps of all clients; for clients of one sequence these are client-epochs.
    pub client_epochs: u64,
    /// Mean over clients of the next-item loss (mean over a client's local steps).
    pub rec_loss: f64,
    /// The same for the contrast, without lambda.
    pub contrast_loss: f64,
    /// Packed tokens of all local steps; none is padding.
    pub tokens: u64,
    /// Distinct item rows that were uploaded.
    pub item_rows: u64,
    /// Bytes that all clients downloaded; 0 with one participant, which has the model where its data are.
    pub bytes_down: u64,
    /// Bytes that all clients uploaded; 0 with one participant.
    pub bytes_up: u64,
    /// Wall seconds of the round.
    pub seconds: f64,
    /// Wall seconds of drawing the cohort.
    pub draw_s: f64,
    /// Seconds of packing, as the mean over threads.
    pub pack_s: f64,
    /// Seconds of local training, as the mean over threads.
    pub train_s: f64,
    /// Seconds of adding updates (mean over threads) and of the server's step.
    pub add_s: f64,
    /// Epsilon after this round, under user-level privacy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Norm that this round's updates were shortened to, where it adapts (`privacy.clip_quantile`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// What secure aggregation has cost, where it was done; its bytes are among the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_sum: Option<Cost>,
    /// What the device did, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRound>,
}

impl RoundReport {
    /// The report of a round that began at `start`, without what it spent its time on.
    pub fn of(round: u64, cohort: &Cohort, totals: &Totals, item_rows: u64, start: Instant) -> RoundReport {
        let n = totals.counts[0].max(1) as f64;
        RoundReport {
            round,
            clients: totals.counts[0],
            dropped: u64::from(cohort.dropped),
            diverged: totals.counts[6],
            malicious: 0,
            client_epochs: totals.counts[1],
            rec_loss: fixed::to_f64(totals.losses[0]) / n,
            contrast_loss: fixed::to_f64(totals.losses[1]) / n,
            tokens: totals.counts[2],
            item_rows,
            bytes_down: totals.bytes[0],
            bytes_up: totals.bytes[1],
            seconds: start.elapsed().as_secs_f64(),
            draw_s: 0.0,
            pack_s: 0.0,
            train_s: 0.0,
            add_s: 0.0,
            epsilon: None,
            clip: None,
            secure_sum: None,
            device: None,
        }
    }
}
