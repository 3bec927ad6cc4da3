//! `lumos plot`: validation curves of several runs in one picture.

use super::output::{remark, say};
use crate::Result;
use crate::run::{self, Cost};
use std::path::PathBuf;

/// Draw the validation curves of runs: quality over rounds, visits, bytes or seconds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos plot runs/lumos runs/twin --out curves.svg
  lumos plot runs --x visits --log --y NDCG@20 --out frontier.svg      all runs below a folder: what a quality costs in visits of clients
  lumos plot runs --x gigabytes --out bytes.png                          and in bytes
A run that is still being trained is drawn as far as it has come.")]
pub struct Args {
    /// Run folders, or folders of runs
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
    /// The picture, as what its ending says: .svg, or .png where the build has the feature `png`
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
    // Before anything is read, so that a wrong ending is said at once.
    run::PictureFormat::of(&args.out)?;
    let (runs, mut left_out) = run::runs_among(&args.runs)?;
    let plot = run::plot(&runs, &args.y, cost, args.log)?;
    left_out.extend(plot.left_out);
    left_out.iter().for_each(|what| remark(&format!("left out: {what}")));
    run::write_picture(&args.out, &plot.svg)?;
    say(format!("plot: {}", args.out.display()))
}
