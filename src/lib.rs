//! LUMOS: federated sequential recommendation with language-model views, packed client training and a tri-view
//! contrastive loss.
//!
//! Layers point downwards only: `cli` -> `run` -> `federation` -> `cohort`, `model` -> `backend` -> `base`; `data`, `views` and
//! `eval` know nothing of devices. `check` holds a GPU against the CPU, from kernels to whole rounds.
#![deny(missing_docs)]

pub mod backend;
pub mod base;
pub mod bench;
pub mod check;
pub mod cli;
pub mod cohort;
pub mod config;
pub mod data;
pub mod error;
pub mod eval;
pub mod federation;
#[cfg(feature = "llm")]
pub mod llm;
pub mod model;
pub mod parallel;
pub mod rng;
pub mod run;
pub mod views;

pub use error::{Error, Result};
