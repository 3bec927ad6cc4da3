//! The driver's calls.

pub mod device;
pub mod graph;
pub mod memory;
pub mod module;
pub mod stream;
