//! Training and ranking on a device.

pub mod chunk_memory;
pub mod chunks;
pub mod packed;
pub mod ranker;
mod ranking;
mod resident;
mod round;
pub mod server_state;
mod usage;

pub(crate) use round::DeviceTrainer;
pub use round::{unsupported, unsupported_ranking};
pub use usage::{DeviceRound, DeviceUse};
