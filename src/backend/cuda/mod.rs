//! The GPU: a thin layer over the driver that kernels are launched through, and which GPU a run takes.
//!
//! [`device::Device`] is all that the backend above knows. The driver's side (`driver`) is there with the feature `cuda`; it links
//! nothing of CUDA and looks for the libraries at run time. [`host`] plays the same kernels on the CPU for tests.

pub mod choice;
pub mod device;
pub mod engine;
pub mod errors;
pub mod global;
pub mod host;
pub mod meter;
pub mod ops;
pub mod optimiser;
pub mod packed;
pub mod ranker;
mod record;
mod resident;
pub mod room;

#[cfg(feature = "cuda")]
mod codes;
#[cfg(feature = "cuda")]
pub mod driver;
#[cfg(feature = "cuda")]
mod functions;
#[cfg(feature = "cuda")]
pub mod modules;
#[cfg(feature = "cuda")]
pub mod nvrtc;
#[cfg(feature = "cuda")]
pub mod probe;
#[cfg(feature = "cuda")]
mod staging;
mod survey;

pub use choice::{Choice, Chosen, choose};
pub use device::{Arg, Buffer, Counters, Device, Event, Fill, Graph, Kernel, Limits, Memory, Plain, Resources, bytes_of};
pub use errors::{DeviceError, Geometry};
pub use survey::{GpuLine, Survey};
