//! A stand-in for `libcuda.so.1`, `libnvrtc.so`, `libnvidia-ml.so.1` and `libnccl.so.2`: one GPU whose kernels run on the CPU. `scripts/with-fake-driver`
//! puts it in front of a program, so that the program's own driver code runs where there is no GPU.
//!
//! It is stricter than a GPU, so that a mistake that a GPU may forgive shows:
//! * Device memory lies between guard pages, begins as NaNs, and can be touched only while queued work runs. Freed memory is never used again.
//! * Queued work runs when something waits for it, or at random in part. A copy from pinned memory reads its source when it runs.
//! * A captured stream refuses what a driver refuses, and a capture ends on its own thread. Several streams may capture at once.
//! * Whatever is launched or replayed may hold no address of device memory that was freed.
//! * A call wants the context to be current on its thread, and handles that are alive.
//!
//! A use that no driver defines ends the program with a message on stderr and exit code 86.
//!
//! The environment chooses faults; counts begin at 1:
//!
//! | variable | effect |
//! |---|---|
//! | `LUMOS_FAKE_MEMORY` | bytes of device memory, 4 GiB where it is not set |
//! | `LUMOS_FAKE_NODE_BYTES` | device memory that an executable graph takes for each of its nodes, 0 where it is not set |
//! | `LUMOS_FAKE_GPU` | the last byte of the GPU's UUID, so that processes have GPUs of their own |
//! | `LUMOS_FAKE_SEED` | seed of how much queued work runs early |
//! | `LUMOS_FAKE_ALLOC_FAILS` | this allocation of device memory finds none |
//! | `LUMOS_FAKE_PINNED_FAILS` | no pinned memory from this allocation on |
//! | `LUMOS_FAKE_LAUNCH_FAULTS` | this launch reads an illegal address; every later call fails |
//! | `LUMOS_FAKE_CAPTURE_FAILS` | this capture is invalidated |
//! | `LUMOS_FAKE_COPY_HANGS` | this copy to the host never ends |
//! | `LUMOS_FAKE_BUSY` | another process has the GPU |
//! | `LUMOS_FAKE_COUNTS` | a file that gets the calls of each kind when the context is released |
#![deny(missing_docs)]

mod calls;
mod codes;
mod faults;
mod memory;
mod nccl;
mod nvml;
mod nvrtc;
mod queue;
mod state;
#[cfg(test)]
mod tests;
