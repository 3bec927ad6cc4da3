//! The loop over rounds: train, validate, save, stop; then the test of the best checkpoint.

use super::board::Board;
use super::checkpoint::{Checkpoint, CheckpointMeta};
use super::claim::Claim;
use super::device::RunDevice;
use super::exposure::add_exposure;
use super::folder::{RunFolder, read_json, write_json};
use super::metrics::{Line, MetricsFile, read_lines};
use super::notice::returning_notice;
use super::pipeline::{Prepared, outside_promise};
use super::ranks::write_ranks;
use super::result::{RunResult, diverged, scores};
use super::resume::newest;
use super::several::add_several;
use super::team::{Team, log_into};
use super::watch::Watch;
use super::{Observer, page};
use crate::base::rng::{Purpose, Stream};
use crate::config::methods::{self, Family};
use crate::config::{Effective, Settings, Validated};
use crate::data::{Dataset, Sought, Split};
use crate::settings::validate_against;
use crate::{Error, Result, eval};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two saves of `last` where no validation falls due. Changes no result.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// A save that takes longer is made only where this many times as long has gone by since the one before: what clients keep to themselves can be
/// gigabytes. A new best model is saved always.
const SLOW_SAVE: (Duration, u32) = (Duration::from_secs(1), 9);

/// Whether to save `since` the last save, which took `saving`.
fn affordable(since: Duration, saving: Duration) -> bool {
    saving <= SLOW_SAVE.0 || since >= SLOW_SAVE.1 * saving
}

/// What to train and where.
pub struct Job<'a> {
    /// Settings.
    pub effective: &'a Effective,
    /// Data set and views.
    pub prepared: &'a Prepared,
    /// Where to train.
    pub device: &'a RunDevice,
    /// Run folder. The run that it holds is continued.
    pub out: &'a Claim,
    /// Set by whoever wants the run to stop after the current round.
    pub stop: &'a AtomicBool,
}

/// Trains the job to its end and tests the best checkpoint.
///
/// # Errors
/// [`Error::Interrupted`] after a stop, with everything saved; [`Error::Stopped`] where a device or another process failed, with what was good
/// saved;
/// the errors of data, settings and disk.
pub fn train(job: &Job, observer: &dyn Observer) -> Result<RunResult> {
    let settings = &job.effective.settings;
    let data = &job.prepared.data;
    validate_against(settings, data.users(), data.item_count())?;
    let (folder, resumed) = job.out.begin(job.effective, job.prepared)?;
    if methods::find(&settings.method)?.family == Family::Baseline {
        return popularity(folder, job.effective, data);
    }
    let rounds = u64::from(settings.federation.rounds);
    let last = folder.checkpoint("last");
    let checkpoint = if resumed { newest(folder, settings, data, observer)? } else { None };
    let meta = checkpoint.as_ref().map_or_else(|| CheckpointMeta::new(settings, data), |c| c.meta.clone());
    if (meta.round >= rounds || patience_is_over(settings, &meta))
        && folder.result().exists()
        && let Ok(result) = read_json::<RunResult>(&folder.result())
    {
        observer.note("was finished already");
        folder.ended()?;
        return Ok(result);
    }
    let mut device = job.device.clone();
    log_into(device.ranks(), folder.root())?;
    let mut trainer = device.trainer(settings, data, &job.prepared.views)?;
    device.tell(observer);
    if let Some(line) = trainer.describe() {
        observer.note(&line);
    }
    trainer.set_spill_folder(folder.private());
    if let Some(before) = folder.note_device(device.name())?.filter(|before| before != device.name() && meta.round > 0) {
        observer.note(&format!(
            "trained on {before} so far: bits from here on are those of {}, and differ from what {before} would have gone on to",
            device.name()
        ));
    }
    if let Some(checkpoint) = &checkpoint {
        trainer.restore(checkpoint).map_err(|e| Error::mismatch(&last, e.to_string()))?;
        observer.note(&format!("resumed after round {}", meta.round));
    } else if resumed {
        observer.note("nothing was saved yet: starting from the first round");
    }
    drop(checkpoint);
    let metrics = MetricsFile::open(&folder.metrics(), meta.round)?;
    let board = Board::open(&folder.tensorboard(), meta.round, settings)?;
    let watch = Watch::over(device.device().map(|d| &**d));
    let users = validation_users(settings, data);
    let notice = returning_notice(job.effective, data);
    let mut run = Run {
        settings: settings.into(),
        data: data.clone(),
        notice,
        folder: folder.clone(),
        last,
        users,
        metrics,
        board,
        watch,
        saved: meta.clone(),
        written: meta.clone(),
        validated: 0,
        warned: false,
        meta,
    };
    observer.training(&settings.method, run.meta.round, rounds);
    match run.rounds(&mut trainer, job.stop, observer).and_then(|()| run.finish(&mut trainer, observer)) {
        Err(fault @ (Error::Device(_) | Error::Cluster(_))) => {
            observer.trained();
            Err(run.rescue(&mut trainer, fault))
        }
        outcome => outcome,
    }
}

/// A run at work.
struct Run {
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    /// What the report says of targets that users had met before.
    notice: Option<String>,
    folder: RunFolder,
    /// Path of the last checkpoint.
    last: PathBuf,
    /// Users of a validation.
    users: Vec<u32>,
    metrics: MetricsFile,
    board: Board,
    watch: Watch,
    meta: CheckpointMeta,
    /// As it stands in `last`.
    saved: CheckpointMeta,
    /// As it stood when the last line of the metrics was written.
    written: CheckpointMeta,
    /// The last round of this start that was validated.
    validated: u64,
    /// Whether a warning of diverged clients was given.
    warned: bool,
}

impl Run {
    /// Trains round after round until rounds or patience are over.
    fn rounds(&mut self, trainer: &mut Team, stop: &AtomicBool, observer: &dyn Observer) -> Result<()> {
        let settings = self.settings.clone();
        let rounds = u64::from(settings.federation.rounds);
        let (mut saved, mut saving) = (Instant::now(), Duration::ZERO);
        while self.meta.round < rounds && !patience_is_over(&settings, &self.meta) {
            self.watch.begin();
            let report = trainer.round_with(&|done, total| observer.in_round(done, total))?;
            let joules = self.watch.processors();
            self.meta.round = report.round;
            observer.round(&report);
            if report.diverged > 0 && !std::mem::replace(&mut self.warned, true) {
                observer.warn(&format!(
                    "round {}: {} clients diverged and were left out; the end says how many did",
                    report.round, report.diverged
                ));
            }
            let due = self.meta.round.is_multiple_of(u64::from(settings.eval.every)) || self.meta.round == rounds;
            let affordable = affordable(saved.elapsed(), saving);
            let late = affordable && saved.elapsed() > SAVE_EVERY;
            let mut line = Line { report, cpu_joules: joules, valid: None, best: None, gpu: self.watch.end(due || late) };
            let best = due && validate(&settings, (&self.data, &self.users), trainer, &mut self.meta, &mut line, observer)?;
            self.metrics.append(&line)?;
            self.written = self.meta.clone();
            if due {
                self.validated = self.meta.round;
            }
            self.board.line(&line)?;
            let stop = (stop.load(Ordering::SeqCst) || trainer.asked_to_stop()) && self.meta.round < rounds;
            if best || due && affordable || late || stop || self.meta.round == rounds || patience_is_over(&settings, &self.meta) {
                let start = Instant::now();
                trainer.snapshot()?;
                let state = Checkpoint { meta: self.meta.clone(), tensors: trainer.tensors()? };
                // First the last one, from which a run that is killed in between makes the best one again.
                self.save(&state)?;
                if best {
                    state.save(&self.folder.checkpoint("best"))?;
                }
                (saved, saving) = (Instant::now(), start.elapsed());
            }
            if stop && !patience_is_over(&settings, &self.meta) {
                observer.trained();
                return Err(Error::Interrupted(format!("round {} of {rounds} is saved in {}", self.meta.round, self.last.display())));
            }
        }
        observer.trained();
        Ok(())
    }

    fn save(&mut self, state: &Checkpoint) -> Result<()> {
        self.metrics.sync()?;
        state.save_over(&self.last, &self.folder.checkpoint("previous"))?;
        self.saved = state.meta.clone();
        Ok(())
    }

    /// Saves what is left after `fault`: the newest weights that the host has, unless the last checkpoint is as new.
    fn rescue(&mut self, trainer: &mut Team, fault: Error) -> Error {
        if !matches!(&fault, Error::Device(fault) if fault.is_sticky()) {
            // The device still answers, so that nothing is lost. Where it does not after all, the host's copy is what there is.
            let _ = trainer.snapshot();
        }
        // A round whose metrics are not written cannot be gone on from; nor can one that is to be validated first, or that a validation has followed.
        let saved = match trainer.last_snapshot() {
            Ok((tensors, round)) if round > self.saved.round && round >= self.validated && round <= self.written.round => {
                self.save(&Checkpoint { meta: CheckpointMeta { round, ..self.written.clone() }, tensors })
            }
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        };
        let rounds = self.settings.federation.rounds;
        let saved = match (saved, self.saved.round) {
            (Err(e), round) => format!("saving failed as well ({e}); round {round} of {rounds} was saved before"),
            (Ok(()), 0) => "no round was finished before it".to_string(),
            (Ok(()), round) => format!("round {round} of {rounds} is saved in {}", self.last.display()),
        };
        Error::Stopped { source: Box::new(fault), saved }
    }

    /// Tests the best checkpoint and writes what a reader wants.
    fn finish(&mut self, trainer: &mut Team, observer: &dyn Observer) -> Result<RunResult> {
        let (settings, data) = (&self.settings, &self.data);
        let path = self.folder.checkpoint("best");
        let best = Checkpoint::load(&path)?;
        best.belongs_to(&path, settings, data)?;
        trainer.restore(&best).map_err(|e| Error::mismatch(&path, e.to_string()))?;
        let users: Vec<u32> = (0..data.users() as u32).collect();
        let mut measure = |split: Split, name: &str| -> Result<super::Scores> {
            let ranks = trainer.rank(split, &users, &|done, total| observer.stage(name, done, total))?;
            observer.stage_end(name);
            write_ranks(&self.folder.ranks(split), &ranks, &data.fingerprint)?;
            let mut found = scores(&eval::metrics(&ranks, &settings.eval.k))?;
            let mut rank = |sought: Sought, users: &[u32]| trainer.rank(sought, users, &|_, _| ());
            add_several(settings, data, split, (&users, &ranks), &mut found, &mut rank)?;
            add_exposure(settings, data, split, &users, &mut found, rank)?;
            Ok(found)
        };
        let validation = measure(Split::Validation, "validating")?;
        let test = measure(Split::Test, "testing")?;
        self.board.test(best.meta.round, &test)?;
        let lines = read_lines(&self.folder.metrics())?;
        let total = |key: &str| lines.iter().filter_map(|l| l.get(key)?.as_f64()).sum::<f64>();
        let (seconds, epochs) = (total("seconds"), total("client_epochs"));
        let ended_by = if self.meta.round < u64::from(settings.federation.rounds) { "patience" } else { "rounds" };
        let joules = |pointer: &str| {
            let found: Vec<f64> = lines.iter().filter_map(|line| line.pointer(pointer)?.as_f64()).collect();
            (!found.is_empty()).then(|| found.iter().sum())
        };
        let result = RunResult {
            best_round: best.meta.round,
            ended_by: ended_by.to_string(),
            rounds: self.meta.round,
            validation,
            test,
            device: self.folder.info()?.device.unwrap_or_default(),
            gpu_joules: joules("/gpu/joules"),
            // A sum of some rounds would look like one of all.
            cpu_joules: joules("/cpu_joules").filter(|_| lines.iter().all(|line| line.get("cpu_joules").is_some())),
            train_seconds: seconds,
            client_epochs: epochs as u64,
            client_epochs_per_s: if seconds > 0.0 { epochs / seconds } else { 0.0 },
            diverged: total("diverged") as u64,
            bytes_up: total("bytes_up") as u64,
            bytes_down: total("bytes_down") as u64,
            outside_promise: outside_promise(settings),
            ..untrained(settings, data)
        };
        diverged(&result).iter().for_each(|text| observer.warn(text));
        close(&self.folder, &result, data, self.notice.as_deref())?;
        Ok(result)
    }
}

fn patience_is_over(settings: &Settings, meta: &CheckpointMeta) -> bool {
    settings.eval.patience > 0 && meta.stale >= u64::from(settings.eval.patience)
}

/// Validates, notes the outcome in `meta` and `line`, and says whether it is the best so far.
fn validate(
    settings: &Settings,
    (data, users): (&Dataset, &[u32]),
    trainer: &mut Team,
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
    let mut found = scores(&metrics)?;
    let mut rank = |sought: Sought, users: &[u32]| trainer.rank(sought, users, &|_, _| ());
    add_several(settings, data, Split::Validation, (users, &ranks), &mut found, &mut rank)?;
    add_exposure(settings, data, Split::Validation, users, &mut found, rank)?;
    line.valid = Some(serde_json::Value::Object(found));
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

/// The baseline that trains nothing.
fn popularity(folder: &RunFolder, effective: &Effective, data: &Dataset) -> Result<RunResult> {
    let settings = &effective.settings;
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let measure = |split: Split| -> Result<super::Scores> {
        let ranks = eval::popularity_ranks(data, settings.eval.mask, split, &users);
        write_ranks(&folder.ranks(split), &ranks, &data.fingerprint)?;
        let mut found = scores(&eval::metrics(&ranks, &settings.eval.k))?;
        let mut rank = |sought: Sought, users: &[u32]| Ok(eval::popularity_ranks(data, settings.eval.mask, sought, users));
        add_several(settings, data, split, (&users, &ranks), &mut found, &mut rank)?;
        add_exposure(settings, data, split, &users, &mut found, rank)?;
        Ok(found)
    };
    let result = RunResult { validation: measure(Split::Validation)?, test: measure(Split::Test)?, ..untrained(settings, data) };
    close(folder, &result, data, returning_notice(effective, data).as_deref())?;
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
        device: "CPU".to_string(),
        gpu_joules: None,
        cpu_joules: None,
        train_seconds: 0.0,
        client_epochs: 0,
        client_epochs_per_s: 0.0,
        diverged: 0,
        bytes_up: 0,
        bytes_down: 0,
        outside_promise: None,
    }
}

fn close(folder: &RunFolder, result: &RunResult, data: &Dataset, notice: Option<&str>) -> Result<()> {
    folder.ended()?;
    let html = page::of_run(folder, result, data, notice)?;
    crate::base::files::write_file(&folder.report(), html.as_bytes())?;
    // Last, because its presence says that the run is finished.
    write_json(&folder.result(), result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_saves_take_a_tenth_of_the_time_and_quick_ones_are_always_made() {
        let ms = Duration::from_millis;
        for (since, saving, expected) in
            [(0, 0, true), (0, 1000, true), (8999, 1000, true), (9008, 1001, false), (9009, 1001, true), (89_999, 10_000, false)]
        {
            assert_eq!(affordable(ms(since), ms(saving)), expected, "{since} {saving}");
        }
    }
}
