//! `lumos report`: one page about one run or many.

use super::interrupt;
use super::output::{remark, say};
use super::progress::Progress;
use crate::base::files::write_file;
use crate::{Error, Result, run};
use std::path::PathBuf;

/// Write one self-contained page about runs: curves, methods, tests, recommendations, costs, settings
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos report runs/lumos runs/twin --out report.html
  lumos report runs/seeds --out seeds.html         all runs below a folder; runs that differ in the seed only are one method, with mean and spread
The first run's method is tested against each other one. Without the prepared data set the page has no recommendations and says so.")]
pub struct Args {
    /// Run folders, or folders of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    if args.out.is_dir() {
        return Err(Error::mismatch(&args.out, "is a folder; name a file, such as report.html"));
    }
    let (runs, left_out) = run::runs_among(&args.runs)?;
    left_out.iter().for_each(|what| remark(&format!("left out: {what}")));
    let progress = Progress::new(false);
    let page = run::page(&runs, &progress)?;
    drop(progress);
    write_file(&args.out, page.as_bytes())?;
    say(format!("report: {}", args.out.display()))
}
