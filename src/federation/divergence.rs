//! What becomes of a round in which clients diverged.

use super::Cohort;
use crate::config::{OnDivergence, Settings};
use crate::{Error, Result};

/// Ends the round where `diverged` of the clients of `cohort` are more than `federation.on_divergence` lets pass. `first` is the lowest of
/// them that this process has trained, and what happened.
pub(super) fn judge(settings: &Settings, round: u64, cohort: &Cohort, diverged: u64, first: Option<(u32, String)>) -> Result<()> {
    let federation = &settings.federation;
    let most = match federation.on_divergence {
        OnDivergence::Stop => 0.0,
        OnDivergence::Drop => f64::from(federation.max_diverged) * cohort.clients.len() as f64,
    };
    if diverged as f64 <= most {
        return Ok(());
    }
    let elsewhere = || Error::Usage("clients of another process of this training diverged; its message says which".into());
    let (client, mut message) = first.ok_or_else(elsewhere)?;
    if federation.on_divergence == OnDivergence::Drop {
        let (of, share) = (cohort.clients.len(), federation.max_diverged);
        message += &format!("; {diverged} of {of} clients diverged, more than federation.max_diverged = {share} lets pass");
    }
    Err(Error::Training { round, client: u64::from(client), message })
}
