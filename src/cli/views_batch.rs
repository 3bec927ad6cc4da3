//! `lumos views export-requests` and `import-answers`: views by an offline engine that takes many requests as one file.

use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::views::{Source, figures};
use crate::base::clean;
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::views::served::batch::{Answers, Requests};
use crate::{Error, Result, run, settings, views};
use serde_json::json;
use std::path::PathBuf;

/// Write the requests for all missing views as JSON lines, for an engine that works offline
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos views export-requests --data data/ml-100k --set views.served.model=NAME --out requests.jsonl
  vllm run-batch -i requests.jsonl -o answers.jsonl --model NAME
  lumos views import-answers --data data/ml-100k --set views.served.model=NAME --answers answers.jsonl
A request is an object with custom_id, method, url and body, as `vllm run-batch` and OpenAI's batches take it. The settings of views
must be the same at both commands: a custom_id is of one data set and one study.")]
pub struct Export {
    #[command(flatten)]
    source: Source,
    /// Only the first N users, in a folder of their own: to try an engine
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    users: Option<u32>,
    /// File of the requests
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// Make views of the answers that an engine has given to exported requests
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  lumos views import-answers --data data/ml-100k --set views.served.model=NAME --answers one.jsonl --answers two.jsonl
Answers may come in any order. Those of a file that lacks some are kept, and `lumos views export-requests` writes requests for the rest.")]
pub struct Import {
    #[command(flatten)]
    source: Source,
    /// Only the first N users, as at the export
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    users: Option<u32>,
    /// File of answers; may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    answers: Vec<PathBuf>,
    /// Count views without an answer as failed: their users have those of views.fallback, as many as views.max_failed lets pass
    #[arg(long)]
    give_up: bool,
    /// One JSON object as the last line instead of a table
    #[arg(long)]
    json: bool,
}

/// Settings and data of `source`, with views by an engine whose address does not matter.
fn open(source: &Source, progress: &Progress) -> Result<(Validated<Settings>, Dataset, PathBuf)> {
    let mut sets = source.over.sets()?;
    sets.extend(["views.generator=served".to_string(), "views.served.url=http://batch.invalid/v1".to_string()]);
    let settings = settings::load(source.config.as_deref(), &sets)?.settings;
    if !run::needs_views(&settings) {
        let message = format!("method `{}` uses no views; choose one that does (`lumos methods`)", settings.method);
        return Err(Error::Usage(message));
    }
    let (data, dir) = match &source.data {
        Some(dir) => run::open_data(dir, &settings, progress)?,
        None => run::prepare_data(&settings, false, progress)?,
    };
    Ok((settings, data, dir))
}

pub fn export(args: &Export) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new(args.json);
    let (settings, data, dir) = open(&args.source, &progress)?;
    let requests = Requests::begin(&args.out)?;
    let made = run::ask_for_views(&requests, &settings, &data, &dir, args.users.map(|n| n as usize), &progress)?;
    let written = requests.finish()?;
    drop(progress);
    let out = args.out.display().to_string();
    if args.json {
        return say_json(&json!({ "requests": written, "made": made, "out": if written > 0 { Some(out) } else { None } }));
    }
    match written {
        0 if made => say("the views are made already; there is nothing to ask"),
        0 => say("no view needs an answer; `lumos views import-answers --give-up` makes them"),
        n => say(format!("{n} requests: {out}")),
    }
}

pub fn import(args: &Import) -> Result<()> {
    interrupt::listen()?;
    let progress = Progress::new(args.json);
    let answers = Answers::read(&args.answers, args.give_up)?;
    let (settings, data, dir) = open(&args.source, &progress)?;
    let prepared = run::prepare_views_by(Some(&answers), &settings, data, dir, args.users.map(|n| n as usize), &progress)?;
    drop(progress);
    let folder = prepared.views_dir.unwrap_or_default();
    let manifest = views::load_manifest(&folder)?;
    if args.json {
        let failed = manifest.failures.len();
        return say_json(&json!({
            "users": manifest.statistics.users, "failed": failed, "reused": prepared.views_reused, "folder": folder.display().to_string(),
        }));
    }
    let rows: Vec<String> = figures(&manifest)?.iter().map(|(name, value)| format!("{name:30} {}", clean::line(value, 1000))).collect();
    say(rows.join("\n"))
}
