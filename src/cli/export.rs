//! `lumos export`: a run's model for other programs.

use super::args::Which;
use super::interrupt;
use super::output::say;
use super::progress::Progress;
use crate::run::{self, RunFolder};
use crate::{Error, Result};
use std::path::PathBuf;

/// Write a run's model for other programs: a PyTorch state_dict with its Python model, item vectors for numpy
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos export runs/lumos --torch exported
  python exported/model.py exported 3 17 42       the best item rows for a history of rows; exported/items.csv names them
The folder holds model.safetensors (a state_dict), model.py, config.json, items.npy (vectors [I, d]) and items.csv (row, item, title). The
Python model gives the ranks that LUMOS gives, without what users keep private, and masks nothing.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    torch: PathBuf,
    /// Which checkpoint
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Which,
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let folder = RunFolder::open(&args.run)?;
    if RunFolder::open(&args.torch).is_ok() {
        return Err(Error::mismatch(&args.torch, "holds a run, which would be overwritten in part; choose another folder"));
    }
    let settings = folder.settings()?;
    let progress = Progress::new(false);
    let data = run::load_run_data(&folder, &settings, &progress)?;
    drop(progress);
    let files = run::export_torch(&folder, args.checkpoint.name(), &settings, &data, &args.torch)?;
    files.iter().try_for_each(|file| say(format!("wrote {}", file.display())))
}
