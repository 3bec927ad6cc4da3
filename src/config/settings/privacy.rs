use crate::config::{CountsUse, NoiseBy};
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
    /// Most Euclidean norm of an update's dense weights and of its item rows, a number each, instead of `clip`: the sum then moves by the root of the
    /// sum of their squares. Empty: `clip` holds for the whole update.
    pub clip_groups: Vec<f64>,
    /// Share of the updates that the clip is to leave as they are, in (0, 1): after each round the clip moves towards that quantile of their norms,
    /// from `clip` on. 0: the clip stays.
    pub clip_quantile: f64,
    /// How fast the clip moves: the step of its logarithm when no update, or every one, is within it.
    pub clip_rate: f64,
    /// Standard deviation of the noise on the number of updates within the clip, as a share of the clients of a round. It is paid from the same
    /// epsilon.
    pub clip_count_noise: f64,
    /// Standard deviation of the noise on the sum, in clips. 0: it follows from `epsilon`, or there is none.
    pub noise: f64,
    /// Who adds the noise.
    pub noise_by: NoiseBy,
    /// Add updates up by secure aggregation: the server sees their sum alone.
    pub secure_sum: bool,
    /// Neighbours that a client shares masks and secrets with in a secure sum; 0: enough for drop-outs of a third.
    pub neighbours: u32,
    /// How the server learns how often each item was met, which the catalogue generator matches popularity with and `loss.popularity` draws
    /// negatives by.
    pub counts: CountsUse,
    /// Epsilon of `counts = "noisy"`, at `delta`; a part of `epsilon` where that is set.
    pub counts_epsilon: f64,
    /// Most Euclidean norm of what one user adds to noisy counts; the square root of the number of different items that a user can add in full.
    pub counts_clip: f64,
}

impl PrivacySettings {
    /// Whether updates are clipped and noise is added.
    pub fn is_on(&self) -> bool {
        self.epsilon != 0.0 || self.noise != 0.0
    }
}

impl Default for PrivacySettings {
    fn default() -> Self {
        PrivacySettings {
            epsilon: 0.0,
            delta: 1e-5,
            clip: 1.0,
            clip_groups: Vec::new(),
            clip_quantile: 0.0,
            clip_rate: 0.2,
            clip_count_noise: 0.05,
            noise: 0.0,
            noise_by: NoiseBy::Server,
            secure_sum: false,
            neighbours: 0,
            counts: CountsUse::Exact,
            counts_epsilon: 1.0,
            counts_clip: 8.0,
        }
    }
}
