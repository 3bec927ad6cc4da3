//! Sums over the GPUs of several processes, by NVIDIA's NCCL, which is looked for at run time.
//!
//! cudarc's own loader looks for `libnccl.so`, which development packages alone have, and panics where a function is missing; its `Comm` aborts
//! the group when it is dropped. So the few functions are looked up here. A communicator lives as long as the process: one that is given up while
//! another process waits in it would end that one's wait with an error of no run of its own.

use super::super::DeviceError;
use super::super::interface::{Buffer, Exchange, Result};
use super::CudaDevice;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

/// How long the processes have for meeting. NCCL's own wait has no end.
const MEET: Duration = Duration::from_secs(120);
/// `ncclInt64` and `ncclSum`, whose numbers NCCL has never changed.
const INT64: c_int = 4;
const SUM: c_int = 0;

/// What begins a communicator.
#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

type Communicator = *mut c_void;
type Reduce = unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Communicator, *mut c_void) -> c_int;

/// The functions of the library.
struct Library {
    id: unsafe extern "C" fn(*mut Id) -> c_int,
    init: unsafe extern "C" fn(*mut Communicator, c_int, Id, c_int) -> c_int,
    reduce: Reduce,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
}

impl Library {
    fn open() -> Option<Library> {
        // SAFETY: NCCL's start-up code is safe to run, and the signatures below are those of its header.
        unsafe {
            let names = ["libnccl.so.2", "libnccl.so"];
            // Never closed: communicators run its code.
            let library = Box::leak(Box::new(names.iter().find_map(|name| libloading::Library::new(*name).ok())?));
            Some(Library {
                id: *library.get(b"ncclGetUniqueId\0").ok()?,
                init: *library.get(b"ncclCommInitRank\0").ok()?,
                reduce: *library.get(b"ncclAllReduce\0").ok()?,
                error: *library.get(b"ncclGetErrorString\0").ok()?,
            })
        }
    }

    /// The library of this machine, if there is one.
    fn here() -> Option<&'static Library> {
        static HERE: OnceLock<Option<Library>> = OnceLock::new();
        HERE.get_or_init(Library::open).as_ref()
    }

    fn check(&self, device: &str, call: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: NCCL gives a constant text for any number.
        let text = unsafe { (self.error)(code).as_ref().map(|text| CStr::from_ptr(text).to_string_lossy().into_owned()) };
        let reason = format!("{} (NCCL error {code}; NCCL_DEBUG=WARN says more)", text.unwrap_or_default());
        Err(DeviceError::Driver { device: device.into(), call, reason })
    }
}

/// The communicator of this process.
pub(super) struct Joined(Communicator);

// SAFETY: NCCL allows any thread to use a communicator, one at a time: it is used under the device's lock.
unsafe impl Send for Joined {}

/// Whether NCCL is on this machine.
pub(super) fn is_here() -> bool {
    Library::here().is_some()
}

fn library() -> Result<&'static Library> {
    Library::here().ok_or_else(|| DeviceError::Misuse("there is no NCCL here".into()))
}

impl Exchange for CudaDevice {
    fn begin(&self) -> Result<Vec<u8>> {
        let (library, mut id) = (library()?, Id([0; 128]));
        let _state = self.0.idle("a group of GPUs was begun")?;
        // SAFETY: it writes one id.
        library.check(&self.0.name, "ncclGetUniqueId", unsafe { (library.id)(&mut id) })?;
        Ok(id.0.to_vec())
    }

    fn join(&self, id: &[u8], rank: usize, size: usize) -> Result<()> {
        let library = library()?;
        let id = Id(id.try_into().map_err(|_| DeviceError::Misuse("an id of NCCL has 128 bytes".into()))?);
        let (send, receive) = mpsc::channel();
        let inner = self.0.clone();
        let meet = move || {
            let mut made: Communicator = std::ptr::null_mut();
            let code = match inner.context.bind_to_thread() {
                // SAFETY: the context is current on this thread, and one communicator is written.
                Ok(()) => unsafe { (library.init)(&mut made, size as c_int, id, rank as c_int) },
                Err(_) => 1,
            };
            // A process that has given up waiting takes no communicator.
            let _ = send.send((code, Joined(made)));
        };
        // On a thread of its own: where another process never comes, this one would never return.
        let thread = std::thread::Builder::new().name("lumos-nccl".into()).spawn(meet);
        thread.map_err(|e| DeviceError::Misuse(format!("cannot start a thread: {e}")))?;
        let Ok((code, joined)) = receive.recv_timeout(MEET) else {
            let reason = format!("the other processes have not come within {} s", MEET.as_secs());
            return Err(DeviceError::Driver { device: self.0.name.clone(), call: "ncclCommInitRank", reason });
        };
        library.check(&self.0.name, "ncclCommInitRank", code)?;
        self.0.lock().joined = Some(joined);
        Ok(())
    }

    fn has_joined(&self) -> bool {
        self.0.lock().joined.is_some()
    }

    fn leave(&self) {
        // The communicator itself stays, see above.
        self.0.lock().joined = None;
    }

    fn sum(&self, values: &Buffer, count: usize) -> Result<()> {
        let at = values.range("a sum over processes", 0, 8 * count)?;
        let library = library()?;
        let state = self.0.idle("a sum over processes was asked for")?;
        let Some(Joined(comm)) = &state.joined else { return Err(DeviceError::Misuse("this GPU is in no group".into())) };
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the range lies within the buffer, in place is allowed, and the stream is the only one that uses it.
        let code =
            unsafe { (library.reduce)(at as *const c_void, at as *mut c_void, count, INT64, SUM, *comm, self.0.stream.cu_stream().cast()) };
        library.check(&self.0.name, "ncclAllReduce", code)
    }
}
