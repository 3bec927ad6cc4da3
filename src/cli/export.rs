//! `lumos export`: a checkpoint for other programs.

use super::args::Which;
use super::interrupt;
use super::output::say;
use super::progress::Progress;
use crate::Result;
use crate::run::{self, RunFolder};
use std::path::PathBuf;

/// Write a checkpoint for PyTorch, ONNX or numpy
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos export runs/first --torch out/      model.safetensors (a state_dict), model.json, items.csv, and model.py, which scores with them
  python out/model.py B004756YJA            the ten best next items by PyTorch
  lumos export runs/first --onnx out/       model.onnx: item indices `history` [n] in, `scores` [I] out (sasrec); items.csv
  lumos export runs/first --numpy out/      items.npy (the item vectors) and every other weight, items.csv
The scores of model.py and model.onnx are those of LUMOS up to rounding. What clients keep to themselves is not part of a checkpoint's global model.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    #[command(flatten)]
    to: To,
    /// Which checkpoint
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Which,
}

/// Where to.
#[derive(clap::Args)]
#[group(required = true, multiple = true)]
struct To {
    /// Folder for PyTorch, made where it is missing; files of the same names are replaced
    #[arg(long, value_name = "DIR")]
    torch: Option<PathBuf>,
    /// Folder for ONNX, for models of the backbone sasrec
    #[cfg(feature = "onnx")]
    #[arg(long, value_name = "DIR")]
    onnx: Option<PathBuf>,
    /// Folder for numpy
    #[arg(long, value_name = "DIR")]
    numpy: Option<PathBuf>,
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let folder = RunFolder::open(&args.run)?;
    let progress = Progress::new(true);
    let mut done = Vec::new();
    if let Some(out) = &args.to.torch {
        done.push((out, run::to_torch(&folder, args.checkpoint.name(), out, &progress)?));
    }
    #[cfg(feature = "onnx")]
    if let Some(out) = &args.to.onnx {
        done.push((out, run::to_onnx(&folder, args.checkpoint.name(), out, &progress)?));
    }
    if let Some(out) = &args.to.numpy {
        done.push((out, run::to_numpy(&folder, args.checkpoint.name(), out, &progress)?));
    }
    drop(progress);
    for (out, exported) in done {
        say(format!("{}: {} files of round {}", out.display(), exported.files.len(), exported.round))?;
    }
    Ok(())
}
