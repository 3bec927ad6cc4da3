//! Streams, events and waits.

use crate::codes::{self, Code};
use crate::queue::Op;
use crate::state::{Event, current, current_idle, give};

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: *mut usize, _: u32) -> Code {
    current_idle("cuStreamCreate", |state| {
        let handle = state.handle();
        state.streams.insert(handle);
        give(stream, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: usize) -> Code {
    current_idle("cuStreamDestroy", |state| {
        let code = state.drain();
        if state.streams.remove(&stream) { code } else { codes::INVALID_HANDLE }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: usize) -> Code {
    current_idle("cuStreamSynchronize", |state| {
        if stream != 0 && !state.streams.contains(&stream) {
            return codes::INVALID_HANDLE;
        }
        // A stream that captures cannot be waited for, from whatever thread.
        match state.outside_capture_of(stream) {
            0 => state.drain(),
            code => code,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: *mut usize, flags: u32) -> Code {
    current("cuEventCreate", |state| {
        let handle = state.handle();
        // 2: without times.
        state.events.insert(handle, Event { timing: flags & 2 == 0, record: 0, reached: None });
        give(event, handle)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: usize) -> Code {
    current("cuEventDestroy", |state| if state.events.remove(&event).is_some() { 0 } else { codes::INVALID_HANDLE })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: usize, stream: usize) -> Code {
    current("cuEventRecord", |state| {
        let Some(known) = state.events.get_mut(&event) else { return codes::INVALID_HANDLE };
        known.record += 1;
        known.reached = None;
        let record = known.record;
        state.put(stream, Op::Record(event, record))
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: usize) -> Code {
    current_idle("cuEventSynchronize", |state| {
        let Some(known) = state.events.get(&event) else { return codes::INVALID_HANDLE };
        let record = known.record;
        // Up to the record and no further. An event that was never recorded has nothing to wait for.
        match state.queue.iter().position(|op| matches!(op, Op::Record(e, r) if (*e, *r) == (event, record))) {
            Some(place) => state.run(place + 1),
            None => 0,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) -> Code {
    current("cuEventElapsedTime", |state| {
        let (Some(start), Some(end)) = (state.events.get(&start), state.events.get(&end)) else { return codes::INVALID_HANDLE };
        if !start.timing || !end.timing || start.record == 0 || end.record == 0 {
            return codes::INVALID_HANDLE;
        }
        match (start.reached, end.reached) {
            (Some(from), Some(to)) => give(milliseconds, to.saturating_duration_since(from).as_secs_f32() * 1e3),
            _ => codes::NOT_READY,
        }
    })
}
