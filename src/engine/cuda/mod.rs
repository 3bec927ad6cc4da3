//! Training and ranking on a device.

mod across;
mod activations;
mod added;
mod attempt;
mod batches;
pub mod chunk_memory;
pub mod chunks;
mod kept;
mod large;
mod launches;
mod micro_batches;
mod own_rows;
pub mod packed;
mod packing;
pub mod ranker;
mod ranking;
pub(crate) mod resident;
mod round;
pub mod server_state;
mod usage;

pub use round::CudaEngine;
pub use usage::{DeviceRound, DeviceUse};
