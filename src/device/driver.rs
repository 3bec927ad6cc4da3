//! The device layer on an NVIDIA GPU.
//!
//! One stream, plain allocations, host copies through pinned memory, recordings as CUDA graphs. With `LUMOS_CUDA_SYNC=1` every kernel
//! is waited for, also those of a graph, so that a fault names the kernel that failed.

use super::checks::{check_args, check_geometry, fill_range};
use super::driver_error::{Kind, Suspects, full, kind, reason, told};
use super::interface::{Arg, Arriving, Buffer, Counters, Device, Event, Exchange, Fill, Graph, Kernel, Limits, Memory, Resources, Result};
use super::record::Op;
use super::waits::Waits;
use super::{DeviceError, Geometry};
use super::{modules, probe};
use cudarc::driver::CudaContext;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

mod fetch;
mod graph;
mod inner;
mod nccl;

use inner::{Inner, Point, Recording, State};

/// An NVIDIA GPU.
pub struct CudaDevice(Arc<Inner>);

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

    fn exchange(&self) -> Option<&dyn Exchange> {
        nccl::is_here().then_some(self)
    }

    fn limits(&self) -> Limits {
        self.0.limits
    }

    fn graph_bytes(&self) -> u64 {
        graph::FORESEEN
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
        inner.take(bytes as u64);
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
