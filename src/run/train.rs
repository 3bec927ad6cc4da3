//! The loop over rounds: train, validate, save, stop; then the test of the best checkpoint.

use super::checkpoint::{Checkpoint, CheckpointMeta};
use super::folder::{RunFolder, read_json, write_json};
use super::metrics::{Line, MetricsFile, read_lines};
use super::pipeline::Prepared;
use super::ranks::write_ranks;
use super::result::{RunResult, scores};
use super::{Observer, report};
use crate::config::methods::{self, Family};
use crate::config::{Effective, Settings};
use crate::data::{Dataset, Split};
use crate::federation::Trainer;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result, eval};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest time between two saves of `last` where no validation falls due. Changes no result.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// What to train and where.
pub struct Job<'a> {
    /// Settings.
    pub effective: &'a Effective,
    /// Data set and views.
    pub prepared: &'a Prepared,
    /// Run folder.
    pub out: &'a Path,
    /// Continue the run that is there.
    pub resume: bool,
    /// Set by whoever wants the run to stop after the current round.
    pub stop: &'a AtomicBool,
}

/// Trains the job to its end and tests the best checkpoint.
///
/// # Errors
/// [`Error::Interrupted`] after a stop, with everything saved; whatever data, settings and disk bring.
pub fn train(job: &Job, observer: &dyn Observer) -> Result<RunResult> {
    let settings = &job.effective.settings;
    let data = &job.prepared.data;
    crate::config::validate_against(settings, data.users(), data.item_count())?;
    let folder = match job.resume {
        true => RunFolder::resume(job.out, job.effective, job.prepared)?,
        false => RunFolder::create(job.out, job.effective, job.prepared)?,
    };
    if methods::find(&settings.method)?.family == Family::Baseline {
        return popularity(&folder, settings, data);
    }
    let mut trainer = Trainer::new(settings, data, &job.prepared.views)?;
    trainer.set_spill_folder(folder.private());
    let mut meta = CheckpointMeta::new(settings, data);
    let last = folder.checkpoint("last");
    if job.resume && last.exists() {
        let checkpoint = Checkpoint::load(&last)?;
        checkpoint.belongs_to(&last, settings, data)?;
        let round = checkpoint.meta.round;
        trainer.restore(&checkpoint.tensors, round).map_err(|e| Error::mismatch(&last, e.to_string()))?;
        meta = checkpoint.meta;
        observer.note(&format!("resumed after round {round}"));
    } else if job.resume {
        observer.note("nothing was saved yet: starting from the first round");
    }
    let rounds = u64::from(settings.federation.rounds);
    if (meta.round >= rounds || patience_is_over(settings, &meta))
        && folder.result().exists()
        && let Ok(result) = read_json::<RunResult>(&folder.result())
    {
        observer.note("was finished already");
        folder.ended()?;
        return Ok(result);
    }
    let mut metrics = MetricsFile::open(&folder.metrics(), meta.round)?;
    let users = validation_users(settings, data);
    observer.training(&settings.method, meta.round, rounds);
    let mut saved = Instant::now();
    while meta.round < rounds && !patience_is_over(settings, &meta) {
        let report = trainer.round_with(&|done, total| observer.in_round(done, total))?;
        meta.round = report.round;
        observer.round(&report);
        let mut line = Line { report, valid: None, best: None };
        let due = meta.round.is_multiple_of(u64::from(settings.eval.every)) || meta.round == rounds;
        if due {
            let best = validate(settings, &trainer, &users, &mut meta, &mut line, observer)?;
            if best {
                Checkpoint { meta: meta.clone(), tensors: trainer.tensors()? }.save(&folder.checkpoint("best"))?;
            }
        }
        metrics.append(&line)?;
        let stop = job.stop.load(Ordering::SeqCst) && meta.round < rounds;
        if due || stop || saved.elapsed() > SAVE_EVERY {
            metrics.sync()?;
            Checkpoint { meta: meta.clone(), tensors: trainer.tensors()? }.save(&last)?;
            saved = Instant::now();
        }
        if stop && !patience_is_over(settings, &meta) {
            observer.trained();
            return Err(Error::Interrupted(format!("round {} of {rounds} is saved in {}", meta.round, last.display())));
        }
    }
    observer.trained();
    finish(&folder, settings, data, &mut trainer, &meta, observer)
}

fn patience_is_over(settings: &Settings, meta: &CheckpointMeta) -> bool {
    settings.eval.patience > 0 && meta.stale >= u64::from(settings.eval.patience)
}

/// Validates, notes the outcome in `meta` and `line`, and tells whether it is the best so far.
fn validate(
    settings: &Settings,
    trainer: &Trainer,
    users: &[u32],
    meta: &mut CheckpointMeta,
    line: &mut Line,
    observer: &dyn Observer,
) -> Result<bool> {
    let ranks = trainer.rank(Split::Validation, users, &|done, total| observer.stage("validating", done, total))?;
    observer.stage_end("validating");
    let metrics = eval::metrics(&ranks, &settings.eval.k);
    let select = &settings.eval.select;
    let value = metrics.get(select).ok_or_else(|| Error::setting("eval.select", format!("`{select}` was not measured")))?;
    // A value read back from a checkpoint may differ in its last bit; a tie must stay a tie after a resumption.
    let best = meta.best_round == 0 || value > meta.best_value + 1e-12;
    if best {
        (meta.best_round, meta.best_value, meta.stale) = (meta.round, value, 0);
    } else {
        meta.stale += 1;
    }
    line.valid = Some(serde_json::Value::Object(scores(&metrics)?));
    line.best = Some(best);
    observer.evaluated(select, value, best);
    Ok(best)
}

/// Users of a validation during training, in order: all, or a fixed number drawn by the seed.
fn validation_users(settings: &Settings, data: &Dataset) -> Vec<u32> {
    let mut users: Vec<u32> = (0..data.users() as u32).collect();
    let wanted = settings.eval.users as usize;
    if wanted > 0 && wanted < users.len() {
        // A round number that no cohort is ever drawn for.
        Stream::new(settings.seed, Purpose::Cohort, u64::from(u32::MAX), 0).shuffle(&mut users);
        users.truncate(wanted);
        users.sort_unstable();
    }
    users
}

/// Tests the best checkpoint and writes what a reader wants.
fn finish(
    folder: &RunFolder,
    settings: &Settings,
    data: &Dataset,
    trainer: &mut Trainer,
    meta: &CheckpointMeta,
    observer: &dyn Observer,
) -> Result<RunResult> {
    let path = folder.checkpoint("best");
    let best = Checkpoint::load(&path)?;
    best.belongs_to(&path, settings, data)?;
    trainer.restore(&best.tensors, best.meta.round).map_err(|e| Error::mismatch(&path, e.to_string()))?;
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let measure = |split: Split, name: &str| -> Result<super::Scores> {
        let ranks = trainer.rank(split, &users, &|done, total| observer.stage(name, done, total))?;
        observer.stage_end(name);
        write_ranks(&folder.ranks(split), &ranks, &data.fingerprint)?;
        scores(&eval::metrics(&ranks, &settings.eval.k))
    };
    let validation = measure(Split::Validation, "validating")?;
    let test = measure(Split::Test, "testing")?;
    let lines = read_lines(&folder.metrics())?;
    let total = |key: &str| lines.iter().filter_map(|l| l.get(key)?.as_f64()).sum::<f64>();
    let (seconds, epochs) = (total("seconds"), total("client_epochs"));
    let ended_by = if meta.round < u64::from(settings.federation.rounds) { "patience" } else { "rounds" };
    let result = RunResult {
        best_round: best.meta.round,
        ended_by: ended_by.to_string(),
        rounds: meta.round,
        validation,
        test,
        train_seconds: seconds,
        client_epochs: epochs as u64,
        client_epochs_per_s: if seconds > 0.0 { epochs / seconds } else { 0.0 },
        bytes_up: total("bytes_up") as u64,
        bytes_down: total("bytes_down") as u64,
        ..untrained(settings, data)
    };
    close(folder, settings, &result, &lines)?;
    Ok(result)
}

/// The baseline that trains nothing.
fn popularity(folder: &RunFolder, settings: &Settings, data: &Dataset) -> Result<RunResult> {
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let measure = |split: Split| -> Result<super::Scores> {
        let ranks = eval::popularity_ranks(data, split, &users);
        write_ranks(&folder.ranks(split), &ranks, &data.fingerprint)?;
        scores(&eval::metrics(&ranks, &settings.eval.k))
    };
    let result = RunResult { validation: measure(Split::Validation)?, test: measure(Split::Test)?, ..untrained(settings, data) };
    close(folder, settings, &result, &[])?;
    Ok(result)
}

fn untrained(settings: &Settings, data: &Dataset) -> RunResult {
    RunResult {
        method: settings.method.clone(),
        data: data.name.clone(),
        fingerprint: data.fingerprint.clone(),
        seed: settings.seed,
        rounds: 0,
        best_round: 0,
        select: settings.eval.select.clone(),
        ended_by: "nothing to train".to_string(),
        validation: super::Scores::new(),
        test: super::Scores::new(),
        train_seconds: 0.0,
        client_epochs: 0,
        client_epochs_per_s: 0.0,
        bytes_up: 0,
        bytes_down: 0,
    }
}

fn close(folder: &RunFolder, settings: &Settings, result: &RunResult, lines: &[serde_json::Value]) -> Result<()> {
    folder.ended()?;
    let html = report::html(settings, &folder.info()?, result, lines);
    super::write_file(&folder.report(), html.as_bytes())?;
    // Last, because its presence says that the run is finished.
    write_json(&folder.result(), result)
}
