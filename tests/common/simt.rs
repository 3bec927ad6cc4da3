//! The device of a test: the kernels on the CPU, run by the host or through the driver's own code.

// Not every test binary asks for everything.
#![allow(dead_code)]

#[cfg(feature = "cuda")]
mod driven;

use lumos::device::{Device, Geometry, Limits};
use lumos::testing::{HostDevice, HostKernels};
use std::ffi::c_void;
use std::sync::Arc;

pub struct Simt;

impl HostKernels for Simt {
    fn find(&self, name: &str) -> Option<usize> {
        lumos_simt::find(name).map(|k| k.index())
    }

    fn parameters(&self, handle: usize) -> Option<Vec<usize>> {
        lumos_simt::nth(handle).map(|k| k.parameters())
    }

    unsafe fn launch(&self, handle: usize, g: Geometry, args: &[*const c_void]) -> Result<(), String> {
        let kernel = lumos_simt::nth(handle).ok_or("no such kernel")?;
        // SAFETY: the caller's promise; sizes were checked by the device.
        unsafe { lumos_simt::launch_pointers(kernel, g.grid, g.block, g.shared, args, 2) }
    }
}

/// Whether tests go through the driver: `LUMOS_TEST_DRIVER` is set, and `scripts/with-fake-driver` has put the stand-in in front.
///
/// Some tests make a host device of their own all the same, because they change what a kernel does or watch its launches, which only the
/// host's kernels allow. The list is here so that it stays short:
/// * `gpu_check`: the six tests that spoil kernels (`spoilt`) and see that the check of a GPU names them;
/// * `batches::a_device_that_fails_leaves_the_last_snapshot` and the faults of `cli` (`LUMOS_TEST_FAULT`): a kernel fails by its name. The
///   stand-in fails a launch by its number, once a process, for `driver.rs` has a process for each fault;
/// * `resident::short_clients_take_little_shared_memory`: it sees what each launch asks for.
///
/// `driver.rs` starts the program on the stand-in whatever is set, and `kernel_table` asks no device.
pub fn through_driver() -> bool {
    cfg!(feature = "cuda") && std::env::var_os("LUMOS_TEST_DRIVER").is_some()
}

/// A device with `bytes` of memory.
pub fn device(bytes: u64) -> Arc<dyn Device> {
    #[cfg(feature = "cuda")]
    if through_driver() {
        return Arc::new(driven::Driven::new(bytes));
    }
    Arc::new(HostDevice::new(Simt, bytes))
}

/// What the device of tests is called.
pub fn name() -> String {
    device(0).name().into()
}

/// The same whose blocks have `shared` bytes of shared memory, its multiprocessors `total`.
pub fn with_shared(bytes: u64, shared: usize, total: usize) -> Arc<dyn Device> {
    let less = |limits: Limits| Limits { shared_per_block: shared, shared_per_multiprocessor: total, ..limits };
    #[cfg(feature = "cuda")]
    if through_driver() {
        return Arc::new(driven::Driven::new(bytes).with_limits(less));
    }
    let device = HostDevice::new(Simt, bytes);
    let limits = less(device.limits());
    Arc::new(device.with_limits(limits))
}
