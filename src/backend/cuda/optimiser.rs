//! The coefficients of a local step and of the server's, as kernels take them.

use crate::backend::LocalStep;
use crate::config::{FederationSettings, LocalSettings, ServerOptimizer};
use crate::device::mirror::mirrored;

mirrored! {
    /// `struct OptimiserStep` of `kernels/packed.cuh`: one step of Adam, AdamW or gradient descent.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct OptimiserStep {
        /// Decay of the first moments.
        pub beta1: f32,
        /// Decay of the second moments.
        pub beta2: f32,
        /// See [`LocalStep`] for this and the others.
        pub rate: f32,
        /// Factor on the root of the second moment.
        pub correction: f32,
        /// Added to the root of the second moment.
        pub eps: f32,
        /// Weight decay added to the gradient.
        pub l2: f32,
        /// `1 - lr * weight_decay` of decoupled decay.
        pub shrink: f32,
        /// Share of the way back to the weights that the visit began with.
        pub pull: f32,
        /// 1 at the first step of a visit.
        pub first: i32,
        /// 1 for gradient descent.
        pub sgd: i32,
    }
}

/// Bytes of an [`OptimiserStep`].
pub const OPTIMISER_BYTES: usize = size_of::<OptimiserStep>();

impl OptimiserStep {
    /// Step number `t` (from 1) of a visit.
    pub fn new(settings: &LocalSettings, t: u32) -> OptimiserStep {
        let LocalStep { beta1, beta2, rate, correction, eps, l2, shrink, pull, first, sgd } = LocalStep::new(settings, t);
        OptimiserStep { beta1, beta2, rate, correction, eps, l2, shrink, pull, first: i32::from(first), sgd: i32::from(sgd) }
    }
}

mirrored! {
    /// `struct DropoutClock` of `kernels/packed.cuh`: key of the dropout, the round, and whether a clock for each client of the
    /// launch follows.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DropoutClock {
        /// Key, its low and its high word.
        pub key_low: u32,
        /// See `key_low`.
        pub key_high: u32,
        /// Round.
        pub round: u32,
        /// 1 where a clock for each client of the launch lies behind this one.
        pub own: u32,
    }
}

mirrored! {
    /// `struct ServerStep` of `kernels/average.cu`.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ServerStep {
        /// Learning rate.
        pub lr: f32,
        /// Decay of the first moments, or the momentum.
        pub beta1: f32,
        /// Decay of the second moments.
        pub beta2: f32,
        /// Added to the root of the second moment.
        pub eps: f32,
        /// Which second moments: 0 none, 1 FedAdam, 2 FedAdagrad, 3 FedYogi.
        pub second: i32,
        /// 1 for gradient descent with momentum.
        pub momentum: i32,
        /// What the first moments are multiplied by where they are read: their bias correction, or 1.
        pub first_scale: f32,
        /// The same for the second moments.
        pub second_scale: f32,
    }
}

impl ServerStep {
    /// The step that `federation` asks for in `round`, whose clients weigh `weight` together.
    pub fn new(federation: &FederationSettings, round: u64, weight: i64) -> ServerStep {
        let second = match federation.server {
            ServerOptimizer::Sgd => 0,
            ServerOptimizer::Fedadam => 1,
            ServerOptimizer::Fedadagrad => 2,
            ServerOptimizer::Fedyogi => 3,
        };
        ServerStep {
            lr: federation.server_lr_at(round),
            beta1: federation.server_momentum,
            beta2: federation.server_beta2,
            eps: federation.server_eps_at(weight),
            second,
            momentum: i32::from(second == 0 && federation.server_momentum > 0.0),
            first_scale: 1.0,
            second_scale: 1.0,
        }
    }

    /// Whether the optimiser keeps first moments.
    pub fn keeps_first(&self) -> bool {
        self.second + self.momentum > 0
    }

    /// Whether it keeps second moments.
    pub fn keeps_second(&self) -> bool {
        self.second > 0
    }
}

impl DropoutClock {
    /// The clock of `round` for the key of a stream.
    pub fn new(key: [u32; 2], round: u32) -> DropoutClock {
        DropoutClock { key_low: key[0], key_high: key[1], round, own: 0 }
    }

    /// The key, low and high word.
    pub fn key(&self) -> [u32; 2] {
        [self.key_low, self.key_high]
    }
}
