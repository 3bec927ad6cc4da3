//! Training and ranking on a device, which is the CPU rendition of the kernels.

#[path = "../common/foreign.rs"]
mod foreign;
#[path = "../common/ranks.rs"]
mod ranks;
#[cfg(feature = "llm")]
#[path = "../common/real.rs"]
mod real;
#[path = "../common/ring.rs"]
mod ring;
#[path = "../common/cli.rs"]
mod sandbox;
#[path = "../common/simt.rs"]
mod simt;

mod batches;
mod cli;
#[cfg(all(feature = "cuda", target_os = "linux"))]
mod driver;
mod everything;
mod gpu_check;
mod kernel_table;
mod local_steps;
mod personal;
mod private_groups;
mod ranking;
mod ranking_average;
mod resident;
mod rounds;
mod rules;
