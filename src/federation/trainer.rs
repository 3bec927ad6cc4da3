//! The trainer: global weights, the server's state, one lane a thread, and the state a checkpoint needs.

use super::draw::{Cohort, draw};
use super::report::RoundReport;
use super::rules;
use crate::base::parallel;
use crate::config::{Clients, Group, Settings};
use crate::data::Dataset;
use crate::device::Device;
use crate::engine::cpu::{Lane, Rules};
use crate::engine::cuda::{DeviceTrainer, DeviceUse};
use crate::engine::{NamedTensor, Needs, Occasion, PrivateShape, PrivateState, PrivateStore, Server, TensorData, Totals, fixed};
use crate::model::{Model, ModelSpec, Weights};
use crate::views::Views;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Wall time between two copies of a device's weights to the host, which are what is left after a fault of the device: so long, and
/// so many times as long as a copy takes. Changes no result.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// See [`KEEP_EVERY`].
const KEEP_SHARE: u32 = 50;

/// Which state the host has.
struct Kept {
    /// Round that it is of.
    round: u64,
    /// When it was copied from the device, and how long that took.
    at: Instant,
    took: Duration,
}

impl Kept {
    fn now(round: u64, begun: Instant) -> Kept {
        Kept { round, at: Instant::now(), took: begun.elapsed() }
    }
}

/// Federated (or, with one participant, centralised) training of one model.
pub struct Trainer<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) data: &'a Dataset,
    pub(crate) model: Model,
    pub(crate) weights: Weights,
    pub(crate) server: Server,
    lanes: Vec<Lane<'a>>,
    rules: Rules,
    pub(crate) private: PrivateStore,
    pub(crate) threads: usize,
    /// Users in order, for the participant that holds all sequences.
    everyone: Vec<u32>,
    rounds: u64,
    /// Moments of the one participant, as restored from a checkpoint.
    moments: Option<[Vec<f32>; 4]>,
    /// Where clients are trained, if not on the CPU.
    pub(crate) device: Option<DeviceTrainer<'a>>,
    /// What `weights` and `server` are of: a device may be ahead of them.
    kept: Kept,
}

/// `users[c]` as a slice of one: the sequences of client `c`.
fn one(users: &[u32], client: u32) -> &[u32] {
    std::slice::from_ref(&users[client as usize])
}

impl<'a> Trainer<'a> {
    /// A trainer with initial weights. `settings` must have been validated.
    pub fn new(settings: &'a Settings, data: &'a Dataset, views: &'a Views) -> Result<Trainer<'a>> {
        if data.users() == 0 || data.item_count() < 2 {
            let (u, i) = (data.users(), data.item_count());
            return Err(Error::Usage(format!(
                "data set `{}` has {u} users and {i} items: nothing to train on; lower data.min_length or data.k_core",
                data.name
            )));
        }
        let spec = ModelSpec::of(settings);
        let weights = Weights::init(&spec, data.item_count(), settings.seed);
        let wanted = if settings.threads == 0 { parallel::default_threads() } else { settings.threads as usize };
        let threads = if settings.federation.clients == Clients::One { 1 } else { wanted };
        let lanes = (0..threads).map(|_| Lane::new(settings, data, views, &spec)).collect();
        let users: Vec<u32> = (0..data.users() as u32).collect();
        let list = rules::build(&settings.federation.rules)?;
        let rules = Rules { all: list.iter().any(|rule| rule.needs() == Needs::All), list };
        Ok(Trainer {
            settings,
            data,
            model: Model::new(&spec),
            server: Server::new(&settings.federation, &weights),
            weights,
            lanes,
            rules,
            private: PrivateStore::new(settings.federation.private_memory_mb),
            threads: wanted,
            everyone: users,
            rounds: 0,
            moments: None,
            device: None,
            kept: Kept::now(0, Instant::now()),
        })
    }

    /// A trainer whose clients are trained on `device`; threads of the host pack them.
    pub fn on_device(settings: &'a Settings, data: &'a Dataset, views: &'a Views, device: Arc<dyn Device>) -> Result<Trainer<'a>> {
        let mut trainer = Trainer::new(settings, data, views)?;
        trainer.lanes.truncate(1);
        trainer.device = Some(DeviceTrainer::new(settings, data, views, device, trainer.threads)?);
        Ok(trainer)
    }

    /// What the device did so far, where there is one.
    pub fn device_use(&self) -> Result<Option<DeviceUse>> {
        Ok(self.device.as_ref().map(DeviceTrainer::usage).transpose()?)
    }

    /// At most so many bytes for a chunk of clients on the device, where there is one. Changes no result.
    pub fn limit_chunks(&mut self, bytes: u64) {
        if let Some(device) = &mut self.device {
            device.set_budget(bytes);
        }
    }

    /// Folder for private client state that does not fit in memory.
    pub fn set_spill_folder(&mut self, folder: PathBuf) {
        self.private.set_folder(folder);
    }

    /// Rounds trained so far.
    pub fn rounds_done(&self) -> u64 {
        self.rounds
    }

    /// The global weights, copied from the device where that is ahead of the host.
    pub fn weights(&self) -> Result<Cow<'_, Weights>> {
        match &self.device {
            Some(device) if device.ahead() => Ok(Cow::Owned(self.fetch(device)?.0)),
            _ => Ok(Cow::Borrowed(&self.weights)),
        }
    }

    fn fetch(&self, device: &DeviceTrainer) -> Result<(Weights, Server)> {
        let (mut weights, mut server) = (self.weights.clone(), self.server.clone());
        device.fetch(&mut weights, &mut server)?;
        Ok((weights, server))
    }

    /// Copies the global weights from the device, where there is one and it is ahead of the host.
    pub fn keep(&mut self) -> Result<()> {
        let begun = Instant::now();
        if let Some(device) = self.device.as_ref().filter(|d| d.ahead()) {
            // Into a copy: a device that fails half-way must not spoil what the host has.
            let fetched = self.fetch(device)?;
            (self.weights, self.server) = fetched;
            self.device.iter_mut().for_each(DeviceTrainer::fetched);
        }
        self.kept = Kept::now(self.rounds, begun);
        Ok(())
    }

    /// The newest state that the host has, and the round that it is of: what is left when a device has failed.
    pub fn kept(&self) -> Result<(Vec<NamedTensor>, u64)> {
        Ok((self.name_tensors(&self.weights, &self.server)?, if self.device.is_some() { self.kept.round } else { self.rounds }))
    }

    /// Bytes of weights, server state and worker memory.
    pub fn bytes(&self) -> usize {
        let server = [&self.server.first.0, &self.server.first.1, &self.server.second.0, &self.server.second.1];
        let floats: usize = self.weights.dense.len() + self.weights.items.len() + server.iter().map(|v| v.len()).sum::<usize>();
        4 * floats + self.lanes.iter().map(|l| l.worker.bytes() + l.sums.bytes() + 4 * self.data.item_count()).sum::<usize>()
    }

    /// Trains the next round.
    pub fn round(&mut self) -> Result<RoundReport> {
        self.round_with(&|_, _| {})
    }

    /// Trains the next round, telling `progress` how many of how many clients (or, with one participant, local steps) are done.
    pub fn round_with(&mut self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<RoundReport> {
        let start = Instant::now();
        let round = self.rounds + 1;
        let single = self.settings.federation.clients == Clients::One;
        let cohort = if single {
            Cohort { clients: vec![0], dropped: 0 }
        } else {
            draw(&self.settings.federation, self.data.users(), self.settings.seed, round)
        };
        let draw_s = start.elapsed().as_secs_f64();
        if self.device.is_some() {
            return self.round_on_device(&cohort, start, draw_s, progress);
        }
        self.train_cohort(&cohort.clients, round, progress)?;

        let t = Instant::now();
        let (first, rest) = self.lanes.split_first_mut().expect("a trainer has a lane");
        for lane in rest.iter() {
            first.sums.merge(&lane.sums);
        }
        fixed::check_weight(first.sums.weight)?;
        let fed = &self.settings.federation;
        if self.rules.list.is_empty() || first.sums.weight == 0 {
            self.server.apply(fed, &first.sums, &mut self.weights);
        } else {
            let updates = rest.iter_mut().fold(std::mem::take(&mut first.updates), |mut all, lane| {
                all.append(&mut lane.updates);
                all
            });
            let mut mean = Server::mean(fed, &first.sums, self.weights.spec.dim(), updates);
            let occasion = Occasion { seed: self.settings.seed, round };
            self.rules.list.iter().rev().for_each(|rule| rule.server(&occasion, &mut mean));
            self.server.apply_mean(fed, &mean, &mut self.weights);
        }
        let served = t.elapsed().as_secs_f64();

        let private: Vec<(u32, PrivateState)> = self.lanes.iter_mut().flat_map(|l| l.private.drain(..)).collect();
        for (client, state) in private {
            self.private.put(client, state)?;
        }
        self.rounds = round;
        let sums = &self.lanes[0].sums;
        let mean = |i: usize| self.lanes.iter().map(|l| l.seconds[i]).sum::<f64>() / self.lanes.len() as f64;
        let bytes = [0, 1].map(|i| self.lanes.iter().map(|l| l.bytes[i]).sum::<u64>());
        let items = self.data.item_count() as u32;
        let item_rows = sums.items.iter().filter(|&&item| item < items).count() as u64;
        let totals = Totals { counts: sums.counts, losses: sums.losses, item_rows, bytes };
        Ok(RoundReport {
            pack_s: mean(0),
            train_s: mean(1),
            add_s: mean(2) + served,
            draw_s,
            ..RoundReport::of(round, &cohort, &totals, start)
        })
    }

    fn round_on_device(
        &mut self,
        cohort: &Cohort,
        start: Instant,
        draw_s: f64,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<RoundReport> {
        let round = self.rounds + 1;
        let device = self.device.as_mut().expect("asked by the caller");
        let fed = &self.settings.federation;
        let next =
            (round < u64::from(fed.rounds)).then(|| (draw(fed, self.data.users(), self.settings.seed, round + 1).clients, round + 1));
        let (totals, times, mut used) = device.train(&cohort.clients, round, &self.weights, &self.server, next, progress)?;
        self.rounds = round;
        if self.kept.at.elapsed() > KEEP_EVERY.max(self.kept.took * KEEP_SHARE) {
            self.keep()?;
        }
        let report = RoundReport::of(round, cohort, &totals, start);
        used.busy_share = used.busy_s / report.seconds;
        Ok(RoundReport { draw_s, pack_s: times.waited, train_s: times.trained, add_s: times.served, device: Some(used), ..report })
    }

    /// Runs the visits of `clients`; their sums end up in the lanes. The global weights stay as they are.
    fn train_cohort(&mut self, clients: &[u32], round: u64, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<()> {
        let single = self.settings.federation.clients == Clients::One;
        let shared = &self.settings.federation.shared;
        let keeps = !shared.contains(&Group::Items) || !shared.contains(&Group::Encoder);
        for lane in &mut self.lanes {
            lane.clear();
        }
        if single && self.lanes[0].continued.is_none() {
            let steps = self.steps_of_one(self.rounds);
            self.lanes[0].continued = Some(steps);
            if let Some([a, b, c, d]) = &self.moments.take() {
                self.lanes[0].worker.set_moments([a, b, c, d]);
            }
        }
        let done = std::sync::atomic::AtomicU64::new(0);
        let (settings, model, weights, everyone, private) = (self.settings, &self.model, &self.weights, &self.everyone, &self.private);
        let rules = &self.rules;
        let quiet = |_: u64, _: u64| {};
        parallel::for_each(&mut self.lanes, clients.len(), 8, |lane, i| {
            let client = clients[i];
            let state = if keeps {
                match private.get(client) {
                    Ok(state) => state,
                    Err(e) => return lane.failure = Some((client, e.to_string())),
                }
            } else {
                None
            };
            let users = if single { everyone.as_slice() } else { one(everyone, client) };
            let steps: &dyn Fn(u64, u64) = if single { progress } else { &quiet };
            lane.visit(settings, model, weights, client, users, round, state.as_ref(), rules, steps);
            if !single {
                let n = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
                if n.is_multiple_of(64) || n == clients.len() as u64 {
                    progress(n, clients.len() as u64);
                }
            }
        });
        // The lowest failing client is named, whichever thread met it first.
        match self.lanes.iter().filter_map(|l| l.failure.clone()).min() {
            Some((client, message)) => Err(Error::Training { round, client: u64::from(client), message }),
            None => Ok(()),
        }
    }

    /// Optimiser steps that the one participant takes in `rounds` rounds.
    fn steps_of_one(&self, rounds: u64) -> u32 {
        let batches = self.everyone.len().div_ceil(self.settings.local.batch.max(1) as usize) as u64;
        (rounds * batches * u64::from(self.settings.local.epochs)) as u32
    }

    /// The whole state, for a checkpoint: `items [I + S, d]`, the dense tensors by name, the server's moments, private state.
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        match &self.device {
            Some(device) if device.ahead() => {
                let (weights, server) = self.fetch(device)?;
                self.name_tensors(&weights, &server)
            }
            _ => self.name_tensors(&self.weights, &self.server),
        }
    }

    fn name_tensors(&self, weights: &Weights, server: &Server) -> Result<Vec<NamedTensor>> {
        let spec = &weights.spec;
        let d = spec.dim();
        let table = [spec.rows(self.data.item_count()), d];
        let mut out = vec![NamedTensor::f32("items", &table, &weights.items)];
        for p in &spec.params {
            out.push(NamedTensor::f32(&p.name, &p.shape, &weights.dense[p.offset..p.offset + p.len()]));
        }
        for (name, pair) in [("server.first", &server.first), ("server.second", &server.second)] {
            if !pair.0.is_empty() {
                out.push(NamedTensor::f32(format!("{name}.dense"), &[spec.dense_len], &pair.0));
                out.push(NamedTensor::f32(format!("{name}.items"), &table, &pair.1));
            }
        }
        let moments = match (&self.moments, self.lanes[0].continued) {
            // As restored: the worker takes them over when it begins its next round.
            (Some(restored), _) => Some(restored.each_ref().map(Vec::as_slice)),
            (None, Some(_)) => Some(self.lanes[0].worker.moments()),
            (None, None) => None,
        };
        for (name, values) in MOMENTS.iter().zip(moments.into_iter().flatten()) {
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
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let find = |name: &str, shape: &[usize]| -> Result<&[f32]> {
            let t = by_name
                .get(name)
                .ok_or_else(|| Error::Usage(format!("checkpoint: tensor `{name}` is missing; it belongs to another model or method")))?;
            match &t.data {
                TensorData::F32(v) if t.shape == shape => Ok(v),
                _ => Err(Error::Usage(format!(
                    "checkpoint: tensor `{name}` has shape {:?} where this run needs f32 {shape:?}; it belongs to another model or data set",
                    t.shape
                ))),
            }
        };
        let spec = self.weights.spec.clone();
        let table = [spec.rows(self.data.item_count()), spec.dim()];
        let mut fresh = self.weights.clone();
        fresh.items.copy_from_slice(find("items", &table)?);
        for p in &spec.params {
            fresh.dense[p.offset..p.offset + p.len()].copy_from_slice(find(&p.name, &p.shape)?);
        }
        let mut server = Server::new(&self.settings.federation, &fresh);
        for (name, pair) in [("server.first", &mut server.first), ("server.second", &mut server.second)] {
            if !pair.0.is_empty() {
                pair.0.copy_from_slice(find(&format!("{name}.dense"), &[spec.dense_len])?);
                pair.1.copy_from_slice(find(&format!("{name}.items"), &table)?);
            }
        }
        let mut moments = None;
        if self.settings.federation.clients == Clients::One && rounds_done > 0 {
            let (p, r) = ([spec.dense_len], [table[0] * table[1]]);
            let mut found: [Vec<f32>; 4] = Default::default();
            for (i, name) in MOMENTS.iter().enumerate() {
                found[i] = find(name, if i < 2 { &p } else { &r })?.to_vec();
            }
            moments = Some(found);
        }
        let shape = PrivateShape { clients: self.data.users(), items: table[0], dim: spec.dim(), dense: spec.dense_len };
        let private = match by_name.get("private").map(|t| &t.data) {
            None => self.private.restored(&[], shape)?,
            Some(TensorData::U8(bytes)) => self.private.restored(bytes, shape)?,
            Some(_) => return Err(Error::Usage("checkpoint: tensor `private` must hold bytes".into())),
        };
        let damaged =
            || Error::Usage("checkpoint: private client state (tensor `private`) is damaged or of another model or data set".into());
        let private = private.ok_or_else(damaged)?;
        // From here on nothing can fail.
        self.private = private;
        self.moments = moments;
        if let Some(device) = &mut self.device {
            device.invalidate();
        }
        self.weights = fresh;
        self.server = server;
        self.rounds = rounds_done;
        self.kept = Kept::now(rounds_done, Instant::now());
        for lane in &mut self.lanes {
            lane.continued = None;
        }
        Ok(())
    }
}

/// Names of the one participant's moments in a checkpoint.
const MOMENTS: [&str; 4] = ["optimizer.first.dense", "optimizer.second.dense", "optimizer.first.items", "optimizer.second.items"];
