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
pub mod ranker;
mod ranking;
pub(crate) mod resident;
mod round;
pub mod server_state;
mod usage;

pub use round::{CudaEngine, unsupported, unsupported_ranking};
pub use usage::{DeviceRound, DeviceUse};
