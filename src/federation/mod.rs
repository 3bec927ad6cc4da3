//! The federation: who trains in a round ([`draw`]), what goes down and up ([`protocol`]), and what happens to updates ([`rules`]).

pub mod attacks;
mod check;
mod divergence;
mod draw;
pub mod inference;
mod local_steps;
pub mod protocol;
mod ranking_average;
mod report;
pub mod rules;
// Without the feature settings that ask for secure sums are refused, and the code below is not reached.
#[cfg_attr(not(feature = "secure"), allow(dead_code, unused_imports))]
mod secure;
mod share;
mod trainer;

pub use check::{check, fits, privacy_of};
pub use draw::*;
pub use ranking_average::AVERAGE;
pub use report::RoundReport;
pub use share::Shares;
pub use trainer::Trainer;
