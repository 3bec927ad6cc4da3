//! A device that passes everything on to another one, notes which kernels were launched, and may let only some of them through: so
//! that one kernel of a call that launches several is held against its reference, or timed, by itself.

use crate::device::Geometry;
use crate::device::interface::{Arg, Arriving, Buffer, Counters, Device, Event, Fill, Graph, Kernel, Limits, Memory, Resources, Result};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;

/// A device that passes calls on to another one and notes the kernels they launch.
pub struct Tap<'a> {
    inner: &'a dyn Device,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Kernels that are launched; the others are left out. Nothing: all.
    only: Option<Vec<&'static str>>,
    seen: BTreeSet<&'static str>,
}

impl<'a> Tap<'a> {
    /// Over `inner`, with nothing left out.
    pub fn new(inner: &'a dyn Device) -> Tap<'a> {
        Tap { inner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// From now on only launches of these kernels are passed on.
    pub fn only(&self, kernels: &[&'static str]) {
        self.state().only = Some(kernels.to_vec());
    }

    /// Kernels passed on so far.
    pub fn seen(&self) -> BTreeSet<&'static str> {
        self.state().seen.clone()
    }

    /// Whether a launch of `kernel` is passed on; notes it then.
    fn lets(&self, kernel: &'static str) -> bool {
        let mut state = self.state();
        let lets = state.only.as_ref().is_none_or(|only| only.contains(&kernel));
        if lets {
            state.seen.insert(kernel);
        }
        lets
    }
}

impl Device for Tap<'_> {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn uuid(&self) -> Option<&str> {
        self.inner.uuid()
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
    fn memory(&self) -> Result<Memory> {
        self.inner.memory()
    }
    fn reset_peak(&self) {
        self.inner.reset_peak();
    }
    fn counters(&self) -> Counters {
        self.inner.counters()
    }
    fn set_scope(&self, scope: &str) {
        self.inner.set_scope(scope);
    }
    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        self.inner.alloc(bytes)
    }
    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.inner.upload(to, offset, bytes)
    }
    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.inner.download(from, offset, bytes)
    }
    fn fetch(&self, from: &Buffer, offset: usize, bytes: usize) -> Result<Box<dyn Arriving>> {
        self.inner.fetch(from, offset, bytes)
    }
    fn fill(&self, to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<()> {
        self.inner.fill(to, offset, bytes, value)
    }
    fn copy(&self, from: &Buffer, from_offset: usize, to: &Buffer, to_offset: usize, bytes: usize) -> Result<()> {
        self.inner.copy(from, from_offset, to, to_offset, bytes)
    }
    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        self.inner.kernel(name)
    }
    fn resources(&self, kernel: Kernel) -> Result<Option<Resources>> {
        self.inner.resources(kernel)
    }
    fn resident_blocks(&self, kernel: Kernel, threads: u32, shared: usize) -> Result<u32> {
        self.inner.resident_blocks(kernel, threads, shared)
    }
    unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
        if !self.lets(kernel.name) {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.launch(kernel, geometry, args) }
    }
    fn capture(&self, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.inner.capture(label, record)
    }
    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.replay(graph) }
    }
    fn synchronize(&self) -> Result<()> {
        self.inner.synchronize()
    }
    fn event(&self) -> Result<Event> {
        self.inner.event()
    }
    fn elapsed(&self, start: &Event, end: &Event) -> Result<f32> {
        self.inner.elapsed(start, end)
    }
}
