//! Several processes that train one model: by `mpirun` where the program was built with MPI, refused where it was not.
#![cfg(unix)]

#[path = "../common/cli.rs"]
mod cli;
#[cfg(feature = "mpi")]
#[path = "../common/outcome.rs"]
mod outcome;
#[cfg(feature = "mpi")]
#[path = "../common/real.rs"]
mod real;

#[cfg(feature = "mpi")]
mod bits;
#[cfg(feature = "mpi")]
mod ends;
#[cfg(all(feature = "mpi", feature = "cuda"))]
mod gpus;
#[cfg(feature = "mpi")]
mod mpirun;
#[cfg(not(feature = "mpi"))]
mod without;
