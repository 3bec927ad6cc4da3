//! `lumos reproduce`: a table of a paper.

use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::table_with;
use crate::run::reproduce::{Plan, Request, reproduce};
use crate::{Error, Result};
use std::path::PathBuf;

/// Train every run of a table and write it with means, spreads, intervals and tests
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos reproduce --list
  lumos reproduce main --data ml-100k --seeds 1 --out runs/main
  lumos reproduce ablation --data ml-100k,mind-1000 --rows lumos,lumos-no-future
  lumos reproduce main --data ml-100k --jobs 4
  lumos reproduce mine.toml --data configs/quickstart.toml --set federation.rounds=20
Writes NAME.md, NAME.tex, NAME.csv and NAME.html into the folder; each run has its own folder below runs/. Finished runs are reused and
interrupted ones go on, so the same command may be given again. Processes may share --out, each with --rows, --data or --seeds of its own; a run
that another one trains is left to it, and --no-train then writes one table of all. The tables of LUMOS are files in configs/reproduce/.")]
pub struct Args {
    /// Name of a table, or a file of your own that ends with .toml
    #[arg(required_unless_present = "list")]
    table: Option<String>,
    /// List the tables
    #[arg(long, conflicts_with = "table")]
    list: bool,
    /// Data sets with commas between them, by name or by configuration file [default: those of the table]
    #[arg(long, value_name = "DATA", value_delimiter = ',')]
    data: Vec<String>,
    /// Seeds with commas between them [default: those of the table]
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', value_parser = super::args::between::<u64>(0, i64::MAX as u64))]
    seeds: Vec<u64>,
    /// Only these rows, with commas between them, and the one that they are tested against
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    rows: Vec<String>,
    /// Overrule one setting of every run; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs side by side; they share the threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = super::args::between::<u32>(1, 256))]
    jobs: u32,
    /// Train nothing: write the tables of the runs that are finished and name the others
    #[arg(long, conflicts_with = "jobs")]
    no_train: bool,
    /// Folder of the runs and the written table [default: runs/reproduce/TABLE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// One JSON object: where the documents are
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let Some(name) = args.table.as_ref().filter(|_| !args.list) else { return list(args.json) };
    let mut plan = Plan::find(name)?;
    if !args.rows.is_empty() {
        plan.only(&args.rows)?;
    }
    if !args.data.is_empty() {
        plan.data.clone_from(&args.data);
    }
    if !args.seeds.is_empty() {
        plan.seeds.clone_from(&args.seeds);
        plan.seeds.sort_unstable();
        plan.seeds.dedup();
    }
    if let Some(set) = args.set.iter().find(|set| ["method=", "seed="].iter().any(|key| set.trim_start().starts_with(key))) {
        return Err(Error::Usage(format!("--set {set}: a table sets methods and seeds itself; choose by --rows and --seeds")));
    }
    let out = args.out.clone().unwrap_or_else(|| PathBuf::from("runs/reproduce").join(&plan.name));
    let mut command = format!("lumos reproduce {name} --data {}", plan.data.join(","));
    command += &format!(" --seeds {}", plan.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(","));
    if !args.rows.is_empty() {
        command += &format!(" --rows {}", args.rows.join(","));
    }
    for set in &args.set {
        command += &format!(" --set '{set}'");
    }
    let stop = interrupt::listen()?;
    let progress = Progress::new(args.json);
    let (jobs, devices) = (args.jobs as usize, ranks::devices().into());
    let request = Request { plan: &plan, sets: &args.set, out: &out, command: &command, train: !args.no_train, jobs, devices, stop };
    let document = reproduce(&request, &progress).map_err(|e| interrupt::how_to_resume(e, None))?;
    drop(progress);
    if args.json {
        let files: Vec<String> =
            ["md", "tex", "csv", "html"].map(|e| out.join(format!("{}.{e}", plan.name)).display().to_string()).to_vec();
        return say_json(&serde_json::json!({ "table": plan.name, "data": plan.data, "seeds": plan.seeds, "files": files }));
    }
    for part in &document.parts {
        for table in &part.tables {
            let head: Vec<&str> = table.head.iter().map(String::as_str).collect();
            say(format!("\n{}: {}\n{}", part.title, table.caption, table_with(&head, &table.lines, |column| column == 0)))?;
        }
        part.notes.iter().try_for_each(say)?;
    }
    say(format!("\nwritten: {}", out.join(format!("{}.md", plan.name)).display()))
}

fn list(json: bool) -> Result<()> {
    let plans = Plan::all()?;
    if json {
        let rows = |plan: &Plan| plan.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        let all: Vec<_> = plans
            .iter()
            .map(|p| serde_json::json!({ "name": p.name, "title": p.title, "data": p.data, "seeds": p.seeds, "rows": rows(p) }))
            .collect();
        return say_json(&all);
    }
    let row = |p: &Plan| vec![p.name.clone(), p.rows.len().to_string(), p.seeds.len().to_string(), p.data.join(", "), p.title.clone()];
    let rows: Vec<Vec<String>> = plans.iter().map(row).collect();
    say(table_with(&["table", "rows", "seeds", "data", "what"], &rows, |column| ![1, 2].contains(&column)))
}
