//! The language-model engine: parity with the reference library, batching, constrained decoding, loading.
#![cfg(feature = "llm")]

#[path = "../common/encoder.rs"]
mod encoder;
#[path = "../common/real.rs"]
mod real;

mod common;
mod embed;
mod engine;
mod gguf;
mod gguf_alone;
mod gpu;
mod hostile;
mod loading;
mod parity;
mod titles;
mod tune;

#[path = "../common/simt.rs"]
mod simt;
