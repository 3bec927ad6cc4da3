//! `lumos sweep`: many trials of one configuration, each a run folder, chosen by validation.

mod plan;

use super::claim::{Claim, Start};
use super::folder::{read_json, write_json};
use super::lanes::{Warnings, side_by_side};
use super::pipeline::prepare;
use super::train::{Job, train};
use super::{Devices, Observer, RunResult};
use crate::base::{clean, parallel};
use crate::config::Effective;
use crate::{Error, Result};
use parking_lot::Mutex;
pub use plan::{Plan, Range};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// File with the plan of a sweep, in its folder.
const PLAN: &str = "sweep.json";
/// Most characters of a trial's values in the name of its folder.
const NAME: usize = 60;

/// A trial and what came out of it.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The settings that are its own, `KEY=VALUE`.
    pub sets: Vec<(String, String)>,
    /// Run folder of each seed.
    pub folders: Vec<PathBuf>,
    /// Rounds that it was given.
    pub rounds: u32,
    /// The result of each seed; empty for a trial that was not trained.
    pub results: Vec<RunResult>,
    /// Mean over seeds of the selected metric on validation.
    pub score: f64,
}

impl Trial {
    /// Its values as one text.
    pub fn name(&self) -> String {
        let all: Vec<String> = self.sets.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if all.is_empty() { "as configured".into() } else { all.join(" ") }
    }

    /// Mean and sample standard deviation over seeds of a metric on validation or test.
    pub fn spread(&self, test: bool, metric: &str) -> Option<(f64, f64)> {
        let values: Vec<f64> =
            self.results.iter().filter_map(|r| if test { &r.test } else { &r.validation }.get(metric)?.as_f64()).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        (!values.is_empty()).then(|| (mean, variance.sqrt()))
    }
}

/// What a sweep needs beside its plan.
pub struct Sweep<'a> {
    /// The settings with more `KEY=VALUE` behind those of the command line.
    pub load: &'a (dyn Fn(&[String]) -> Result<Effective> + Sync),
    /// What is tried.
    pub plan: &'a Plan,
    /// Folder of the run folders.
    pub out: &'a Path,
    /// Trials that are trained side by side; 1 where several processes share each trial.
    pub jobs: usize,
    /// Where trials are trained that are not side by side.
    pub devices: Mutex<Devices>,
    /// Set by whoever wants the sweep to stop after the current rounds.
    pub stop: &'a AtomicBool,
}

/// One training: a trial and the place of its seed.
struct Work {
    trial: usize,
    folder: PathBuf,
    effective: Effective,
}

/// Trains the trials and gives them best first. What is finished in the folder is reused and what was interrupted goes on.
///
/// # Errors
/// [`Error::Mismatch`] where the folder holds a sweep with another plan, [`Error::Setting`] for a trial's settings, before anything is trained;
/// the errors of training; [`Error::Interrupted`] after a stop.
pub fn sweep(sweep: &Sweep, observer: &dyn Observer) -> Result<Vec<Trial>> {
    if sweep.jobs > 1 && sweep.devices.lock().several() {
        return Err(Error::Usage(format!("--jobs: is {}, must be 1 with several processes, which share every trial", sweep.jobs)));
    }
    let base = (sweep.load)(&[])?;
    let all = sweep.plan.trials()?;
    let seeds = if sweep.plan.seeds.is_empty() { vec![base.settings.seed] } else { sweep.plan.seeds.clone() };
    let rungs = sweep.plan.rungs(all.len(), base.settings.federation.rounds);
    let fed = &base.settings.federation;
    let shares = [
        ("federation.server_decay", fed.server_decay),
        ("federation.server_warmup", fed.server_warmup),
        ("local.decay", base.settings.local.decay),
    ];
    if let Some((key, _)) = shares.into_iter().find(|(_, share)| rungs.len() > 1 && *share > 0.0) {
        let message = "is above 0, so that every round depends on how many there are: a trial cannot go on to a longer rung; set it to 0";
        return Err(Error::setting(key, message));
    }
    keep_plan(sweep)?;
    let mut trials: Vec<Trial> = Vec::new();
    for (number, sets) in all.into_iter().enumerate() {
        let mut trial = Trial { sets, folders: Vec::new(), rounds: 0, results: Vec::new(), score: f64::NEG_INFINITY };
        let name = folder_name(number, &trial);
        trial.folders = seeds.iter().map(|seed| sweep.out.join(format!("{name}-seed-{seed}"))).collect();
        trials.push(trial);
    }
    // All settings first: a value that is refused is said before hours of training.
    trials.iter().try_for_each(|trial| effective(sweep, trial, seeds[0], rungs[0].0).map(drop))?;
    prepare(&base.settings, observer)?;
    let mut alive: Vec<usize> = (0..trials.len()).collect();
    for (rounds, size) in rungs {
        alive.truncate(size);
        let mut work = Vec::new();
        for &trial in &alive {
            for (seed, folder) in seeds.iter().zip(&trials[trial].folders) {
                work.push(Work { trial, folder: folder.clone(), effective: effective(sweep, &trials[trial], *seed, rounds)? });
            }
            (trials[trial].rounds, trials[trial].results) = (rounds, Vec::new());
        }
        for (trial, result) in run(sweep, &work, observer)? {
            trials[trial].results.push(result);
        }
        for &trial in &alive {
            let metric = base.settings.eval.select.as_str();
            trials[trial].score = trials[trial].spread(false, metric).map_or(f64::NEG_INFINITY, |(mean, _)| mean);
        }
        // Stable: of equals the earlier trial.
        alive.sort_by(|a, b| trials[*b].score.total_cmp(&trials[*a].score));
    }
    trials.sort_by(|a, b| b.rounds.cmp(&a.rounds).then(b.score.total_cmp(&a.score)));
    Ok(trials)
}

/// The settings of a trial's run.
fn effective(sweep: &Sweep, trial: &Trial, seed: u64, rounds: u32) -> Result<Effective> {
    let mut sets: Vec<String> = vec![format!("federation.rounds={rounds}")];
    if sweep.jobs > 1 {
        sets.push(format!("threads={}", (parallel::threads(0) / sweep.jobs).max(1)));
    }
    sets.extend(trial.sets.iter().map(|(key, value)| format!("{key}={value}")));
    sets.push(format!("seed={seed}"));
    (sweep.load)(&sets)
}

/// A name that says what is tried: `003-lr-0.01-dim-64`.
fn folder_name(number: usize, trial: &Trial) -> String {
    let words: Vec<String> = trial.sets.iter().map(|(key, value)| format!("{}-{value}", key.rsplit('.').next().unwrap_or(key))).collect();
    let plain: String = words.join("-").chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let plain: String = plain.chars().take(NAME).collect();
    let end = if plain.is_empty() { String::new() } else { format!("-{plain}") };
    format!("{:03}{end}", number + 1)
}

/// Writes the plan, or refuses a folder with another one.
fn keep_plan(sweep: &Sweep) -> Result<()> {
    let path = sweep.out.join(PLAN);
    if path.exists() {
        let was: Plan = read_json(&path)?;
        if was != *sweep.plan {
            return Err(Error::mismatch(&path, "is of a sweep over other values; give the same ones to go on, or choose another --out"));
        }
        return Ok(());
    }
    std::fs::create_dir_all(sweep.out).map_err(Error::io(sweep.out, "create"))?;
    write_json(&path, sweep.plan)
}

/// Trains all of `work`; the results in its order.
fn run(sweep: &Sweep, work: &[Work], observer: &dyn Observer) -> Result<Vec<(usize, RunResult)>> {
    let total = work.len();
    side_by_side(sweep.jobs, work, |at, work| {
        if sweep.stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted("the sweep; the same command goes on with it".into()));
        }
        let result = one(sweep, work, observer)?;
        let metric = &result.select;
        let value = result.validation.get(metric).and_then(serde_json::Value::as_f64).unwrap_or(f64::NAN);
        let name = work.folder.file_name().map_or(String::new(), |name| clean::line(&name.to_string_lossy(), 2 * NAME));
        observer.note(&format!("{name}: validation {metric} {value:.4} after {} rounds ({} of {total})", result.rounds, at + 1));
        Ok((work.trial, result))
    })
}

fn one(sweep: &Sweep, work: &Work, observer: &dyn Observer) -> Result<RunResult> {
    let quiet = Warnings(observer);
    // A later rung replaces the result of the run; what this one came to decides who goes on, however often the sweep is started.
    let path = work.folder.join(format!("rung-{}.json", work.effective.settings.federation.rounds));
    if path.exists() {
        return read_json(&path);
    }
    let claim = Claim::take(&work.folder, Start::Either)?;
    let settings = &work.effective.settings;
    // Trials side by side have a device each.
    let device = if sweep.jobs > 1 { Devices::default().to_train(settings)? } else { sweep.devices.lock().to_train(settings)? };
    let prepared = prepare(&work.effective.settings, &quiet)?;
    let job = Job { effective: &work.effective, prepared: &prepared, device: &device, out: &claim, stop: sweep.stop };
    let result = train(&job, &quiet)?;
    write_json(&path, &result)?;
    Ok(result)
}
