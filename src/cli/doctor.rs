//! `lumos doctor`: what this machine and this build offer.

use super::output::{say, say_json};
use super::table::pairs;
use crate::Result;
use crate::run::Machine;

/// Show cores, vector instructions, memory and what is built in
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let machine = Machine::here();
    // The kernel module tells its version here; whether a card is usable is not asked, for nothing here could use it.
    let driver = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let driver = driver.and_then(|text| text.lines().next().map(|l| l.trim_start_matches("NVRM version:").trim().to_string()));
    if args.json {
        let mut value = serde_json::json!(machine);
        value["gpu_backend"] = false.into();
        value["nvidia_driver"] = driver.into();
        return say_json(&value);
    }
    let or = |text: &str, other: &str| if text.is_empty() { other.to_string() } else { text.to_string() };
    let memory =
        if machine.memory_bytes == 0 { "unknown".into() } else { format!("{:.1} GiB", machine.memory_bytes as f64 / (1u64 << 30) as f64) };
    say(pairs(&[
        ("lumos", machine.version.clone()),
        ("commit", machine.commit.clone().unwrap_or_else(|| "not known to this build".into())),
        ("platform", machine.platform.clone()),
        ("cpu", or(&machine.cpu, "unknown")),
        ("cores", machine.cores.to_string()),
        ("simd", machine.simd.clone()),
        ("memory", memory),
        ("features", or(&machine.features.join(", "), "none beyond the CPU backend")),
        ("gpu", "not used: this build has no GPU backend".into()),
        ("nvidia driver", driver.unwrap_or_else(|| "none found".into())),
    ]))
}
