//! What the calls of a device share: context, stream, queue of suspects, recording, memory.

use super::super::driver_error::{Kind, Suspects, kind, reason, refused, told};
use super::super::functions::{self, Functions};
use super::super::interface::{Counters, Fill, Kernel, Limits, Release, Result};
use super::super::record::{self, Op};
use super::super::staging::Staging;
use super::super::waits::Waits;
use super::super::{DeviceError, Geometry};
use super::fetch::Landing;
use super::nccl::Joined;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use cudarc::driver::{CudaContext, CudaStream};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use std::ffi::c_void;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::ThreadId;

/// What the device, its buffers, events and graphs share.
pub(super) struct Inner {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) name: String,
    pub(super) uuid: String,
    pub(super) limits: Limits,
    pub(super) total: u64,
    pub(super) held: AtomicU64,
    pub(super) peak: AtomicU64,
    pub(super) one_by_one: bool,
    pub(super) waits: Waits,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) functions: Functions,
    pub(super) counters: Counters,
    pub(super) suspects: Suspects,
    pub(super) scope: String,
    /// Pinned memory that copies pass through, from the first one on.
    pub(super) staging: Option<Staging>,
    /// Why the host gave no pinned memory: it is not asked again at every copy.
    pub(super) no_pinned: Option<String>,
    /// Memory of copies that have arrived.
    pub(super) landings: Vec<Landing>,
    pub(super) recording: Recording,
    /// Freed while a graph was recorded, when the driver takes no such call.
    pub(super) freed: Vec<u64>,
    pub(super) fault: Option<DeviceError>,
    /// The group of GPUs that this one adds up with.
    pub(super) joined: Option<Joined>,
}

#[derive(Default)]
pub(super) enum Recording {
    #[default]
    No,
    /// The driver records; launches so far, and the thread that records.
    Graph(usize, ThreadId),
    /// We do, for `LUMOS_CUDA_SYNC`.
    Ops(Vec<Op>, ThreadId),
}

/// A point of the stream.
pub(super) struct Point {
    pub(super) event: sys::CUevent,
    pub(super) owner: Arc<Inner>,
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
            if let Some(staging) = &mut state.staging {
                staging.free();
            }
            state.landings.drain(..).for_each(Landing::free);
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
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// An error of this cannot be reported; a lost context says so at the next call.
    pub(super) fn free(&self, addresses: &[u64]) {
        let _ = self.context.bind_to_thread();
        for &address in addresses {
            // SAFETY: given by `alloc`, freed once.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    /// The state, with the context current on this thread.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        self.context.bind_to_thread().map_err(|e| self.failed(&mut state, "cuCtxSetCurrent", e))?;
        Ok(state)
    }

    /// The same outside a recording.
    pub(super) fn idle(&self, what: &str) -> Result<MutexGuard<'_, State>> {
        let state = self.enter()?;
        match state.recording {
            Recording::No => Ok(state),
            _ => Err(DeviceError::Misuse(format!("{what} while a graph is recorded"))),
        }
    }

    pub(super) fn failed(&self, state: &mut State, call: &'static str, error: DriverError) -> DeviceError {
        let told = told(&self.name, call, error, &state.suspects, &state.scope);
        if told.is_sticky() {
            state.fault = Some(told.clone());
        }
        told
    }

    /// Counts bytes that the device holds now.
    pub(super) fn take(&self, bytes: u64) {
        let held = self.held.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(held, Relaxed);
    }

    pub(super) fn wait(&self, state: &mut State) -> Result<()> {
        // SAFETY: the stream is alive.
        match unsafe { result::stream::synchronize(self.stream.cu_stream()) } {
            Ok(()) => state.suspects.clear(),
            Err(error) => return Err(self.failed(state, "cuStreamSynchronize", error)),
        }
        Ok(())
    }

    /// Pinned memory, taken at the first copy; nothing where the host has none to give.
    pub(super) fn with_staging<'a>(&self, state: &'a mut State) -> Result<Option<&'a mut Staging>> {
        if state.staging.is_none() && state.no_pinned.is_none() {
            match Staging::new(self.waits) {
                Ok(staging) => state.staging = Some(staging),
                Err(error) if kind(error.0) == Kind::Memory => self.without_pinned(state, error),
                Err(error) => return Err(self.failed(state, "cuMemHostAlloc", error)),
            }
        }
        Ok(state.staging.as_mut())
    }

    /// Remembers that the host has no pinned memory to give, and says it the first time.
    pub(super) fn without_pinned(&self, state: &mut State, error: DriverError) {
        let why = state.no_pinned.get_or_insert_with(|| reason(error));
        // A terminal that is gone stops nothing.
        let _ = writeln!(std::io::stderr(), "{}: no pinned memory of the host ({why}): copies to and from the GPU are slower", self.name);
    }

    /// The state for a call that a recording keeps, which only the thread that records may make.
    pub(super) fn recordable(&self, what: &str) -> Result<MutexGuard<'_, State>> {
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
    pub(super) unsafe fn launch(&self, state: &mut State, kernel: Kernel, geometry: Geometry, args: &[*const c_void]) -> Result<()> {
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

    pub(super) fn run(&self, state: &mut State, op: &Op) -> Result<()> {
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
    pub(super) fn put(&self, op: Op) -> Result<()> {
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
