//! Training and ranking on a device.

mod across;
mod activations;
mod added;
mod attempt;
mod batches;
pub mod chunk_memory;
pub mod chunks;
mod large;
mod launches;
mod micro_batches;
pub mod packed;
mod packing;
mod personal;
pub mod ranker;
mod ranking;
pub(crate) mod resident;
mod round;
pub mod server_state;
mod usage;

pub use round::{CudaEngine, unsupported};
pub use usage::{DeviceRound, DeviceUse};
