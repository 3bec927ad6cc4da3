//! `averaging`: the global model goes down, what a client changed comes up, the server averages it. What FedAvg (McMahan et al., AISTATS
//! 2017) does, with any rules on the way; with one participant it is centralised training.

use super::{Kind, Parts, Place, Protocol};
use crate::backend::cpu::{Worker, WorkerShape};
use crate::cluster::{Reduce, agree};
use crate::config::{Settings, Validated};
use crate::data::Sought;
use crate::engine::cpu;
use crate::engine::cuda::DeviceUse;
use crate::engine::{
    Engine, Global, Mean, Moments, NamedTensor, Needs, Occasion, Participants, PrivateShape, PrivateStore, Progress, Rules, Server, Sums,
    TensorData, Tensors, Totals, Trained, Update, Work, fixed, kept_by_clients,
};
use crate::federation::local_steps::{LocalSteps, engine_on};
use crate::federation::ranking_average::RankingAverage;
use crate::federation::secure::SecureSums;
use crate::federation::{Cohort, RoundReport, Shares, attacks, divergence, privacy_of, rules};
use crate::model::{Model, ModelSpec, Weights};
use crate::privacy::Cost;
use crate::{Error, Result};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

pub(super) const KIND: Kind = Kind {
    name: "averaging",
    summary: "clients train the global model and upload what they changed; the server averages it, an item row over its contributors",
    paper: "FedAvg, McMahan et al., AISTATS 2017",
    options: &[],
    check: |_, _| Ok(()),
    trains: |_| Place::Device,
    ranks: |_| Place::Device,
    build: |_, parts| Ok(Box::new(Averaging::new(parts)?)),
};

/// Parameter averaging over an engine.
struct Averaging {
    settings: Arc<Validated<Settings>>,
    participants: Participants,
    engine: Box<dyn Engine>,
    rules: Rules,
    secure: Option<SecureSums>,
    reduce: Arc<dyn Reduce>,
    shares: Shares,
    private: PrivateStore,
    /// Round of what clients keep to themselves.
    kept_round: u64,
    /// The weights that rank, where they are not those that are trained on.
    average: Option<RankingAverage>,
    /// What users train for themselves before they are ranked.
    local_steps: Option<LocalSteps>,
}

impl Averaging {
    fn new(parts: Parts) -> Result<Averaging> {
        let Parts { settings, data, views, device, reduce } = parts;
        let (data, attack) = match attacks::plan(&settings, &data)? {
            Some(plan) => (plan.data, plan.rule),
            None => (data, None),
        };
        let participants = Participants::new(settings.federation.clients, &data);
        let privacy = privacy_of(&settings, participants.len())?;
        let (spec, rows) = (ModelSpec::of(&settings), ModelSpec::of(&settings).rows(data.item_count()));
        let secure = SecureSums::of(&settings, privacy.as_ref(), &spec, rows);
        let mut rules = rules::of(&settings, attack, privacy, rows)?;
        if reduce.size() > 1 {
            rules.may_divide()?;
        }
        rules.meet(&participants, &data);
        // Who trains alone keeps its moments.
        let keep = kept_by_clients(&settings.federation) || participants.len() == 1;
        let shares = Shares::new(&*reduce, &data, &participants, settings.model.max_len as usize, keep);
        let local_steps = LocalSteps::of(&settings, &data, &views, device.as_ref())?;
        let engine = engine_on(device, settings.clone(), data, views)?;
        let private = PrivateStore::new(settings.federation.private_memory_mb);
        let average = RankingAverage::of(&settings.federation);
        Ok(Averaging { settings, participants, engine, rules, secure, reduce, shares, private, kept_round: 0, average, local_steps })
    }

    /// Brings the average up to the round of the global model, whose copy the host then has as well: after a fault of the device both are of one round.
    fn follow(&mut self) -> Result<()> {
        if let Some(average) = &mut self.average {
            self.engine.snapshot()?;
            let (global, round) = self.engine.last_snapshot();
            average.follow(&global.weights, round);
        }
        Ok(())
    }

    /// What all processes trained, or that one of them failed. The client that diverged is the lowest of all.
    fn joined(&self, trained: Result<Trained>) -> Result<Trained> {
        let mut trained = agree(&*self.reduce, trained)?;
        if self.reduce.size() == 1 {
            return Ok(trained);
        }
        let mut totals = trained.totals.to_array();
        self.reduce.sum(&mut totals)?;
        trained.totals = Totals::from_array(totals);
        if trained.totals.counts[6] > 0 {
            trained.diverged = divergence::lowest(&*self.reduce, trained.diverged)?;
        }
        Ok(trained)
    }

    /// The server's part of the rules, and before it that of malicious clients who work together.
    fn apply_rules(&self, round: u64, silent: usize, mean: &mut Mean) -> Result<Option<Cost>> {
        let global = if self.rules.read_weights() { Some(self.engine.global()?) } else { None };
        let weights = global.as_ref().map(|global| &global.weights);
        let occasion = Occasion { seed: self.settings.seed, round, weights };
        if self.rules.collude_at_all() {
            let mut updates = std::mem::take(&mut mean.updates);
            self.rules.collude(&occasion, &mut updates);
            *mean = self.added(round, mean, updates)?;
        }
        let mut cost = None;
        if let Some(secure) = &self.secure {
            // Of the updates the server gets their sum alone.
            let updates = std::mem::take(&mut mean.updates);
            let (global, _) = self.engine.last_snapshot();
            let (sums, spent) = secure.sums(&global.weights.spec, round, &updates, silent)?;
            *mean = Server::mean(&self.settings.federation, &sums, mean.d, Vec::new());
            cost = Some(spent);
        }
        self.rules.server(&occasion, mean);
        Ok(cost)
    }

    /// The mean of `updates`, in the place of `mean`.
    fn added(&self, round: u64, mean: &Mean, updates: Vec<Update>) -> Result<Mean> {
        let (global, _) = self.engine.last_snapshot();
        let mut sums = Sums::new(&global.weights.spec, global.table()[0]);
        for update in &updates {
            sums.weight += i64::from(update.weight);
            if !sums.add(update) {
                return Err(Error::Training { round, client: update.client.into(), message: fixed::diverged(f64::NAN, f64::NAN) });
            }
        }
        Ok(Server::mean(&self.settings.federation, &sums, mean.d, updates))
    }

    /// What clients keep to themselves, of the clients of all processes; at rank 0 alone where there are several.
    fn private_bytes(&self) -> Result<Vec<u8>> {
        if self.reduce.size() == 1 || !kept_by_clients(&self.settings.federation) {
            return self.private.encode();
        }
        let parts = self.reduce.collect(&self.private.encode()?)?;
        PrivateStore::joined(&parts).ok_or_else(|| Error::Cluster("private state of another process came damaged".into()))
    }

    fn name_tensors(&self, global: &Global, moments: Option<Moments>, private: Vec<u8>) -> Vec<NamedTensor> {
        let mut out = global.tensors();
        for (name, values) in MOMENTS.iter().zip(moments.iter().flatten()) {
            out.push(NamedTensor::f32(*name, &[values.len()], values));
        }
        out.extend(self.average.iter().flat_map(RankingAverage::tensors));
        out.extend(self.rules.tensors());
        if !private.is_empty() {
            out.push(NamedTensor { name: "private".into(), shape: vec![private.len()], data: TensorData::U8(private) });
        }
        out
    }
}

impl Protocol for Averaging {
    fn round(&mut self, round: u64, cohort: &Cohort, next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let clients = self.shares.clients(&self.participants, &cohort.clients);
        let next = next.map(|next| self.shares.clients(&self.participants, &next.clients));
        let work = Work { round, clients: &clients, next: next.as_deref(), rules: &self.rules, private: &self.private };
        let trained = self.engine.train(&work, progress);
        let trained = self.joined(trained)?;
        divergence::judge(&self.settings, round, cohort, trained.totals.counts[6], trained.diverged.clone())?;

        let served = Instant::now();
        if self.reduce.size() > 1 {
            self.engine.reduce(&*self.reduce, self.rules.needs() == Needs::All)?;
            self.rules.join(&*self.reduce)?;
        }
        let item_rows = self.engine.touched_rows();
        // The one that this round's updates were shortened to; the server's part sets the next.
        let clip = self.rules.clip();
        let mut cost = None;
        if self.rules.is_empty() {
            self.engine.serve(None)?;
        } else if let Some(mut mean) = self.engine.mean()? {
            let silent = u64::from(cohort.dropped) + trained.totals.counts[6];
            cost = self.apply_rules(round, silent as usize, &mut mean)?;
            self.engine.serve(Some(mean))?;
        }
        if trained.totals.counts[0] > 0 {
            self.follow()?;
        }
        let served = served.elapsed().as_secs_f64();
        for (client, state) in trained.private {
            self.private.put(client, &state)?;
        }
        self.kept_round = round;
        let mut device = self.engine.end_round()?;
        let report = RoundReport::of(round, cohort, &trained.totals, item_rows, start);
        if let Some(used) = &mut device {
            used.busy_share = used.busy_s / report.seconds;
        }
        let mut report = report;
        if let Some(cost) = cost {
            (report.bytes_up, report.bytes_down) = (cost.bytes_up, report.bytes_down + cost.bytes_down);
            report.secure_sum = Some(cost);
        }
        let [pack_s, train_s, add_s] = trained.seconds;
        Ok(RoundReport { pack_s, train_s, add_s: add_s + served, clip, device, ..report })
    }

    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let (engine, private, participants) = (&mut self.engine, &self.private, &self.participants);
        let (local_steps, average) = (&mut self.local_steps, self.average.as_ref().and_then(RankingAverage::weights));
        self.shares.rank(&*self.reduce, participants, users, |users| match (local_steps, average) {
            (Some(steps), Some(average)) => steps.rank(average.clone(), participants, private, (sought, users), progress),
            (Some(steps), None) => steps.rank(engine.global()?.weights.clone(), participants, private, (sought, users), progress),
            (None, Some(average)) => with_weights(&mut **engine, average, |engine| engine.rank(sought, users, private, progress)),
            (None, None) => engine.rank(sought, users, private, progress),
        })
    }

    fn scores(&mut self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        let average = self.average.as_ref().and_then(RankingAverage::weights);
        let global = if average.is_none() { Some(self.engine.global()?) } else { None };
        let weights = average.or(global.as_ref().map(|global| &global.weights)).expect("one of them");
        let mut worker = Worker::new(WorkerShape::new(&weights.spec));
        let (participants, private) = (&self.participants, &self.private);
        let (settings, state) = match (&mut self.local_steps, user) {
            (Some(steps), Some(user)) => {
                let state = steps.state(weights.clone(), participants, private, user)?;
                (steps.settings(), state)
            }
            (_, user) => (&**self.settings, cpu::own_state(participants, user, private)?),
        };
        let model = Model::new(&weights.spec);
        Ok(cpu::personal_scores(&mut worker, &model, settings, weights, &state, history))
    }

    fn weights(&self) -> Result<Cow<'_, Weights>> {
        if let Some(average) = self.average.as_ref().and_then(RankingAverage::weights) {
            return Ok(Cow::Borrowed(average));
        }
        Ok(match self.engine.global()? {
            Cow::Borrowed(global) => Cow::Borrowed(&global.weights),
            Cow::Owned(global) => Cow::Owned(global.weights),
        })
    }

    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        Ok(self.name_tensors(&*self.engine.global()?, self.engine.moments()?, self.private_bytes()?))
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        let (now, _) = self.engine.last_snapshot();
        let global = now.restored(&self.settings.federation, tensors)?;
        let ([items, d], p) = (now.table(), now.weights.spec.dense_len);
        let mut moments = None;
        if self.participants.len() == 1 && self.participants.share_batches() && rounds_done > 0 {
            let mut found = Moments::default();
            for (i, name) in MOMENTS.iter().enumerate() {
                found[i] = tensors.f32(name, &[if i < 2 { p } else { items * d }])?.to_vec();
            }
            moments = Some(found);
        }
        let shape = PrivateShape { clients: self.participants.len(), items, dim: d, dense: p };
        let owned = |client| self.shares.owns(client);
        let private = match tensors.get("private").map(|t| &t.data) {
            None => self.private.restored(&[], shape, &owned)?,
            Some(TensorData::U8(bytes)) => self.private.restored(bytes, shape, &owned)?,
            Some(_) => return Err(Error::Usage("checkpoint: tensor `private` must hold bytes".into())),
        };
        let damaged =
            || Error::Usage("checkpoint: private client state (tensor `private`) is damaged or of another model or data set".into());
        let private = private.ok_or_else(damaged)?;
        let average = self.average.as_ref().map(|average| average.restored(tensors, &now.weights, rounds_done)).transpose()?;
        self.rules.restore(tensors)?;
        (self.private, self.kept_round, self.average) = (private, rounds_done, average);
        // From here on nothing can fail.
        self.engine.set_global(global, rounds_done);
        self.engine.set_moments(moments);
        Ok(())
    }

    fn looks_ahead(&self) -> bool {
        self.engine.looks_ahead()
    }

    fn snapshot(&mut self) -> Result<()> {
        self.engine.snapshot()?;
        self.follow()
    }

    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        let (global, round) = self.engine.last_snapshot();
        if self.reduce.size() > 1 && kept_by_clients(&self.settings.federation) {
            return Err(Error::Cluster("what clients keep to themselves lies with several processes".into()));
        }
        if round != self.kept_round && kept_by_clients(&self.settings.federation) {
            return Err(Error::Usage("what clients keep to themselves is of a later round than the weights".into()));
        }
        Ok((self.name_tensors(global, self.engine.last_moments(), self.private.encode()?), round))
    }

    fn set_spill_folder(&mut self, folder: PathBuf) {
        self.private.set_folder(folder);
    }

    fn bytes(&self) -> usize {
        let average = self.average.as_ref().map_or(0, RankingAverage::bytes);
        self.engine.bytes() + average + self.local_steps.as_ref().map_or(0, LocalSteps::bytes)
    }

    fn device_use(&self) -> Result<Option<DeviceUse>> {
        self.engine.device_use()
    }

    fn limit_chunks(&mut self, bytes: u64) {
        self.engine.limit_chunks(bytes);
        self.local_steps.iter_mut().for_each(|steps| steps.limit_chunks(bytes));
    }
}

/// What `work` gives with `weights` in the place of the model of `engine`, which then has its own again, whatever came of it.
fn with_weights<T>(engine: &mut dyn Engine, weights: &Weights, work: impl FnOnce(&mut dyn Engine) -> Result<T>) -> Result<T> {
    engine.snapshot()?;
    let (global, round) = engine.last_snapshot();
    let global = global.clone();
    engine.set_global(Global { weights: weights.clone(), server: global.server.clone() }, round);
    let done = work(engine);
    engine.set_global(global, round);
    done
}

/// Names of the one participant's moments in a checkpoint.
const MOMENTS: [&str; 4] = ["optimizer.first.dense", "optimizer.second.dense", "optimizer.first.items", "optimizer.second.items"];
