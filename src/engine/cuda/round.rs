//! Rounds on a device: the cohort packed by host threads into chunks that fit, trained by a [`ChunkTrainer`], and the server's step taken
//! there as well. The global model stays on the device; the host takes counts and losses, and a snapshot when it wants one. While the
//! device trains a round the host packs the next.

use super::added::{OnHost, RoundSums};
use super::chunks::{Adding, ChunkTrainer};
use super::large::Large;
use super::packing::{PackLane, ReadyCohort};
use super::ranking::Ranked;
use super::usage::{DeviceRound, DeviceUse};
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::cluster::Reduce;
use crate::config::{Settings, Validated};
use crate::data::{Dataset, Split};
use crate::device::{Counters, Device};
use crate::engine::{
    Engine, Global, Mean, Moments, Needs, Occasion, Packer, Participants, PrivateStore, Progress, Server, Sums, Trained, Update, Work,
    fixed,
};
use crate::model::{ModelSpec, Weights};
use crate::views::Views;
use crate::{Error, Result};
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

/// Why a run with these settings cannot be trained on a device yet, if so.
pub fn unsupported(settings: &Settings) -> Option<&'static str> {
    unsupported_ranking(settings)
}

/// Why users cannot be ranked on a device under a model trained with these settings, if so.
pub fn unsupported_ranking(settings: &Settings) -> Option<&'static str> {
    let private = crate::engine::private::kept_by_clients(&settings.federation.shared);
    private.then_some("private parameter groups (federation.shared) are kept on the CPU")
}

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
    next: Option<ReadyCohort>,
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
    /// [`Error::Setting`] for what is not done on a device, [`Error::Device`] where it fails.
    pub fn new(
        settings: impl Into<Arc<Validated<Settings>>>,
        data: impl Into<Arc<Dataset>>,
        views: impl Into<Arc<Views>>,
        device: Arc<dyn Device>,
    ) -> Result<CudaEngine> {
        let (settings, data, views) = (settings.into(), data.into(), views.into());
        if let Some(reason) = unsupported_ranking(&settings) {
            return Err(not_here(&settings, reason));
        }
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
            self.chunks.set_global([[&weights.dense, &weights.items], [&first.0, &first.1], [&second.0, &second.1]])?;
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
        Ok(global)
    }

    pub(super) fn weights(&self) -> &Weights {
        &self.snapshot.weights
    }

    /// Trains the chunks of `cohort`, each in pieces that fit the device's memory.
    fn train_chunks(&mut self, cohort: &mut ReadyCohort, work: &Work, host: &mut Option<OnHost>, progress: &Progress) -> Result<()> {
        let round = work.round;
        let (mut i, mut released) = (0, false);
        while i < cohort.chunks.len() {
            let (first, last) = (cohort.chunks[i].first, cohort.chunks[i].first + cohort.chunks[i].weight.len());
            self.chunks.device().set_scope(&format!("round {round}, clients {first} to {} of the cohort", last - 1));
            let (visits, rules) = (&cohort.visits, work.rules);
            let occasion = Occasion { seed: self.settings.seed, round };
            let factor_of = |place: usize, norm: f64| rules.factor(&occasion, visits[place].client, norm);
            let adding = match host {
                Some(_) => Adding::Nowhere,
                None if rules.is_empty() => Adding::ToSums,
                None => Adding::Scaled(&factor_of),
            };
            match self.chunks.train(&mut cohort.chunks[i], adding) {
                Ok(()) => {
                    if let Some(host) = host {
                        self.fetch_updates(cohort, i, work.rules, host)?;
                    }
                    (i, released) = (i + 1, false);
                }
                // What earlier chunks and rankings hold is given back first. No sum has been touched by this chunk.
                Err(e) if e.is_out_of_memory() && !released => {
                    self.chunks.release()?;
                    released = true;
                }
                Err(e) if e.is_out_of_memory() && last - first > 1 => {
                    // Something else took memory: smaller chunks from here on.
                    self.piece = self.piece.min((last - first).div_ceil(2));
                    self.budget = (self.chunks.chunk_bytes(&cohort.chunks[i].shape) / 2).min(self.budget / 2);
                    self.chunks.release()?;
                    cohort.chunks.truncate(i);
                    self.pack_from(cohort, first)?;
                }
                Err(e) => return Err(e.into()),
            }
            progress(last as u64, work.clients.len() as u64);
        }
        Ok(())
    }
}

impl Engine for CudaEngine {
    fn train(&mut self, work: &Work, progress: &Progress) -> Result<Trained> {
        if let Some(reason) = unsupported(&self.settings) {
            return Err(not_here(&self.settings, reason));
        }
        let start = Instant::now();
        let round = work.round;
        let (large, small) = self.by_size(work.clients);
        let mut cohort = match self.next.take() {
            Some(c) if c.round == round && c.clients == small => c,
            _ => self.pack(&small, round)?,
        };
        let (waited, total) = (start.elapsed().as_secs_f64(), work.clients.len());
        fixed::check_weight(cohort.weight)?;
        self.chunks.device().set_scope(&format!("round {round}"));
        self.updates.clear();
        let mut host = None;
        if work.rules.needs() > Needs::Linear {
            // Updates are differences to the model that clients started from.
            self.snapshot()?;
            let sums = Box::new(Sums::new(&self.snapshot.weights.spec, self.slot.len()));
            host = Some(OnHost { sums, uploaded: vec![0; total], failing: None });
        }
        self.upload()?;
        let key = Stream::new(self.settings.seed, Purpose::Dropout, round, 0).key();
        self.chunks.begin_round(round, total, cohort.items.len(), key)?;
        self.train_chunks(&mut cohort, work, &mut host, progress)?;
        let visits = self.train_large(work, &large, &mut cohort, &mut host, progress)?;
        fixed::check_weight(cohort.weight)?;
        let prepared = work.next.map(|clients| self.pack(&self.by_size(clients).1, round + 1)).transpose()?;
        // What failed in the queue shows only now, and any chunk may be the one.
        let last = total.saturating_sub(1);
        self.chunks.device().set_scope(&format!("round {round}, clients 0 to {last} of the cohort"));
        let mut result = self.chunks.finish_round(total, cohort.items.len())?;
        result.losses[small.len()..].copy_from_slice(&visits.losses);
        self.next = prepared;
        if let Some(host) = &mut host {
            (result.failing, result.uploaded) = (host.failing, std::mem::take(&mut host.uploaded));
        }
        self.check(&cohort, &result, round)?;
        let trained = start.elapsed().as_secs_f64() - waited;
        (self.trained, self.last) = (round, (cohort.chunks.len() + visits.chunks, waited));
        let mut totals = self.totals(&cohort, &result);
        totals.counts[6] += visits.left_out;
        self.sums = match host {
            Some(host) => RoundSums::Host(host.sums),
            None => RoundSums::Device {
                items: std::mem::take(&mut cohort.items),
                row_weight: std::mem::take(&mut result.row_weight),
                weight: cohort.weight,
            },
        };
        Ok(Trained { totals, private: Vec::new(), diverged: visits.diverged, seconds: [waited, trained, 0.0] })
    }

    fn reduce(&mut self, reduce: &dyn Reduce) -> Result<()> {
        self.host_sums()?.reduce(reduce)
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

    fn serve(&mut self, mean: Option<&Mean>) -> Result<()> {
        let settings = self.settings.clone();
        let fed = &settings.federation;
        self.chunks.device().set_scope(&format!("the server's step of round {}", self.trained));
        if let (None, RoundSums::Device { items, weight, .. }) = (mean, &self.sums) {
            let (items, weight) = (items.clone(), *weight);
            // From here on the snapshot is of an earlier round, whatever becomes of the step.
            self.newest = Newest::Device;
            match self.chunks.serve(fed, weight, &items) {
                // The list of items did not fit, and no weight has been touched: what chunks hold is given back.
                Err(e) if e.is_out_of_memory() => {
                    self.chunks.release()?;
                    self.chunks.serve(fed, weight, &items)?;
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
            Some(mean) => server.apply_mean(fed, mean, weights),
            None => server.apply(fed, sums, weights),
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

    fn rank(&mut self, split: Split, users: &[u32], _: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        self.rank_users(split, users, progress)
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

fn not_here(settings: &Settings, reason: &str) -> Error {
    Error::setting("device", format!("`{}` is no choice here: {reason}; use `cpu`", settings.device))
}
