//! The trainer: rounds of cohorts under a protocol.

use super::attacks;
use super::check::{fits, privacy_of};
use super::draw::{Cohort, draw};
use super::protocol::{Parts, Protocol, chosen};
use super::report::RoundReport;
use crate::config::{Clients, CountsUse, Settings, Validated};
use crate::data::{Dataset, Sought, with_counts};
use crate::device::Device;
use crate::engine::cuda::DeviceUse;
use crate::engine::{NamedTensor, Participants, Progress, Tensors};
use crate::eval::best_items;
use crate::model::{self, Weights, objectives};
use crate::privacy::UserPrivacy;
use crate::views::Views;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Federated (or, with one participant, centralised) training of one model. It owns or shares all that it needs, so that it can be returned, kept in
/// a struct and sent to another thread.
pub struct Trainer {
    settings: Arc<Validated<Settings>>,
    participants: Participants,
    protocol: Box<dyn Protocol>,
    privacy: Option<UserPrivacy>,
    /// First of the malicious participants, which stand behind all others.
    malicious: u32,
    rounds: u64,
}

impl Trainer {
    /// A trainer with initial weights on the CPU. Settings may be given by reference (they are copied); data set and views by value, or as
    /// an `Arc` where others use them as well.
    ///
    /// # Errors
    /// [`Error::Usage`] for a data set with nothing to train on, [`Error::Setting`] for more participants, or more negatives,
    /// than it has users and items.
    pub fn new(
        settings: impl Into<Arc<Validated<Settings>>>,
        data: impl Into<Arc<Dataset>>,
        views: impl Into<Arc<Views>>,
    ) -> Result<Trainer> {
        Trainer::of(Parts::new(settings, data, views))
    }

    /// A trainer whose clients are trained on `device`; threads of the host pack them. A protocol whose work is the CPU's
    /// ([`super::protocol::Place::Cpu`]) leaves the device alone.
    ///
    /// # Errors
    /// As for [`Trainer::new`], and where the device fails or does not do what the settings ask.
    pub fn on_device(
        settings: impl Into<Arc<Validated<Settings>>>,
        data: impl Into<Arc<Dataset>>,
        views: impl Into<Arc<Views>>,
        device: Arc<dyn Device>,
    ) -> Result<Trainer> {
        Trainer::of(Parts { device: Some(device), ..Parts::new(settings, data, views) })
    }

    /// A trainer of the protocol that the settings name. Where `parts.reduce` stands for several processes, each trains a
    /// share of the clients of a cohort, and the model has the bits of one process that trains them all.
    ///
    /// # Errors
    /// As for [`Trainer::on_device`].
    pub fn of(mut parts: Parts) -> Result<Trainer> {
        if parts.settings.privacy.counts != CountsUse::Exact && parts.data.released.is_none() {
            parts.data = Arc::new(with_counts((*parts.data).clone(), &parts.settings)?);
        }
        let (settings, data) = (parts.settings.clone(), &parts.data);
        if data.users() == 0 || data.item_count() < 2 {
            let (u, i) = (data.users(), data.item_count());
            return Err(Error::Usage(format!(
                "data set `{}` has {u} users and {i} items: nothing to train on; lower data.min_length or data.k_core",
                data.name
            )));
        }
        if settings.federation.clients == Clients::Column && data.groups.is_none() {
            let message = format!("is \"column\", and data set `{}` has no groups of users; set data.group_column", data.name);
            return Err(Error::setting("federation.clients", message));
        }
        fits(&settings, data.users() as u64)?;
        model::fits(&settings, data.item_count() as u64)?;
        let (kind, options) = chosen(&settings)?;
        // Settings that were filled by hand may name a term that nothing has registered.
        objectives::check(&settings)?;
        let malicious = attacks::count(&settings, data.users());
        let participants = Participants::beside(settings.federation.clients, data, malicious);
        let malicious = participants.len() as u32 - malicious;
        let privacy = privacy_of(&settings, participants.len())?;
        Ok(Trainer { settings, participants, malicious, privacy, protocol: (kind.build)(&options, parts)?, rounds: 0 })
    }

    /// What a device did so far, where there is one.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn device_use(&self) -> Result<Option<DeviceUse>> {
        self.protocol.device_use()
    }

    /// At most this many bytes for a chunk of clients on the device, where there is one. Changes no result.
    pub(crate) fn set_chunk_bytes(&mut self, bytes: u64) {
        self.protocol.limit_chunks(bytes);
    }

    /// Folder for private client state that does not fit in memory.
    pub fn set_spill_folder(&mut self, folder: PathBuf) {
        self.protocol.set_spill_folder(folder);
    }

    /// Rounds trained so far.
    pub fn rounds_done(&self) -> u64 {
        self.rounds
    }

    /// Weights of the server's model, copied from a device where it holds them.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn weights(&self) -> Result<Cow<'_, Weights>> {
        self.protocol.weights()
    }

    /// Brings the host's copy of the state up to date, where a device holds it.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn snapshot(&mut self) -> Result<()> {
        self.protocol.snapshot()
    }

    /// The newest state that the host has, and the round that it is of: what is left when a device has failed.
    ///
    /// # Errors
    /// Where private state cannot be read.
    pub fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        self.protocol.last_snapshot()
    }

    /// Bytes of weights, server state and workers on the host.
    pub fn bytes(&self) -> usize {
        self.protocol.bytes()
    }

    /// What a user should know of what is trained beyond the settings, in one line, if there is anything.
    pub fn describe(&self) -> Option<String> {
        self.protocol.describe()
    }

    fn cohort(&self, round: u64) -> Cohort {
        if self.participants.len() == 1 {
            // Who trains alone is there in every round: its optimiser counts its steps by rounds.
            return Cohort { clients: vec![0], dropped: 0 };
        }
        let mut cohort = draw(&self.settings.federation, self.participants.len(), self.settings.seed, round);
        if round < u64::from(self.settings.attack.from) {
            cohort.clients.retain(|client| *client < self.malicious);
        }
        cohort
    }

    /// Trains the next round.
    ///
    /// # Errors
    /// As for [`Trainer::round_with`].
    pub fn round(&mut self) -> Result<RoundReport> {
        self.round_with(&|_, _| {})
    }

    /// Trains the next round; `progress` is called with how many of how many clients (or, with one participant, local steps) are done.
    ///
    /// # Errors
    /// As for [`Protocol::round`].
    pub fn round_with(&mut self, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let round = self.rounds + 1;
        let cohort = self.cohort(round);
        let ahead = self.protocol.looks_ahead() && round < u64::from(self.settings.federation.rounds);
        let next = ahead.then(|| self.cohort(round + 1));
        let draw_s = start.elapsed().as_secs_f64();
        let report = self.protocol.round(round, &cohort, next.as_ref(), progress)?;
        self.rounds = round;
        let epsilon = self.privacy.as_ref().map(|privacy| privacy.epsilon(round));
        let malicious = cohort.clients.iter().filter(|client| **client >= self.malicious).count() as u64;
        // One participant trains where its data are: nothing is sent.
        let sent = if self.settings.federation.clients == Clients::One { [0, 0] } else { [report.bytes_down, report.bytes_up] };
        let ([bytes_down, bytes_up], seconds) = (sent, start.elapsed().as_secs_f64());
        Ok(RoundReport { malicious, draw_s, seconds, epsilon, bytes_down, bytes_up, ..report })
    }

    /// Rank of each user's target of a split, or of one item for all users, among all items that `eval.mask` leaves, 1 the best; [`crate::eval::MISS`] where it hides the
    /// target, 0 for a user without one. Ties count against the model.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    pub fn rank(&mut self, sought: impl Into<Sought>, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        self.protocol.rank(sought.into(), users, progress)
    }

    /// The `k` best items for `history` (oldest first) of those that `eval.mask` leaves, best first; ties by item index. With `user`
    /// the user's private groups are used.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty history; where private state cannot be read or a device fails.
    pub fn recommend(&mut self, user: Option<u32>, history: &[u32], k: usize) -> Result<Vec<(u32, f32)>> {
        if history.is_empty() {
            return Err(Error::Usage("a recommendation needs a history of at least one item".into()));
        }
        let scores = self.protocol.scores(user, history)?;
        Ok(best_items(&scores, self.settings.eval.mask.masked(history), k))
    }

    /// The whole state, for a checkpoint: `items [I, d]`, the dense tensors by name, the server's moments, private state.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        self.protocol.tensors()
    }

    /// Takes back what [`Trainer::tensors`] gave after `rounds_done` rounds.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of a tensor that does not fit, [`Error::Io`] where private state cannot be kept on disk. The trainer is
    /// then what it was.
    pub fn restore(&mut self, tensors: &[NamedTensor], rounds_done: u64) -> Result<()> {
        self.protocol.restore(&Tensors::new(tensors), rounds_done)?;
        self.rounds = rounds_done;
        Ok(())
    }
}
