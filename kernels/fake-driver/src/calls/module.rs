//! Modules, functions and launches.

use crate::codes::{self, Code};
use crate::nvrtc::MAGIC;
use crate::queue::{Launch, Op};
use crate::state::{Function, current, current_idle, give};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

/// Dynamic shared memory that a launch may have unless the function was given more.
const SHARED: usize = 48 << 10;
/// What a block of an H100 may have.
const MOST_SHARED: i32 = 227 << 10;

/// Names of the kernels in an image: those that the stand-in of NVRTC wrote down, and nothing (all of them) for what nvcc compiled.
fn kernels(image: *const c_char) -> Result<Option<Vec<String>>, Code> {
    // SAFETY: an image has its magic number at least, and the text of one made here ends in zero.
    let begin: [u8; 8] = unsafe { image.cast::<[u8; 8]>().read_unaligned() };
    let compiled = [&[0x50, 0xed, 0x55, 0xba][..], b"\x7fELF"];
    if compiled.iter().any(|magic| begin.starts_with(magic)) || begin.starts_with(b"//") || begin.starts_with(b".version") {
        return Ok(None);
    }
    if begin != MAGIC.as_bytes()[..8] {
        return Err(codes::INVALID_IMAGE);
    }
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy();
    Ok(Some(text.lines().skip(1).map(str::to_string).collect()))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleLoadDataEx(module: *mut usize, image: *const c_char, _: u32, _: *mut i32, _: *mut *mut c_void) -> Code {
    current_idle("cuModuleLoadData", |state| {
        if image.is_null() {
            return codes::INVALID_VALUE;
        }
        match kernels(image) {
            Ok(names) => {
                let handle = state.handle();
                state.modules.insert(handle, names);
                give(module, handle)
            }
            Err(code) => code,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: usize) -> Code {
    current_idle("cuModuleUnload", |state| {
        let code = state.drain();
        state.functions.retain(|_, (of, _)| *of != module);
        if state.modules.remove(&module).is_some() { code } else { codes::INVALID_HANDLE }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) -> Code {
    current_idle("cuModuleGetFunction", |state| {
        let Some(names) = state.modules.get(&module) else { return codes::INVALID_HANDLE };
        // SAFETY: a name ends in zero.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let listed = names.as_ref().is_none_or(|names| names.iter().any(|n| *n == name));
        let Some(kernel) = lumos_simt::find(&name).filter(|_| listed) else { return codes::NOT_FOUND };
        let handle = state.handle();
        state.functions.insert(handle, (module, Function { kernel, shared: SHARED, carveout: -1 }));
        give(function, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetAttribute(value: *mut i32, attribute: i32, function: usize) -> Code {
    current("cuFuncGetAttribute", |state| {
        let Some((_, function)) = state.functions.get(&function) else { return codes::INVALID_HANDLE };
        match attribute {
            0 => give(value, 1024),
            1..=3 => give(value, 0),
            4 => give(value, 64),
            8 => give(value, function.shared as i32),
            9 => give(value, function.carveout),
            _ => codes::INVALID_VALUE,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(function: usize, attribute: i32, value: i32) -> Code {
    current("cuFuncSetAttribute", |state| {
        let Some((_, function)) = state.functions.get_mut(&function) else { return codes::INVALID_HANDLE };
        match attribute {
            8 if (0..=MOST_SHARED).contains(&value) => function.shared = value as usize,
            9 if (-1..=100).contains(&value) => function.carveout = value,
            _ => return codes::INVALID_VALUE,
        }
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncGetParamInfo(function: usize, index: usize, offset: *mut usize, size: *mut usize) -> Code {
    current("cuFuncGetParamInfo", |state| {
        let Some((_, function)) = state.functions.get(&function) else { return codes::INVALID_HANDLE };
        let sizes = function.kernel.parameters();
        match sizes.get(index) {
            Some(&bytes) => give(offset, sizes[..index].iter().sum()) | give(size, bytes),
            None => codes::INVALID_VALUE,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut i32, function: usize, threads: i32, shared: usize) -> Code {
    current("cuOccupancyMaxActiveBlocksPerMultiprocessor", |state| {
        let Some((_, function)) = state.functions.get(&function) else { return codes::INVALID_HANDLE };
        if threads < 1 {
            return codes::INVALID_VALUE;
        }
        // A kilobyte a block is the system's.
        let by_shared = if shared > function.shared { 0 } else { (228usize << 10) / (shared + 1024) };
        give(blocks, (2048 / threads).min(32).min(by_shared as i32))
    })
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)] // the driver's
pub extern "C" fn cuLaunchKernel(
    function: usize,
    gx: u32,
    gy: u32,
    gz: u32,
    bx: u32,
    by: u32,
    bz: u32,
    shared: u32,
    stream: usize,
    values: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    current("cuLaunchKernel", |state| {
        let Some((_, function)) = state.functions.get(&function) else { return codes::INVALID_HANDLE };
        let (grid, block, shared) = ([gx, gy, gz], [bx, by, bz], shared as usize);
        let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
        let fits = (1..=1024).contains(&threads) && bz <= 64 && !grid.contains(&0) && gx <= i32::MAX as u32 && gy.max(gz) <= 65_535;
        let sizes = function.kernel.parameters();
        if !fits || shared > function.shared || !extra.is_null() || (values.is_null() && !sizes.is_empty()) {
            return codes::INVALID_VALUE;
        }
        let mut args = Vec::with_capacity(sizes.len());
        for (i, bytes) in sizes.into_iter().enumerate() {
            // SAFETY: the caller gives the place of a value for each parameter.
            let from = unsafe { *values.add(i) };
            if from.is_null() {
                return codes::INVALID_VALUE;
            }
            let mut words = vec![0u128; bytes.div_ceil(16).max(1)];
            // SAFETY: the value has the parameter's size.
            unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), words.as_mut_ptr().cast(), bytes) };
            args.push(words);
        }
        let launch = Arc::new(Launch { kernel: function.kernel, grid, block, shared, args });
        state.put(stream, Op::Launch(launch))
    })
}
