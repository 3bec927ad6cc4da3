//! Which GPUs there are and whether they can be used, without taking one.

use super::DeviceError;
use super::driver_error::{Kind, kind, reason};
use super::interface::Result;
use super::modules::{self, Form};
use super::nvrtc;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use std::sync::OnceLock;

/// CUDA version that the driver must support: that of the compiler whose code is embedded, and of the driver's calls used here.
pub const LEAST_DRIVER: i32 = 13000;
/// Least compute capability: that of the oldest code which the build makes.
pub const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// A GPU that the driver sees.
#[derive(Clone, Debug)]
pub struct Gpu {
    /// Number, as in `--device cuda:N`.
    pub ordinal: usize,
    /// Product name.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Memory in bytes.
    pub total_bytes: u64,
    /// Identity that NVML shares, such as `GPU-1234...`.
    pub uuid: String,
    /// Why it cannot be used, where that shows without taking it.
    pub unusable: Option<DeviceError>,
}

/// The driver's CUDA version, once it runs.
pub fn driver() -> Result<i32> {
    // cudarc panics where the library or a symbol is missing: ask first, and use nothing but the oldest calls until the version is known.
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: loads the library and nothing else.
    #[cfg(not(feature = "candle-cuda"))]
    let present = || unsafe { sys::is_culib_present() };
    // Linked then, as candle wants it: without the library the program does not start.
    #[cfg(feature = "candle-cuda")]
    let present = || true;
    if !PRESENT.get_or_init(present) {
        return Err(DeviceError::NoDriver);
    }
    let mut found = 0;
    // SAFETY: the library is there.
    unsafe { sys::cuDriverGetVersion(&mut found) }.result().map_err(|e| DeviceError::DriverFails { reason: reason(e) })?;
    if found < LEAST_DRIVER {
        return Err(DeviceError::OldDriver { found, needed: LEAST_DRIVER });
    }
    result::init().map_err(|error| match kind(error.0) {
        Kind::NoDevice => no_device(),
        Kind::Old => DeviceError::DriverFails { reason: format!("library and kernel module do not fit: {}", reason(error)) },
        _ => DeviceError::DriverFails { reason: reason(error) },
    })?;
    Ok(found)
}

/// The GPUs; an error where there is none or no driver.
pub fn gpus() -> Result<Vec<Gpu>> {
    driver()?;
    let failed = |e: DriverError| DeviceError::DriverFails { reason: reason(e) };
    let count = result::device::get_count().map_err(|e| if kind(e.0) == Kind::NoDevice { no_device() } else { failed(e) })?;
    if count <= 0 {
        return Err(no_device());
    }
    (0..count as usize).map(|ordinal| look(ordinal).map_err(failed)).collect()
}

/// The GPU of this number, if nothing is known to stand against its use.
pub fn usable(ordinal: usize) -> Result<Gpu> {
    let gpus = gpus()?;
    let count = gpus.len();
    let gpu = gpus.into_iter().nth(ordinal).ok_or(DeviceError::NoSuchDevice { asked: ordinal, count })?;
    match &gpu.unusable {
        Some(reason) => Err(reason.clone()),
        None => kernels().map(|()| gpu),
    }
}

/// Whether this build can run kernels here at all.
pub fn kernels() -> Result<()> {
    match modules::form() {
        Form::None => Err(DeviceError::NoKernels),
        Form::Sources if nvrtc::version().is_none() => Err(DeviceError::NvrtcMissing),
        _ => Ok(()),
    }
}

fn no_device() -> DeviceError {
    DeviceError::NoDevice { visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() }
}

fn look(ordinal: usize) -> Result<Gpu, DriverError> {
    let device = result::device::get(ordinal as i32)?;
    // SAFETY: the driver gave the device.
    let number = |attribute| unsafe { result::device::get_attribute(device, attribute) }.map(|v| v as u32);
    let capability = (
        number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    let name = result::device::get_name(device)?;
    // CU_COMPUTEMODE_PROHIBITED; in the exclusive mode the GPU may still be free.
    let prohibited = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE)? == 2;
    let unusable = if capability < LEAST_CAPABILITY {
        Some(DeviceError::TooOld { ordinal, name: name.clone(), capability })
    } else if prohibited {
        Some(DeviceError::Busy { ordinal, name: name.clone(), reason: "its compute mode is `prohibited`".into() })
    } else {
        None
    };
    // SAFETY: as above.
    let total_bytes = unsafe { result::device::total_mem(device) }? as u64;
    Ok(Gpu { ordinal, name, capability, total_bytes, uuid: uuid(result::device::get_uuid(device)?), unusable })
}

/// `GPU-8-4-4-4-12` hexadecimal digits, as NVML writes it.
fn uuid(raw: sys::CUuuid) -> String {
    let digits: String = raw.bytes.iter().map(|&b| format!("{:02x}", b as u8)).collect();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    format!("GPU-{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_never_panics() {
        match gpus() {
            Ok(gpus) => assert!(gpus.iter().enumerate().all(|(i, g)| g.ordinal == i && !g.name.is_empty())),
            Err(error) => {
                assert!(error.to_string().contains("--device cpu"), "{error}");
                assert_eq!(usable(0).unwrap_err(), error);
            }
        }
    }

    #[test]
    fn identities_are_written_as_nvml_does() {
        let mut raw = sys::CUuuid { bytes: [0; 16] };
        raw.bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (i as u8 * 17) as _);
        assert_eq!(uuid(raw), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
