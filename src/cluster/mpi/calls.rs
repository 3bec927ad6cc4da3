//! The calls of MPI that are used, one at a time: a lock stands before the library, so that it need not allow several threads at once.

use super::super::launch::Launch;
use crate::{Error, Result};
use mpi_sys as sys;
use parking_lot::{Mutex, MutexGuard};
use std::ffi::{c_char, c_int};
use std::ptr;

/// Two communicators of all processes: one for what they exchange, one for signs of life.
pub(super) struct Comms {
    pub work: sys::MPI_Comm,
    pub signs: sys::MPI_Comm,
}

// SAFETY: handles of MPI belong to the process. The library was asked for MPI_THREAD_SERIALIZED, under which any thread may use them, one at a
// time; `Library` hands them out under a lock.
unsafe impl Send for Comms {}

/// The library, started.
pub(super) struct Library {
    comms: Mutex<Comms>,
    pub rank: usize,
    pub size: usize,
}

/// What a call said, as an error with the library's words.
pub(super) fn check(what: &str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    let mut text = [0 as c_char; 1024];
    let mut length: c_int = 0;
    // SAFETY: the array is longer than MPI_MAX_ERROR_STRING of Open MPI (256) and MPICH (512 or 1024).
    let known = unsafe { sys::MPI_Error_string(code, text.as_mut_ptr(), &mut length) } == 0;
    let words: String = text.iter().take(length.clamp(0, 1024) as usize).map(|&c| c as u8 as char).collect();
    let words = if known { words } else { format!("code {code}") };
    Err(Error::Cluster(format!("MPI: {what} failed: {words}")))
}

impl Library {
    /// Starts MPI. Once a process.
    ///
    /// # Errors
    /// [`Error::Cluster`] where the library does not start, or is not the launcher's.
    pub fn start(launch: &Launch) -> Result<Library> {
        let mut provided: c_int = 0;
        // SAFETY: null stands for the arguments of the program, which MPI does not need. Nothing of MPI was called before.
        let code = unsafe { sys::MPI_Init_thread(ptr::null_mut(), ptr::null_mut(), sys::RSMPI_THREAD_SERIALIZED, &mut provided) };
        check("MPI_Init_thread", code)?;
        // SAFETY: MPI is running; the handles are the library's own.
        let (world, serialized) = unsafe { (sys::RSMPI_COMM_WORLD, sys::RSMPI_THREAD_SERIALIZED) };
        if provided < serialized {
            let message =
                format!("this MPI library allows threads of level {provided}, and {serialized} (MPI_THREAD_SERIALIZED) is needed");
            return Err(Error::Cluster(format!("{message}; load another build of it")));
        }
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        let mut comms = Comms { work: world, signs: world };
        // SAFETY: all pointers are to values that live through the calls. With MPI_ERRORS_RETURN, which duplicates inherit, failures come back
        // as codes.
        unsafe {
            check("MPI_Comm_set_errhandler", sys::MPI_Comm_set_errhandler(world, sys::RSMPI_ERRORS_RETURN))?;
            check("MPI_Comm_rank", sys::MPI_Comm_rank(world, &mut rank))?;
            check("MPI_Comm_size", sys::MPI_Comm_size(world, &mut size))?;
            check("MPI_Comm_dup", sys::MPI_Comm_dup(world, &mut comms.work))?;
            check("MPI_Comm_dup", sys::MPI_Comm_dup(world, &mut comms.signs))?;
        }
        if size as usize != launch.size {
            return Err(Error::Cluster(format!(
                "{} started {} processes, and the MPI library sees {size}: it was built for another launcher. Under SLURM try `srun --mpi=pmix` \
                 or `srun --mpi=pmi2`, or start `mpirun` of the library that the program was built with",
                launch.launcher, launch.size
            )));
        }
        Ok(Library { comms: Mutex::new(comms), rank: rank as usize, size: size as usize })
    }

    /// The handles, for as long as the guard lives; no other thread calls MPI meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Comms> {
        self.comms.lock()
    }

    /// [`Library::lock`], unless another thread is in a call for `seconds`.
    pub fn try_lock(&self, seconds: f64) -> Option<MutexGuard<'_, Comms>> {
        self.comms.try_lock_for(std::time::Duration::from_secs_f64(seconds))
    }

    /// Name and version of the library.
    pub fn version(&self) -> String {
        let mut text = vec![0 as c_char; 16_384];
        let mut length: c_int = 0;
        let _one = self.lock();
        // SAFETY: the array is longer than MPI_MAX_LIBRARY_VERSION_STRING of Open MPI (256) and MPICH (8192).
        let fine = unsafe { sys::MPI_Get_library_version(text.as_mut_ptr(), &mut length) } == 0;
        let words: String = text.iter().take(length.max(0) as usize).map(|&c| c as u8 as char).collect();
        let first = words.split([',', '\n']).next().unwrap_or_default().trim().to_string();
        if fine && !first.is_empty() { first } else { "MPI".to_string() }
    }
}

/// Whether the request behind `request` is through.
pub(super) fn test(_one: &Comms, request: &mut sys::MPI_Request) -> Result<bool> {
    let mut done: c_int = 0;
    // SAFETY: both pointers are to values that live through the call.
    check("MPI_Test", unsafe { sys::MPI_Test(request, &mut done, sys::RSMPI_STATUS_IGNORE) })?;
    Ok(done != 0)
}
