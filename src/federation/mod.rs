//! The federation: rounds of cohorts, visits, sums and server steps.

mod draw;
mod report;
pub mod rules;
mod trainer;

pub use draw::*;
pub use report::RoundReport;
pub use trainer::Trainer;
