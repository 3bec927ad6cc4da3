//! `lumos eval`: full ranking of a checkpoint.

use super::args::{MOST_THREADS, SplitArg, Which, between, device};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::{metric, metric_names, several_names, table};
use crate::config::Resident;
use crate::config::methods::{self, Family};
use crate::run::{self, RunFolder};
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Rank every user's target under a checkpoint of a run
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos eval runs/first
  lumos eval runs/first --split validation --checkpoint last
  lumos eval runs/first --split test --json            one object with keys like HR@20 and NDCG@20
  lumos eval runs/first --local-epochs 2               each user after two local epochs of its own on the global model
  lumos eval runs/first --lists                        coverage@K, gini@K, novelty@K, popularity@K of the lists besides
Every item of the catalogue is ranked but those that the run's eval.mask hides: \"history\" (default) those that the user has met,
\"none\" nothing. A target that is hidden is a miss; masked_targets counts them. The ranks of the best checkpoint are kept in the
run folder, for `lumos compare`. Where the split leaves a user several items (data.split = \"time\" or \"ratio\"), HR, NDCG and MRR are of the
first one, and Recall, Precision and MAP of all.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    /// Which item of a history is to be found
    #[arg(long, value_enum, default_value = "test")]
    split: SplitArg,
    /// Which checkpoint
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Which,
    /// Where users are ranked: auto, cpu, cuda, cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device)]
    device: String,
    /// Threads; 0 means all cores
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: Option<u32>,
    /// Local epochs that each user's client trains for itself before the user is ranked, in the place of the run's eval.local_epochs; other ranks
    /// than the run's are not kept
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, 1000))]
    local_epochs: Option<u32>,
    /// Make every user's list as well and say what the lists are like as a whole: coverage, Gini, novelty, popularity
    #[arg(long)]
    lists: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    interrupt::end_at_the_first()?;
    let folder = RunFolder::open(&args.run)?;
    let method = folder.settings()?.method.clone();
    if args.local_epochs.unwrap_or(0) > 0 && methods::find(&method)?.family == Family::Baseline {
        return Err(Error::Usage(format!("--local-epochs: `{method}` trains no model; leave it out")));
    }
    let settings = folder.settings()?.with(|s| {
        s.threads = args.threads.unwrap_or(s.threads);
        s.eval.local_epochs = args.local_epochs.unwrap_or(s.eval.local_epochs);
        // Nothing is trained: the kernels of resident training need not be loaded, or compiled.
        s.gpu.resident = Resident::Off;
    })?;
    let progress = Progress::new(args.json);
    let device = ranks::devices().to_rank(&settings, &args.device)?;
    let (split, name) = (args.split.into(), args.checkpoint.name());
    let mut scored = run::score(&folder, &settings, split, name, &device, &progress)?;
    if args.lists {
        let data = Arc::new(run::load_run_data(&folder, &settings, &progress)?);
        for (k, f) in run::list_figures(&folder, &settings, &data, (name, split), &progress)? {
            let figures = [("coverage", f.coverage), ("gini", f.gini), ("novelty", f.novelty), ("popularity", f.popularity)];
            scored.scores.extend(figures.map(|(name, value)| (format!("{name}@{k}"), json!(value))));
        }
    }
    drop(progress);
    if args.json {
        let mut object = scored.scores.clone();
        object.extend([
            ("method".into(), json!(scored.method)),
            ("data".into(), json!(scored.data)),
            ("split".into(), json!(scored.split)),
            ("round".into(), json!(scored.round)),
            ("device".into(), json!(scored.device)),
            ("mask".into(), json!(settings.eval.mask)),
            ("ranks_kept".into(), json!(scored.ranks_kept)),
        ]);
        return say_json(&object);
    }
    let lists = ["coverage", "gini", "novelty", "popularity"].iter().flat_map(|name| scored.ks.iter().map(move |k| format!("{name}@{k}")));
    let names = metric_names(&scored.ks).into_iter().chain(several_names(&scored.ks, &scored.scores));
    let names = names.chain(lists.filter(|name| scored.scores.contains_key(name)));
    let mut rows: Vec<Vec<String>> = names.map(|n| vec![n.clone(), metric(&scored.scores, &n)]).collect();
    say(format!("{} on {}, round {}", scored.method, scored.data, scored.round))?;
    match scored.scores.get("masked_targets").and_then(serde_json::Value::as_u64) {
        Some(masked) if masked > 0 => rows.push(vec!["masked targets".into(), masked.to_string()]),
        _ => (),
    }
    for name in scored.ks.iter().map(|k| format!("ER@{k}")).chain(["target_rank".into()]).filter(|name| scored.scores.contains_key(name)) {
        rows.push(vec![name.replace('_', " "), metric(&scored.scores, &name)]);
    }
    say(table(&["full ranking", scored.split], &rows))?;
    scored.not_kept.map_or(Ok(()), |why| say(format!("ranks were not kept: {why}")))
}
