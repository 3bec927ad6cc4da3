//! What every layer stands on: files that are whole or not there, locks that die with their process, the time of day, memory, numbers in
//! JSON, foreign text made fit for a terminal.

pub mod clean;
pub mod clock;
pub mod files;
pub mod json;
pub mod lock;
pub mod memory;
