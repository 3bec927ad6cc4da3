//! Memory, copies and fills.

use crate::codes::{self, Code, forbidden};
use crate::queue::{Op, Source};
use crate::state::{State, current, current_idle, give};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::sync::Arc;

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> Code {
    current_idle("cuMemAlloc", |state| {
        if bytes == 0 {
            return codes::INVALID_VALUE;
        }
        if state.faults.alloc.hit() {
            return codes::OUT_OF_MEMORY;
        }
        state.memory.alloc(bytes).map_or(codes::OUT_OF_MEMORY, |at| give(address, at as u64))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> Code {
    // A driver waits before it frees.
    current_idle("cuMemFree", |state| match state.drain() {
        0 if state.memory.free(address as usize) => 0,
        0 => codes::INVALID_VALUE,
        code => code,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Code {
    current("cuMemGetInfo", |state| {
        let all = state.memory.total;
        give(free, (all - state.memory.held) as usize) | give(total, all as usize)
    })
}

fn pinned_layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, 4096).ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _: u32) -> Code {
    current_idle("cuMemHostAlloc", |state| {
        if bytes == 0 {
            return codes::INVALID_VALUE;
        }
        if state.faults.pinned.hit_from() {
            return codes::OUT_OF_MEMORY;
        }
        let Some(layout) = pinned_layout(bytes) else { return codes::OUT_OF_MEMORY };
        // SAFETY: the layout has a size.
        let at = unsafe { alloc(layout) };
        if at.is_null() {
            return codes::OUT_OF_MEMORY;
        }
        state.memory.pin(at as usize, bytes);
        give(address, at.cast())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: *mut c_void) -> Code {
    current_idle("cuMemFreeHost", |state| {
        let uses = |op: &Op| match *op {
            Op::ToDevice { from: Source::Pinned(at), .. } | Op::ToHost { to: at, .. } => Some(at),
            _ => None,
        };
        let places: Vec<usize> = state.queue.iter().filter_map(uses).collect();
        let Some(bytes) = state.memory.unpin(address as usize) else { return codes::INVALID_VALUE };
        if places.iter().any(|p| (address as usize..address as usize + bytes).contains(p)) {
            forbidden("pinned memory is freed while a queued copy uses it");
        }
        if let Some(layout) = pinned_layout(bytes) {
            // SAFETY: `cuMemHostAlloc` gave it with this layout.
            unsafe { dealloc(address.cast(), layout) };
        }
        0
    })
}

/// The range of a call, which must be within one allocation already when it is made.
fn there(state: &State, at: u64, bytes: usize) -> Code {
    if state.memory.holds(at as usize, bytes) { 0 } else { codes::INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) -> Code {
    current("cuMemcpyHtoDAsync", |state| {
        let code = there(state, to, bytes);
        if code != 0 || bytes == 0 {
            return code;
        }
        let source = if state.memory.is_pinned(from as usize, bytes) {
            Source::Pinned(from as usize)
        } else {
            let code = state.outside_capture_of(stream);
            if code != 0 {
                return code;
            }
            // SAFETY: the caller's memory, of which the driver reads `bytes` bytes before it returns.
            Source::Taken(Arc::new(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.to_vec()))
        };
        state.put(stream, Op::ToDevice { to: to as usize, from: source, bytes })
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) -> Code {
    current("cuMemcpyDtoHAsync", |state| {
        let code = there(state, from, bytes);
        if code != 0 || bytes == 0 {
            return code;
        }
        let pinned = state.memory.is_pinned(to as usize, bytes);
        let code = if pinned { 0 } else { state.outside_capture_of(stream) };
        if code != 0 {
            return code;
        }
        let code = state.put(stream, Op::ToHost { to: to as usize, from: from as usize, bytes });
        // Memory that is not pinned has the bytes when the call returns.
        if code == 0 && !pinned { state.drain() } else { code }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) -> Code {
    current("cuMemcpyDtoDAsync", |state| match there(state, to, bytes) | there(state, from, bytes) {
        0 if bytes == 0 => 0,
        0 => state.put(stream, Op::Within { to: to as usize, from: from as usize, bytes }),
        code => code,
    })
}

fn fill(name: &'static str, to: u64, word: u32, unit: usize, count: usize, stream: usize) -> Code {
    current(name, |state| {
        if !(to as usize).is_multiple_of(unit) {
            return codes::INVALID_VALUE;
        }
        match there(state, to, unit * count) {
            0 if count == 0 => 0,
            0 => state.put(stream, Op::Fill { to: to as usize, word, unit, count }),
            code => code,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(to: u64, byte: u8, count: usize, stream: usize) -> Code {
    fill("cuMemsetD8Async", to, byte.into(), 1, count, stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD32Async(to: u64, word: u32, count: usize, stream: usize) -> Code {
    fill("cuMemsetD32Async", to, word, 4, count, stream)
}
