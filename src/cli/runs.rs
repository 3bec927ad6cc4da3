//! `lumos runs`: what lies in a folder of runs.

use super::output::{remark, say, say_json};
use super::table::{metric, table_with};
use crate::base::{clean, names};
use crate::{Error, Result, run};
use std::path::PathBuf;

/// List the runs below a folder: method, data, seed, state, quality
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos runs
  lumos runs runs/ml-100k --sort NDCG@20
  lumos runs --data ml-100k --method lumos --json
`training` is a run that a process is working on now; `stopped` one that `lumos train ... --resume` goes on with.")]
pub struct Args {
    /// Folder that is looked through
    #[arg(default_value = "runs")]
    folder: PathBuf,
    /// Only runs on this data set
    #[arg(long, value_name = "NAME")]
    data: Option<String>,
    /// Only runs of this method
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Order by this metric on validation, best first
    #[arg(long, value_name = "METRIC")]
    sort: Option<String>,
    /// One JSON list
    #[arg(long)]
    json: bool,
}

/// Refuses a name that no run has.
fn known<'a>(flag: &str, what: &str, name: Option<&String>, all: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    match name {
        Some(name) if !all.clone().any(|other| other == name) => {
            let mut all: Vec<&str> = all.collect();
            all.sort_unstable();
            all.dedup();
            Err(Error::Usage(format!("{flag}: {}", names::unknown(what, name, all))))
        }
        _ => Ok(()),
    }
}

pub fn main(args: &Args) -> Result<()> {
    let (mut runs, problems) = run::list_runs(&args.folder)?;
    problems.iter().for_each(|problem| remark(&format!("left out: {problem}")));
    if !runs.is_empty() {
        known("--data", "data set", args.data.as_ref(), runs.iter().map(|r| r.data.as_str()))?;
        known("--method", "method", args.method.as_ref(), runs.iter().map(|r| r.method.as_str()))?;
    }
    runs.retain(|run| args.data.as_ref().is_none_or(|data| run.data == *data) && args.method.as_ref().is_none_or(|m| run.method == *m));
    if let Some(name) = &args.sort {
        let value = |run: &run::Listed| run.result.as_ref().and_then(|r| r.validation.get(name)?.as_f64());
        let metrics = runs.iter().filter_map(|r| r.result.as_ref()).flat_map(|r| r.validation.keys().map(String::as_str));
        known("--sort", "metric", Some(name), metrics.filter(|name| name.contains('@')))?;
        runs.sort_by(|a, b| value(b).unwrap_or(-1.0).total_cmp(&value(a).unwrap_or(-1.0)));
    }
    if args.json {
        return say_json(&runs);
    }
    if runs.is_empty() {
        return say(format!("no run below {}", args.folder.display()));
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|r| {
            let select = r.result.as_ref().map(|result| args.sort.clone().unwrap_or_else(|| result.select.clone()));
            let scores = |test: bool| match (&r.result, &select) {
                (Some(result), Some(name)) => metric(if test { &result.test } else { &result.validation }, name),
                _ => "-".into(),
            };
            vec![
                clean::id(&r.data),
                clean::id(&r.method),
                r.seed.to_string(),
                r.state.to_string(),
                r.rounds.to_string(),
                select.clone().unwrap_or("-".into()),
                scores(false),
                scores(true),
                r.started.get(..16).unwrap_or(&r.started).replace('T', " "),
                r.folder.display().to_string(),
            ]
        })
        .collect();
    let head = ["data", "method", "seed", "state", "rounds", "metric", "validation", "test", "started", "folder"];
    say(table_with(&head, &rows, |column| matches!(column, 0 | 1 | 3 | 5 | 8 | 9)))
}
