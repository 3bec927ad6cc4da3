//! NCCL for processes of one machine, as `libnccl.so.2`: sums pass through files of a temporary folder, in the order of the queue.
//!
//! Stricter than NCCL: a sum in a capture, of another type than 64-bit integers or out of place ends the program, and so do ranks that add up
//! different numbers of values. Two processes with one GPU are refused, as NCCL does.

use crate::calls::device::uuid;
use crate::codes::forbidden;
use crate::queue::Op;
use crate::state::{CONTEXT, CURRENT, State, plain};
use std::ffi::{c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SUCCESS: i32 = 0;
const INVALID_ARGUMENT: i32 = 4;
const INVALID_USAGE: i32 = 5;
/// Longest wait for another process.
const PATIENCE: Duration = Duration::from_secs(60);

/// What joins processes: the name of a folder, ended by a zero.
#[repr(C)]
pub struct Id([u8; 128]);

/// One process of a group.
pub struct Member {
    folder: PathBuf,
    rank: i32,
    size: i32,
    /// Exchanges so far.
    number: Mutex<u64>,
}

impl Member {
    /// What every process gives, by rank.
    fn exchange(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let mut number = self.number.lock().unwrap_or_else(|e| e.into_inner());
        *number += 1;
        let at = |number: u64, rank: i32| self.folder.join(format!("{number}-{rank}"));
        let half = self.folder.join(format!("half-{}", self.rank));
        // Whole when it is seen.
        if std::fs::write(&half, own).and_then(|()| std::fs::rename(&half, at(*number, self.rank))).is_err() {
            forbidden(&format!("NCCL: cannot write into {}", self.folder.display()));
        }
        let begun = Instant::now();
        let all = (0..self.size).map(|rank| {
            loop {
                if let Ok(bytes) = std::fs::read(at(*number, rank)) {
                    return bytes;
                }
                if begun.elapsed() > PATIENCE {
                    forbidden(&format!("NCCL: rank {rank} has not come to exchange {number}"));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let all = all.collect();
        // All have read the last but one, or they would not be here.
        if *number > 1 {
            let _ = std::fs::remove_file(at(*number - 1, self.rank));
        }
        all
    }
}

/// Adds up `count` numbers at `at` over the processes.
pub fn sum(state: &mut State, member: &Member, at: usize, count: usize) {
    if !state.memory.holds(at, 8 * count) {
        forbidden(&format!("ncclAllReduce of {count} numbers at {at:#x}: not within one allocation of device memory"));
    }
    // SAFETY: within an allocation, and only this thread touches device memory.
    let values = unsafe { std::slice::from_raw_parts_mut(at as *mut i64, count) };
    let own = state.memory.while_open("ncclAllReduce", || values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let all = member.exchange(&own);
    if all.iter().any(|part| part.len() != own.len()) {
        forbidden("ncclAllReduce: the ranks add up different numbers of values");
    }
    state.memory.while_open("ncclAllReduce", || {
        values.fill(0);
        for part in &all {
            values.iter_mut().zip(part.as_chunks::<8>().0).for_each(|(v, b)| *v = v.wrapping_add(i64::from_le_bytes(*b)));
        }
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: i32) -> *const c_char {
    match code {
        INVALID_USAGE => c"invalid usage".as_ptr(),
        INVALID_ARGUMENT => c"invalid argument".as_ptr(),
        _ => c"no error".as_ptr(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetUniqueId(id: *mut Id) -> i32 {
    let folder = std::env::temp_dir().join(format!("lumos-fake-nccl-{}", std::process::id()));
    let Some(name) = folder.to_str().filter(|name| name.len() < 128) else { return INVALID_ARGUMENT };
    if std::fs::create_dir_all(&folder).is_err() {
        return INVALID_ARGUMENT;
    }
    let mut bytes = [0; 128];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the caller gives a place for one id.
    unsafe { id.write(Id(bytes)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommInitRank(comm: *mut *const Member, size: i32, id: Id, rank: i32) -> i32 {
    if CURRENT.get() != CONTEXT {
        forbidden("ncclCommInitRank without a current context");
    }
    let length = id.0.iter().position(|b| *b == 0).unwrap_or(id.0.len());
    let folder = Path::new(&String::from_utf8_lossy(&id.0[..length]).into_owned()).to_path_buf();
    let member = Member { folder, rank, size, number: Mutex::new(0) };
    let mut uuids = member.exchange(&uuid());
    uuids.sort_unstable();
    uuids.dedup();
    if uuids.len() < size as usize {
        return INVALID_USAGE;
    }
    // SAFETY: the caller gives a place for one communicator, which is never freed.
    unsafe { comm.write(Arc::into_raw(Arc::new(member))) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(
    from: *const c_void,
    to: *mut c_void,
    count: usize,
    kind: i32,
    operation: i32,
    comm: *const Member,
    stream: usize,
) -> i32 {
    if kind != 4 || operation != 0 || from != to.cast_const() {
        forbidden("ncclAllReduce of something else than sums of 64-bit integers in place");
    }
    if CURRENT.get() != CONTEXT {
        forbidden("ncclAllReduce without a current context");
    }
    // SAFETY: `ncclCommInitRank` gave it, and it is never freed.
    let member = unsafe {
        Arc::increment_strong_count(comm);
        Arc::from_raw(comm)
    };
    plain("ncclAllReduce", |state| {
        if !state.captures.is_empty() {
            forbidden("ncclAllReduce while a stream captures");
        }
        match state.put(stream, Op::Sum { at: to as usize, count, member }) {
            0 => SUCCESS,
            _ => INVALID_ARGUMENT,
        }
    })
}
