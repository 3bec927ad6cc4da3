//! `lumos compare`: a paired test of two runs.

use super::args::SplitArg;
use super::output::{say, say_json};
use crate::{Error, Result, run};
use std::path::PathBuf;

/// Test two finished runs against each other, user by user; or pairs of runs, one pair a seed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos compare runs/twin runs/lumos
  lumos compare runs/twin runs/lumos --split validation --json
  lumos compare runs/twin-1 runs/lumos-1 runs/twin-2 runs/lumos-2      # two seeds: each user counts once, with the mean
A positive difference means that the second run of each pair (B) is better.")]
pub struct Args {
    /// Run folders in pairs: A B, or A1 B1 A2 B2 ...
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Which item of a history is to be found
    #[arg(long, value_enum, default_value = "test")]
    split: SplitArg,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let (pairs, odd) = args.runs.as_chunks::<2>();
    if let [left] = odd {
        let message = "has no partner; name runs in pairs: A1 B1 A2 B2 ...";
        return Err(Error::mismatch(left, message));
    }
    let comparison = run::compare(pairs, args.split.into())?;
    if args.json {
        return say_json(&comparison);
    }
    say(format!("on {}, {}", comparison.data, comparison.split))?;
    let folders = |side: usize| pairs.iter().map(|p| p[side].display().to_string()).collect::<Vec<_>>().join(", ");
    say(format!("A  {} ({})", comparison.a, folders(0)))?;
    say(format!("B  {} ({})", comparison.b, folders(1)))?;
    comparison.tests.first().map_or(Ok(()), |test| say(test.heading()))?;
    comparison.tests.iter().try_for_each(say)
}
