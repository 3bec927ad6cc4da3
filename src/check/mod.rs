//! The check of a GPU that `lumos gpu-check` makes: is every kernel right on it, are its bits the same every time, does a round agree
//! with the CPU, and how fast is all of it.
//!
//! It runs on any [`Device`], so that the check itself is tested on the CPU rendition of the kernels, wrong kernels included.

mod batch;
mod batches;
pub mod benches;
mod calls;
pub mod case;
mod cost;
#[cfg(feature = "llm")]
mod decoder;
mod direct;
pub mod file;
mod fused;
pub mod kernels;
mod local;
mod packed;
pub mod recording_device;
pub mod reference;
pub mod report;
mod round;
pub mod rounds;
mod single;
pub mod subject;
#[cfg(feature = "llm")]
pub mod text;
pub mod timing;
pub mod yardstick;

use crate::base::names;
use crate::device::interface::Device;
use crate::device::launch::Signature;
use crate::device::telemetry;
use crate::run::Machine;
use crate::{Error, Result};
use report::{DeviceLine, PartLine, Report};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes a line about what is being done.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// A part of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckPart {
    /// Every kernel against plain loops in f64.
    Kernels,
    /// Rounds give the same bits again and in any pieces.
    Bits,
    /// A round on the device against the CPU.
    Rounds,
    /// A language model's decoder against the CPU, and the same text in any batch.
    #[cfg(feature = "llm")]
    Text,
    /// Times of kernels, rounds and texts.
    Benches,
    /// A few small rounds, for tools that watch memory.
    Smoke,
}

impl CheckPart {
    /// The parts of a whole check, in order.
    pub const ALL: &[CheckPart] = &[
        CheckPart::Kernels,
        CheckPart::Bits,
        CheckPart::Rounds,
        #[cfg(feature = "llm")]
        CheckPart::Text,
        CheckPart::Benches,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            CheckPart::Kernels => "kernels",
            CheckPart::Bits => "bits",
            CheckPart::Rounds => "rounds",
            #[cfg(feature = "llm")]
            CheckPart::Text => "text",
            CheckPart::Benches => "benches",
            CheckPart::Smoke => "smoke",
        }
    }
}

impl FromStr for CheckPart {
    type Err = Error;

    fn from_str(text: &str) -> Result<CheckPart> {
        let known = || CheckPart::ALL.iter().copied().chain([CheckPart::Smoke]);
        known()
            .find(|p| p.name() == text.trim())
            .ok_or_else(|| Error::Usage(names::unknown("part", text.trim(), known().map(CheckPart::name))))
    }
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Options {
    /// Parts.
    pub parts: Vec<CheckPart>,
    /// Small shapes only.
    pub quick: bool,
    /// Nothing new is begun after so much time.
    pub time: Duration,
    /// The driver, in words.
    pub driver: String,
    /// How the kernels are embedded, in words.
    pub kernels: String,
}

impl Default for Options {
    fn default() -> Options {
        let time = Duration::from_secs(8 * 60);
        Options { parts: CheckPart::ALL.to_vec(), quick: false, time, driver: String::new(), kernels: String::new() }
    }
}

/// Checks `device`. What fails is in the report: the other parts still run, unless the device is lost.
pub fn run(device: &Arc<dyn Device>, options: &Options, progress: Progress) -> Report {
    let start = Instant::now();
    let machine = Machine::here();
    let mut report = Report {
        date: crate::base::clock::now(),
        version: machine.version,
        commit: machine.commit,
        quick: options.quick,
        device: describe(&**device, options),
        ..Report::default()
    };
    let mut lost: Option<String> = None;
    for &part in &options.parts {
        let (began, name) = (Instant::now(), part.name());
        let late = || start.elapsed() > options.time;
        if let Some(why) = &lost {
            let message = Some(format!("the device was lost before: {why}"));
            report.parts.push(PartLine { name, state: "not run", seconds: 0.0, message });
            continue;
        }
        if late() {
            let message = Some(format!("the {:.0} s given were over", options.time.as_secs_f64()));
            report.parts.push(PartLine { name, state: "not run", seconds: 0.0, message });
            continue;
        }
        let before = report.checks.len();
        let outcome = run_part(part, device, options, progress, &late, &mut report);
        let failed = report.checks[before..].iter().filter(|c| !c.ok).count();
        let message = match outcome {
            Err(error) => {
                if matches!(&error, Error::Device(e) if e.is_sticky()) {
                    lost = Some(error.to_string());
                }
                Some(error.to_string())
            }
            Ok(false) => Some("not everything was measured: time or memory was out".to_string()),
            Ok(true) if failed > 0 => Some(format!("{failed} of {} checks failed", report.checks.len() - before)),
            Ok(true) => None,
        };
        let state = if message.is_none() { "passed" } else { "failed" };
        report.parts.push(PartLine { name, state, seconds: began.elapsed().as_secs_f64(), message });
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// Whether all of the part was done.
fn run_part(
    part: CheckPart,
    device: &Arc<dyn Device>,
    options: &Options,
    progress: Progress,
    late: &dyn Fn() -> bool,
    report: &mut Report,
) -> Result<bool> {
    match part {
        CheckPart::Kernels => {
            let seen = kernels::run(&**device, options.quick, &mut report.checks, progress)?;
            // The decoder's kernels are checked together, by the text they make.
            let single = all_kernels().into_iter().filter(|k| !k.starts_with("decoder_"));
            report.unchecked = single.filter(|k| !seen.contains(k)).map(str::to_string).collect();
            Ok(true)
        }
        CheckPart::Bits => rounds::bits(device, options.quick, &mut report.checks, progress).map(|()| true),
        CheckPart::Rounds => rounds::rounds(device, options.quick, &mut report.checks, progress).map(|()| true),
        #[cfg(feature = "llm")]
        CheckPart::Text => text::run(device, options.quick, &mut report.checks, progress).map(|()| true),
        CheckPart::Smoke => {
            rounds::smoke(device, &mut report.checks, progress)?;
            #[cfg(feature = "llm")]
            text::smoke(device, &mut report.checks)?;
            Ok(true)
        }
        CheckPart::Benches => {
            progress("copy bandwidth and arithmetic peaks");
            report.yardsticks = yardstick::measure(&**device, options.quick)?;
            // Rounds first: they are what is asked for most.
            let rounds = benches::rounds(device, options.quick, &mut report.rounds, progress, late)?;
            progress("times of kernels");
            let kernels = benches::kernels(&**device, options.quick, &report.yardsticks, &mut report.benches, progress, late)?;
            #[cfg(feature = "llm")]
            let texts = text::benches(device, options.quick, &mut report.texts, progress, late)?;
            #[cfg(not(feature = "llm"))]
            let texts = true;
            Ok(rounds && kernels && texts)
        }
    }
}

/// What the crate's tables say of kernels, for whoever wants to hold it against their sources.
pub fn declared_kernels() -> Vec<Signature> {
    #[allow(unused_mut)] // without the feature `llm` there are no more
    let mut all = [crate::backend::cuda::kernels::KERNELS, crate::engine::cuda::resident::KERNELS, yardstick::KERNELS].concat();
    #[cfg(feature = "llm")]
    all.extend_from_slice(crate::llm::gpu::kernels::KERNELS);
    all
}

/// What the crate says of the structs that it shares with kernels.
pub fn declared_structs() -> Vec<crate::device::mirror::Mirror> {
    use crate::backend::cuda::optimiser::{DropoutClock, OptimiserStep, ServerStep};
    use crate::engine::cuda::{packed::Packed, resident::Job};
    #[allow(unused_mut)] // without the feature `llm` there are no more
    let mut all = vec![Packed::MIRROR, OptimiserStep::MIRROR, DropoutClock::MIRROR, ServerStep::MIRROR, Job::MIRROR];
    #[cfg(feature = "llm")]
    {
        use crate::llm::gpu::{ask::TokenAsk, attention};
        all.extend([attention::Heads::MIRROR, attention::AttentionShape::MIRROR, TokenAsk::MIRROR]);
    }
    all
}

/// Kernels of this build; where none are embedded, those that the tables declare.
fn all_kernels() -> Vec<&'static str> {
    #[cfg(feature = "cuda")]
    {
        let families = crate::device::modules::families();
        if !families.is_empty() {
            return families.iter().flat_map(|f| f.kernels.iter().copied()).collect();
        }
    }
    declared_kernels().iter().flat_map(|kernel| kernel.names).copied().collect()
}

fn describe(device: &dyn Device, options: &Options) -> DeviceLine {
    let limits = device.limits();
    let memory = device.memory().unwrap_or_default();
    let sampler = device.uuid().and_then(telemetry::Sampler::start);
    DeviceLine {
        name: device.name().into(),
        capability: format!("{}.{}", limits.capability.0, limits.capability.1),
        multiprocessors: limits.multiprocessors,
        memory_bytes: memory.total,
        free_bytes: memory.free,
        l2_bytes: limits.l2_bytes,
        shared_bytes: limits.shared_per_block,
        driver: options.driver.clone(),
        kernels: options.kernels.clone(),
        telemetry: sampler.and_then(|s| s.samples(0.0).first().copied()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_by_name() {
        for part in CheckPart::ALL.iter().copied().chain([CheckPart::Smoke]) {
            assert_eq!(part.name().parse::<CheckPart>().unwrap(), part);
        }
        let error = "kernel".parse::<CheckPart>().unwrap_err().to_string();
        assert!(error.contains("did you mean `kernels`?"), "{error}");
    }
}
