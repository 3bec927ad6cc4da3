//! How clients and a server learn together: what goes down, what comes up, what the server does with it, and which model ranks.
//!
//! `federation.protocol` names one, with options: `"averaging"`, `"ptf-fsr replace=0.3"`. A protocol is one file here and one line in [`KINDS`];
//! one of another crate is made known by [`register`].

mod averaging;
mod calrec;
mod central;
mod gcl4sr;
pub mod ptf_fsr;
mod transitions;

use super::{Cohort, RoundReport};
use crate::base::options::{self, Choice, Options};
use crate::cluster::{Reduce, Solo};
use crate::config::{Settings, Validated};
use crate::data::{Dataset, Sought};
use crate::device::Device;
use crate::engine::cuda::DeviceUse;
use crate::engine::{NamedTensor, Progress, Tensors};
use crate::model::Weights;
use crate::views::Views;
use crate::{Error, Result};
use parking_lot::RwLock;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// What a training is put together from. It borrows nothing; data set and views are shared, never copied.
pub struct Parts {
    /// Settings.
    pub settings: Arc<Validated<Settings>>,
    /// Data set.
    pub data: Arc<Dataset>,
    /// Views of its users; none where no method looks at them.
    pub views: Arc<Views>,
    /// Where clients are trained; nothing for the CPU.
    pub device: Option<Arc<dyn Device>>,
    /// The other processes of the training.
    pub reduce: Arc<dyn Reduce>,
}

impl Parts {
    /// A training in one process on the CPU. Settings may be given by reference (they are copied), data set and views by value or shared.
    pub fn new(settings: impl Into<Arc<Validated<Settings>>>, data: impl Into<Arc<Dataset>>, views: impl Into<Arc<Views>>) -> Parts {
        Parts { settings: settings.into(), data: data.into(), views: views.into(), device: None, reduce: Arc::new(Solo) }
    }
}

/// A way of learning together. Where [`Parts::reduce`] stands for several processes, all of them call `round`, `rank`, `tensors` and `restore`, in the same
/// order and with the same arguments; the other methods are one process's own business.
pub trait Protocol: Send {
    /// Trains `cohort` in `round` (counted from 1). `next` is the cohort of the round after it, where the protocol looks ahead;
    /// `progress` is called with how many of how many clients (or, with one participant, local steps) are done.
    ///
    /// # Errors
    /// [`Error::Training`] for a client that diverged, [`Error::Device`] where a device fails, [`Error::Io`] for
    /// private state that cannot be kept. The state is then that of the round before, or, where the server's step had begun on a device or
    /// the protocol trains one model in one place (`calrec`, `gcl4sr`), of no use.
    fn round(&mut self, round: u64, cohort: &Cohort, next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport>;

    /// Rank of the item that is sought of each user, as [`crate::engine::Engine::rank`] gives it, under the model that the protocol recommends with.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>>;

    /// Scores of all items `[I]` for a `history` that is not empty, oldest first; of `user`'s own model, where users have one.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    fn scores(&mut self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>>;

    /// Weights of the server's model.
    ///
    /// # Errors
    /// Where a device fails; [`Error::Usage`] for a protocol whose server has none.
    fn weights(&self) -> Result<Cow<'_, Weights>> {
        Err(Error::Usage("this protocol's server has no model".into()))
    }

    /// The whole state, for a checkpoint. Where several processes train, all of them call it, and rank 0 has the state.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    fn tensors(&self) -> Result<Vec<NamedTensor>>;

    /// Takes back what [`Protocol::tensors`] gave after `rounds_done` rounds.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of a tensor that does not fit. The state is then what it was.
    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()>;

    /// Whether the cohort of the next round is of use while one is trained.
    fn looks_ahead(&self) -> bool {
        false
    }

    /// Brings the host's copy of the state up to date, where a device holds it.
    ///
    /// # Errors
    /// Where the device fails.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }

    /// The newest state that the host has, and the round that it is of: what is left when a device has failed.
    ///
    /// # Errors
    /// Where private state cannot be read.
    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)>;

    /// Folder for private client state that does not fit in memory.
    fn set_spill_folder(&mut self, _folder: PathBuf) {}

    /// Bytes of weights, server state and workers on the host.
    fn bytes(&self) -> usize;

    /// What a user should know of what is trained beyond the settings, as one line for the log.
    fn describe(&self) -> Option<String> {
        None
    }

    /// What a device did so far, where there is one.
    ///
    /// # Errors
    /// Where the device fails.
    fn device_use(&self) -> Result<Option<DeviceUse>> {
        Ok(None)
    }

    /// At most this many bytes for a chunk of clients on a device. Changes no result.
    fn limit_chunks(&mut self, _bytes: u64) {}
}

/// Where a protocol works with certain settings when a device is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On the device.
    Device,
    /// On the CPU whatever device was asked for, and why: one line at the start of a run. The device stays unused.
    Cpu(&'static str),
}

/// A protocol by name.
pub struct Kind {
    /// Name, the first word of `federation.protocol`.
    pub name: &'static str,
    /// One line: what goes down and up, and what the server does.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Every option with its default.
    pub options: &'static [(&'static str, f64)],
    /// Says what is wrong with an option, or with settings beside which the protocol cannot be.
    pub check: fn(&Options, &Settings) -> Result<()>,
    /// Where a training with these settings is.
    pub trains: fn(&Settings) -> Place,
    /// The same of ranking users.
    pub ranks: fn(&Settings) -> Place,
    /// Puts a training together, or says what is wrong with an option.
    pub build: fn(&Options, Parts) -> Result<Box<dyn Protocol>>,
}

impl Choice for Kind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [(&'static str, f64)] {
        self.options
    }
}

/// The protocols of LUMOS.
pub const KINDS: &[Kind] = &[averaging::KIND, calrec::KIND, gcl4sr::KIND, ptf_fsr::KIND, transitions::KIND];

/// Protocols that were registered.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Makes a protocol known in this process, for settings that are used from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken.
pub fn register(kind: Kind) -> Result<()> {
    let mut registered = REGISTERED.write();
    if KINDS.iter().chain(registered.iter().copied()).any(|k| k.name == kind.name) {
        return Err(Error::Usage(format!("there is a protocol `{}` already; give this one another name", kind.name)));
    }
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

/// The protocol that `settings` name, and its options.
///
/// # Errors
/// [`Error::Setting`] for unknown names and options, and for what the protocol does not go with.
pub fn chosen(settings: &Settings) -> Result<(&'static Kind, Options)> {
    let known: Vec<&'static Kind> = KINDS.iter().chain(REGISTERED.read().iter().copied()).collect();
    let (kind, options) = options::read("federation.protocol", "protocol", &settings.federation.protocol, &known)?;
    (kind.check)(&options, settings)?;
    Ok((*kind, options))
}
