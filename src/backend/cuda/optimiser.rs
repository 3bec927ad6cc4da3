//! The coefficients of a local step as kernels take them.

use crate::config::{LocalOptimizer, LocalSettings};
use crate::device::Plain;

/// `struct OptimiserStep` of `kernels/packed.cuh`: one step of Adam, AdamW or gradient descent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimiserStep {
    beta1: f32,
    beta2: f32,
    /// `lr / (1 - beta1^t)`; `lr` for gradient descent.
    rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    correction: f32,
    eps: f32,
    /// Weight decay added to the gradient.
    l2: f32,
    /// `1 - lr * weight_decay` of decoupled decay.
    shrink: f32,
    /// 1 at the first step of a visit.
    first: i32,
    /// 1 for gradient descent.
    sgd: i32,
}

// SAFETY: nine plain numbers of four bytes.
unsafe impl Plain for OptimiserStep {}

/// Bytes of an [`OptimiserStep`].
pub const OPTIMISER_BYTES: usize = size_of::<OptimiserStep>();

impl OptimiserStep {
    /// Step number `t` (from 1) of a visit.
    pub fn new(settings: &LocalSettings, t: u32) -> OptimiserStep {
        let (b1, b2) = (f64::from(settings.beta1), f64::from(settings.beta2));
        let decoupled = settings.optimizer == LocalOptimizer::Adamw;
        let sgd = settings.optimizer == LocalOptimizer::Sgd;
        OptimiserStep {
            beta1: settings.beta1,
            beta2: settings.beta2,
            rate: if sgd { settings.lr } else { (f64::from(settings.lr) / (1.0 - b1.powi(t as i32))) as f32 },
            correction: (1.0 / (1.0 - b2.powi(t as i32)).sqrt()) as f32,
            eps: settings.eps,
            l2: if decoupled { 0.0 } else { settings.weight_decay },
            shrink: if decoupled { 1.0 - settings.lr * settings.weight_decay } else { 1.0 },
            first: i32::from(t == 1),
            sgd: i32::from(sgd),
        }
    }
}

/// `struct DropoutClock` of `kernels/packed.cuh`: key of the dropout, the round, and whether a clock for each client of the launch follows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropoutClock {
    /// Key, low and high word.
    pub key: [u32; 2],
    /// Round.
    pub round: u32,
    /// 1 where a clock for each client of the launch lies behind this one.
    pub own: u32,
}

// SAFETY: four plain numbers of four bytes.
unsafe impl Plain for DropoutClock {}
