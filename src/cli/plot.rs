//! `lumos plot`: validation curves of several runs in one picture.

use super::output::say;
use crate::run::{self, Cost};
use crate::{Result, base::files};
use std::path::PathBuf;

/// Draw the validation curves of runs: quality over rounds, visits, bytes or seconds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos plot runs/lumos runs/twin --out curves.svg
  lumos plot runs/* --x visits --log --y NDCG@20 --out frontier.svg      what a quality costs in visits of clients
  lumos plot runs/* --x gigabytes --out bytes.svg                        and in bytes
A run that is still being trained is drawn as far as it has come.")]
pub struct Args {
    /// Run folders
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// What the quality is held against
    #[arg(long, value_enum, default_value = "rounds")]
    x: CostChoice,
    /// Powers of ten at equal distances
    #[arg(long)]
    log: bool,
    /// Metric on validation
    #[arg(long, value_name = "METRIC", default_value = "HR@20")]
    y: String,
    /// The picture
    #[arg(long, value_name = "FILE", default_value = "plot.svg")]
    out: PathBuf,
}

/// What a quality is held against.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CostChoice {
    /// Rounds
    Rounds,
    /// Visits of clients so far
    Visits,
    /// Gigabytes down and up so far
    Gigabytes,
    /// Seconds of training so far
    Seconds,
}

pub fn main(args: &Args) -> Result<()> {
    let cost = match args.x {
        CostChoice::Rounds => Cost::Rounds,
        CostChoice::Visits => Cost::Visits,
        CostChoice::Gigabytes => Cost::Gigabytes,
        CostChoice::Seconds => Cost::Seconds,
    };
    let svg = run::plot(&args.runs, &args.y, cost, args.log)?;
    files::write_file(&args.out, svg.as_bytes())?;
    say(format!("plot: {}", args.out.display()))
}
