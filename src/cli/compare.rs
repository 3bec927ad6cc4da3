//! `lumos compare`: a paired test of two runs.

use super::args::SplitArg;
use super::output::{say, say_json};
use crate::{Result, run};
use std::path::PathBuf;

/// Test two finished runs against each other, user by user
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos compare runs/twin runs/lumos
  lumos compare runs/twin runs/lumos --split validation --json
A positive difference means that the second run (B) is better.")]
pub struct Args {
    /// First run folder
    run_a: PathBuf,
    /// Second run folder
    run_b: PathBuf,
    /// Which item of a history is to be found
    #[arg(long, value_enum, default_value = "test")]
    split: SplitArg,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let comparison = run::compare(&args.run_a, &args.run_b, args.split.into())?;
    if args.json {
        return say_json(&comparison);
    }
    say(format!("on {}, {}", comparison.data, comparison.split))?;
    say(format!("A  {} ({})", comparison.a, args.run_a.display()))?;
    say(format!("B  {} ({})", comparison.b, args.run_b.display()))?;
    comparison.tests.iter().try_for_each(say)
}
