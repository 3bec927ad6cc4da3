//! Several processes that train one model: the one reduction of a round, between the sums of a process and the server's step.
//!
//! A transport is one file here that implements [`Reduce`]; [`Solo`] is the one for a process alone.

mod reduce;
mod solo;

pub use reduce::Reduce;
pub use solo::Solo;
