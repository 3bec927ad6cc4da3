//! Arguments that several sub-commands share.

use crate::Result;
use crate::config::{Effective, methods};
use crate::data::Split;
use crate::device::Choice;
use crate::settings;
use clap::ValueEnum;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// Most threads, as for the setting `threads`.
pub const MOST_THREADS: usize = 4096;

/// A parser of numbers from `low` to `high`.
pub fn between<T>(low: T, high: T) -> impl Fn(&str) -> std::result::Result<T, String> + Clone + Send + Sync
where
    T: FromStr + PartialOrd + Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let number = text.trim().parse::<T>().ok().filter(|n| (low..=high).contains(n));
        number.ok_or_else(|| format!("must be between {low} and {high}"))
    }
}

/// A parser of devices.
pub fn device(text: &str) -> Result<String> {
    text.parse::<Choice>().map(|_| text.to_string())
}

/// A configuration file and what overrules it.
#[derive(clap::Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML), such as configs/quickstart.toml
    pub config: PathBuf,
    #[command(flatten)]
    pub over: Overrides,
}

/// What overrules a file.
#[derive(clap::Args, Default)]
pub struct Overrides {
    /// Overrule one setting; may be repeated, the last one wins
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// File of a method of your own, known by the file's name and taken unless `--set method=` says otherwise; may be repeated
    #[arg(long, value_name = "FILE")]
    pub method_file: Vec<PathBuf>,
    /// Threads; 0 means all cores. Never changes a result
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, MOST_THREADS as u32))]
    pub threads: Option<u32>,
    /// Where clients are trained: auto, cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub device: Option<String>,
    /// Seed of every draw
    #[arg(long, value_name = "N", value_parser = between::<u64>(0, i64::MAX as u64))]
    pub seed: Option<u64>,
}

impl Overrides {
    /// All of it as `KEY=VALUE`, methods of files being made known.
    pub fn sets(&self) -> Result<Vec<String>> {
        let mut sets = Vec::new();
        for file in &self.method_file {
            sets.push(format!("method={}", methods::register_file(file)?.name));
        }
        sets.extend_from_slice(&self.set);
        sets.extend(self.threads.map(|n| format!("threads={n}")));
        sets.extend(self.device.as_ref().map(|d| format!("device={d}")));
        sets.extend(self.seed.map(|n| format!("seed={n}")));
        Ok(sets)
    }
}

impl ConfigArgs {
    /// The effective settings.
    pub fn load(&self) -> Result<Effective> {
        settings::load(Some(&self.config), &self.over.sets()?)
    }

    /// The effective settings with another method.
    pub fn load_method(&self, method: &str) -> Result<Effective> {
        let mut sets = self.over.sets()?;
        sets.push(format!("method={method}"));
        settings::load(Some(&self.config), &sets)
    }
}

/// Which item of a history is to be found.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SplitArg {
    /// The item before the last
    Validation,
    /// The last item
    Test,
}

impl From<SplitArg> for Split {
    fn from(split: SplitArg) -> Split {
        match split {
            SplitArg::Validation => Split::Validation,
            SplitArg::Test => Split::Test,
        }
    }
}

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Which {
    /// Best on validation
    Best,
    /// Latest saved
    Last,
}

impl Which {
    /// File stem.
    pub fn name(self) -> &'static str {
        match self {
            Which::Best => "best",
            Which::Last => "last",
        }
    }
}
