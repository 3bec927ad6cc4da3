//! What is refused before a driver sees it.

use super::interface::{Arg, Buffer, Fill, Kernel, Limits, Result};
use super::{DeviceError, Geometry};

/// Checks a launch against the limits that hold everywhere, before a driver sees it.
pub(super) fn check_geometry(kernel: Kernel, geometry: Geometry, limits: &Limits) -> Result<()> {
    let refuse = |reason: String| Err(DeviceError::Launch { kernel: kernel.name, geometry, reason });
    let threads = geometry.block.iter().map(|&n| n as u64).product::<u64>();
    if threads == 0 || threads > limits.threads_per_block as u64 {
        return refuse(format!("a block has 1 to {} threads", limits.threads_per_block));
    }
    if geometry.grid[1] > 65535 || geometry.grid[2] > 65535 || geometry.grid[0] > i32::MAX as u32 {
        return refuse("a grid has at most 2147483647 x 65535 x 65535 blocks".into());
    }
    if geometry.shared > limits.shared_per_block {
        return refuse(format!("a block has at most {} bytes of shared memory here", limits.shared_per_block));
    }
    Ok(())
}

/// The address of a range to fill, which must be made of whole units.
pub(super) fn fill_range(to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<u64> {
    let unit = value.unit();
    if !offset.is_multiple_of(unit) || !bytes.is_multiple_of(unit) {
        return Err(DeviceError::Misuse(format!("a fill of {bytes} bytes at {offset} with units of {unit}")));
    }
    to.range("fill", offset, bytes)
}

/// Sizes of arguments against those of parameters.
pub(super) fn check_args(kernel: Kernel, expected: &[usize], args: &[Arg]) -> Result<()> {
    if expected.len() == args.len() && expected.iter().zip(args).all(|(&size, arg)| size == arg.size()) {
        return Ok(());
    }
    let show = |sizes: &[usize]| {
        let list: Vec<String> = sizes.iter().map(usize::to_string).collect();
        format!("{} values of {} bytes", sizes.len(), list.join(", "))
    };
    let given: Vec<usize> = args.iter().map(Arg::size).collect();
    Err(DeviceError::Arguments { kernel: kernel.name, expected: show(expected), given: show(&given) })
}
