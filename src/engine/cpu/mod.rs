//! Training and ranking on the cores of this machine.

mod ranking;
mod visit;

pub(crate) use ranking::pack_input;
pub(crate) use visit::{Lane, Rules};
