//! How a thread waits for the GPU.

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUevent_flags as Flags};

/// Up to this many cores a thread that spins takes one from the threads that prepare the next chunk.
const FEW_CORES: usize = 4;

/// How a thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// It looks again and again: the shortest wait.
    Spinning,
    /// It sleeps until the driver wakes it: some microseconds more, and no core.
    Asleep,
}

impl Waits {
    /// What is right for this machine.
    pub fn here() -> Waits {
        Waits::with_cores(std::thread::available_parallelism().map_or(1, |n| n.get()))
    }

    fn with_cores(cores: usize) -> Waits {
        if cores <= FEW_CORES { Waits::Asleep } else { Waits::Spinning }
    }

    /// An event that is waited for in this way. With `times`, the time between two can be asked.
    pub fn event(self, times: bool) -> Result<sys::CUevent, DriverError> {
        let mut flags = if times { Flags::CU_EVENT_DEFAULT as u32 } else { Flags::CU_EVENT_DISABLE_TIMING as u32 };
        if self == Waits::Asleep {
            flags |= Flags::CU_EVENT_BLOCKING_SYNC as u32;
        }
        let mut event = std::ptr::null_mut();
        // SAFETY: the driver writes one handle to a place for one.
        unsafe { sys::cuEventCreate(&mut event, flags) }.result().map(|()| event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_cores_are_left_to_those_who_work() {
        assert_eq!(
            [1, 2, 4, 5, 64].map(Waits::with_cores),
            [Waits::Asleep, Waits::Asleep, Waits::Asleep, Waits::Spinning, Waits::Spinning]
        );
    }
}
