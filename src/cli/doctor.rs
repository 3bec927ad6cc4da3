//! `lumos doctor`: what this machine and this build offer.

use super::output::{say, say_json};
use super::table::pairs;
use crate::Result;
use crate::device::telemetry;
use crate::device::{self, Survey};
use crate::run::Machine;

/// Show cores, vector instructions, memory, GPUs and what is built in
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let machine = Machine::here();
    let survey = Survey::take();
    // The kernel module gives its version here, also where the driver's library is missing.
    let module = std::fs::read_to_string("/proc/driver/nvidia/version").ok();
    let module = module.and_then(|text| text.lines().next().map(|l| l.trim_start_matches("NVRM version:").trim().to_string()));
    if args.json {
        let mut value = serde_json::json!(machine);
        value["gpu_backend"] = survey.built.into();
        value["gpu_usable"] = survey.usable().into();
        value["nvidia_driver"] = module.into();
        value["cuda"] = serde_json::json!(survey);
        value["nvml"] = telemetry::describe().into();
        value["cluster"] = super::ranks::engine().into();
        return say_json(&value);
    }
    let or = |text: &str, other: &str| if text.is_empty() { other.to_string() } else { text.to_string() };
    let memory =
        if machine.memory_bytes == 0 { "unknown".into() } else { format!("{:.1} GiB", machine.memory_bytes as f64 / (1u64 << 30) as f64) };
    let mut rows = vec![
        ("lumos", machine.version.clone()),
        ("commit", machine.commit.clone().unwrap_or_else(|| "not known to this build".into())),
        ("platform", machine.platform.clone()),
        ("cpu", or(&machine.cpu, "unknown")),
        ("cores", machine.cores.to_string()),
        ("simd", machine.simd.clone()),
        ("memory", memory),
        ("features", or(&machine.features.join(", "), "none beyond the CPU backend")),
        ("nvidia kernel module", module.unwrap_or_else(|| "none found".into())),
        ("nvidia driver", survey.driver.clone()),
    ];
    rows.extend(survey.gpus.iter().map(|gpu| ("gpu", gpu.line())));
    rows.push(("device taken by auto", device::choose(device::Choice::Auto)?.1.trim_start_matches("device: ").to_string()));
    rows.extend([("kernels", survey.kernels.clone()), ("nvrtc", survey.nvrtc.clone()), ("nvml", telemetry::describe())]);
    rows.extend([("nccl", survey.nccl.clone()), ("processes", super::ranks::engine())]);
    say(pairs(&rows))
}
