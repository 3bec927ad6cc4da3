//! `lumos run`: everything, one table.

use super::args::ConfigArgs;
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::{metric, metric_names, table};
use crate::base::files;
use crate::data::Split;
use crate::{Result, eval, run};
use std::path::PathBuf;

/// Prepare the data, make the views, train `method` and every method of `compare`, and print one table
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos run configs/quickstart.toml
  lumos run configs/quickstart.toml --set federation.rounds=20 --out /tmp/short
  lumos run configs/ml-100k.toml --set compare=fed-sasrec,lumos-literal,lumos-random-views
What is up to date is reused and an interrupted method goes on where it stopped, so the same command may be given again.
Ctrl-C, SIGTERM and SIGUSR1 end it after the current round and save that (exit codes 130, 143, 138); a second signal ends it at once.")]
pub struct Args {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Folder of the run folders, one a method [default: runs/<data>/<method>-<hash of the settings>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let first = args.config.load()?;
    let settings = first.settings.clone();
    let mut methods = vec![first];
    for name in settings.compare.iter().filter(|n| **n != settings.method) {
        methods.push(args.config.load_method(name)?);
    }
    let stop = interrupt::listen()?;
    let progress = Progress::new(args.json);
    let rows = run::side_by_side(&methods, args.out.as_deref(), &mut ranks::devices(), stop, &progress)
        .map_err(|e| interrupt::how_to_resume(e, None))?;
    let popularity = run::popularity_row(&settings, &progress)?;
    drop(progress);

    let mut tests = Vec::new();
    for other in rows.iter().skip(1) {
        tests.push(run::compare(&[[other.folder.clone(), rows[0].folder.clone()]], Split::Test)?);
    }
    if args.json {
        let methods: Vec<_> = rows.iter().map(|r| &r.result).collect();
        return say_json(&serde_json::json!({ "methods": methods, "popularity": popularity, "paired": tests }));
    }
    let names: Vec<String> = metric_names(&settings.eval.k).into_iter().filter(|n| !n.starts_with("MRR")).collect();
    let mut head = vec!["test, full ranking"];
    head.extend(names.iter().map(String::as_str));
    head.extend(["best round", "client-epochs/s"]);
    let cells = |name: &str, scores: &run::Scores| -> Vec<String> {
        std::iter::once(name.to_string()).chain(names.iter().map(|n| metric(scores, n))).collect()
    };
    let mut lines = Vec::new();
    if rows.iter().all(|r| r.result.method != "popularity") {
        lines.push(cells("popularity", &popularity));
    }
    for row in &rows {
        let mut line = cells(&row.result.method, &row.result.test);
        if row.result.rounds > 0 {
            line.push(format!("{} of {}", row.result.best_round, row.result.rounds));
            if !crate::config::methods::is_centralised(&row.result.method) {
                line.push(format!("{:.0}", row.result.client_epochs_per_s));
            }
        }
        lines.push(line);
    }
    say(format!("\n{}", table(&head, &lines)))?;
    if let Some([_, test]) = rows.first().and_then(|r| run::masked_targets(&r.result)) {
        say(format!("masked targets: {test}; they lie in the user's history, are never recommended and count as misses"))?;
    }
    let k = eval::select(&settings.eval)?.k;
    for c in &tests {
        for test in c.tests.iter().filter(|t| t.k == k) {
            say(format!("\nA = {}, B = {}: {}\n{test}", c.a, c.b, test.heading()))?;
        }
    }
    say("")?;
    let folder = args.out.clone().or_else(|| Some(rows.first()?.folder.parent()?.to_path_buf())).unwrap_or_default();
    let page = run::page(&rows.iter().map(|r| r.folder.clone()).collect::<Vec<_>>(), &run::Silent)?;
    files::write_file(&folder.join("report.html"), page.as_bytes())?;
    say(format!("all methods: {}", folder.join("report.html").display()))?;
    rows.iter().try_for_each(|r| say(format!("{}: {}", r.result.method, r.folder.join("report.html").display())))
}
