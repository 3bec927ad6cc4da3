//! Several processes that train one model: what they exchange in a round, between the sums of a process and the server's step.
//!
//! A transport is one file (or folder) here that implements [`Reduce`]; [`Solo`] is the one for a process alone, `Mpi` (feature `mpi`) that of
//! clusters. [`launch`] says how this process was started. docs/cluster.md has the whole picture.

#[cfg(not(feature = "mpi"))]
mod absent;
#[cfg(any(feature = "mpi", test))]
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
mod cores;
mod divide;
mod launch;
mod log;
#[cfg(feature = "mpi")]
mod mpi;
mod progress;
mod reduce;
mod solo;
#[cfg(any(feature = "mpi", test))]
#[cfg_attr(not(feature = "mpi"), allow(dead_code))]
mod still;

#[cfg(not(feature = "mpi"))]
pub use absent::Mpi;
pub use divide::divide;
pub use launch::{Launch, in_batch_job, launch};
pub use log::RankLog;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use progress::worked;
pub use reduce::{Reduce, Spent, agree};
pub use solo::Solo;

/// Meets the other processes that a launcher has started beside this one; nothing for a process alone.
///
/// # Errors
/// [`crate::Error::Usage`] where there are several and this program was built without MPI; [`crate::Error::Cluster`] where they cannot work
/// together.
pub fn join() -> crate::Result<Option<Mpi>> {
    let Some(launch) = launch()? else { return Ok(None) };
    #[cfg(feature = "mpi")]
    return Mpi::start(&launch).map(Some);
    #[cfg(not(feature = "mpi"))]
    Err(launch::without_mpi(&launch))
}
