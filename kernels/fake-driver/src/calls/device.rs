//! The driver itself, its one device and the primary context.

use crate::codes::{self, Code};
use crate::faults::number;
use crate::state::{CONTEXT, CURRENT, current_idle, give, plain};
use std::ffi::c_char;

/// CUDA version of the stand-in.
const VERSION: i32 = 13000;
const NAME: &[u8] = b"Stand-in for a GPU\0";
/// What NVML calls `GPU-4c554d4f-5300-0000-0000-000000000000`.
const UUID: [u8; 16] = *b"LUMOS\0\0\0\0\0\0\0\0\0\0\0";

/// The GPU's own name: its last byte is the one that the environment asks for.
pub fn uuid() -> [u8; 16] {
    let mut uuid = UUID;
    uuid[15] = number("LUMOS_FAKE_GPU").unwrap_or(0) as u8;
    uuid
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: u32) -> Code {
    plain("cuInit", |state| {
        state.started = true;
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: *mut i32) -> Code {
    plain("cuDriverGetVersion", |_| give(version, VERSION))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: Code, text: *mut *const c_char) -> Code {
    codes::texts(code).map_or(codes::INVALID_VALUE, |(name, _)| give(text, name.as_ptr().cast()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(code: Code, text: *mut *const c_char) -> Code {
    codes::texts(code).map_or(codes::INVALID_VALUE, |(_, what)| give(text, what.as_ptr().cast()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut i32) -> Code {
    plain("cuDeviceGetCount", |_| give(count, 1))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut i32, ordinal: i32) -> Code {
    plain("cuDeviceGet", |_| if ordinal == 0 { give(device, 0) } else { codes::INVALID_DEVICE })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetName(name: *mut c_char, length: i32, device: i32) -> Code {
    plain("cuDeviceGetName", |_| {
        if device != 0 || name.is_null() || (length as usize) < NAME.len() {
            return codes::INVALID_VALUE;
        }
        // SAFETY: the caller says that there is room for `length` bytes.
        unsafe { std::ptr::copy_nonoverlapping(NAME.as_ptr(), name.cast(), NAME.len()) };
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(to: *mut [u8; 16], device: i32) -> Code {
    plain("cuDeviceGetUuid", |_| if device == 0 { give(to, uuid()) } else { codes::INVALID_DEVICE })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: i32) -> Code {
    plain("cuDeviceTotalMem", |state| if device == 0 { give(bytes, state.memory.total as usize) } else { codes::INVALID_DEVICE })
}

/// The attributes that the program asks for, as an H100 has them but for the number of multiprocessors: each of them costs time here.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, device: i32) -> Code {
    let known = match attribute {
        1 => 1024,      // threads a block
        16 => 4,        // multiprocessors
        20 => 0,        // compute mode
        38 => 50 << 20, // second-level cache
        39 => 2048,     // threads a multiprocessor
        75 => 9,
        76 => 0,
        81 => 228 << 10, // shared memory of a multiprocessor
        97 => 227 << 10, // of a block
        115 => 0,        // memory pools
        _ => return codes::INVALID_VALUE,
    };
    plain("cuDeviceGetAttribute", |_| if device == 0 { give(value, known) } else { codes::INVALID_DEVICE })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: *mut usize, device: i32) -> Code {
    plain("cuDevicePrimaryCtxRetain", |state| {
        if device != 0 {
            return codes::INVALID_DEVICE;
        }
        if std::env::var_os("LUMOS_FAKE_BUSY").is_some() {
            return codes::DEVICE_UNAVAILABLE;
        }
        state.retained += 1;
        give(context, CONTEXT)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_: i32) -> Code {
    plain("cuDevicePrimaryCtxRelease", |state| {
        if state.retained == 0 {
            return codes::INVALID_CONTEXT;
        }
        state.drain();
        state.retained -= 1;
        if let Some(path) = std::env::var_os("LUMOS_FAKE_COUNTS") {
            let lines: String = state.counts.iter().map(|(name, n)| format!("{name} {n}\n")).collect();
            if let Err(error) = std::fs::write(&path, lines) {
                codes::forbidden(&format!("LUMOS_FAKE_COUNTS: {error}"));
            }
        }
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: *mut usize) -> Code {
    plain("cuCtxGetCurrent", |_| give(context, CURRENT.get()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: usize) -> Code {
    plain("cuCtxSetCurrent", |state| {
        if context != 0 && (context != CONTEXT || state.retained == 0) {
            return codes::INVALID_CONTEXT;
        }
        CURRENT.set(context);
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> Code {
    current_idle("cuCtxSetFlags", |state| {
        state.flags = flags;
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> Code {
    current_idle("cuCtxSynchronize", |state| state.drain())
}
