//! The device layer played on the CPU, so that a backend of kernels can be tested where there is no GPU.
//!
//! Memory is the host's and every call is done at once; recording keeps the calls and replaying repeats them. What runs a kernel is
//! given from outside ([`HostKernels`]), for the CPU rendition of the kernels is no part of this library.

use super::checks::{check_args, check_geometry};
use super::interface::{Arg, Arriving, Buffer, Counters, Device, Event, Fill, Graph, Kernel, Limits, Memory, Release, Resources, Result};
use super::record::{self, Op};
use super::{DeviceError, Geometry};
use parking_lot::{Mutex, MutexGuard};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ThreadId;
use std::time::Instant;

/// Runs kernels on the CPU.
pub trait HostKernels: Send + Sync {
    /// The number of a kernel.
    fn find(&self, name: &str) -> Option<usize>;

    /// Sizes of a kernel's parameters, where known.
    fn parameters(&self, _handle: usize) -> Option<Vec<usize>> {
        None
    }

    /// Runs a kernel to its end; an error is the reason why it failed.
    ///
    /// # Safety
    /// `args` point to values of the kernel's parameter types, as [`Device::launch`] asks.
    unsafe fn launch(&self, handle: usize, geometry: Geometry, args: &[*const c_void]) -> std::result::Result<(), String>;
}

/// A device whose memory is the host's and whose kernels run on the CPU.
pub struct HostDevice<K> {
    kernels: K,
    limits: Limits,
    heap: Arc<Heap>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    recording: Option<(Vec<Op>, ThreadId)>,
    /// Kernels looked up: on a GPU the first time loads code, which no recording may.
    known: HashSet<&'static str>,
    counters: Counters,
    scope: String,
    /// Set by a kernel that failed: like a GPU's context, the device is of no use from then on.
    fault: Option<DeviceError>,
}

/// Memory handed out.
struct Heap {
    total: u64,
    held: AtomicU64,
    peak: AtomicU64,
}

const ALIGN: usize = 256;

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes.max(1), ALIGN).ok()
}

impl Release for Heap {
    fn release(&self, address: u64, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: `HostDevice::alloc` gave this address for this size, and a buffer is released once.
            unsafe { dealloc(address as usize as *mut u8, layout) };
            self.held.fetch_sub(bytes as u64, Relaxed);
        }
    }
}

impl<K: HostKernels> HostDevice<K> {
    /// A device of `bytes` bytes of memory that runs `kernels`. Its limits are those of the smallest GPU that LUMOS takes, with few
    /// multiprocessors, for each of them costs time here.
    pub fn new(kernels: K, bytes: u64) -> HostDevice<K> {
        let limits = Limits {
            capability: (0, 0),
            multiprocessors: 4,
            shared_per_block: 99 << 10,
            shared_per_multiprocessor: 100 << 10,
            threads_per_block: 1024,
            threads_per_multiprocessor: 1536,
            l2_bytes: 4 << 20,
        };
        let heap = Arc::new(Heap { total: bytes, held: AtomicU64::new(0), peak: AtomicU64::new(0) });
        HostDevice { kernels, limits, heap, state: Mutex::new(State::default()) }
    }

    /// The same with other limits, such as those of the GPU whose launches are to be repeated.
    pub fn with_limits(mut self, limits: Limits) -> HostDevice<K> {
        self.limits = limits;
        self
    }

    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock();
        match &state.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(state),
        }
    }

    fn idle(&self, what: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.state()?;
        if state.recording.is_some() {
            return Err(DeviceError::Misuse(format!("{what} while a graph is recorded")));
        }
        Ok(state)
    }

    /// Does `op`, or keeps it while recording.
    fn put(&self, op: Op) -> Result<()> {
        let mut state = self.state()?;
        if let Some((ops, thread)) = &mut state.recording {
            if *thread != std::thread::current().id() {
                return Err(DeviceError::Misuse("a launch, fill or copy from another thread while a graph is recorded".into()));
            }
            ops.push(op);
            return Ok(());
        }
        if let Op::Launch(..) = op {
            state.counters.launches += 1;
        }
        self.run(&mut state, &op)
    }

    fn run(&self, state: &mut State, op: &Op) -> Result<()> {
        match *op {
            Op::Launch(kernel, geometry, ref args) => {
                // SAFETY: the promise of the caller of `launch` or `replay`.
                let result = unsafe { self.kernels.launch(kernel.handle, geometry, &record::pointers(args)) };
                result.map_err(|reason| {
                    let suspect = format!("kernel `{}` ({geometry})", kernel.name);
                    let fault = DeviceError::Fault { device: self.name().into(), reason, suspect, scope: state.scope.clone() };
                    state.fault = Some(fault.clone());
                    fault
                })
            }
            Op::Fill(to, bytes, value) => {
                // SAFETY: the range was checked against its buffer; `alloc` aligns and `fill` checked the unit.
                unsafe {
                    match value {
                        Fill::Byte(byte) => std::ptr::write_bytes(to as usize as *mut u8, byte, bytes),
                        Fill::Word(word) => std::slice::from_raw_parts_mut(to as usize as *mut u32, bytes / 4).fill(word),
                    }
                }
                Ok(())
            }
            Op::Copy(from, to, bytes) => {
                // SAFETY: both ranges were checked against their buffers.
                unsafe { std::ptr::copy(from as usize as *const u8, to as usize as *mut u8, bytes) };
                Ok(())
            }
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

impl<K: HostKernels> Device for HostDevice<K> {
    fn name(&self) -> &str {
        "CPU rendition"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn memory(&self) -> Result<Memory> {
        let (total, held) = (self.heap.total, self.heap.held.load(Relaxed));
        Ok(Memory { free: total.saturating_sub(held), total, held, peak: self.heap.peak.load(Relaxed) })
    }

    fn reset_peak(&self) {
        self.heap.peak.store(self.heap.held.load(Relaxed), Relaxed);
    }

    fn counters(&self) -> Counters {
        self.state.lock().counters
    }

    fn set_scope(&self, scope: &str) {
        let mut state = self.state.lock();
        state.scope.clear();
        state.scope.push_str(scope);
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let _state = self.idle("memory was asked for")?;
        let memory = self.memory()?;
        let full = || DeviceError::OutOfMemory {
            device: self.name().into(),
            doing: "allocating".into(),
            wanted: bytes as u64,
            free: memory.free,
            total: memory.total,
        };
        if bytes as u64 > memory.free {
            return Err(full());
        }
        let layout = layout(bytes).ok_or_else(full)?;
        // SAFETY: the layout has at least one byte.
        let at = unsafe { alloc(layout) };
        if at.is_null() {
            return Err(full());
        }
        // All ones are NaN as floats and -1 as indices: what is read before it is written shows.
        // SAFETY: the allocation holds `bytes` bytes.
        unsafe { std::ptr::write_bytes(at, 0xff, bytes) };
        let held = self.heap.held.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        self.heap.peak.fetch_max(held, Relaxed);
        Ok(Buffer::new(at as usize as u64, bytes, self.heap.clone()))
    }

    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let at = to.range("upload", offset, bytes.len())?;
        let mut state = self.idle("a copy from the host was asked for")?;
        // SAFETY: the range lies within the buffer.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as usize as *mut u8, bytes.len()) };
        state.counters.uploaded += bytes.len() as u64;
        Ok(())
    }

    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let at = from.range("download", offset, bytes.len())?;
        let mut state = self.idle("a copy to the host was asked for")?;
        // SAFETY: the range lies within the buffer, which `alloc` initialised.
        unsafe { std::ptr::copy_nonoverlapping(at as usize as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        state.counters.downloaded += bytes.len() as u64;
        Ok(())
    }

    fn fetch(&self, from: &Buffer, offset: usize, bytes: usize) -> Result<Box<dyn Arriving>> {
        let mut copy = vec![0; bytes];
        self.download(from, offset, &mut copy)?;
        Ok(Box::new(Arrived(copy)))
    }

    fn fill(&self, to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<()> {
        let at = super::checks::fill_range(to, offset, bytes, value)?;
        self.put(Op::Fill(at, bytes, value))
    }

    fn copy(&self, from: &Buffer, from_offset: usize, to: &Buffer, to_offset: usize, bytes: usize) -> Result<()> {
        let source = from.range("copy from", from_offset, bytes)?;
        self.put(Op::Copy(source, to.range("copy to", to_offset, bytes)?, bytes))
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        let mut state = self.state()?;
        if state.recording.is_some() && !state.known.contains(name) {
            return Err(DeviceError::Misuse(format!("kernel `{name}` was looked up for the first time while a graph is recorded")));
        }
        state.known.insert(name);
        let handle = self.kernels.find(name).ok_or_else(|| DeviceError::UnknownKernel { name: name.into(), nearest: None })?;
        Ok(Kernel { name, handle })
    }

    fn resources(&self, _: Kernel) -> Result<Option<Resources>> {
        Ok(None)
    }

    fn resident_blocks(&self, _: Kernel, threads: u32, shared: usize) -> Result<u32> {
        let by_threads = self.limits.threads_per_multiprocessor / threads.max(1);
        let by_shared = self.limits.shared_per_multiprocessor / shared.max(1);
        Ok(by_threads.min(by_shared.min(32) as u32))
    }

    unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        check_geometry(kernel, geometry, &self.limits)?;
        if let Some(sizes) = self.kernels.parameters(kernel.handle) {
            check_args(kernel, &sizes, args)?;
        }
        self.put(Op::launch(kernel, geometry, args))
    }

    fn capture(&self, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        self.idle("a recording was begun")?.recording = Some((Vec::new(), std::thread::current().id()));
        let result = record();
        let ops = self.state()?.recording.take().map(|(ops, _)| ops).unwrap_or_default();
        result?;
        Ok(Graph { label: label.into(), launches: record::launches(&ops), bytes: 0, inner: Box::new(ops) })
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        let foreign = || DeviceError::Misuse(format!("graph `{}` was recorded on another device", graph.label));
        let ops = graph.inner.downcast_ref::<Vec<Op>>().ok_or_else(foreign)?;
        let mut state = self.idle("a replay was asked for")?;
        state.counters.replays += 1;
        state.counters.replayed += graph.launches as u64;
        ops.iter().try_for_each(|op| self.run(&mut state, op))
    }

    fn synchronize(&self) -> Result<()> {
        self.idle("a wait was asked for").map(|_| ())
    }

    fn event(&self) -> Result<Event> {
        drop(self.idle("an event was asked for")?);
        Ok(Event(Box::new(Instant::now())))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<f32> {
        match (start.0.downcast_ref::<Instant>(), end.0.downcast_ref::<Instant>()) {
            (Some(start), Some(end)) => Ok(end.saturating_duration_since(*start).as_secs_f32() * 1e3),
            _ => Err(DeviceError::Misuse("an event of another device".into())),
        }
    }
}

#[cfg(test)]
mod tests;
