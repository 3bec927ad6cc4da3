//! The federation.

use crate::config::choices::*;
use crate::config::clients::Clients;
use serde::{Deserialize, Serialize};

/// Who trains when, and how updates are put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FederationSettings {
    /// Who is a client.
    pub clients: Clients,
    /// Share of the clients drawn for a round, in `(0, 1]`. Used when `cohort` is 0.
    pub fraction: f32,
    /// Number of clients drawn for a round; 0: use `fraction`.
    pub cohort: u32,
    /// How the clients of a round are drawn.
    pub sampling: CohortSampling,
    /// Rounds.
    pub rounds: u32,
    /// Denominator of item rows.
    pub average: Average,
    /// Weight of a client.
    pub weights: ClientWeighting,
    /// Which rows are uploaded.
    pub upload_rows: UploadRows,
    /// Parameter groups that are averaged; the others stay on the client between rounds.
    pub shared: Vec<Group>,
    /// Share of the dense weights that each client keeps to itself, those that its visit changes most, in `[0, 1)`; 0: none.
    pub personal: f32,
    /// Share of a cohort that never reports back, in `[0, 1)`.
    pub dropout_rate: f32,
    /// What becomes of a client whose change is not finite or larger than 256 in some weight.
    pub on_divergence: OnDivergence,
    /// Share of a cohort that may diverge before the run ends, in `[0, 1)`. Used where `on_divergence` is `drop`.
    pub max_diverged: f32,
    /// Share `c` of a running average of the global models of the rounds that stays in each, `A = c A + (1 - c) W`, from the first round's on, in
    /// `[0, 1)`: the average ranks, recommends and is exported, and training goes on from `W`. A checkpoint then holds both, and on a GPU each round
    /// costs a copy of the model to the host, each ranking two back and the packing of a cohort again. 0: `W` itself.
    pub ranking_average: f32,
    /// Server optimiser.
    pub server: ServerOptimizer,
    /// Server learning rate.
    pub server_lr: f32,
    /// Share of the rounds, at their beginning, over which the server's rate rises linearly; 0: it begins whole.
    pub server_warmup: f32,
    /// Share of the rounds, at their end, over which the server's rate falls linearly to nothing; 0: it stays.
    pub server_decay: f32,
    /// Momentum of server SGD, or the first decay rate of FedAdam, FedAdagrad and FedYogi.
    pub server_momentum: f32,
    /// Second decay rate of FedAdam and FedYogi.
    pub server_beta2: f32,
    /// Adaptivity tau of FedAdam, FedAdagrad and FedYogi.
    pub server_eps: f32,
    /// Whether the moments of FedAdam, FedAdagrad and FedYogi are corrected for their beginning at 0, by `1 / (1 - beta^t)` as in Adam (the sums of
    /// FedAdagrad have no second decay, and stay; for the second moment of FedYogi the factor is exact for the first step alone). `t` counts the
    /// steps that a weight has seen itself: for an item row the rounds in which a mean was applied to it (under user-level privacy every round), for
    /// all other weights the rounds. Under the protocol `averaging` alone.
    pub server_correction: bool,
    /// What `server_eps` is held against.
    pub server_eps_unit: EpsUnit,
    /// How clients and server learn together: a name with options, such as `averaging`. See [`crate::federation::protocol`].
    pub protocol: String,
    /// What happens to updates, in the order in which a client applies it and backwards on the server: names with options, such as
    /// `["sign-flip share=0.1", "norm-bound bound=0.5", "median"]`. See [`crate::federation::rules`].
    pub rules: Vec<String>,
    /// Megabytes of private client state kept in memory; beyond it the state is kept on disk in the run folder.
    pub private_memory_mb: u32,
}

impl Default for FederationSettings {
    fn default() -> Self {
        FederationSettings {
            clients: Clients::User,
            fraction: 0.1,
            cohort: 0,
            sampling: CohortSampling::Fixed,
            rounds: 100,
            average: Average::PerItem,
            weights: ClientWeighting::Equal,
            upload_rows: UploadRows::Trained,
            shared: vec![Group::Items, Group::Encoder],
            personal: 0.0,
            dropout_rate: 0.0,
            on_divergence: OnDivergence::Drop,
            max_diverged: 0.1,
            ranking_average: 0.0,
            server: ServerOptimizer::Sgd,
            server_lr: 1.0,
            server_warmup: 0.0,
            server_decay: 0.0,
            server_momentum: 0.0,
            server_beta2: 0.99,
            server_eps: 1e-3,
            server_correction: false,
            server_eps_unit: EpsUnit::Mean,
            protocol: "averaging".into(),
            rules: Vec::new(),
            private_memory_mb: 1024,
        }
    }
}

impl FederationSettings {
    /// The server's rate in `round` (counted from 1); 0 after the last round where it decays.
    pub fn server_lr_at(&self, round: u64) -> f32 {
        self.rate_at(self.server_lr, round, self.server_warmup, self.server_decay)
    }

    /// A `rate` in `round` that rises over the first `warmup` of the rounds and falls over the last `decay` of them.
    pub(crate) fn rate_at(&self, rate: f32, round: u64, warmup: f32, decay: f32) -> f32 {
        let span = |share: f32| f64::from(share) * f64::from(self.rounds);
        let left = (u64::from(self.rounds) + 1).saturating_sub(round) as f64;
        let mut now = f64::from(rate);
        if decay > 0.0 && left < span(decay) {
            now = now * left / span(decay);
        }
        if warmup > 0.0 && (round as f64) < span(warmup) {
            now = now * round as f64 / span(warmup);
        }
        now as f32
    }

    /// The server's epsilon in a round whose clients weigh `weight` together.
    pub fn server_eps_at(&self, weight: i64) -> f32 {
        match self.server_eps_unit {
            EpsUnit::Mean => self.server_eps,
            EpsUnit::Client => (f64::from(self.server_eps) / weight.max(1) as f64) as f32,
        }
    }
}
