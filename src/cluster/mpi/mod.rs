//! Processes that MPI has started: Open MPI, MPICH, or what a cluster has of its own.
//!
//! Of the crate `mpi` only its raw layer, `mpi-sys`, is used: its safe layer drops the codes that calls give back, so that a failure could not
//! be named, and has no gathering of many gigabytes. Every exchange is a non-blocking collective that is asked again and again whether it is
//! through; meanwhile another thread can look after the other processes (`signs`).
//!
//! A transport that fails ends the process, after a message with rank and machine: no exchange can follow it, and what was saved is good.

mod calls;
mod signs;

use super::cores::{self, Place};
use super::launch::Launch;
use super::{RankLog, Reduce, Spent};
use crate::base::parcel::{Parcel, Pieces};
use crate::base::{clock, parallel, unfinished};
use crate::{Error, Result};
use calls::{Comms, Library};
use mpi_sys as sys;
use parking_lot::Mutex;
use signs::{Limits, Own};
use std::ffi::c_int;
use std::io::Write;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Numbers of one reduction, bytes of one broadcast and of one gathering. MPI counts in 32 bits, and memory is copied once.
const SUM_AT_ONCE: usize = 1 << 20;
const BYTES_AT_ONCE: usize = 1 << 28;
/// For how long a process asks without a pause whether an exchange is through, and the pause after that.
const EAGER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(50);
/// How long MPI has for ending all processes.
const ABORT: Duration = Duration::from_secs(5);

/// The processes of this training. A handle: copies are of the same.
#[derive(Clone)]
pub struct Mpi(Arc<Inner>);

struct Inner {
    library: Library,
    names: Vec<String>,
    description: String,
    own: Own,
    log: RankLog,
    spent: Mutex<Spent>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

impl Mpi {
    /// Starts MPI in this process and meets the others. Once a process.
    ///
    /// # Errors
    /// [`Error::Cluster`] where the library does not start or is not the launcher's, or the processes are of different builds;
    /// [`Error::Usage`] for a limit in the environment that is no number.
    pub fn start(launch: &Launch) -> Result<Mpi> {
        let limits = limits()?;
        let library = Library::start(launch)?;
        let description = format!("{} processes by {}, {}", library.size, launch.launcher, library.version());
        let (own, log, spent) = (Own::default(), RankLog::default(), Mutex::default());
        let mut inner = Inner { library, names: Vec::new(), description, own, log, spent, watch: Mutex::default() };
        let here = Place::here();
        let build = format!("{} {}", env!("CARGO_PKG_VERSION"), option_env!("LUMOS_COMMIT").unwrap_or_default().trim());
        let parcel = Parcel::new().bytes(here.host.as_bytes()).bytes(here.mask.as_bytes()).bytes(build.as_bytes());
        let (mut places, mut builds) = (Vec::new(), Vec::new());
        for bytes in inner.gathered(&parcel.into_bytes(), true) {
            let mut pieces = Pieces::of(&bytes);
            let mut text = || pieces.text().unwrap_or_default().to_string();
            places.push(Place { host: text(), mask: text() });
            builds.push(text());
        }
        inner.names = places.iter().enumerate().map(|(rank, place)| format!("rank {rank} on {}", place.host)).collect();
        if let Some(rank) = builds.iter().position(|b| *b != builds[0]) {
            let (theirs, ours) = (builds[rank].trim(), builds[0].trim());
            let message = format!("{} is lumos {theirs}, {} is lumos {ours}", inner.names[rank], inner.names[0]);
            return Err(Error::Cluster(format!("{message}; start one build everywhere")));
        }
        parallel::set_default(cores::threads(&here, &places));
        let mpi = Mpi(Arc::new(inner));
        let watched = mpi.clone();
        let watch = move || signs::keep(&watched.0, limits);
        let thread = std::thread::Builder::new().name("lumos-signs".into()).spawn(watch);
        *mpi.0.watch.lock() = Some(thread.map_err(|e| Error::Usage(format!("cannot start a thread: {e}")))?);
        Ok(mpi)
    }

    /// One line for a user: how many processes, by which launcher and library.
    pub fn description(&self) -> &str {
        &self.0.description
    }

    /// The messages of this process.
    pub fn log(&self) -> &RankLog {
        &self.0.log
    }

    /// Leaves MPI, once every process has come to this. Nothing can be exchanged afterwards.
    pub fn finish(&self) {
        self.0.complete("MPI_Ibarrier", |comms, request| {
            // SAFETY: the handle is of this library, and the request lives until it is through.
            unsafe { sys::MPI_Ibarrier(comms.work, request) }
        });
        self.0.own.over.store(true, std::sync::atomic::Ordering::SeqCst);
        if let Some(thread) = self.0.watch.lock().take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
        let _one = self.0.library.lock();
        // SAFETY: no request is under way: those of exchanges are through, those of the thread were given up.
        unsafe { sys::MPI_Finalize() };
    }

    /// Ends all processes after a message on stderr.
    pub fn end_all(&self, message: &str) -> ! {
        self.0.end_all(message)
    }
}

impl Inner {
    fn end_all(&self, message: &str) -> ! {
        let name = self.names.get(self.library.rank).cloned().unwrap_or_else(|| format!("rank {}", self.library.rank));
        let message = format!("{message}; all processes end, and what was saved is good ({name})");
        self.log.line(&format!("error: {message}"));
        // In the launcher's output as well: it names who failed. Where stderr is closed, the exit code tells.
        let _ = writeln!(std::io::stderr(), "error: {}: {message}", clock::now());
        unfinished::remove_all();
        // MPI may be what is stuck.
        let _ = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(ABORT);
            std::process::abort()
        });
        // A thread that is stuck in a call holds the lock, and there is nothing to wait for.
        let _one = self.library.try_lock(1.0);
        // SAFETY: the world's handle; the call does not come back where it works.
        unsafe { sys::MPI_Abort(sys::RSMPI_COMM_WORLD, 1) };
        std::process::abort()
    }

    /// Starts an exchange and waits until it is through. What it reads and writes must live as long.
    fn complete(&self, what: &str, start: impl FnOnce(&Comms, &mut sys::MPI_Request) -> c_int) {
        let begun = Instant::now();
        self.own.enter();
        // SAFETY: a constant of the library.
        let mut request = unsafe { sys::RSMPI_REQUEST_NULL };
        let started = {
            let comms = self.library.lock();
            calls::check(what, start(&comms, &mut request))
        };
        let mut through = started.map(|()| false);
        while let Ok(false) = through {
            through = calls::test(&self.library.lock(), &mut request);
            if let Ok(false) = through {
                if begun.elapsed() < EAGER { std::thread::yield_now() } else { std::thread::sleep(PAUSE) }
            }
        }
        if let Err(e) = through {
            // Buffers of an exchange that failed half-way may still be written to: this process must not go on.
            self.end_all(&e.to_string());
        }
        self.own.leave();
        let mut spent = self.spent.lock();
        spent.exchanges += 1;
        spent.seconds += begun.elapsed().as_secs_f64();
    }

    fn put_in(&self, bytes: usize) {
        self.spent.lock().bytes += bytes as u64;
    }

    /// Reduces `values` by `op`, a part at a time.
    fn reduce(&self, values: &mut [i64], op: sys::MPI_Op) {
        let mut own = Vec::with_capacity(values.len().min(SUM_AT_ONCE));
        for part in values.chunks_mut(SUM_AT_ONCE) {
            own.clear();
            own.extend_from_slice(part);
            self.complete("MPI_Iallreduce", |comms, request| {
                // SAFETY: both arrays hold `part.len()` numbers, which fits 32 bits, and live until the exchange is through.
                unsafe {
                    let (from, into) = (own.as_ptr().cast(), part.as_mut_ptr().cast());
                    sys::MPI_Iallreduce(from, into, own.len() as c_int, sys::RSMPI_INT64_T, op, comms.work, request)
                }
            });
            self.put_in(8 * own.len());
        }
    }

    /// Sum of one number of each process.
    fn total(&self, value: i64) -> i64 {
        let mut sum = [value];
        // SAFETY: a constant of the library.
        self.reduce(&mut sum, unsafe { sys::RSMPI_SUM });
        sum[0]
    }

    /// What each process has, by rank; at rank 0 alone, unless `everywhere`.
    fn gathered(&self, bytes: &[u8], everywhere: bool) -> Vec<Vec<u8>> {
        let (rank, size) = (self.library.rank, self.library.size);
        let mut lengths = vec![0i64; size];
        lengths[rank] = bytes.len() as i64;
        // SAFETY: a constant of the library.
        self.reduce(&mut lengths, unsafe { sys::RSMPI_SUM });
        let has = everywhere || rank == 0;
        let mut all: Vec<Vec<u8>> = lengths.iter().map(|&n| Vec::with_capacity(if has { n as usize } else { 0 })).collect();
        // As much of each process at a time as the places of all of them, counted in 32 bits, have room for.
        let most = BYTES_AT_ONCE / size;
        let longest = lengths.iter().max().map_or(0, |&n| n as usize);
        for at in (0..longest).step_by(most.max(1)) {
            let part = |length: usize| length.saturating_sub(at).min(most);
            let counts: Vec<c_int> = lengths.iter().map(|&n| part(n as usize) as c_int).collect();
            let places: Vec<c_int> = counts.iter().scan(0, |sum, &n| Some(std::mem::replace(sum, *sum + n))).collect();
            let own = &bytes[at.min(bytes.len())..][..part(bytes.len())];
            let mut joined = vec![0u8; if has { counts.iter().sum::<c_int>() as usize } else { 0 }];
            self.complete(if everywhere { "MPI_Iallgatherv" } else { "MPI_Igatherv" }, |comms, request| {
                // SAFETY: `joined` holds the sum of `counts` bytes where it is written; all arrays live until the exchange is through.
                unsafe {
                    let (from, into, byte) = (own.as_ptr().cast(), joined.as_mut_ptr().cast(), sys::RSMPI_UINT8_T);
                    let (n, counts, places) = (own.len() as c_int, counts.as_ptr(), places.as_ptr());
                    if everywhere {
                        sys::MPI_Iallgatherv(from, n, byte, into, counts, places, byte, comms.work, request)
                    } else {
                        sys::MPI_Igatherv(from, n, byte, into, counts, places, byte, 0, comms.work, request)
                    }
                }
            });
            self.put_in(own.len());
            if has {
                for (whole, (&n, &place)) in all.iter_mut().zip(counts.iter().zip(&places)) {
                    whole.extend_from_slice(&joined[place as usize..][..n as usize]);
                }
            }
        }
        if has { all } else { Vec::new() }
    }
}

impl Reduce for Mpi {
    fn rank(&self) -> usize {
        self.0.library.rank
    }

    fn size(&self) -> usize {
        self.0.library.size
    }

    fn sum(&self, values: &mut [i64]) -> Result<()> {
        // SAFETY: a constant of the library.
        self.0.reduce(values, unsafe { sys::RSMPI_SUM });
        Ok(())
    }

    fn union(&self, values: &[u32]) -> Result<Vec<u32>> {
        let mut most = [values.last().map_or(0, |&v| i64::from(v) + 1)];
        // SAFETY: a constant of the library.
        self.0.reduce(&mut most, unsafe { sys::RSMPI_MAX });
        let (all, most) = (self.0.total(values.len() as i64) as u64, most[0] as u64);
        // As lists, or as one bit for each number that there could be, whichever is shorter.
        if 4 * all < most.div_ceil(8) {
            let own: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let lists = self.0.gathered(&own, true);
            let mut joined: Vec<u32> =
                lists.iter().flat_map(|list| list.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v))).collect();
            joined.sort_unstable();
            joined.dedup();
            return Ok(joined);
        }
        let mut bits = vec![0i64; most.div_ceil(64) as usize];
        values.iter().for_each(|&v| bits[v as usize / 64] |= 1 << (v % 64));
        // SAFETY: a constant of the library.
        self.0.reduce(&mut bits, unsafe { sys::RSMPI_BOR });
        let set = |(i, &word): (usize, &i64)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 64 * i as u32 + bit);
        Ok(bits.iter().enumerate().flat_map(set).collect())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.0.gathered(bytes, true))
    }

    fn collect(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(self.0.gathered(bytes, false))
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let own = self.rank() == 0;
        let mut bytes = if own { bytes } else { Vec::new() };
        let length = self.0.total(bytes.len() as i64) as usize;
        bytes.resize(length, 0);
        for part in bytes.chunks_mut(BYTES_AT_ONCE) {
            self.0.complete("MPI_Ibcast", |comms, request| {
                // SAFETY: the part's length fits 32 bits, and it lives until the exchange is through.
                unsafe { sys::MPI_Ibcast(part.as_mut_ptr().cast(), part.len() as c_int, sys::RSMPI_UINT8_T, 0, comms.work, request) }
            });
            self.0.put_in(if own { part.len() } else { 0 });
        }
        Ok(bytes)
    }

    fn name(&self, rank: usize) -> String {
        self.0.names.get(rank).cloned().unwrap_or_else(|| format!("rank {rank}"))
    }

    fn spent(&self) -> Spent {
        *self.0.spent.lock()
    }
}

/// From `LUMOS_CLUSTER_SILENT_S` (60) and `LUMOS_CLUSTER_STILL_S` (3600).
fn limits() -> Result<Limits> {
    let of = |name: &str, default: u64| match std::env::var(name).ok().filter(|text| !text.trim().is_empty()) {
        None => Ok(Duration::from_secs(default)),
        Some(text) => match text.trim().parse::<u64>() {
            Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
            _ => Err(Error::Usage(format!("{name} is `{text}`; it must be a whole number of seconds above 0"))),
        },
    };
    Ok(Limits { silent: of("LUMOS_CLUSTER_SILENT_S", 60)?, still: of("LUMOS_CLUSTER_STILL_S", 3600)? })
}
