//! `lumos bench prepare` and `lumos bench epoch`: how long data, training and evaluation take.

use super::args::{MOST_THREADS, between};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::{pairs, table};
use crate::Result;
use crate::bench::epoch::{EpochBench, epochs};
use crate::bench::prepare::{PrepareBench, prepare_rows};
use crate::bench::published::published;
use crate::run::Observer;
use std::path::PathBuf;

/// A large file of interactions: rows a second and memory of `data prepare`
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos bench prepare
  lumos bench prepare --rows 100000000 --folder /scratch --json")]
pub struct PrepareArgs {
    /// Interactions
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = between::<u64>(1000, 4_000_000_000))]
    rows: u64,
    /// Mean interactions of a user
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = between::<u64>(3, 100_000))]
    mean_length: u64,
    /// Items
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = between::<u64>(10, 100_000_000))]
    items: u64,
    /// Folder with room for the file (25 bytes a row) and the prepared set (12 bytes a row), which are removed afterwards [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// An epoch, or a federated round, and a full ranking on prepared data sets, as a table
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos bench epoch data/ml-100k data/amazon-beauty --methods sasrec,fed-sasrec,lumos
  lumos bench epoch data/ml-100k --threads 1 --rounds 5 --json
  lumos bench epoch --published")]
pub struct EpochArgs {
    /// Folders of prepared data sets
    #[arg(required_unless_present = "published")]
    data: Vec<PathBuf>,
    /// Measure nothing: the times that authors of other programs publish, each with its machine and what an epoch is there
    #[arg(long, conflicts_with = "data")]
    published: bool,
    /// Methods; a round of a centralised one is an epoch
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "sasrec,fed-sasrec,lumos")]
    methods: Vec<String>,
    /// Overrule one setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Timed rounds; one more runs first
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = between::<u32>(1, 10_000))]
    rounds: u32,
    /// Threads; 0 means all cores. Never changes a result
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, MOST_THREADS as u32))]
    threads: Option<u32>,
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
}

pub fn prepare(args: &PrepareArgs) -> Result<()> {
    interrupt::end_at_the_first()?;
    let progress = Progress::new(args.json);
    let folder = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let bench = PrepareBench { rows: args.rows, mean_length: args.mean_length, items: args.items, folder };
    let f = prepare_rows(&bench, &|what: &str, done, total| progress.stage(what, done, total))?;
    drop(progress);
    if args.json {
        return say_json(&f);
    }
    let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    say(pairs(&[
        ("interactions", f.rows.to_string()),
        ("users, items", format!("{}, {}", f.users, f.items)),
        ("file", gib(f.file_bytes)),
        ("prepared in", format!("{:.1} s, {:.0} rows/s", f.seconds, f.rows_per_s)),
        ("memory at most", gib(f.peak_bytes)),
    ]))
}

/// Times of other programs, for comparison.
fn others(json: bool) -> Result<()> {
    let rows = published();
    if json {
        return say_json(&rows);
    }
    let cells = rows.iter().map(|f| {
        let times = [format!("{:.2}", f.epoch_seconds), format!("{:.2}", f.rank_seconds)];
        let sizes = [f.users, f.items, f.interactions].map(|n| n.to_string());
        [
            vec![f.program.clone(), f.data.clone(), f.method.clone()],
            sizes.to_vec(),
            times.to_vec(),
            vec![f.work.clone(), f.hardware.clone()],
        ]
        .concat()
    });
    let head = ["program", "data set", "method", "users", "items", "interactions", "epoch, s", "ranking, s", "an epoch is", "on"];
    say(table(&head, &cells.collect::<Vec<_>>()))?;
    say("published by the authors of the programs, not measured here; `--json` has the sources")
}

pub fn epoch(args: &EpochArgs) -> Result<()> {
    if args.published {
        return others(args.json);
    }
    interrupt::end_at_the_first()?;
    let progress = Progress::new(true);
    let sets = args.set.iter().cloned().chain(args.threads.map(|n| format!("threads={n}"))).collect();
    let bench = EpochBench { data: args.data.clone(), methods: args.methods.clone(), sets, rounds: args.rounds };
    let rows = epochs(&bench, &progress)?;
    drop(progress);
    if args.json {
        return say_json(&rows);
    }
    let cells = rows.iter().map(|f| {
        let times = [format!("{:.2}", f.round_seconds), format!("{:.2}", f.rank_seconds), f.threads.to_string()];
        let sizes = [f.users.to_string(), f.interactions.to_string(), f.clients.to_string()];
        [vec![f.data.clone(), f.method.clone()], sizes.to_vec(), times.to_vec()].concat()
    });
    say(table(
        &["data set", "method", "users", "trained on", "clients a round", "round, s", "ranking, s", "threads"],
        &cells.collect::<Vec<_>>(),
    ))
}
