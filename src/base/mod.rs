//! What every layer stands on: errors, files that are whole or not there, caches that are believed whole or not at all, locks that die with their process, the time of day, memory, energy,
//! numbers at the start of a cache line, numbers in JSON, foreign text made fit for a terminal, names and what was meant by them, random draws, threads,
//! what is to be removed when a signal ends the process in the middle of a step.

pub mod clean;
pub mod clock;
pub mod device_error;
pub mod energy;
pub mod error;
pub mod files;
pub mod floats;
#[cfg(any(feature = "llm", feature = "parquet"))]
pub(crate) mod guard;
pub mod json;
pub mod lock;
pub mod memory;
pub mod names;
pub mod options;
pub mod parallel;
pub mod parcel;
pub mod rng;
pub mod sealed;
pub mod unfinished;
