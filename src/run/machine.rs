//! What a run was made on.

use crate::backend::cpu::simd::Level;
use crate::base::parallel;
use serde::{Deserialize, Serialize};

/// The machine and the build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system and architecture.
    pub platform: String,
    /// Model name of the processor; empty where the system does not tell.
    pub cpu: String,
    /// Cores that the process may use.
    pub cores: u64,
    /// Vector instructions that the kernels use here.
    pub simd: String,
    /// Memory in bytes; 0 where the system does not tell.
    pub memory_bytes: u64,
    /// Version of this program.
    pub version: String,
    /// Commit it was built from: a release build takes it from its git checkout, `LUMOS_COMMIT` names another.
    pub commit: Option<String>,
    /// Optional parts built in.
    pub features: Vec<String>,
}

impl Machine {
    /// This machine, this build.
    pub fn here() -> Machine {
        Machine {
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: parallel::threads(0) as u64,
            simd: Level::detect().name().to_string(),
            memory_bytes: memory_bytes(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            commit: option_env!("LUMOS_COMMIT").map(str::trim).filter(|name| !name.is_empty()).map(str::to_string),
            features: [
                ("cuda", cfg!(feature = "cuda")),
                ("endpoint", cfg!(feature = "endpoint")),
                ("llm", cfg!(feature = "llm")),
                ("candle-cuda", cfg!(feature = "candle-cuda")),
                ("flash-attn", cfg!(feature = "flash-attn")),
                ("mpi", cfg!(feature = "mpi")),
            ]
            .into_iter()
            .filter(|(_, built)| *built)
            .map(|(name, _)| name.to_string())
            .collect(),
        }
    }
}

/// Memory of the machine in bytes; 0 where the system does not tell.
pub fn memory_bytes() -> u64 {
    kilobytes("/proc/meminfo", "MemTotal")
}

/// Most memory that this process has held so far, in bytes; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmHWM")
}

fn kilobytes(file: &str, name: &str) -> u64 {
    field(file, name).and_then(|v| v.trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_string())
}
