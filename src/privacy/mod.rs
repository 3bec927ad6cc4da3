//! What a training gives away about one user, as differential privacy counts it.

mod accountant;
mod cost;
mod sampled;
#[cfg(feature = "secure")]
pub mod secure_sum;
mod users;
mod without_replacement;

pub use accountant::{Accountant, Sampling, Spending, noise_beside, noise_for};
pub use cost::Cost;
pub use users::{AdaptiveClip, UserPrivacy, check, counts_noise};
