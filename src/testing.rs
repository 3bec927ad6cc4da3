//! What tests of this crate need and no user does: validated settings in a word, the kernels on the CPU as a device, one in the place of a GPU, small chunks.

use crate::config::{Settings, Validated};
pub use crate::device::choice::{StandIn, stand_in};
pub use crate::device::host::{HostDevice, HostKernels};
use crate::federation::Trainer;

/// `settings`, validated.
///
/// # Panics
/// Where they are refused.
pub fn valid(settings: &Settings) -> Validated<Settings> {
    Validated::new(settings.clone()).unwrap_or_else(|e| panic!("{e}"))
}

impl Trainer {
    /// Lets the clients of a chunk take at most `bytes` of the device's memory, so that a small cohort is cut into chunks. Without a device
    /// nothing happens.
    pub fn limit_chunks(&mut self, bytes: u64) {
        self.set_chunk_bytes(bytes);
    }
}
