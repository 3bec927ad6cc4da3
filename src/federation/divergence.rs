//! What becomes of a round in which clients diverged.

use super::Cohort;
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::Reduce;
use crate::config::{OnDivergence, Settings};
use crate::{Error, Result};

/// The lowest client that diverged in any process, and what happened; `first` is that of this one.
pub(super) fn lowest(reduce: &dyn Reduce, first: Option<(u32, String)>) -> Result<Option<(u32, String)>> {
    let own = first.map_or_else(Vec::new, |(client, message)| Parcel::new().words(&[client]).bytes(message.as_bytes()).into_bytes());
    let all = reduce.gather(&own)?;
    let read = |bytes: &Vec<u8>| {
        let mut pieces = Pieces::of(bytes);
        Some((*pieces.words()?.first()?, pieces.text()?.to_string()))
    };
    Ok(all.iter().filter_map(read).min())
}

/// Ends the round where `diverged` of the clients of `cohort` are more than `federation.on_divergence` lets pass. `first` is the lowest of
/// them, and what happened.
pub(super) fn judge(settings: &Settings, round: u64, cohort: &Cohort, diverged: u64, first: Option<(u32, String)>) -> Result<()> {
    let federation = &settings.federation;
    let most = match federation.on_divergence {
        OnDivergence::Stop => 0.0,
        OnDivergence::Drop => f64::from(federation.max_diverged) * cohort.clients.len() as f64,
    };
    if diverged as f64 <= most {
        return Ok(());
    }
    let (client, mut message) = first.unwrap_or_default();
    if federation.on_divergence == OnDivergence::Drop {
        let (of, share) = (cohort.clients.len(), federation.max_diverged);
        message += &format!("; {diverged} of {of} clients diverged, more than federation.max_diverged = {share} lets pass");
    }
    Err(Error::Training { round, client: u64::from(client), message })
}
