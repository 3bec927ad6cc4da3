//! What a training gives away about one user, as differential privacy counts it.

mod accountant;
mod sampled;
mod users;
mod without_replacement;

pub use accountant::{Accountant, Sampling, Spending, noise_for};
pub use users::{UserPrivacy, check};
