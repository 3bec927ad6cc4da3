//! The device layer on an NVIDIA GPU.
//!
//! One stream, plain allocations, host copies through pinned memory, recordings as CUDA graphs. With `LUMOS_CUDA_SYNC=1` every kernel
//! is waited for, also those of a graph, so that a fault names the kernel that failed.

use super::driver_error::{Kind, Suspects, full, kind, reason, refused, told};
use super::interface::{Arg, Arriving, Buffer, Counters, Device, Event, Fill, Graph, Kernel, Limits, Memory, Release, Resources, Result};
use super::interface::{check_args, check_geometry, fill_range};
use super::record::{self, Op};
use super::staging::Staging;
use super::waits::Waits;
use super::{DeviceError, Geometry};
use super::{functions, functions::Functions, modules, probe};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaStream};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ThreadId;

mod fetch;
mod graph;

/// An NVIDIA GPU.
pub struct CudaDevice(Arc<Inner>);

struct Inner {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    uuid: String,
    limits: Limits,
    total: u64,
    held: AtomicU64,
    peak: AtomicU64,
    one_by_one: bool,
    waits: Waits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    functions: Functions,
    counters: Counters,
    suspects: Suspects,
    scope: String,
    staging: Pinned,
    /// Memory of copies that have arrived.
    landings: Vec<fetch::Landing>,
    recording: Recording,
    /// Freed while a graph was recorded, when the driver takes no such call.
    freed: Vec<u64>,
    fault: Option<DeviceError>,
}

#[derive(Default)]
enum Recording {
    #[default]
    No,
    /// The driver records; launches so far, and the thread that records.
    Graph(usize, ThreadId),
    /// We do, for `LUMOS_CUDA_SYNC`.
    Ops(Vec<Op>, ThreadId),
}

/// Pinned memory that copies pass through.
#[derive(Default)]
enum Pinned {
    /// Nothing was copied so far.
    #[default]
    Untried,
    Ready(Staging),
    /// The host had none to give: it is not asked again at every copy.
    None,
}

/// A point of the stream.
struct Point {
    event: sys::CUevent,
    owner: Arc<Inner>,
}

// SAFETY: handles of a context that any thread may use; events are only used under the device's lock.
unsafe impl Send for Point {}
// SAFETY: as above.
unsafe impl Sync for Point {}

impl Drop for Point {
    fn drop(&mut self) {
        let _ = self.owner.context.bind_to_thread();
        // SAFETY: made by `event`, destroyed once.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if self.context.bind_to_thread().is_ok() {
            let _ = self.stream.synchronize();
            if let Pinned::Ready(staging) = &mut state.staging {
                staging.free();
            }
            state.landings.drain(..).for_each(fetch::Landing::free);
            state.functions.unload();
        }
    }
}

impl Release for Inner {
    fn release(&self, address: u64, bytes: usize) {
        let mut state = self.lock();
        self.held.fetch_sub(bytes as u64, Relaxed);
        match state.recording {
            Recording::Graph(..) => state.freed.push(address),
            _ => self.free(&[address]),
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// An error of this cannot be reported; a lost context says so at the next call.
    fn free(&self, addresses: &[u64]) {
        let _ = self.context.bind_to_thread();
        for &address in addresses {
            // SAFETY: given by `alloc`, freed once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    /// The state, with the context current on this thread.
    fn enter(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        self.context.bind_to_thread().map_err(|e| self.failed(&mut state, "cuCtxSetCurrent", e))?;
        Ok(state)
    }

    /// The same outside a recording.
    fn idle(&self, what: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.enter()?;
        match state.recording {
            Recording::No => Ok(state),
            _ => Err(DeviceError::Misuse(format!("{what} while a graph is recorded"))),
        }
    }

    fn failed(&self, state: &mut State, call: &'static str, error: DriverError) -> DeviceError {
        let told = told(&self.name, call, error, &state.suspects, &state.scope);
        if told.is_sticky() {
            state.fault = Some(told.clone());
        }
        told
    }

    fn wait(&self, state: &mut State) -> Result<()> {
        // SAFETY: the stream is alive.
        match unsafe { result::stream::synchronize(self.stream.cu_stream()) } {
            Ok(()) => state.suspects.clear(),
            Err(error) => return Err(self.failed(state, "cuStreamSynchronize", error)),
        }
        Ok(())
    }

    /// Pinned memory, taken at the first copy; nothing where the host has none to give.
    fn with_staging<'a>(&self, state: &'a mut State) -> Result<Option<&'a mut Staging>> {
        if let Pinned::Untried = state.staging {
            state.staging = match Staging::new(self.waits) {
                Ok(staging) => Pinned::Ready(staging),
                Err(error) if kind(error.0) == Kind::Memory => Pinned::None,
                Err(error) => return Err(self.failed(state, "cuMemHostAlloc", error)),
            };
        }
        Ok(match &mut state.staging {
            Pinned::Ready(staging) => Some(staging),
            _ => None,
        })
    }

    /// The state for a call that a recording keeps, which only the thread that records may make.
    fn recordable(&self, what: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.enter()?;
        match state.recording {
            Recording::Graph(_, thread) | Recording::Ops(_, thread) if thread != std::thread::current().id() => {
                Err(DeviceError::Misuse(format!("{what} from another thread while a graph is recorded")))
            }
            _ => Ok(state),
        }
    }

    /// # Safety
    /// As [`Device::launch`].
    unsafe fn launch(&self, state: &mut State, kernel: Kernel, geometry: Geometry, args: &[*const c_void]) -> Result<()> {
        let ([gx, gy, gz], [bx, by, bz]) = (geometry.grid, geometry.block);
        let mut pointers: SmallVec<[*mut c_void; 32]> = args.iter().map(|&p| p.cast_mut()).collect();
        let function = state.functions.handle(kernel);
        if geometry.shared > functions::PLAIN_SHARED {
            state.functions.prefer_shared(kernel).map_err(|e| self.failed(state, "cuFuncSetAttribute", e))?;
        }
        state.suspects.launch(kernel, geometry);
        // SAFETY: the function is of this context and takes these arguments; the rest is the caller's promise.
        let launched = unsafe {
            let stream = self.stream.cu_stream();
            result::launch_kernel(function, (gx, gy, gz), (bx, by, bz), geometry.shared as u32, stream, &mut pointers)
        };
        launched.map_err(|error| match kind(error.0) {
            Kind::Fault | Kind::Lost => self.failed(state, "cuLaunchKernel", error),
            _ => refused(kernel, geometry, error, self.limits.shared_per_block),
        })
    }

    fn run(&self, state: &mut State, op: &Op) -> Result<()> {
        let stream = self.stream.cu_stream();
        // SAFETY: addresses were checked against their buffers, launches are the caller's promise.
        unsafe {
            match *op {
                Op::Launch(kernel, geometry, ref args) => self.launch(state, kernel, geometry, &record::pointers(args)),
                Op::Fill(_, 0, _) | Op::Copy(_, _, 0) => Ok(()),
                Op::Fill(to, bytes, Fill::Byte(byte)) => {
                    result::memset_d8_async(to, byte, bytes, stream).map_err(|e| self.failed(state, "cuMemsetD8Async", e))
                }
                Op::Fill(to, bytes, Fill::Word(word)) => {
                    let done = sys::cuMemsetD32Async(to, word, bytes / 4, stream).result();
                    done.map_err(|e| self.failed(state, "cuMemsetD32Async", e))
                }
                Op::Copy(from, to, bytes) => {
                    result::memcpy_dtod_async(to, from, bytes, stream).map_err(|e| self.failed(state, "cuMemcpyDtoDAsync", e))
                }
            }
        }
    }

    /// Does `op`, or keeps it.
    fn put(&self, op: Op) -> Result<()> {
        let mut state = self.recordable("a fill or copy")?;
        match &mut state.recording {
            Recording::Ops(ops, _) => {
                ops.push(op);
                Ok(())
            }
            _ => self.run(&mut state, &op),
        }
    }
}

impl CudaDevice {
    /// Takes a GPU. Fails with the reason where it cannot be used.
    pub fn open(ordinal: usize) -> Result<CudaDevice> {
        let gpu = probe::usable(ordinal)?;
        let started = |error: DriverError| match kind(error.0) {
            Kind::Busy => DeviceError::Busy { ordinal, name: gpu.name.clone(), reason: reason(error) },
            Kind::Memory => full(&gpu.name, "taking the GPU", 0, 0, gpu.total_bytes as usize),
            _ => told(&gpu.name, "cuDevicePrimaryCtxRetain", error, &Suspects::default(), ""),
        };
        let context = CudaContext::new(ordinal).map_err(started)?;
        // SAFETY: there is one stream, so no copy of cudarc's has to wait for another stream; and the waits would be recorded in graphs.
        unsafe { context.disable_event_tracking() };
        let waits = Waits::here();
        if waits == Waits::Asleep {
            context.set_blocking_synchronize().map_err(started)?;
        }
        let stream = context.new_stream().map_err(started)?;
        let number = |attribute| context.attribute(attribute).map(|v| v as usize).map_err(started);
        let limits = Limits {
            capability: gpu.capability,
            multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared_per_block: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_per_multiprocessor: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
            threads_per_block: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)? as u32,
            threads_per_multiprocessor: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)? as u32,
            l2_bytes: number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        };
        Ok(CudaDevice(Arc::new(Inner {
            name: format!("GPU {ordinal} ({})", gpu.name),
            uuid: gpu.uuid.clone(),
            context,
            stream,
            limits,
            total: gpu.total_bytes,
            held: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            waits,
            one_by_one: std::env::var_os("LUMOS_CUDA_SYNC").is_some_and(|v| !v.is_empty() && v != "0"),
            state: Mutex::new(State::default()),
        })))
    }
}

impl Device for CudaDevice {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn uuid(&self) -> Option<&str> {
        Some(&self.0.uuid)
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn memory(&self) -> Result<Memory> {
        let mut state = self.0.enter()?;
        let (free, total) = result::mem_get_info().map_err(|e| self.0.failed(&mut state, "cuMemGetInfo", e))?;
        Ok(Memory { free: free as u64, total: total as u64, held: self.0.held.load(Relaxed), peak: self.0.peak.load(Relaxed) })
    }

    fn reset_peak(&self) {
        self.0.peak.store(self.0.held.load(Relaxed), Relaxed);
    }

    fn counters(&self) -> Counters {
        self.0.lock().counters
    }

    fn set_scope(&self, scope: &str) {
        let mut state = self.0.lock();
        state.scope.clear();
        state.scope.push_str(scope);
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let inner = &self.0;
        let mut state = inner.idle("memory was asked for")?;
        // SAFETY: the address is freed by the buffer alone. The driver refuses empty allocations.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }.map_err(|error| match kind(error.0) {
            Kind::Memory => {
                let (free, total) = result::mem_get_info().unwrap_or((0, inner.total as usize));
                full(&inner.name, "allocating", bytes, free, total)
            }
            _ => inner.failed(&mut state, "cuMemAlloc", error),
        })?;
        let held = inner.held.fetch_add(bytes as u64, Relaxed) + bytes as u64;
        inner.peak.fetch_max(held, Relaxed);
        Ok(Buffer::new(address, bytes, inner.clone()))
    }

    fn upload(&self, to: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let at = to.range("upload", offset, bytes.len())?;
        let mut state = self.0.idle("a copy from the host was asked for")?;
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = self.0.stream.cu_stream();
        // SAFETY: the range lies within the buffer. Without pinned memory the driver keeps what it has not copied yet.
        let copied = unsafe {
            match self.0.with_staging(&mut state)? {
                Some(staging) => staging.upload(stream, at, bytes),
                None => result::memcpy_htod_async(at, bytes, stream),
            }
        };
        copied.map_err(|e| self.0.failed(&mut state, "cuMemcpyHtoDAsync", e))?;
        state.counters.uploaded += bytes.len() as u64;
        Ok(())
    }

    fn download(&self, from: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        let at = from.range("download", offset, bytes.len())?;
        let mut state = self.0.idle("a copy to the host was asked for")?;
        if !bytes.is_empty() {
            let stream = self.0.stream.cu_stream();
            // SAFETY: the range lies within the buffer, and `wait` follows.
            let copied = unsafe {
                match self.0.with_staging(&mut state)? {
                    Some(staging) => staging.download(stream, at, bytes),
                    None => result::memcpy_dtoh_async(bytes, at, stream),
                }
            };
            copied.map_err(|e| self.0.failed(&mut state, "cuMemcpyDtoHAsync", e))?;
        }
        state.counters.downloaded += bytes.len() as u64;
        self.0.wait(&mut state)
    }

    fn fetch(&self, from: &Buffer, offset: usize, bytes: usize) -> Result<Box<dyn Arriving>> {
        fetch::fetch(&self.0, from.range("fetch", offset, bytes)?, bytes)
    }

    fn fill(&self, to: &Buffer, offset: usize, bytes: usize, value: Fill) -> Result<()> {
        let at = fill_range(to, offset, bytes, value)?;
        self.0.put(Op::Fill(at, bytes, value))
    }

    fn copy(&self, from: &Buffer, from_offset: usize, to: &Buffer, to_offset: usize, bytes: usize) -> Result<()> {
        let source = from.range("copy from", from_offset, bytes)?;
        self.0.put(Op::Copy(source, to.range("copy to", to_offset, bytes)?, bytes))
    }

    fn prepare(&self, names: &[&'static str]) -> Result<()> {
        // Compiled without the lock: others go on meanwhile.
        let missing = self.0.enter()?.functions.families(names)?;
        let codes = modules::codes(&missing, self.0.limits.capability)?;
        self.0.enter()?.functions.keep(codes);
        Ok(())
    }

    fn kernel(&self, name: &'static str) -> Result<Kernel> {
        let mut state = self.0.enter()?;
        if let Some(kernel) = state.functions.known(name) {
            return Ok(kernel);
        }
        if !matches!(state.recording, Recording::No) {
            return Err(DeviceError::Misuse(format!("kernel `{name}` was looked up for the first time while a graph is recorded")));
        }
        state.functions.load(name, &self.0.name, &self.0.limits)
    }

    fn resources(&self, kernel: Kernel) -> Result<Option<Resources>> {
        let mut state = self.0.enter()?;
        let resources = state.functions.resources(kernel);
        resources.map(Some).map_err(|e| self.0.failed(&mut state, "cuFuncGetAttribute", e))
    }

    fn resident_blocks(&self, kernel: Kernel, threads: u32, shared: usize) -> Result<u32> {
        let mut state = self.0.enter()?;
        let function = state.functions.handle(kernel);
        // SAFETY: the function is of this context.
        let blocks = unsafe { result::occupancy::max_active_block_per_multiprocessor(function, threads as i32, shared) };
        blocks.map(|n| n as u32).map_err(|e| self.0.failed(&mut state, "cuOccupancyMaxActiveBlocksPerMultiprocessor", e))
    }

    unsafe fn launch(&self, kernel: Kernel, geometry: Geometry, args: &[Arg]) -> Result<()> {
        if geometry.grid.contains(&0) {
            return Ok(());
        }
        check_geometry(kernel, geometry, &self.0.limits)?;
        let mut guard = self.0.recordable("a launch")?;
        let state = &mut *guard;
        check_args(kernel, state.functions.parameters(kernel), args)?;
        match &mut state.recording {
            Recording::Ops(ops, _) => {
                ops.push(Op::launch(kernel, geometry, args));
                return Ok(());
            }
            Recording::Graph(launches, _) => *launches += 1,
            Recording::No => state.counters.launches += 1,
        }
        let pointers: SmallVec<[*const c_void; 32]> = args.iter().map(Arg::address).collect();
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(state, kernel, geometry, &pointers) }?;
        if self.0.one_by_one && matches!(state.recording, Recording::No) { self.0.wait(state) } else { Ok(()) }
    }

    fn capture(&self, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        graph::capture(&self.0, label, record)
    }

    unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { graph::replay(&self.0, graph) }
    }

    fn synchronize(&self) -> Result<()> {
        let mut state = self.0.idle("a wait was asked for")?;
        self.0.wait(&mut state)
    }

    fn event(&self) -> Result<Event> {
        let mut state = self.0.idle("an event was asked for")?;
        let event = self.0.waits.event(true);
        let event = event.map_err(|e| self.0.failed(&mut state, "cuEventCreate", e))?;
        // SAFETY: just made, on this stream; `Point` destroys it.
        let recorded = unsafe { result::event::record(event, self.0.stream.cu_stream()) };
        let point = Point { event, owner: self.0.clone() };
        recorded.map_err(|e| self.0.failed(&mut state, "cuEventRecord", e))?;
        Ok(Event(Box::new(point)))
    }

    fn elapsed(&self, start: &Event, end: &Event) -> Result<f32> {
        let of = |event: &'_ Event| event.0.downcast_ref::<Point>().filter(|p| Arc::ptr_eq(&p.owner, &self.0)).map(|p| p.event);
        let (Some(start), Some(end)) = (of(start), of(end)) else {
            return Err(DeviceError::Misuse("an event of another device".into()));
        };
        let mut state = self.0.idle("a time was asked for")?;
        // SAFETY: both were recorded on this stream and are alive.
        let time = unsafe { result::event::synchronize(end).and_then(|()| result::event::elapsed(start, end)) };
        time.map_err(|e| self.0.failed(&mut state, "cuEventElapsedTime", e))
    }
}
