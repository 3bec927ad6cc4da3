//! The federation: rounds of cohorts, visits, sums and server steps.

mod device;
mod device_ranking;
mod device_use;
pub mod fixed;
mod private;
mod ranking;
mod report;
pub mod rules;
mod server;
mod sums;
mod tensor;
mod trainer;
mod update;
mod visit;
pub mod wire;

pub use device::{unsupported as unsupported_on_device, unsupported_ranking as unsupported_ranking_on_device};
pub use device_use::{DeviceRound, DeviceUse};
pub use report::RoundReport;
pub use tensor::{NamedTensor, TensorData};
pub use trainer::Trainer;
pub use update::{Mean, Update};
