//! A training by one process or by several. Rank 0 leads: it runs the command, decides and writes the run folder; what it asks of the others is an
//! [`Order`], and [`follow`] does it there.

use super::checkpoint::Checkpoint;
use super::device::{Devices, RunDevice};
use super::orders::{Order, Training};
use crate::base::parcel::{Parcel, Pieces};
use crate::base::{clean, parallel};
use crate::cluster::{self, RankLog, Reduce, Spent, agree};
use crate::config::{Settings, Validated, ViewSettings};
use crate::data::{Dataset, Sought};
use crate::engine::NamedTensor;
use crate::engine::cuda::DeviceUse;
use crate::federation::{RoundReport, Trainer};
use crate::model::Weights;
use crate::views::{self, Views};
use crate::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A trainer, and the processes that train with it where there are several.
pub struct Team {
    trainer: Trainer,
    ranks: Option<Arc<dyn Reduce>>,
    asked_to_stop: bool,
}

impl Team {
    /// Rank 0's part of a new training.
    ///
    /// # Errors
    /// As for [`Trainer::of`]; where another process cannot take part.
    pub(super) fn open(device: &RunDevice, settings: &Validated<Settings>, data: &Arc<Dataset>, views: &Arc<Views>) -> Result<Team> {
        let ranks = device.ranks().cloned();
        if let Some(ranks) = &ranks {
            let (settings, data, views) = (settings.clone(), data.clone(), views.clone());
            give(&**ranks, &Order::Open(Box::new(Training { settings, data, views, on_gpu: device.device().is_some() })))?;
        }
        let made = device.own_trainer(settings, data, views);
        let trainer = match &ranks {
            // A training that some process cannot take part in was never opened.
            Some(ranks) => agree(&**ranks, made)?,
            None => made?,
        };
        Ok(Team { trainer, ranks, asked_to_stop: false })
    }

    /// See [`Trainer::describe`].
    pub fn describe(&self) -> Option<String> {
        self.trainer.describe()
    }

    /// Tells the others, if there are any.
    fn order(&self, order: impl FnOnce() -> Order) -> Result<()> {
        self.ranks.as_ref().map_or(Ok(()), |ranks| give(&**ranks, &order()))
    }

    fn agreed<T>(&self, outcome: Result<T>) -> Result<T> {
        match &self.ranks {
            Some(ranks) => agree(&**ranks, outcome),
            None => outcome,
        }
    }

    /// See [`Trainer::round_with`].
    ///
    /// # Errors
    /// As for it; [`Error::Cluster`] where another process failed.
    pub fn round_with(&mut self, progress: &crate::engine::Progress) -> Result<RoundReport> {
        self.order(|| Order::Round)?;
        let outcome = self.trainer.round_with(progress);
        let report = self.agreed(outcome)?;
        if let Some(ranks) = &self.ranks {
            self.asked_to_stop |= any(&**ranks, false)?;
        }
        Ok(report)
    }

    /// [`Team::round_with`] without a word on the way.
    ///
    /// # Errors
    /// As for it.
    pub fn round(&mut self) -> Result<RoundReport> {
        self.round_with(&|_, _| {})
    }

    /// Whether another process was asked to stop.
    pub fn asked_to_stop(&self) -> bool {
        self.asked_to_stop
    }

    /// See [`Trainer::rank`].
    ///
    /// # Errors
    /// As for it; [`Error::Cluster`] where another process failed.
    pub fn rank(&mut self, sought: impl Into<Sought>, users: &[u32], progress: &crate::engine::Progress) -> Result<Vec<u32>> {
        let sought = sought.into();
        self.order(|| Order::Rank(sought, users.to_vec()))?;
        let outcome = self.trainer.rank(sought, users, progress);
        self.agreed(outcome)
    }

    /// See [`Trainer::recommend`]. One history is this process's own business.
    ///
    /// # Errors
    /// As for it.
    pub fn recommend(&mut self, user: Option<u32>, history: &[u32], k: usize) -> Result<Vec<(u32, f32)>> {
        self.trainer.recommend(user, history, k)
    }

    /// See [`Trainer::weights`], copied.
    ///
    /// # Errors
    /// As for it.
    pub fn weights(&self) -> Result<Weights> {
        Ok(self.trainer.weights()?.into_owned())
    }

    /// See [`Trainer::tensors`].
    ///
    /// # Errors
    /// As for it; [`Error::Cluster`] where another process failed.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        self.order(|| Order::Tensors)?;
        self.agreed(self.trainer.tensors())
    }

    /// Goes on from `checkpoint`.
    ///
    /// # Errors
    /// As for [`Trainer::restore`]; [`Error::Cluster`] where another process failed.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.order(|| Order::Restore(Box::new(checkpoint.clone())))?;
        let outcome = self.trainer.restore(&checkpoint.tensors, checkpoint.meta.round);
        self.agreed(outcome)
    }

    /// See [`Trainer::snapshot`]: of this process alone.
    ///
    /// # Errors
    /// As for it.
    pub fn snapshot(&mut self) -> Result<()> {
        self.trainer.snapshot()
    }

    /// See [`Trainer::last_snapshot`]: what this process has by itself.
    ///
    /// # Errors
    /// As for it.
    pub fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        self.trainer.last_snapshot()
    }

    /// See [`Trainer::set_spill_folder`].
    pub fn set_spill_folder(&mut self, folder: PathBuf) {
        self.trainer.set_spill_folder(folder);
    }

    /// See [`Trainer::device_use`].
    ///
    /// # Errors
    /// As for it.
    pub fn device_use(&self) -> Result<Option<DeviceUse>> {
        self.trainer.device_use()
    }

    /// What exchanges have cost each process so far, by rank; nothing for a process alone.
    ///
    /// # Errors
    /// Where the transport fails.
    pub fn spent(&self) -> Result<Vec<Spent>> {
        let Some(ranks) = &self.ranks else { return Ok(Vec::new()) };
        self.order(|| Order::Spent)?;
        spent_of_all(&**ranks)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        // In a panic the others may be in the middle of something else; they end with this process.
        if std::thread::panicking() {
            return;
        }
        // A transport that fails has ended the process by itself.
        let _ = self.order(|| Order::Close);
    }
}

/// The other processes as those that help with views.
pub(super) struct Others<'r>(pub &'r dyn Reduce);

impl views::Helpers for Others<'_> {
    fn begin(&self, data: &Dataset, settings: &ViewSettings) -> Result<&dyn Reduce> {
        give(self.0, &Order::Views(Box::new((data.clone(), settings.clone()))))?;
        Ok(self.0)
    }
}

/// Has the other processes write their messages beside the run in `folder`, until its training is over.
///
/// # Errors
/// Where the transport fails.
pub(super) fn log_into(ranks: Option<&Arc<dyn Reduce>>, folder: &Path) -> Result<()> {
    let Some(ranks) = ranks else { return Ok(()) };
    // The others may stand in another folder.
    give(&**ranks, &Order::Log(std::path::absolute(folder).map_err(Error::io(folder, "find"))?))
}

fn give(ranks: &dyn Reduce, order: &Order) -> Result<()> {
    ranks.broadcast(order.encode()?).map(drop)
}

/// Whether any process says yes.
fn any(ranks: &dyn Reduce, own: bool) -> Result<bool> {
    let mut yes = [i64::from(own)];
    ranks.sum(&mut yes)?;
    Ok(yes[0] > 0)
}

fn spent_of_all(ranks: &dyn Reduce) -> Result<Vec<Spent>> {
    let own = ranks.spent();
    let all = ranks.gather(&Parcel::new().longs(&[own.exchanges, own.bytes, own.seconds.to_bits()]).into_bytes())?;
    let read = |bytes: &Vec<u8>| {
        let [exchanges, bytes, seconds]: [u64; 3] = Pieces::of(bytes).longs()?.try_into().ok()?;
        Some(Spent { exchanges, bytes, seconds: f64::from_bits(seconds) })
    };
    all.iter().map(|bytes| read(bytes).ok_or_else(|| Error::Cluster("figures of another process came damaged".into()))).collect()
}

/// Ends the work of the other processes, from rank 0: each leaves [`follow`].
///
/// # Errors
/// Where the transport fails.
pub fn dismiss(ranks: &dyn Reduce) -> Result<()> {
    give(ranks, &Order::End)
}

/// Time between two lines of a log that say where a training is.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Does what rank 0 asks, until it says that everything is over. `devices` are those of this process, `log` takes its messages. `stop` is passed on
/// to rank 0, which decides.
///
/// # Errors
/// Where this process fails by itself. The caller then has to end all processes, for the others wait for it.
pub fn follow(ranks: &Arc<dyn Reduce>, devices: &mut Devices, log: &RankLog, stop: &AtomicBool) -> Result<()> {
    let mut open: Option<Trainer> = None;
    let mut due = Instant::now();
    let mut rounds_done = 0;
    let worked = |_, _| cluster::worked();
    // What this process failed at, in its own words: rank 0 prints the first failure alone.
    let noted = |what: &str, e: &Error| {
        log.line(&format!("error: {what}: {e}"));
    };
    loop {
        let order = Order::decode(&ranks.broadcast(Vec::new())?)?;
        let no_training = || Error::Cluster("rank 0 asks for a training that is not open".into());
        match order {
            Order::End => return Ok(()),
            Order::Log(folder) => {
                log.open(Some(&folder), ranks.rank());
                let version = env!("CARGO_PKG_VERSION");
                let (name, size, pid) = (ranks.name(ranks.rank()), ranks.size(), std::process::id());
                if !log.line(&format!("{name} of {size}, lumos {version}, process {pid}, {} threads", parallel::threads(0))) {
                    // The training does not need it.
                    let folder = clean::path(&folder);
                    let _ = writeln!(std::io::stderr(), "{name}: cannot write into {folder} from here; its messages have no file");
                }
            }
            Order::Spent => drop(spent_of_all(&**ranks)?),
            Order::Close => {
                if open.take().is_some() {
                    log.line(&format!("the training is over after round {rounds_done}"));
                }
                log.open(None, ranks.rank());
            }
            Order::Views(wanted) => {
                let (data, settings) = *wanted;
                let name = ranks.name(ranks.rank());
                let note = |text: &str| drop(writeln!(std::io::stderr(), "{name}: {}", clean::message(text)));
                views::help(&data, &settings, &**ranks, parallel::threads(0), &note)?;
            }
            Order::Open(training) => {
                let Training { settings, data, views, on_gpu } = *training;
                let made = devices.beside(on_gpu).and_then(|device| {
                    log.line(&format!("{} on {}; {}", settings.method, data.name, device.line));
                    device.own_trainer(&settings, &data, &views)
                });
                made.as_ref().err().iter().for_each(|e| noted("the training cannot begin", e));
                // Rank 0 has this process's reason, and decides.
                open = agree(&**ranks, made).ok();
                (due, rounds_done) = (Instant::now(), 0);
            }
            Order::Round => {
                let trainer = open.as_mut().ok_or_else(no_training)?;
                let outcome = trainer.round_with(&worked);
                outcome.as_ref().err().iter().for_each(|e| noted(&format!("the round after {rounds_done}"), e));
                if let Ok(report) = agree(&**ranks, outcome) {
                    rounds_done = report.round;
                    if due <= Instant::now() {
                        log.line(&format!("round {} done: {} clients of all ranks, {:.3} s", report.round, report.clients, report.seconds));
                        due = Instant::now() + LOG_EVERY;
                    }
                    let stop = stop.load(Ordering::SeqCst);
                    if stop {
                        log.line(&format!("asked to stop; rank 0 hears of it after round {rounds_done}"));
                    }
                    any(&**ranks, stop)?;
                }
            }
            Order::Rank(sought, users) => {
                let outcome = open.as_mut().ok_or_else(no_training)?.rank(sought, &users, &worked);
                outcome.as_ref().err().iter().for_each(|e| noted("ranking", e));
                let _ = agree(&**ranks, outcome);
            }
            Order::Tensors => {
                let outcome = open.as_ref().ok_or_else(no_training)?.tensors();
                outcome.as_ref().err().iter().for_each(|e| noted("its share of a checkpoint", e));
                let _ = agree(&**ranks, outcome);
            }
            Order::Restore(checkpoint) => {
                let outcome = open.as_mut().ok_or_else(no_training)?.restore(&checkpoint.tensors, checkpoint.meta.round);
                match &outcome {
                    Ok(()) => drop(log.line(&format!("goes on after round {}", checkpoint.meta.round))),
                    Err(e) => noted("going on from a checkpoint", e),
                }
                rounds_done = checkpoint.meta.round;
                let _ = agree(&**ranks, outcome);
            }
        }
    }
}
