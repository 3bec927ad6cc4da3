//! Which device a run takes.

use super::DeviceError;
use super::interface::Device;
use crate::base::clean;
use crate::base::names;
use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
#[cfg(feature = "testing")]
use std::sync::OnceLock;

/// What the user asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// A GPU where one can be used, the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU that can be used.
    Cuda,
    /// The GPU of this number.
    CudaNumber(usize),
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Choice> {
        match text.trim() {
            "auto" => return Ok(Choice::Auto),
            "cpu" => return Ok(Choice::Cpu),
            "cuda" => return Ok(Choice::Cuda),
            other => {
                // Digits only: `parse` would take a sign.
                let number = other.strip_prefix("cuda:").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                if let Some(number) = number.and_then(|n| n.parse().ok()) {
                    return Ok(Choice::CudaNumber(number));
                }
            }
        }
        // `gpu` is spelled unlike what it means.
        let meant =
            if text.trim().to_lowercase().starts_with("gpu") { text.trim().to_lowercase().replace("gpu", "cuda") } else { text.into() };
        let known = ["auto", "cpu", "cuda", "cuda:0"];
        let hint = names::nearest(&meant, known).map_or(".".to_string(), |n| format!(": did you mean `{n}`?"));
        let text = clean::id(text);
        Err(Error::Usage(format!("unknown device `{text}`{hint} Valid: auto, cpu, cuda, cuda:N (N counts the GPUs from 0)")))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Cpu => f.write_str("cpu"),
            Choice::Cuda => f.write_str("cuda"),
            Choice::CudaNumber(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// What was taken.
pub enum Chosen {
    /// The CPU.
    Cpu,
    /// A GPU.
    Gpu(Arc<dyn Device>),
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chosen::Cpu => f.write_str("Cpu"),
            Chosen::Gpu(device) => write!(f, "Gpu({})", device.name()),
        }
    }
}

/// Takes a device and says in one line which and why. Where a GPU was asked for and cannot be had, the error says what to do.
pub fn choose(choice: Choice) -> Result<(Chosen, String)> {
    let gpu = |device: Arc<dyn Device>, why: &str| {
        let line = format!("device: {} ({why})", device.name());
        (Chosen::Gpu(device), line)
    };
    match choice {
        Choice::Cpu => Ok((Chosen::Cpu, "device: CPU (asked for)".into())),
        Choice::CudaNumber(ordinal) => Ok(gpu(open(ordinal)?, "asked for")),
        Choice::Cuda => Ok(gpu(first()?, "the first that can be used")),
        Choice::Auto => Ok(match first() {
            Ok(device) => gpu(device, "the first GPU that can be used"),
            Err(error) => (Chosen::Cpu, format!("device: CPU ({})", error.brief())),
        }),
    }
}

/// [`choose`] for the process `local` of several on a machine: where any GPU would do, they take them in turn.
pub fn choose_in_turn(choice: Choice, local: usize) -> Result<(Chosen, String)> {
    let count = count();
    if !matches!(choice, Choice::Auto | Choice::Cuda) || count < 2 {
        return choose(choice);
    }
    let number = local % count;
    match open(number) {
        Ok(device) => {
            let line = format!("device: {} (GPU {number}, that of process {local} of the machine)", device.name());
            Ok((Chosen::Gpu(device), line))
        }
        Err(error) if choice == Choice::Auto => Ok((Chosen::Cpu, format!("device: CPU ({})", error.brief()))),
        Err(error) => Err(error.into()),
    }
}

/// Opens a device in place of GPU 0.
#[cfg(feature = "testing")]
pub type StandIn = fn() -> Result<Arc<dyn Device>, DeviceError>;

#[cfg(feature = "testing")]
static STAND_IN: OnceLock<StandIn> = OnceLock::new();

/// From now on this process takes what `open` gives for its only GPU.
#[cfg(feature = "testing")]
pub fn stand_in(open: StandIn) {
    // Whoever comes first stays: a test sets it once, before anything else.
    let _ = STAND_IN.set(open);
}

fn open(ordinal: usize) -> Result<Arc<dyn Device>, DeviceError> {
    #[cfg(feature = "testing")]
    if let Some(open) = STAND_IN.get() {
        return if ordinal > 0 { Err(DeviceError::NoSuchDevice { asked: ordinal, count: 1 }) } else { open() };
    }
    open_gpu(ordinal)
}

fn first() -> Result<Arc<dyn Device>, DeviceError> {
    #[cfg(feature = "testing")]
    if let Some(open) = STAND_IN.get() {
        return open();
    }
    first_gpu()
}

/// GPUs of the machine; 0 where the driver does not say.
fn count() -> usize {
    #[cfg(feature = "testing")]
    if STAND_IN.get().is_some() {
        return 1;
    }
    #[cfg(feature = "cuda")]
    return super::probe::gpus().map_or(0, |gpus| gpus.len());
    #[cfg(not(feature = "cuda"))]
    0
}

#[cfg(feature = "cuda")]
fn open_gpu(ordinal: usize) -> Result<Arc<dyn Device>, DeviceError> {
    Ok(Arc::new(super::driver::CudaDevice::open(ordinal)?))
}

#[cfg(feature = "cuda")]
fn first_gpu() -> Result<Arc<dyn Device>, DeviceError> {
    let mut refused = None;
    for gpu in super::probe::gpus()? {
        match open_gpu(gpu.ordinal) {
            Ok(device) => return Ok(device),
            // The first reason is kept: it is that of the GPU which the user most likely meant.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(DeviceError::NoDevice { visible: std::env::var("CUDA_VISIBLE_DEVICES").ok() }))
}

#[cfg(not(feature = "cuda"))]
fn open_gpu(_: usize) -> Result<Arc<dyn Device>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(not(feature = "cuda"))]
fn first_gpu() -> Result<Arc<dyn Device>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_and_write() {
        for text in ["auto", "cpu", "cuda", "cuda:0", "cuda:12"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        let typos = [
            ("gpu", "cuda"),
            ("cdua", "cuda"),
            ("atuo", "auto"),
            ("CPU", "cpu"),
            ("gpu:0", "cuda:0"),
            ("cuda:", "cuda:0"),
            ("cuda:x", "cuda:0"),
        ];
        for (text, meant) in typos.into_iter().chain([("cuda:-1", "cuda:0"), ("cuda:+1", "cuda:0"), ("", "auto")]) {
            let error = text.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains("Valid: auto, cpu, cuda, cuda:N"), "{error}");
            assert!(text.is_empty() || error.contains(&format!("did you mean `{meant}`?")), "{text}: {error}");
        }
    }

    #[test]
    fn the_cpu_is_always_there_and_the_line_says_why() {
        let (chosen, line) = choose(Choice::Cpu).unwrap();
        assert!(matches!(chosen, Chosen::Cpu) && line == "device: CPU (asked for)");
        let (chosen, line) = choose(Choice::Auto).unwrap();
        match (chosen, choose(Choice::Cuda)) {
            (Chosen::Gpu(device), Ok(_)) => assert!(line.contains(device.name())),
            (Chosen::Cpu, Err(error)) => {
                assert!(error.to_string().contains("--device cpu"), "{error}");
                let why = line.strip_prefix("device: CPU (").and_then(|l| l.strip_suffix(')')).unwrap();
                assert!(!why.is_empty() && error.to_string().starts_with(why) && !line.contains('\n'), "{line}");
            }
            (chosen, other) => panic!("{chosen:?} and {:?} do not fit", other.err()),
        }
        assert!(choose(Choice::CudaNumber(4096)).is_err());
    }
}
