//! NVML: one GPU that tells plain numbers.

use std::ffi::{CStr, c_char};

const SUCCESS: i32 = 0;
const INVALID_ARGUMENT: i32 = 2;
const NOT_FOUND: i32 = 6;
const GPU: usize = 0x200;
const UUID: &CStr = c"GPU-4c554d4f-5300-0000-0000-000000000000";

fn set<T>(to: *mut T, value: T) -> i32 {
    // SAFETY: the callers give a place for one value.
    unsafe { to.write(value) };
    SUCCESS
}

fn of<T>(device: usize, to: *mut T, value: T) -> i32 {
    if device == GPU { set(to, value) } else { INVALID_ARGUMENT }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_: u32) -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> i32 {
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(_: i32) -> *const c_char {
    c"an error of the stand-in".as_ptr()
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCount_v2(count: *mut u32) -> i32 {
    set(count, 1)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: u32) -> i32 {
    let text = c"580.0 (stand-in)".to_bytes_with_nul();
    if (length as usize) < text.len() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: the caller says that there is room for `length` bytes.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), version.cast(), text.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut usize) -> i32 {
    // SAFETY: an identity ends in zero.
    let (asked, own) = (unsafe { CStr::from_ptr(uuid) }.to_bytes(), UUID.to_bytes());
    // The last byte is chosen by the environment.
    if asked.len() == own.len() && asked[..34] == own[..34] { set(device, GPU) } else { NOT_FOUND }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUtilizationRates(device: usize, rates: *mut [u32; 2]) -> i32 {
    of(device, rates, [50, 25])
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClockInfo(device: usize, _: u32, mhz: *mut u32) -> i32 {
    of(device, mhz, 1700)
}

/// `version` with padding, total, reserved, free and used.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: usize, info: *mut [u64; 5]) -> i32 {
    // SAFETY: the caller gives the whole struct with its version.
    let version = unsafe { (*info)[0] };
    of(device, info, [version, 4 << 30, 0, 3 << 30, 1 << 30])
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPowerUsage(device: usize, milliwatts: *mut u32) -> i32 {
    of(device, milliwatts, 300_000)
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(device: usize, _: u32, celsius: *mut u32) -> i32 {
    of(device, celsius, 40)
}
