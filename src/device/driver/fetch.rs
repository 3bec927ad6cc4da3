//! Copies to the host that are waited for later, each in pinned memory of its own.

use super::super::driver_error::{Kind, kind};
use super::super::interface::{Arriving, Result};
use super::super::waits::Waits;
use super::{Inner, State};
use cudarc::driver::{result, sys};
use std::ffi::c_void;
use std::sync::Arc;

/// Pinned memory, and the point of the queue behind the copy that fills it.
pub(super) struct Landing {
    memory: *mut u8,
    bytes: usize,
    event: sys::CUevent,
}

// SAFETY: memory and event belong to the context, which any thread may use; one owner at a time has them.
unsafe impl Send for Landing {}

impl Landing {
    fn new(bytes: usize, waits: Waits) -> Result<Landing, result::DriverError> {
        // SAFETY: freed by `free`, or here where the event cannot be had.
        unsafe {
            let memory = result::malloc_host(bytes, 0)?;
            match waits.event(false) {
                Ok(event) => Ok(Landing { memory: memory.cast(), bytes, event }),
                Err(error) => {
                    let _ = result::free_host(memory);
                    Err(error)
                }
            }
        }
    }

    /// Gives the memory back, with the context current and the queue empty.
    pub(super) fn free(self) {
        // SAFETY: made by `new`, freed once. An error cannot be reported here.
        unsafe {
            let _ = result::event::destroy(self.event);
            let _ = result::free_host(self.memory.cast::<c_void>());
        }
    }
}

/// A copy made at once.
struct Arrived(Vec<u8>);

impl Arriving for Arrived {
    fn take(self: Box<Self>, bytes: &mut [u8]) -> Result<()> {
        let n = bytes.len().min(self.0.len());
        bytes[..n].copy_from_slice(&self.0[..n]);
        Ok(())
    }
}

/// A copy on its way.
struct Arrival {
    landing: Option<Landing>,
    owner: Arc<Inner>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        // A copy that was not waited for may still be under way: later ones to the same memory come behind it in the queue.
        if let Some(landing) = self.landing.take() {
            self.owner.lock().landings.push(landing);
        }
    }
}

impl Arriving for Arrival {
    fn take(self: Box<Self>, bytes: &mut [u8]) -> Result<()> {
        let Some(landing) = &self.landing else { return Ok(()) };
        drop(self.owner.enter()?);
        // SAFETY: recorded by `fetch`. The lock is not held: others go on while this waits.
        let arrived = unsafe { result::event::synchronize(landing.event) };
        arrived.map_err(|e| self.owner.failed(&mut self.owner.lock(), "cuEventSynchronize", e))?;
        let n = bytes.len().min(landing.bytes);
        // SAFETY: the copy has ended, and the landing holds `n` bytes.
        unsafe { std::ptr::copy_nonoverlapping(landing.memory, bytes.as_mut_ptr(), n) };
        Ok(())
    }
}

/// Pinned memory for `bytes` bytes; nothing where the host has none to give.
fn landing(owner: &Inner, state: &mut State, bytes: usize) -> Result<Option<Landing>> {
    if let Some(i) = state.landings.iter().position(|l| l.bytes >= bytes) {
        return Ok(Some(state.landings.swap_remove(i)));
    }
    if state.no_pinned.is_some() {
        return Ok(None);
    }
    match Landing::new(bytes.next_power_of_two().max(4096), owner.waits) {
        Ok(landing) => Ok(Some(landing)),
        Err(error) if kind(error.0) == Kind::Memory => {
            owner.without_pinned(state, error);
            Ok(None)
        }
        Err(error) => Err(owner.failed(state, "cuMemHostAlloc", error)),
    }
}

/// Puts a copy of `bytes` bytes from `at` into the queue.
pub(super) fn fetch(owner: &Arc<Inner>, at: u64, bytes: usize) -> Result<Box<dyn Arriving>> {
    let mut state = owner.idle("a copy to the host was asked for")?;
    if bytes == 0 {
        return Ok(Box::new(Arrival { landing: None, owner: owner.clone() }));
    }
    let stream = owner.stream.cu_stream();
    let Some(landing) = landing(owner, &mut state, bytes)? else {
        // Without pinned memory the copy is waited for at once.
        let mut arrived = vec![0; bytes];
        // SAFETY: the caller checked the range on the device; the driver returns when the host's memory is written.
        let copied = unsafe { result::memcpy_dtoh_async(&mut arrived, at, stream) };
        copied.map_err(|e| owner.failed(&mut state, "cuMemcpyDtoHAsync", e))?;
        owner.wait(&mut state)?;
        state.counters.downloaded += bytes as u64;
        return Ok(Box::new(Arrived(arrived)));
    };
    // SAFETY: the caller checked the range on the device; the landing is long enough and not shared.
    let begun = unsafe {
        let target = std::slice::from_raw_parts_mut(landing.memory, bytes);
        result::memcpy_dtoh_async(target, at, stream).and_then(|()| result::event::record(landing.event, stream))
    };
    state.counters.downloaded += bytes as u64;
    let failed = begun.map_err(|e| owner.failed(&mut state, "cuMemcpyDtoHAsync", e));
    drop(state);
    let arrival = Arrival { landing: Some(landing), owner: owner.clone() };
    failed.map(|()| Box::new(arrival) as Box<dyn Arriving>)
}
