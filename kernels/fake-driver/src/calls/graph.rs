//! Captures and the graphs that they end in.

use crate::codes::{self, Code, forbidden};
use crate::queue::{Op, Source};
use crate::state::{Capture, State, current, current_idle, give};

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: usize, mode: i32) -> Code {
    current("cuStreamBeginCapture", |state| {
        if !state.streams.contains(&stream) {
            // Not the stream 0 either, which every other waits for.
            return codes::CAPTURE_UNSUPPORTED;
        }
        if state.captures.contains_key(&stream) || !(0..=2).contains(&mode) {
            return codes::INVALID_VALUE;
        }
        let invalid = state.faults.capture.hit();
        state.captures.insert(stream, Capture { thread: std::thread::current().id(), mode, ops: Vec::new(), invalid });
        0
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: usize, graph: *mut usize) -> Code {
    current("cuStreamEndCapture", |state| {
        let Some(capture) = state.captures.remove(&stream) else { return codes::CAPTURE_UNMATCHED };
        if capture.mode != 2 && capture.thread != std::thread::current().id() {
            state.captures.insert(stream, Capture { invalid: true, ..capture });
            return codes::CAPTURE_WRONG_THREAD;
        }
        if capture.invalid {
            return give(graph, 0) | codes::CAPTURE_INVALIDATED;
        }
        let handle = state.handle();
        state.graphs.insert(handle, capture.ops);
        give(graph, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, _: u64) -> Code {
    current_idle("cuGraphInstantiate", |state| {
        let Some(ops) = state.graphs.get(&graph).cloned() else { return codes::INVALID_VALUE };
        if !state.memory.take(ops.len() as u64 * state.faults.node_bytes) {
            return codes::OUT_OF_MEMORY;
        }
        let handle = state.handle();
        state.execs.insert(handle, ops);
        give(exec, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphUpload(exec: usize, stream: usize) -> Code {
    current_idle(
        "cuGraphUpload",
        |state| {
            if state.execs.contains_key(&exec) && state.streams.contains(&stream) { 0 } else { codes::INVALID_VALUE }
        },
    )
}

/// Every address that a replay uses must be alive.
fn check(state: &State, op: &Op) {
    let stale = match op {
        Op::Launch(launch) => state.stale_argument(launch),
        &Op::Fill { to, unit, count, .. } => (!state.memory.holds(to, unit * count)).then_some(to),
        Op::ToDevice { to, from, bytes } => match from {
            Source::Pinned(at) if !state.memory.is_pinned(*at, *bytes) => Some(*at),
            _ => (!state.memory.holds(*to, *bytes)).then_some(*to),
        },
        &Op::ToHost { to, from, bytes } => match state.memory.is_pinned(to, bytes) {
            true => (!state.memory.holds(from, bytes)).then_some(from),
            false => Some(to),
        },
        &Op::Within { to, from, bytes } => [to, from].into_iter().find(|&at| !state.memory.holds(at, bytes)),
        Op::Sum { .. } | Op::Record(..) => None,
    };
    if let Some(at) = stale {
        let name = if let Op::Launch(launch) = op { launch.kernel.name() } else { "a copy or fill" };
        forbidden(&format!("a graph is replayed whose {name} uses {at:#x}, which was freed since it was captured"));
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(exec: usize, stream: usize) -> Code {
    current("cuGraphLaunch", |state| {
        let Some(ops) = state.execs.get(&exec).cloned() else { return codes::INVALID_VALUE };
        let code = state.outside_capture_of(stream);
        if code != 0 {
            return code;
        }
        ops.iter().for_each(|op| check(state, op));
        ops.into_iter().map(|op| state.put(stream, op)).find(|&code| code != 0).unwrap_or(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(exec: usize) -> Code {
    current("cuGraphExecDestroy", |state| match state.execs.remove(&exec) {
        Some(ops) => {
            state.memory.held -= ops.len() as u64 * state.faults.node_bytes;
            0
        }
        None => codes::INVALID_VALUE,
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(graph: usize) -> Code {
    current("cuGraphDestroy", |state| if state.graphs.remove(&graph).is_some() { 0 } else { codes::INVALID_VALUE })
}
