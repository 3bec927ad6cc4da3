//! `lumos sweep`: many trials of one configuration.

use super::args::{ConfigArgs, between};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::table_with;
use crate::base::clean;
use crate::config::Effective;
use crate::run::{self, Plan, Range, Sweep};
use crate::{Error, Result, settings};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Train many trials of one configuration and choose by validation: a grid, random draws, successive halving, several seeds
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos sweep configs/quickstart.toml --grid local.lr=0.01,0.03 --grid loss.lambda=0,0.1 --out runs/grid
  lumos sweep configs/quickstart.toml --random 20 --range local.lr=log:1e-3..1e-1 --range model.dim=int:16..64 --out runs/random
  lumos sweep configs/quickstart.toml --random 27 --range local.lr=log:1e-3..1e-1 --halving 3 --jobs 2 --out runs/halving
  lumos sweep configs/quickstart.toml --seeds 1,2,3 --out runs/seeds        one trial, mean and spread over seeds
Each trial and seed is a run folder below --out. The same command goes on with what was interrupted. Trials are compared on validation; the test
of the best one alone is shown. --halving N trains all trials for few rounds, and one in N of them goes on to N times as many.")]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// A setting and its values; may be repeated. In TOML a value with commas needs brackets: 'eval.k=[5,10],[10,20]'
    #[arg(long, value_name = "KEY=V1,V2,...")]
    grid: Vec<String>,
    /// A setting and the range that values are drawn from; may be repeated, needs --random
    #[arg(long, value_name = "KEY=KIND:LOW..HIGH")]
    range: Vec<String>,
    /// Number of draws, instead of every combination of the grid
    #[arg(long, value_name = "N", value_parser = between::<u32>(1, 10_000))]
    random: Option<u32>,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 1)]
    draw_seed: u64,
    /// Seeds of each trial [default: that of the configuration]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = between::<u64>(0, i64::MAX as u64))]
    seeds: Vec<u64>,
    /// Of the trials of a rung one in N goes on, with N times as many rounds
    #[arg(long, value_name = "N", value_parser = between::<u32>(2, 100))]
    halving: Option<u32>,
    /// Trials side by side; they share the threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = between::<u32>(1, 256))]
    jobs: u32,
    /// Folder of the run folders
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// One JSON list instead of the table
    #[arg(long)]
    json: bool,
}

/// The values between commas that stand outside of brackets and quotes.
fn values(text: &str) -> Vec<String> {
    let (mut all, mut depth, mut quoted) = (vec![String::new()], 0, false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            '[' if !quoted => depth += 1,
            ']' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = all.last_mut() {
            last.push(c);
        }
    }
    all.iter().map(|value| value.trim().to_string()).collect()
}

/// The key of `KEY=...` and what stands behind.
fn parts<'a>(flag: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    let found = text.split_once('=').map(|(key, rest)| (key.trim(), rest));
    found
        .filter(|(key, rest)| !key.is_empty() && !rest.trim().is_empty())
        .ok_or_else(|| Error::Usage(format!("{flag}: `{}` is no setting with values, such as local.lr=0.01,0.03", clean::id(text))))
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let grid = self.grid.iter().map(|text| parts("--grid", text).map(|(key, rest)| (key.to_string(), values(rest))));
        let grid = grid.collect::<Result<Vec<_>>>()?;
        let ranges = self.range.iter().map(|text| {
            let (key, rest) = parts("--range", text)?;
            Ok((key.to_string(), Range::parse(rest)?))
        });
        let ranges = ranges.collect::<Result<Vec<_>>>()?;
        let mut met = BTreeSet::new();
        if let Some(twice) = grid.iter().map(|(key, _)| key).chain(ranges.iter().map(|(key, _)| key)).find(|key| !met.insert(*key)) {
            return Err(Error::Usage(format!("`{}` is swept twice; name each setting once", clean::id(twice))));
        }
        if met.contains(&"seed".to_string()) {
            return Err(Error::Usage("seeds are no trials: --seeds 1,2,3 gives each trial several".into()));
        }
        if self.halving.is_some() && met.contains(&"federation.rounds".to_string()) {
            return Err(Error::Usage("--halving decides federation.rounds itself; leave it out of the grid".into()));
        }
        if met.is_empty() && self.seeds.is_empty() {
            return Err(Error::Usage("nothing to try: name values by --grid, ranges by --range with --random, or --seeds".into()));
        }
        let seeds: BTreeSet<u64> = self.seeds.iter().copied().collect();
        Ok(Plan { grid, ranges, draws: self.random, draw_seed: self.draw_seed, seeds: seeds.into_iter().collect(), halving: self.halving })
    }
}

pub fn main(args: &Args) -> Result<()> {
    let plan = args.plan()?;
    let sets = args.config.over.sets()?;
    let load = |more: &[String]| -> Result<Effective> { settings::load(Some(&args.config.config), &[&sets[..], more].concat()) };
    let stop: &AtomicBool = interrupt::listen()?;
    let progress = Progress::new(args.json);
    let job = Sweep { load: &load, plan: &plan, out: &args.out, jobs: args.jobs as usize, devices: ranks::devices().into(), stop };
    let trials = run::sweep(&job, &progress).map_err(|e| interrupt::how_to_resume(e, None))?;
    drop(progress);
    if args.json {
        return say_json(&trials);
    }
    let select = load(&[])?.settings.eval.select.clone();
    let several = plan.seeds.len() > 1;
    let shown = |trial: &run::Trial, test: bool| match trial.spread(test, &select) {
        Some((mean, deviation)) if several => format!("{mean:.4} ± {deviation:.4}"),
        Some((mean, _)) => format!("{mean:.4}"),
        None => "-".to_string(),
    };
    let rows: Vec<Vec<String>> = trials
        .iter()
        .enumerate()
        .map(|(place, trial)| {
            let folder = trial.folders.first().map_or(String::new(), |folder| folder.display().to_string());
            vec![(place + 1).to_string(), clean::line(&trial.name(), 70), trial.rounds.to_string(), shown(trial, false), folder]
        })
        .collect();
    say(table_with(&["", "trial", "rounds", &format!("validation {select}"), "first run folder"], &rows, |column| {
        matches!(column, 1 | 4)
    }))?;
    match trials.first() {
        Some(best) => say(format!("best: {}; test {select} {}", clean::line(&best.name(), 200), shown(best, true))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn values_stand_between_commas_outside_of_brackets() {
        assert_eq!(values("0.1, 0.2"), ["0.1", "0.2"]);
        assert_eq!(values("[5,10],[10, 20]"), ["[5,10]", "[10, 20]"]);
        assert_eq!(values("\"a,b\",c"), ["\"a,b\"", "c"]);
    }
}
