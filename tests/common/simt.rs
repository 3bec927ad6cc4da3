//! The kernels on the CPU, as a device.

use lumos::device::Geometry;
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

/// A device with `bytes` of memory.
#[allow(dead_code)] // one test makes a device of its own
pub fn device(bytes: u64) -> Arc<HostDevice<Simt>> {
    Arc::new(HostDevice::new(Simt, bytes))
}
