//! Whether products by warpgroups have the bits of those by other tiles. PTX does not say how a tensor core rounds within a step of 16, and
//! a text must not depend on how many others are written beside it: a product of random numbers by both decides.

use super::super::weights::Stored;
use super::Gpu;
use super::kernels::{self, Multiply, Product, Shape};
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::device::interface::bytes_of_mut;
use crate::device::launch::{KernelSet, Pointer};
use crate::device::{Buffer, Device, DeviceError};

/// Rows, depth and outputs of the trial: a whole tile, nine pieces of the depth, so that each stage is filled twice and the last piece is not
/// full.
const ROWS: usize = 256;
const DEPTH: usize = 544;
const OUTPUTS: usize = 128;

/// Halves with signs, of exponents that differ by up to seven: what is cut off within a step of 16 shows in the sum.
fn halves(number: Stored, count: usize) -> Vec<u16> {
    let mut stream = Stream::new(1, Purpose::Bench, 9, count as u64);
    let (mantissa, exponent) = if number == Stored::F16 { (10, 11) } else { (7, 123) };
    let mut one = || {
        let bits = stream.below(1 << 15) as u16;
        let (sign, size) = (bits << 15, exponent + (bits >> 1) % 8);
        sign | size << mantissa | (bits >> 4) & ((1 << mantissa) - 1)
    };
    (0..count).map(|_| one()).collect()
}

/// Whether `device` has products by warpgroups for `number`, and a trial gives the same bits by them and by the tile below. Where there is no memory for
/// the trial they are not used.
///
/// # Errors
/// The device's.
pub(super) fn agrees(device: &dyn Device, kernels: &KernelSet, number: Stored) -> Result<bool> {
    match kernels::has_warpgroups(number, &device.limits()).then(|| trial(device, kernels, number)) {
        None => Ok(false),
        Some(Err(e)) if e.is_out_of_memory() => Ok(false),
        Some(result) => Ok(result?),
    }
}

fn trial(device: &dyn Device, kernels: &KernelSet, number: Stored) -> Result<bool, DeviceError> {
    let limits = device.limits();
    let (x, w) = (halves(number, ROWS * Gpu::ld(DEPTH)), halves(number, OUTPUTS * Gpu::ld(DEPTH)));
    let (x, w) = (device.upload_new(&x)?, device.upload_new(&w)?);
    let shape = Shape { number, rows: ROWS, depth: DEPTH, outputs: OUTPUTS, limits: &limits, wide: true };
    let by = |tile: usize| -> Result<Vec<u32>, DeviceError> {
        // What no kernel writes is NaN.
        let y: Buffer = device.upload_new(&vec![u32::MAX; ROWS * OUTPUTS])?;
        let [Product { place, blocks, groups }, _] = shape.by(tile);
        let (rows, outputs, ld) = (ROWS as i32, OUTPUTS as i32, Gpu::ld(DEPTH) as i32);
        let kernel = Multiply { y: (&y).into(), x: (&x).into(), w: (&w).into(), bias: Pointer::NULL, rows, outputs, ld, add: 0, groups };
        // SAFETY: the buffers have the sizes that the arguments say, and are read back before they are freed.
        unsafe { kernels.launch(device, place, blocks, &kernel)? };
        let mut sums = vec![0u32; ROWS * OUTPUTS];
        device.download(&y, 0, bytes_of_mut(&mut sums))?;
        Ok(sums)
    };
    Ok(by(shape.tiles() - 1)? == by(shape.tiles() - 2)?)
}
