//! `lumos gpu-check`: is a GPU right, and how fast is it.

use super::output::{remark, say, say_json};
use super::table::table_with;
use crate::check::file::{self, Attachment};
use crate::check::report::{BenchLine, Report};
use crate::check::{self, CheckPart, Options};
use crate::device::telemetry;
use crate::device::{Choice, Chosen, Device, choose};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Check a GPU: every kernel, the bits of rounds, rounds against the CPU, and times
#[derive(clap::Args)]
#[command(after_help = "\
Parts: kernels (each against plain loops in f64, forward and backward), bits (rounds again and in other pieces), rounds (one round of every
backbone and loss against the CPU), text (a language model's decoder against the CPU), benches (copy bandwidth, arithmetic peaks, rounds,
kernels, texts). `smoke` trains a few small rounds and is
for tools that watch memory. What fails is reported, the other parts still run, and the exit code is 1.
Examples:
  lumos gpu-check
  lumos gpu-check --only kernels,bits --quick
  lumos gpu-check --device cuda:1 --out benches/results/today.json
  compute-sanitizer --tool memcheck lumos gpu-check --only smoke
scripts/gpu-check does all of it, with NVIDIA's sanitizer and the PyTorch comparison where they are there.")]
pub struct Args {
    /// Which GPU: cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: String,
    /// Parts to run, separated by commas [default: kernels,bits,rounds,text,benches]
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    /// Small shapes only: seconds, and no figure worth keeping
    #[arg(long)]
    quick: bool,
    /// Minutes after which no further check is begun
    #[arg(long, value_name = "N", default_value_t = 8.0)]
    minutes: f64,
    /// Result file; one that is there is added to [default: benches/results/DATE-gpu-check.json, or here where there is no such folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The report as one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Run nothing: add what another tool printed to the result file --out
    #[arg(long, value_name = "FILE", hide = true, requires_all = ["out", "name"])]
    attach: Option<PathBuf>,
    /// Name of what is attached
    #[arg(long, hide = true)]
    name: Option<String>,
    /// Exit code of the tool; left out where it was not run
    #[arg(long, hide = true, allow_negative_numbers = true)]
    exit: Option<i32>,
    /// Seconds it took
    #[arg(long, hide = true)]
    seconds: Option<f64>,
}

/// Gives the exit code: 1 where anything failed.
pub fn main(args: &Args) -> Result<u8> {
    if let (Some(from), Some(out), Some(name)) = (&args.attach, &args.out, &args.name) {
        let bytes = std::fs::read(from).map_err(Error::io(from, "read"))?;
        let output = String::from_utf8_lossy(&bytes).into_owned();
        file::attach(out, &Attachment { name: name.clone(), exit: args.exit, seconds: args.seconds, output })?;
        return Ok(0);
    }
    let parts = match args.only.as_slice() {
        [] => CheckPart::ALL.to_vec(),
        names => names.iter().map(|n| n.parse()).collect::<Result<_>>()?,
    };
    if !(args.minutes > 0.0 && args.minutes <= 1e6) {
        return Err(Error::Usage(format!("--minutes {} must be above 0", args.minutes)));
    }
    let choice: Choice = args.device.parse()?;
    let (device, line) = open(choice)?;
    remark(&line);
    let survey = crate::device::Survey::take();
    let options = Options {
        parts,
        quick: args.quick,
        time: Duration::from_secs_f64(60.0 * args.minutes),
        driver: format!("{}; nvml {}", survey.driver, telemetry::describe()),
        kernels: survey.kernels,
    };
    let report = check::run(&device, &options, &|line| remark(&format!("  {line}")));
    let out = args.out.clone().unwrap_or_else(|| default_file(&report.date));
    file::add_report(&out, &report)?;
    if args.json {
        say_json(&report)?;
    } else {
        show(&report)?;
        say(format!("\nwritten to {}", out.display()))?;
    }
    Ok(u8::from(!report.passed()))
}

/// The GPU and a line that says which it is.
fn open(choice: Choice) -> Result<(Arc<dyn Device>, String)> {
    // The CPU is no answer here, so `auto` is any GPU.
    let chosen = match choice {
        Choice::Auto => choose(Choice::Cuda)?,
        other => choose(other)?,
    };
    match chosen {
        (Chosen::Gpu(device), line) => Ok((device, line)),
        (Chosen::Cpu, _) => {
            let message = format!("--device {choice} is no GPU, and a GPU is what is checked here; name one with `--device cuda:N`");
            Err(Error::Usage(message))
        }
    }
}

/// `2026-02-09-0630-gpu-check.json`, beside the other results where their folder is there.
fn default_file(date: &str) -> PathBuf {
    let day = date.split('T').next().unwrap_or(date);
    let time: String = date.split('T').nth(1).unwrap_or("").chars().filter(char::is_ascii_digit).take(4).collect();
    let name = format!("{day}-{time}-gpu-check.json");
    let results = Path::new("benches/results");
    if results.is_dir() { results.join(name) } else { name.into() }
}

fn show(report: &Report) -> Result<()> {
    let d = &report.device;
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    say(format!("{} ({}, {} multiprocessors, {:.1} GiB)", d.name, d.capability, d.multiprocessors, gib(d.memory_bytes)))?;
    say(format!("driver: {}", d.driver))?;
    if let Some(t) = d.telemetry {
        let or = |x: Option<f64>, unit: &str| x.map_or("unknown".to_string(), |x| format!("{x:.0} {unit}"));
        let (sm, memory) = (or(t.sm_mhz, "MHz"), or(t.memory_mhz, "MHz"));
        say(format!("at the start: multiprocessors {sm}, memory {memory}, {}, {}", or(t.watts, "W"), or(t.celsius, "C")))?;
    }
    say("")?;
    let mut rows = Vec::new();
    for ((part, name), tally) in report.by_name() {
        let verdict = if tally.failed > 0 { format!("{} FAILED", tally.failed) } else { "passed".into() };
        let worst = if tally.worst > 0.0 { format!("{:.0} %", 100.0 * tally.worst) } else { "bits".into() };
        rows.push(vec![part.to_string(), name.to_string(), tally.count.to_string(), worst, verdict]);
    }
    if !rows.is_empty() {
        say(table_with(&["part", "what", "checks", "of the bound", "verdict"], &rows, |c| c < 2))?;
    }
    for failure in report.failures() {
        say(format!("FAILED {} {} ({}): {}", failure.part, failure.name, failure.case, failure.fault.as_deref().unwrap_or("no reason")))?;
    }
    if !report.unchecked.is_empty() {
        say(format!("no check of their own: {}", report.unchecked.join(", ")))?;
    }
    show_times(report)?;
    say("")?;
    let rows: Vec<Vec<String>> = report
        .parts
        .iter()
        .map(|p| vec![p.name.into(), p.state.into(), format!("{:.1} s", p.seconds), p.message.clone().unwrap_or_default()])
        .collect();
    say(table_with(&["part", "outcome", "time", "why"], &rows, |c| c != 2))
}

fn show_times(report: &Report) -> Result<()> {
    if !report.benches.is_empty() {
        say("")?;
        let share = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.1} %", 100.0 * x));
        let row = |b: &BenchLine| {
            let spread = format!("{:.1} to {:.1}", b.us_range[0], b.us_range[1]);
            let peak = if b.operations > 0.0 { share(b.of_peak) } else { String::new() };
            vec![b.kernel.into(), b.case.clone(), format!("{:.1}", b.us), spread, share(b.of_copy), peak, b.units.into()]
        };
        let rows: Vec<Vec<String>> = report.benches.iter().map(row).collect();
        say(table_with(&["kernel", "shape", "us", "spread", "of copy", "of peak", "units"], &rows, |c| c < 2 || c == 6))?;
    }
    if !report.yardsticks.is_empty() {
        say("")?;
    }
    for y in &report.yardsticks {
        let (value, unit) = if y.unit == "bytes/s" { (y.rate / 1e9, "GB/s") } else { (y.rate / 1e12, "T operations/s") };
        say(format!("{:5} {value:9.2} {unit}  ({})", y.name, y.how))?;
    }
    if !report.rounds.is_empty() {
        say("")?;
    }
    for r in &report.rounds {
        let [low, high] = r.client_epochs_per_s_range;
        let energy = r.telemetry.and_then(|t| t.joules).map_or(String::new(), |j| format!(", {:.1} J a round", j / f64::from(r.rounds)));
        say(format!(
            "{} ({}): {} clients x {} epochs, d {}: {:.0} client-epochs/s (median of {}; {low:.0} to {high:.0}), {:.2} ms a round, \
             {:.0} host calls, {:.0} kernels, {:.2} GiB at most ({:.2} foreseen){energy}",
            r.name,
            if r.resident { "resident" } else { "step by step" },
            r.clients,
            r.epochs,
            r.dim,
            r.client_epochs_per_s,
            r.rounds,
            1e3 * r.round_s,
            r.host_calls,
            r.kernels,
            r.peak_bytes as f64 / f64::from(1 << 30),
            r.predicted_bytes as f64 / f64::from(1 << 30),
        ))?;
    }
    #[cfg(feature = "llm")]
    for t in &report.texts {
        let [low, high] = t.output_tokens_per_s_range;
        say(format!(
            "{}, {}, {} titles: {} prompts of {} shared and {:.0} own tokens, {} side by side: {:.0} output tokens/s (median of {}; {low:.0} to \
             {high:.0}), prompts {:.0} tokens/s, first token {:.1} ms",
            t.model,
            t.dtype,
            t.titles,
            t.prompts,
            t.prefix,
            t.suffix,
            t.batch,
            t.output_tokens_per_s,
            t.repeats,
            t.prompt_tokens_per_s,
            t.first_token_ms
        ))?;
    }
    Ok(())
}
