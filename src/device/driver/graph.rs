//! Recordings, as CUDA graphs.

use super::super::DeviceError;
use super::super::driver_error::{Kind, full, kind};
use super::super::interface::{Graph, Result};
use super::super::record::{self, Op};
use super::{Inner, Recording, State};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes that plans count for a graph. Drivers take memory for graphs in pieces of this size, and a local step has 80 to 200 kernels of a
/// kilobyte or a few each.
pub(super) const FORESEEN: u64 = 2 << 20;

/// A recording of the driver.
struct Captured {
    graph: sys::CUgraph,
    exec: sys::CUgraphExec,
    bytes: u64,
    owner: Arc<Inner>,
}

// SAFETY: handles of a context that any thread may use; graphs are only used under the device's lock.
unsafe impl Send for Captured {}
// SAFETY: as above.
unsafe impl Sync for Captured {}

impl Drop for Captured {
    fn drop(&mut self) {
        let _lock = self.owner.lock();
        // SAFETY: made by `capture`, destroyed once.
        unsafe {
            let _ = self.owner.context.bind_to_thread();
            let _ = result::graph::exec_destroy(self.exec);
            let _ = result::graph::destroy(self.graph);
        }
        self.owner.held.fetch_sub(self.bytes, Relaxed);
    }
}

/// Bytes of device memory that are free, where the driver says so.
fn free() -> Option<u64> {
    result::mem_get_info().ok().map(|(free, _)| free as u64)
}

/// Runs `record` and keeps what it launches.
pub(super) fn capture(inner: &Arc<Inner>, label: &str, record: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
    let stream = inner.stream.cu_stream();
    {
        let mut state = inner.idle("a recording was begun")?;
        if inner.one_by_one {
            state.recording = Recording::Ops(Vec::new(), std::thread::current().id());
        } else {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            // SAFETY: the stream is alive and not yet recorded.
            let begun = unsafe { result::stream::begin_capture(stream, mode) };
            begun.map_err(|e| inner.failed(&mut state, "cuStreamBeginCapture", e))?;
            state.recording = Recording::Graph(0, std::thread::current().id());
        }
    }
    // A panic inside must not leave the stream recording.
    let recorded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(record));
    let mut state = inner.lock();
    let launches = match std::mem::take(&mut state.recording) {
        Recording::Ops(ops, _) => {
            drop(state);
            recorded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            return Ok(Graph { label: label.into(), launches: record::launches(&ops), bytes: 0, inner: Box::new(ops) });
        }
        Recording::Graph(launches, _) => launches,
        Recording::No => 0,
    };
    // SAFETY: begun above; the graph is destroyed on every way out.
    let ended = unsafe { result::stream::end_capture(stream) };
    // What was recorded has not run.
    state.suspects.clear();
    let freed = std::mem::take(&mut state.freed);
    inner.free(&freed);
    let ended = ended.map_err(|e| inner.failed(&mut state, "cuStreamEndCapture", e));
    let discard = |graph: sys::CUgraph| {
        // SAFETY: a graph of this context that nothing uses any more.
        let _ = unsafe { result::graph::destroy(graph) };
    };
    if !matches!(recorded, Ok(Ok(()))) {
        ended.into_iter().filter(|g| !g.is_null()).for_each(discard);
        drop(state);
        recorded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        return Err(DeviceError::Misuse(format!("graph `{label}` was not recorded")));
    }
    let graph = ended?;
    let failed = |state: &mut State, call, error: DriverError| match kind(error.0) {
        Kind::Memory => full(&inner.name, &format!("making graph `{label}`"), 0, free().unwrap_or(0) as usize, inner.total as usize),
        _ => inner.failed(state, call, error),
    };
    let before = free();
    // SAFETY: the graph was just captured in this context.
    let exec = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.map_err(|error| {
        discard(graph);
        failed(&mut state, "cuGraphInstantiateWithFlags", error)
    })?;
    let mut captured = Captured { graph, exec, bytes: 0, owner: inner.clone() };
    // SAFETY: as above. Uploading early moves the cost of the first replay, and its memory, to here.
    let uploaded = unsafe { result::graph::upload(exec, stream) }.map_err(|e| failed(&mut state, "cuGraphUpload", e));
    let bytes = before.zip(free()).map_or(0, |(before, after)| before.saturating_sub(after));
    inner.take(bytes);
    captured.bytes = bytes;
    drop(state);
    uploaded?;
    Ok(Graph { label: label.into(), launches, bytes, inner: Box::new(captured) })
}

/// Puts a recording into the queue.
///
/// # Safety
/// As for every launch it holds.
pub(super) unsafe fn replay(inner: &Arc<Inner>, graph: &Graph) -> Result<()> {
    let mut guard = inner.idle("a replay was asked for")?;
    let state = &mut *guard;
    state.counters.replays += 1;
    state.counters.replayed += graph.launches as u64;
    if let Some(ops) = graph.inner.downcast_ref::<Vec<Op>>() {
        return ops.iter().try_for_each(|op| {
            inner.run(state, op)?;
            inner.wait(state)
        });
    }
    let captured = graph.inner.downcast_ref::<Captured>().filter(|c| Arc::ptr_eq(&c.owner, inner));
    let captured = captured.ok_or_else(|| DeviceError::Misuse(format!("graph `{}` was recorded on another device", graph.label)))?;
    state.suspects.graph(&graph.label);
    // SAFETY: the graph is alive; what it holds is the caller's promise.
    unsafe { result::graph::launch(captured.exec, inner.stream.cu_stream()) }.map_err(|error| match kind(error.0) {
        Kind::Memory => full(&inner.name, &format!("starting graph `{}`", graph.label), 0, 0, inner.total as usize),
        _ => inner.failed(state, "cuGraphLaunch", error),
    })
}
