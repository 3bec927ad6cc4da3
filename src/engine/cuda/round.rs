//! Rounds on a device: the cohort packed by host threads into chunks that fit, trained by a [`ChunkTrainer`], and the server's step taken
//! there as well. The global model stays on the device; the host takes counts and losses, and a snapshot when it wants one. While the
//! device trains a round the host packs the next.

use super::across::Across;
use super::added::RoundSums;
use super::attempt::Attempt;
use super::chunks::ChunkTrainer;
use super::large::Large;
use super::packing::{PackLane, ReadyCohort};
use super::ranking::Ranked;
use super::usage::{DeviceRound, DeviceUse};
use crate::Result;
use crate::base::parallel;
use crate::cluster::{Reduce, agree};
use crate::config::{OnDivergence, Settings, Validated};
use crate::data::{Dataset, Sought};
use crate::device::{Counters, Device};
use crate::engine::{Engine, Global, Mean, Moments, Packer, Participants, PrivateStore, Progress, Server, Trained, Update, Work, fixed};
use crate::model::{ModelSpec, Weights};
use crate::views::Views;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients that one thread packs at a time: the least that a chunk is made of, until memory is too small for it.
const PIECE: usize = 64;

/// Wall time between two snapshots of the device's model, which are what is left after a fault of the device: this long, and this many
/// times as long as a snapshot takes. Changes no result.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(1);
/// See [`SNAPSHOT_EVERY`].
const SNAPSHOT_SHARE: u32 = 50;

/// Where the newest global model is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newest {
    /// On the host alone.
    Host,
    /// On both.
    Both,
    /// On the device alone: the snapshot is stale.
    Device,
}

/// The engine of a device.
pub struct CudaEngine {
    pub(super) chunks: ChunkTrainer,
    pub(super) settings: Arc<Validated<Settings>>,
    pub(super) data: Arc<Dataset>,
    pub(super) lanes: Vec<PackLane>,
    pub(super) next: Option<ReadyCohort>,
    /// Chunks packed so far.
    pub(super) packed: u64,
    /// Most bytes that a chunk may take.
    pub(super) budget: u64,
    /// See [`PIECE`].
    pub(super) piece: usize,
    /// Most bytes that a chunk of users to be ranked may take.
    pub(super) rank_budget: u64,
    /// Slot of each item in the round being packed; `u32::MAX` where none.
    pub(super) slot: Vec<u32>,
    /// The host's copy of the global model, the round that it is of, when it was taken and how long that took.
    pub(super) snapshot: Global,
    snapshot_round: u64,
    taken: (Instant, Duration),
    newest: Newest,
    /// Round that the global model is of, and the one that was trained last.
    pub(super) round: u64,
    trained: u64,
    pub(super) sums: RoundSums,
    /// Updates of the round, where a rule needs all of them.
    pub(super) updates: Vec<Update>,
    /// Chunks of the round and seconds that the device waited for packing.
    pub(super) last: (usize, f64),
    /// Users packed for ranking, for the next validation of the same users.
    pub(super) ranked: Option<Ranked>,
    pub(super) counters: Counters,
    /// Where the sums of several processes are added up.
    pub(super) across: Across,
    pub(super) participants: Participants,
    /// What participants with many sequences need, from the first round that trains one.
    pub(super) large: Option<Large>,
    /// Moments of a participant that trains alone, as of the snapshot, and whether the device has older ones.
    pub(super) moments: Option<Moments>,
    pub(super) moments_on_host: bool,
}

impl CudaEngine {
    /// An engine with initial weights.
    ///
    /// # Errors
    /// [`crate::Error::Device`] where the device fails.
    pub fn new(
        settings: impl Into<Arc<Validated<Settings>>>,
        data: impl Into<Arc<Dataset>>,
        views: impl Into<Arc<Views>>,
        device: Arc<dyn Device>,
    ) -> Result<CudaEngine> {
        let (settings, data, views) = (settings.into(), data.into(), views.into());
        let threads = parallel::threads(settings.threads as usize);
        let weights = Weights::init(&ModelSpec::of(&settings), data.item_count(), settings.seed);
        let chunks = ChunkTrainer::new(device, &settings, data.item_count())?;
        let memory = chunks.device().memory()?;
        Ok(CudaEngine {
            // A tenth is left to the driver and to packed arrays.
            budget: memory.free / 10 * 9,
            piece: PIECE,
            rank_budget: memory.free / 10 * 9,
            counters: chunks.device().counters(),
            chunks,
            lanes: (0..threads).map(|_| PackLane::new(Packer::new(settings.clone(), data.clone(), views.clone()))).collect(),
            next: None,
            packed: 0,
            slot: vec![u32::MAX; weights.items.len() / weights.spec.dim()],
            snapshot: Global::new(&settings.federation, weights),
            snapshot_round: 0,
            taken: (Instant::now(), Duration::ZERO),
            newest: Newest::Host,
            round: 0,
            trained: 0,
            sums: RoundSums::Device { items: Vec::new(), row_weight: Vec::new(), weight: 0 },
            updates: Vec::new(),
            last: (0, 0.0),
            ranked: None,
            across: Across::Untried,
            participants: Participants::new(settings.federation.clients, &data),
            large: None,
            moments: None,
            moments_on_host: false,
            settings,
            data,
        })
    }

    /// Copies the global model to the device, where that has an older one.
    pub(super) fn upload(&mut self) -> Result<()> {
        if self.newest == Newest::Host {
            let Global { weights, server } = &self.snapshot;
            let (first, second) = (&server.first, &server.second);
            self.chunks.set_global([[&weights.dense, &weights.items], [&first.0, &first.1], [&second.0, &second.1]], &server.steps)?;
            self.newest = Newest::Both;
        }
        Ok(())
    }

    /// The global model of the device.
    fn download(&self) -> Result<Global> {
        // Into a copy: a device that fails half-way must not spoil the snapshot.
        let mut global = self.snapshot.clone();
        let Global { weights, server } = &mut global;
        let (first, second) = (&mut server.first, &mut server.second);
        let state = [[&mut weights.dense[..], &mut weights.items], [&mut first.0, &mut first.1], [&mut second.0, &mut second.1]];
        self.chunks.get_global(state)?;
        server.steps.clone_from(self.chunks.server_steps());
        Ok(global)
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.snapshot.weights
    }
}

impl Engine for CudaEngine {
    fn train(&mut self, work: &Work, progress: &Progress) -> Result<Trained> {
        let start = Instant::now();
        let mut clients = self.by_size(work.clients);
        let cohort = match self.next.take() {
            Some(c) if c.round == work.round && c.clients == clients.1 => c,
            _ => self.pack(&clients.1, work.round)?,
        };
        let waited = start.elapsed().as_secs_f64();
        let mut trained = self.attempt(work, &clients, cohort, work.next, progress)?;
        let mut left_out = std::mem::take(&mut trained.diverged);
        let mut again = !left_out.is_empty();
        while again && self.settings.federation.on_divergence == OnDivergence::Drop {
            // What diverged is in the sums, which are of no use: the round is trained without it, and nothing is left of it.
            let stays = |client: &u32| left_out.iter().all(|(out, _)| out != client);
            clients.0.retain(stays);
            clients.1.retain(stays);
            let cohort = self.pack(&clients.1, work.round)?;
            trained = self.attempt(work, &clients, cohort, None, progress)?;
            again = !trained.diverged.is_empty();
            left_out.append(&mut trained.diverged);
        }
        let Attempt { cohort, result, visits, host, private, .. } = trained;
        let seconds = start.elapsed().as_secs_f64() - waited;
        (self.trained, self.last) = (work.round, (cohort.chunks.len() + visits.chunks, waited));
        let mut totals = self.totals(&cohort, &result, work.rules);
        totals.counts[6] += visits.left_out + left_out.len() as u64;
        self.sums = match host {
            Some(host) => RoundSums::Host(host.sums),
            None => RoundSums::Device { items: cohort.items, row_weight: result.row_weight, weight: cohort.weight },
        };
        let diverged = left_out.into_iter().chain(visits.diverged).min();
        Ok(Trained { totals, private, diverged, seconds: [waited, seconds, 0.0] })
    }

    fn reduce(&mut self, reduce: &dyn Reduce, updates: bool) -> Result<()> {
        if !self.reduce_on_devices(reduce)? {
            // A device that fails to hand them over must not leave the others waiting.
            agree(reduce, self.host_sums().map(|_| ()))?;
            self.host_sums()?.reduce(reduce)?;
        }
        if updates { crate::engine::update::gather(&mut self.updates, reduce) } else { Ok(()) }
    }

    fn touched_rows(&self) -> u64 {
        match &self.sums {
            RoundSums::Device { items, row_weight, .. } => {
                items.iter().zip(row_weight).filter(|&(&item, &w)| w > 0 && (item as usize) < self.data.item_count()).count() as u64
            }
            RoundSums::Host(sums) => sums.items.iter().filter(|&&item| (item as usize) < self.data.item_count()).count() as u64,
        }
    }

    fn mean(&mut self) -> Result<Option<Mean>> {
        let (settings, d) = (self.settings.clone(), self.snapshot.weights.spec.dim());
        let updates = std::mem::take(&mut self.updates);
        let sums = self.host_sums()?;
        fixed::check_weight(sums.weight)?;
        Ok((sums.weight > 0).then(|| Server::mean(&settings.federation, sums, d, updates)))
    }

    fn serve(&mut self, mean: Option<Mean>) -> Result<()> {
        let settings = self.settings.clone();
        let fed = &settings.federation;
        self.chunks.device().set_scope(&format!("the server's step of round {}", self.trained));
        if let (None, RoundSums::Device { items, row_weight, weight }) = (&mean, &self.sums) {
            let (items, row_weight, weight) = (items.clone(), row_weight.clone(), *weight);
            // From here on the snapshot is of an earlier round, whatever becomes of the step.
            self.newest = Newest::Device;
            match self.chunks.serve(fed, self.trained, weight, (&items, &row_weight)) {
                // The list of items did not fit, and no weight has been touched: what chunks hold is given back.
                Err(e) if e.is_out_of_memory() => {
                    self.chunks.release()?;
                    self.chunks.serve(fed, self.trained, weight, (&items, &row_weight))?;
                }
                served => served?,
            }
            self.round = self.trained;
            self.commit_moments();
            return Ok(());
        }
        // What the host has seen, it steps on.
        self.snapshot()?;
        self.host_sums()?;
        let RoundSums::Host(sums) = &self.sums else { unreachable!("fetched above") };
        fixed::check_weight(sums.weight)?;
        self.commit_moments();
        let moments = self.held_moments()?;
        let RoundSums::Host(sums) = &self.sums else { unreachable!("fetched above") };
        let Global { weights, server } = &mut self.snapshot;
        match mean {
            Some(mean) => server.apply_mean(fed, self.trained, &mean, weights),
            None => server.apply(fed, self.trained, sums, weights),
        }
        self.round = self.trained;
        (self.newest, self.snapshot_round, self.moments) = (Newest::Host, self.round, moments);
        Ok(())
    }

    fn global(&self) -> Result<Cow<'_, Global>> {
        if self.newest == Newest::Device { Ok(Cow::Owned(self.download()?)) } else { Ok(Cow::Borrowed(&self.snapshot)) }
    }

    fn set_global(&mut self, global: Global, round: u64) {
        (self.snapshot, self.snapshot_round, self.round) = (global, round, round);
        (self.newest, self.next, self.trained) = (Newest::Host, None, round);
        self.taken = (Instant::now(), Duration::ZERO);
    }

    fn snapshot(&mut self) -> Result<()> {
        let begun = Instant::now();
        if self.newest == Newest::Device {
            let (global, moments) = (self.download()?, self.moments()?);
            (self.snapshot, self.moments, self.snapshot_round) = (global, moments, self.round);
            self.newest = Newest::Both;
        }
        self.taken = (Instant::now(), begun.elapsed());
        Ok(())
    }

    fn last_snapshot(&self) -> (&Global, u64) {
        (&self.snapshot, self.snapshot_round)
    }

    fn rank(&mut self, sought: Sought, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        self.rank_users(sought, users, private, progress)
    }

    fn moments(&self) -> Result<Option<Moments>> {
        if self.round == 0 { Ok(None) } else { self.held_moments() }
    }

    fn last_moments(&self) -> Option<Moments> {
        self.moments.clone().filter(|_| self.snapshot_round > 0)
    }

    fn set_moments(&mut self, moments: Option<Moments>) {
        (self.moments, self.moments_on_host) = (moments, true);
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn bytes(&self) -> usize {
        self.snapshot.bytes() + 4 * self.lanes.len() * self.data.item_count()
    }

    fn end_round(&mut self) -> Result<Option<DeviceRound>> {
        let (chunks, waited) = self.last;
        let used = self.take_round(chunks, waited)?;
        if self.taken.0.elapsed() > SNAPSHOT_EVERY.max(self.taken.1 * SNAPSHOT_SHARE) {
            self.snapshot()?;
        }
        Ok(Some(used))
    }

    fn device_use(&self) -> Result<Option<DeviceUse>> {
        Ok(Some(self.usage()?))
    }

    fn limit_chunks(&mut self, bytes: u64) {
        (self.budget, self.rank_budget) = (bytes, bytes);
        (self.next, self.ranked) = (None, None);
    }
}
