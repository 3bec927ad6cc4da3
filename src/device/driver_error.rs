//! What the driver's error codes mean for us.

use super::interface::Kernel;
use super::{DeviceError, Geometry, size};
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult as Code;
use std::collections::VecDeque;

/// What the driver says about a code: `illegal address (CUDA_ERROR_ILLEGAL_ADDRESS)`.
pub(super) fn reason(error: DriverError) -> String {
    let name = error.error_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|_| "an unknown error".into());
    match error.error_string() {
        Ok(text) => format!("{} ({name})", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// What an error code calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Less memory helps.
    Memory,
    /// A kernel failed; the context is lost.
    Fault,
    /// The device is gone.
    Lost,
    /// Another process or the compute mode stands in the way.
    Busy,
    /// The driver is older than this program asks for.
    Old,
    /// There is no device.
    NoDevice,
    /// Code that does not load.
    Image,
    /// A launch that asks for more than there is.
    Launch,
    /// Anything else.
    Other,
}

pub(super) fn kind(code: Code) -> Kind {
    match code {
        Code::CUDA_ERROR_OUT_OF_MEMORY => Kind::Memory,
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_LAUNCH_FAILED
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | Code::CUDA_ERROR_INVALID_PC
        | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
        | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED => Kind::Fault,
        Code::CUDA_ERROR_ECC_UNCORRECTABLE
        | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | Code::CUDA_ERROR_CONTAINED
        | Code::CUDA_ERROR_EXTERNAL_DEVICE
        | Code::CUDA_ERROR_MPS_CLIENT_TERMINATED
        | Code::CUDA_ERROR_UNKNOWN
        | Code::CUDA_ERROR_DEINITIALIZED => Kind::Lost,
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE
        | Code::CUDA_ERROR_MPS_MAX_CLIENTS_REACHED
        | Code::CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED
        | Code::CUDA_ERROR_MPS_SERVER_NOT_READY => Kind::Busy,
        Code::CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER
        | Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH
        | Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => Kind::Old,
        Code::CUDA_ERROR_NO_DEVICE => Kind::NoDevice,
        Code::CUDA_ERROR_INVALID_IMAGE
        | Code::CUDA_ERROR_NO_BINARY_FOR_GPU
        | Code::CUDA_ERROR_INVALID_PTX
        | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
        | Code::CUDA_ERROR_JIT_COMPILATION_DISABLED
        | Code::CUDA_ERROR_INVALID_SOURCE => Kind::Image,
        Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
        | Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
        | Code::CUDA_ERROR_INVALID_CLUSTER_SIZE => Kind::Launch,
        _ => Kind::Other,
    }
}

/// What is in the queue since it was last seen empty: who may have failed.
#[derive(Default)]
pub(super) struct Suspects {
    last: VecDeque<(String, Option<Geometry>)>,
    count: usize,
}

impl Suspects {
    /// Few are kept: the last is the likeliest, and a message must stay readable.
    const KEPT: usize = 4;

    /// Adds a launch.
    pub fn launch(&mut self, kernel: Kernel, geometry: Geometry) {
        self.add(kernel.name, Some(geometry));
    }

    /// Adds a graph.
    pub fn graph(&mut self, label: &str) {
        self.add(label, None);
    }

    fn add(&mut self, name: &str, geometry: Option<Geometry>) {
        self.count += 1;
        // The oldest string is used again: a launch must not allocate.
        let mut slot = if self.last.len() == Self::KEPT { self.last.pop_front().map(|s| s.0).unwrap_or_default() } else { String::new() };
        slot.clear();
        slot.push_str(name);
        self.last.push_back((slot, geometry));
    }

    /// The queue was empty and nothing had failed.
    pub fn clear(&mut self) {
        self.last.clear();
        self.count = 0;
    }
}

impl std::fmt::Display for Suspects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            0 => return f.write_str("no kernel was in the queue"),
            1 => f.write_str("in ")?,
            n => write!(f, "in one of {n} calls, the last of them first: ")?,
        }
        for (i, (name, geometry)) in self.last.iter().rev().enumerate() {
            f.write_str(if i > 0 { "; " } else { "" })?;
            match geometry {
                Some(geometry) => write!(f, "kernel `{name}` ({geometry})")?,
                None => write!(f, "graph `{name}`")?,
            }
        }
        Ok(())
    }
}

/// The typed error of a failed driver call on `device`.
pub(super) fn told(device: &str, call: &'static str, error: DriverError, suspects: &Suspects, scope: &str) -> DeviceError {
    let (device, reason, scope) = (device.to_string(), reason(error), scope.to_string());
    match kind(error.0) {
        Kind::Fault => DeviceError::Fault { device, reason, suspect: suspects.to_string(), scope },
        Kind::Lost => DeviceError::Lost { device, reason, scope },
        _ => DeviceError::Driver { device, call, reason },
    }
}

/// Out of memory: what was asked for and what there is.
pub(super) fn full(device: &str, doing: &str, wanted: usize, free: usize, total: usize) -> DeviceError {
    DeviceError::OutOfMemory { device: device.into(), doing: doing.into(), wanted: wanted as u64, free: free as u64, total: total as u64 }
}

/// A launch that the driver refused.
pub(super) fn refused(kernel: Kernel, geometry: Geometry, error: DriverError, shared: usize) -> DeviceError {
    let limit = match kind(error.0) {
        Kind::Launch => format!("; fewer threads a block, or less shared memory (at most {} here), would fit", size(shared as u64)),
        _ => String::new(),
    };
    DeviceError::Launch { kernel: kernel.name, geometry, reason: reason(error) + &limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_are_the_last_few() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.to_string(), "no kernel was in the queue");
        let geometry = Geometry { grid: [7, 1, 1], block: [64, 1, 1], shared: 128 };
        for (i, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            suspects.launch(Kernel { name, handle: i }, geometry);
        }
        suspects.graph("epoch");
        let text = suspects.to_string();
        assert!(text.starts_with("in one of 5 calls, the last of them first: graph `epoch`; kernel `d` (grid 7x1x1, block 64x1x1, 128"));
        assert!(text.contains("`b`") && !text.contains("`a`"), "{text}");
        suspects.clear();
        assert_eq!(suspects.count, 0);
    }

    #[test]
    fn memory_is_no_fault() {
        assert_eq!(kind(Code::CUDA_ERROR_OUT_OF_MEMORY), Kind::Memory);
        assert_eq!(kind(Code::CUDA_ERROR_ILLEGAL_ADDRESS), Kind::Fault);
        assert_eq!(kind(Code::CUDA_ERROR_ECC_UNCORRECTABLE), Kind::Lost);
        assert_eq!(kind(Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION), Kind::Image);
        assert_eq!(kind(Code::CUDA_ERROR_INVALID_VALUE), Kind::Other);
    }
}
