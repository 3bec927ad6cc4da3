//! Data: readers, filters, prepared folders, synthetic worlds, real data sets, and the doors for hostile bytes.

#[path = "../common/cli.rs"]
mod cli;
#[path = "../common/data.rs"]
mod common;
#[cfg(feature = "llm")]
#[path = "../common/knock.rs"]
mod knock;
#[cfg(feature = "llm")]
#[path = "../common/torch.rs"]
mod torch;

#[cfg(feature = "parquet")]
mod arrow;
mod cases;
#[cfg(feature = "llm")]
mod doors;
#[cfg(feature = "endpoint")]
mod fetch;
mod filter;
mod folders;
mod formats;
mod groups;
#[cfg(feature = "parquet")]
mod parquet;
mod readers;
mod real;
mod store;
mod synth;
