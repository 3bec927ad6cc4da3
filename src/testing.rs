//! What tests of this crate need and no user does: validated settings in a word, the kernels on the CPU as a device, one in the place of a GPU, small
//! chunks, and the structs that kernels share with the host.

pub use crate::backend::cuda::optimiser::{DropoutClock, OptimiserStep, ServerStep};
use crate::config::{Settings, Validated};
pub use crate::device::choice::{StandIn, stand_in};
pub use crate::device::host::{HostDevice, HostKernels};
pub use crate::engine::cuda::packed::Packed;
use crate::federation::Trainer;
#[cfg(feature = "llm")]
pub use crate::llm::gpu::{
    ask::TokenAsk,
    attention::{AttentionShape, Heads},
};

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
