//! A training by one process or by several. Rank 0 leads: it runs the command, decides and writes the run folder; what it asks of the others is an
//! [`Order`], and [`follow`] does it there.

use super::checkpoint::Checkpoint;
use super::device::{Devices, RunDevice};
use super::orders::{Order, Training};
use crate::base::parallel;
use crate::base::parcel::{Parcel, Pieces};
use crate::cluster::{self, Reduce, Spent, agree};
use crate::config::{Settings, Validated, ViewSettings};
use crate::data::{Dataset, Sought};
use crate::engine::NamedTensor;
use crate::engine::cuda::DeviceUse;
use crate::federation::{RoundReport, Trainer};
use crate::model::Weights;
use crate::views::{self, Views};
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

/// Does what rank 0 asks, until it says that everything is over. `devices` are those of this process. `stop` is passed on to rank 0, which
/// decides.
///
/// # Errors
/// Where this process fails by itself. The caller then has to end all processes, for the others wait for it.
pub fn follow(ranks: &Arc<dyn Reduce>, devices: &mut Devices, stop: &AtomicBool) -> Result<()> {
    let mut open: Option<Trainer> = None;
    let worked = |_, _| cluster::worked();
    loop {
        let order = Order::decode(&ranks.broadcast(Vec::new())?)?;
        let no_training = || Error::Cluster("rank 0 asks for a training that is not open".into());
        match order {
            Order::End => return Ok(()),
            Order::Spent => drop(spent_of_all(&**ranks)?),
            Order::Close => open = None,
            Order::Views(wanted) => {
                let (data, settings) = *wanted;
                views::help(&data, &settings, &**ranks, parallel::threads(0))?;
            }
            Order::Open(training) => {
                let Training { settings, data, views, on_gpu } = *training;
                let made = devices.beside(on_gpu).and_then(|device| device.own_trainer(&settings, &data, &views));
                // Rank 0 has this process's reason, and decides.
                open = agree(&**ranks, made).ok();
            }
            Order::Round => {
                let trainer = open.as_mut().ok_or_else(no_training)?;
                let outcome = trainer.round_with(&worked);
                if agree(&**ranks, outcome).is_ok() {
                    any(&**ranks, stop.load(Ordering::SeqCst))?;
                }
            }
            Order::Rank(sought, users) => {
                let outcome = open.as_mut().ok_or_else(no_training)?.rank(sought, &users, &worked);
                let _ = agree(&**ranks, outcome);
            }
            Order::Tensors => {
                let _ = agree(&**ranks, open.as_ref().ok_or_else(no_training)?.tensors());
            }
            Order::Restore(checkpoint) => {
                let outcome = open.as_mut().ok_or_else(no_training)?.restore(&checkpoint.tensors, checkpoint.meta.round);
                let _ = agree(&**ranks, outcome);
            }
        }
    }
}
