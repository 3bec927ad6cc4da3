//! The language-model engine: parity with the reference library, batching, constrained decoding, loading.
#![cfg(feature = "llm")]

mod common;
mod embed;
mod engine;
mod gguf;
mod loading;
mod parity;
mod titles;
