//! Recommenders: parameter layout and the encoder, forward and backward, written once over the ops of a backend.

mod spec;

pub use spec::*;
