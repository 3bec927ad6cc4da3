//! The federation: rounds of cohorts, visits, sums and server steps.

mod device;
mod device_ranking;
pub mod fixed;
mod private;
mod ranking;
mod server;
mod tensor;
mod trainer;
mod update;
mod visit;
pub mod wire;

pub use device::{DeviceRound, DeviceUse, unsupported as unsupported_on_device, unsupported_ranking as unsupported_ranking_on_device};
pub use tensor::{NamedTensor, TensorData};
pub use trainer::{RoundReport, Trainer};
