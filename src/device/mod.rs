//! A device as training and language models see it: memory, kernels, launches, recorded graphs.
//!
//! [`Device`] is all that the layers above know. The driver's side (`driver`) is there with the feature `cuda`; it links nothing of CUDA
//! and looks for the libraries at run time. With the feature `testing` the module `host` runs the same
//! kernels on the CPU.

mod check;
#[cfg(any(feature = "cuda", feature = "testing"))]
mod checks;
pub mod choice;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(feature = "cuda")]
mod driver_error;
mod environment;
#[cfg(feature = "cuda")]
mod functions;
#[cfg(feature = "testing")]
pub mod host;
pub mod interface;
pub mod launch;
pub mod mirror;
#[cfg(feature = "cuda")]
pub mod modules;
#[cfg(feature = "cuda")]
pub mod nvrtc;
#[cfg(feature = "cuda")]
pub mod probe;
pub mod recent;
#[cfg(any(feature = "cuda", feature = "testing"))]
mod record;
#[cfg(feature = "cuda")]
mod staging;
pub mod telemetry;
#[cfg(feature = "cuda")]
mod waits;

pub use crate::base::device_error::{DeviceError, Geometry, size, version};
pub use check::check;
pub use choice::{Choice, Chosen, choose, choose_in_turn};
pub use environment::{GpuLine, Survey};
pub use interface::{Arg, Buffer, Counters, Device, Event, Fill, Graph, Kernel, Limits, Memory, Plain, Resources, bytes_of};
