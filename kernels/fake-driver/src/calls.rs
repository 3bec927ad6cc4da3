//! The driver's calls.

mod device;
mod graph;
mod memory;
mod module;
mod stream;
