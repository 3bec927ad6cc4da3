//! `lumos train`: one method into one run folder.

use super::args::Overrides;
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::ranks;
use super::table::{metric, metric_names, several_names, table};
use crate::config::{Effective, methods};
use crate::run::{self, Claim, Job, Observer, Prepared, Start};
use crate::settings;
use crate::{Result, data};
use std::path::PathBuf;

/// Train one method and test its best checkpoint
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos train configs/quickstart.toml --out runs/first
  lumos train configs/quickstart.toml --out runs/first --resume          go on after an interruption
  lumos train configs/quickstart.toml --data data/world --out runs/world    on a prepared folder; its source files are not needed
  lumos train configs/amazon-beauty.toml --device cuda --out runs/gpu        on the first GPU, or an error that says why not
  lumos train configs/amazon-beauty.toml --set method=lumos-literal --set federation.rounds=60 --seed 2
Ctrl-C, SIGTERM and SIGUSR1 end the run after the current round and save it (exit codes 130, 143, 138); a second signal ends it at once.
One process at a time works in a run folder; another one is refused with the owner's name.")]
pub struct Args {
    /// Configuration file (TOML), such as configs/quickstart.toml; with --data it may be left out
    #[arg(required_unless_present = "data")]
    config: Option<PathBuf>,
    /// Folder of a prepared data set, instead of the one that the configuration describes
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
    /// Run folder [default: runs/<data>/<method>-<hash of the settings>]
    #[arg(long, value_name = "RUN")]
    out: Option<PathBuf>,
    /// Continue the run that is in the folder, to the same bits as if it had not been interrupted
    #[arg(long)]
    resume: bool,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// The settings that would be used.
    pub fn effective(&self) -> Result<Effective> {
        let effective = settings::load(self.config.as_deref(), &self.over.sets()?)?;
        match &self.data {
            Some(dir) => effective.on_prepared(dir, &data::load_manifest(dir)?.settings),
            None => Ok(effective),
        }
    }

    fn prepare(&self, effective: &Effective, observer: &dyn Observer) -> Result<Prepared> {
        match &self.data {
            Some(dir) => {
                let (data, dir) = run::open_data(dir, &effective.settings, observer)?;
                run::prepare_on(&effective.settings, data, dir, observer)
            }
            None => run::prepare(&effective.settings, observer),
        }
    }
}

pub fn main(args: &Args) -> Result<()> {
    let effective = args.effective()?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None => run::default_folder(&effective.settings)?,
    };
    let stop = interrupt::listen()?;
    let progress = Progress::new(args.json);
    let claim = Claim::take(&out, if args.resume { Start::Resume } else { Start::New })?;
    // Before anything is prepared: a GPU that cannot be had is better known at once.
    let device = ranks::devices().to_train(&effective.settings)?;
    let prepared = args.prepare(&effective, &progress).map_err(|e| interrupt::how_to_resume(e, None))?;
    run::returning_notice(&effective, &prepared.data).iter().for_each(|text| progress.warn(text));
    let job = Job { effective: &effective, prepared: &prepared, device: &device, out: &claim, stop };
    let result = run::train(&job, &progress).map_err(|e| interrupt::how_to_resume(e, Some("--resume")))?;
    drop(progress);
    if args.json {
        return say_json(&result);
    }
    let mut names = metric_names(&effective.settings.eval.k);
    names.extend(several_names(&effective.settings.eval.k, &result.test));
    let mut rows: Vec<Vec<String>> =
        names.into_iter().map(|n| vec![n.clone(), metric(&result.validation, &n), metric(&result.test, &n)]).collect();
    if let Some([validation, test]) = run::masked_targets(&result) {
        rows.push(vec!["masked targets".into(), validation.to_string(), test.to_string()]);
    }
    say(table(&[&result.method, "validation", "test"], &rows))?;
    if result.rounds > 0 {
        say(format!(
            "best of {} rounds by {}: round {}; {:.1} s of training, {:.0} {}/s",
            result.rounds,
            result.select,
            result.best_round,
            result.train_seconds,
            result.client_epochs_per_s,
            methods::steps_unit(&result.method)
        ))?;
    }
    if let Some(what) = &result.outside_promise {
        say(format!("outside the promise of privacy: {what}"))?;
    }
    say(format!("run folder: {}", out.display()))
}
