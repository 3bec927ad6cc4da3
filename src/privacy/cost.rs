//! What a secure sum costs.

use serde::Serialize;

/// What a sum has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Parties, those included that dropped out.
    pub parties: u64,
    /// Neighbours of each.
    pub neighbours: u64,
    /// Parties that dropped out after they had shared their secrets.
    pub dropped: u64,
    /// Bytes that all parties sent.
    pub bytes_up: u64,
    /// Bytes that all parties received.
    pub bytes_down: u64,
    /// Seconds of computation of one party, the mean.
    pub client_s: f64,
    /// Seconds of computation of the server, on one core.
    pub server_s: f64,
}
