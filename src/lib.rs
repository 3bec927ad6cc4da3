//! LUMOS: federated sequential recommendation with language-model views, packed client training and a tri-view
//! contrastive loss.
//!
//! Layers point downwards only: `cli` -> `run` -> `federation` -> `engine` -> `model` -> `backend` -> `device` -> `base`; `data`, `views` and
//! `eval` know nothing of devices. `check` holds a GPU against the CPU, from kernels to whole rounds.
#![deny(missing_docs)]

pub mod backend;
pub mod base;
pub mod bench;
pub mod check;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod engine;
pub mod eval;
pub mod federation;
#[cfg(feature = "llm")]
pub mod llm;
pub mod model;
pub mod run;
#[cfg(feature = "testing")]
pub mod testing;
pub mod views;

pub use base::error::{Error, Result};
