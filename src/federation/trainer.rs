//! The trainer: rounds of cohorts over an engine, and the state that a checkpoint needs.

use super::draw::{Cohort, draw};
use super::report::RoundReport;
use super::rules;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::config::{Clients, Settings};
use crate::data::{Dataset, Split};
use crate::device::Device;
use crate::engine::cpu::{self, CpuEngine};
use crate::engine::cuda::{CudaEngine, DeviceUse};
use crate::engine::{
    Engine, Global, Moments, NamedTensor, Needs, Occasion, PrivateShape, PrivateStore, Progress, Reduce, Rules, Solo, TensorData, Tensors,
    Totals, Trained, Work,
};
use crate::eval::best_items;
use crate::model::{Model, Weights};
use crate::views::Views;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Federated (or, with one participant, centralised) training of one model.
pub struct Trainer<'a> {
    settings: &'a Settings,
    data: &'a Dataset,
    engine: Box<dyn Engine + 'a>,
    rules: Rules,
    reduce: Box<dyn Reduce + 'a>,
    private: PrivateStore,
    rounds: u64,
}

impl<'a> Trainer<'a> {
    /// A trainer with initial weights on the CPU. `settings` must have been validated.
    ///
    /// # Errors
    /// [`Error::Usage`] for a data set with nothing to train on, [`Error::Setting`] for a rule that cannot be.
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views) -> Result<Trainer<'a>> {
        trainable(data)?;
        Trainer::over(settings, data, Box::new(CpuEngine::new(settings, data, views)))
    }

    /// A trainer whose clients are trained on `device`; threads of the host pack them.
    ///
    /// # Errors
    /// As for [`Trainer::new`], and where the device fails or does not do what the settings ask.
    pub fn on_device(settings: &'a Settings, data: &'a Dataset, views: &'a Views, device: Arc<dyn Device>) -> Result<Trainer<'a>> {
        trainable(data)?;
        Trainer::over(settings, data, Box::new(CudaEngine::new(settings, data, views, device)?))
    }

    /// A trainer over any engine.
    ///
    /// # Errors
    /// [`Error::Setting`] for a rule that cannot be.
    pub fn over(settings: &'a Settings, data: &'a Dataset, engine: Box<dyn Engine + 'a>) -> Result<Trainer<'a>> {
        Ok(Trainer {
            settings,
            data,
            engine,
            rules: rules::build(&settings.federation.rules)?,
            reduce: Box::new(Solo),
            private: PrivateStore::new(settings.federation.private_memory_mb),
            rounds: 0,
        })
    }

    /// Trains together with other processes: each takes every `size`-th client of a cohort, and their sums are added up by `reduce`. The
    /// model has the bits of one process that trains them all.
    ///
    /// # Errors
    /// [`Error::Setting`] for rules that need every update in one place and for what clients keep, which would lie with one process.
    pub fn with_reduce(mut self, reduce: Box<dyn Reduce + 'a>) -> Result<Trainer<'a>> {
        let shared = &self.settings.federation.shared;
        if reduce.size() > 1 && self.rules.needs() == Needs::All {
            return Err(Error::setting("federation.rules", "holds a rule that needs every update in one place; train it with one process"));
        }
        if reduce.size() > 1 && (shared.len() < 2 || self.settings.federation.clients == Clients::One) {
            let key = if shared.len() < 2 { "federation.shared" } else { "federation.clients" };
            return Err(Error::setting(key, "keeps state with a client between rounds; train it with one process"));
        }
        self.reduce = reduce;
        Ok(self)
    }

    /// What a device did so far, where there is one.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn device_use(&self) -> Result<Option<DeviceUse>> {
        self.engine.device_use()
    }

    /// At most this many bytes for a chunk of clients on the device, where there is one. Changes no result.
    pub fn limit_chunks(&mut self, bytes: u64) {
        self.engine.limit_chunks(bytes);
    }

    /// Folder for private client state that does not fit in memory.
    pub fn set_spill_folder(&mut self, folder: PathBuf) {
        self.private.set_folder(folder);
    }

    /// Rounds trained so far.
    pub fn rounds_done(&self) -> u64 {
        self.rounds
    }

    /// The global weights, copied from a device where it holds them.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn weights(&self) -> Result<Cow<'_, Weights>> {
        Ok(match self.engine.global()? {
            Cow::Borrowed(global) => Cow::Borrowed(&global.weights),
            Cow::Owned(global) => Cow::Owned(global.weights),
        })
    }

    /// Brings the host's copy of the global model up to date, where a device holds it.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn snapshot(&mut self) -> Result<()> {
        self.engine.snapshot()
    }

    /// The newest state that the host has, and the round that it is of: what is left when a device has failed.
    ///
    /// # Errors
    /// Where private state cannot be read.
    pub fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        let (global, round) = self.engine.last_snapshot();
        Ok((self.name_tensors(global)?, round))
    }

    /// Bytes of weights, server state and workers on the host.
    pub fn bytes(&self) -> usize {
        self.engine.bytes()
    }

    fn cohort(&self, round: u64) -> Cohort {
        match self.settings.federation.clients {
            Clients::One => Cohort { clients: vec![0], dropped: 0 },
            Clients::User => draw(&self.settings.federation, self.data.users(), self.settings.seed, round),
        }
    }

    /// The clients of `cohort` that this process trains.
    fn share<'c>(&self, cohort: &'c [u32]) -> Cow<'c, [u32]> {
        match (self.reduce.rank(), self.reduce.size()) {
            (_, 1) => Cow::Borrowed(cohort),
            (rank, size) => Cow::Owned(cohort.iter().skip(rank).step_by(size).copied().collect()),
        }
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
    /// [`Error::Training`] for a client that diverged, [`Error::Device`] where a device fails, [`Error::Io`] for private state that cannot
    /// be kept. The global model is then that of the round before, or, where the server's step had begun on a device, of no use.
    pub fn round_with(&mut self, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let round = self.rounds + 1;
        let cohort = self.cohort(round);
        let clients = self.share(&cohort.clients);
        let ahead = self.engine.looks_ahead() && round < u64::from(self.settings.federation.rounds);
        let next = ahead.then(|| self.share(&self.cohort(round + 1).clients).into_owned());
        let draw_s = start.elapsed().as_secs_f64();
        let work = Work { round, clients: &clients, next: next.as_deref(), rules: &self.rules, private: &self.private };
        let trained = self.engine.train(&work, progress);
        let trained = self.agree(trained)?;

        let served = Instant::now();
        if self.reduce.size() > 1 {
            self.engine.reduce(&*self.reduce)?;
        }
        let item_rows = self.engine.touched_rows();
        if self.rules.is_empty() {
            self.engine.serve(None)?;
        } else if let Some(mut mean) = self.engine.mean()? {
            self.rules.server(&Occasion { seed: self.settings.seed, round }, &mut mean);
            self.engine.serve(Some(&mean))?;
        }
        let served = served.elapsed().as_secs_f64();
        for (client, state) in trained.private {
            self.private.put(client, state)?;
        }
        self.rounds = round;
        let mut device = self.engine.end_round()?;
        let report = RoundReport::of(round, &cohort, &trained.totals, item_rows, start);
        if let Some(used) = &mut device {
            used.busy_share = used.busy_s / report.seconds;
        }
        let [pack_s, train_s, add_s] = trained.seconds;
        Ok(RoundReport { draw_s, pack_s, train_s, add_s: add_s + served, device, ..report })
    }

    /// What all processes trained, or that one of them failed: none goes on to a reduction that another one never enters.
    fn agree(&self, trained: Result<Trained>) -> Result<Trained> {
        if self.reduce.size() == 1 {
            return trained;
        }
        let mut failed = [i64::from(trained.is_err())];
        self.reduce.sum(&mut failed)?;
        let mut trained = trained?;
        if failed[0] > 0 {
            return Err(Error::Usage("another process of this training failed; its message says why".into()));
        }
        let mut totals = trained.totals.to_array();
        self.reduce.sum(&mut totals)?;
        trained.totals = Totals::from_array(totals);
        Ok(trained)
    }

    /// Rank of each user's target among all items that `eval.mask` leaves, 1 the best; [`crate::eval::MISS`] where it hides the
    /// target, 0 for a user without one. Ties count against the model.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    pub fn rank(&mut self, split: Split, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        self.engine.rank(split, users, &self.private, progress)
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
        let global = self.engine.global()?;
        let weights = &global.weights;
        let mut worker = Worker::new(WorkerShape::new(&weights.spec));
        let state = cpu::own_state(self.settings, user, &self.private)?;
        let scores = cpu::personal_scores(&mut worker, &Model::new(&weights.spec), self.settings, weights, &state, history);
        Ok(best_items(&scores, self.settings.eval.mask.masked(history), k))
    }

    /// The whole state, for a checkpoint: `items [I, d]`, the dense tensors by name, the server's moments, private state.
    ///
    /// # Errors
    /// Where private state cannot be read or a device fails.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        self.name_tensors(&*self.engine.global()?)
    }

    fn name_tensors(&self, global: &Global) -> Result<Vec<NamedTensor>> {
        let mut out = global.tensors();
        let moments = self.engine.moments();
        for (name, values) in MOMENTS.iter().zip(moments.iter().flatten()) {
            out.push(NamedTensor::f32(*name, &[values.len()], values));
        }
        if !self.private.is_empty() {
            let bytes = self.private.encode()?;
            out.push(NamedTensor { name: "private".into(), shape: vec![bytes.len()], data: TensorData::U8(bytes) });
        }
        Ok(out)
    }

    /// Takes back what [`Trainer::tensors`] gave after `rounds_done` rounds.
    ///
    /// # Errors
    /// [`Error::Usage`] with the name of a tensor that does not fit, [`Error::Io`] where private state cannot be kept on disk. The trainer is
    /// then what it was.
    pub fn restore(&mut self, tensors: &[NamedTensor], rounds_done: u64) -> Result<()> {
        let tensors = Tensors::new(tensors);
        let (now, _) = self.engine.last_snapshot();
        let global = now.restored(&self.settings.federation, &tensors)?;
        let ([items, d], p) = (now.table(), now.weights.spec.dense_len);
        let mut moments = None;
        if self.settings.federation.clients == Clients::One && rounds_done > 0 {
            let mut found = Moments::default();
            for (i, name) in MOMENTS.iter().enumerate() {
                found[i] = tensors.f32(name, &[if i < 2 { p } else { items * d }])?.to_vec();
            }
            moments = Some(found);
        }
        let shape = PrivateShape { clients: self.data.users(), items, dim: d, dense: p };
        let private = match tensors.get("private").map(|t| &t.data) {
            None => self.private.restored(&[], shape)?,
            Some(TensorData::U8(bytes)) => self.private.restored(bytes, shape)?,
            Some(_) => return Err(Error::Usage("checkpoint: tensor `private` must hold bytes".into())),
        };
        let damaged =
            || Error::Usage("checkpoint: private client state (tensor `private`) is damaged or of another model or data set".into());
        self.private = private.ok_or_else(damaged)?;
        // From here on nothing can fail.
        self.engine.set_global(global, rounds_done);
        self.engine.set_moments(moments, rounds_done);
        self.rounds = rounds_done;
        Ok(())
    }
}

/// Names of the one participant's moments in a checkpoint.
const MOMENTS: [&str; 4] = ["optimizer.first.dense", "optimizer.second.dense", "optimizer.first.items", "optimizer.second.items"];

fn trainable(data: &Dataset) -> Result<()> {
    if data.users() > 0 && data.item_count() > 1 {
        return Ok(());
    }
    let (u, i) = (data.users(), data.item_count());
    let message =
        format!("data set `{}` has {u} users and {i} items: nothing to train on; lower data.min_length or data.k_core", data.name);
    Err(Error::Usage(message))
}
