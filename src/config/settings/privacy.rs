use crate::config::NoiseBy;
use serde::{Deserialize, Serialize};

/// Differential privacy of users: each update is shortened to `clip`, and normal noise is added to their sum, on every row that could have
/// moved. Off where both `epsilon` and `noise` are 0. See `docs/privacy.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacySettings {
    /// Epsilon after `federation.rounds` rounds; the noise follows from it. 0: `noise` is given, or there is none.
    pub epsilon: f64,
    /// Probability with which epsilon may be exceeded, in (0, 1); below one in the number of users.
    pub delta: f64,
    /// Most Euclidean norm of an update, over dense weights and item rows together.
    pub clip: f64,
    /// Standard deviation of the noise on the sum, in clips. 0: it follows from `epsilon`, or there is none.
    pub noise: f64,
    /// Who adds the noise.
    pub noise_by: NoiseBy,
    /// Add updates up by secure aggregation: the server sees their sum alone.
    pub secure_sum: bool,
    /// Neighbours that a client shares masks and secrets with in a secure sum; 0: enough for drop-outs of a third.
    pub neighbours: u32,
}

impl PrivacySettings {
    /// Whether updates are clipped and noise is added.
    pub fn is_on(&self) -> bool {
        self.epsilon != 0.0 || self.noise != 0.0
    }
}

impl Default for PrivacySettings {
    fn default() -> Self {
        PrivacySettings { epsilon: 0.0, delta: 1e-5, clip: 1.0, noise: 0.0, noise_by: NoiseBy::Server, secure_sum: false, neighbours: 0 }
    }
}
