//! Rounds on a device: the cohort packed by host threads into chunks that fit, trained by [`Engine`], and its sums handed to
//! the trainer as if lanes had made them. While the device trains a round the host packs the next.

use super::fixed;
use super::server::Server;
use super::update::Sums;
use super::wire;
use crate::backend::cuda::engine::{Engine, ReadyChunk, RoundResult};
use crate::backend::cuda::packed::{HostChunk, Shape};
use crate::backend::cuda::{Device, DeviceError};
use crate::cohort::{Chunk, Packer, VisitPlan};
use crate::config::{Clients, Group, Settings, Weights as Weighting};
use crate::data::Dataset;
use crate::model::Weights;
use crate::parallel;
use crate::rng::{Purpose, Stream};
use crate::views::Views;
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

/// Clients that one thread packs at a time.
const PIECE: usize = 64;

/// Why a run with these settings cannot be trained on a device yet, if so.
pub fn unsupported(settings: &Settings) -> Option<&'static str> {
    let shared = &settings.federation.shared;
    if settings.federation.clients == Clients::One {
        return Some("centralised training (federation.clients = \"one\") runs on the CPU");
    }
    if !shared.contains(&Group::Items) || !shared.contains(&Group::Encoder) {
        return Some("private parameter groups (federation.shared) are kept on the CPU");
    }
    None
}

/// What a client's visit was, for the round's report.
#[derive(Clone, Copy)]
struct Visit {
    client: u32,
    plan: VisitPlan,
    /// Steps that had tokens, and their tokens.
    steps: u32,
    tokens: u32,
}

/// A cohort ready for the device.
struct ReadyCohort {
    round: u64,
    clients: Vec<u32>,
    chunks: Vec<ReadyChunk>,
    visits: Vec<Visit>,
    /// Item of each slot of the sums.
    items: Vec<u32>,
    weight: i64,
    /// Seconds of packing.
    seconds: f64,
}

/// One packing thread.
struct PackLane<'a> {
    packer: Packer<'a>,
    pieces: Vec<(usize, Chunk)>,
}

/// See the module.
pub(super) struct DeviceTrainer<'a> {
    engine: Engine,
    settings: &'a Settings,
    lanes: Vec<PackLane<'a>>,
    next: Option<ReadyCohort>,
    /// Most bytes that a chunk may take.
    budget: u64,
    /// Slot of each item in the round being packed; `u32::MAX` where none.
    slot: Vec<u32>,
    /// Whether the device has the global weights.
    current: bool,
    everyone: Vec<u32>,
}

/// Times of a round on a device, in seconds of wall time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DeviceTimes {
    /// Packing that the device had to wait for.
    pub waited: f64,
    /// From the first upload to the last result.
    pub trained: f64,
}

impl<'a> DeviceTrainer<'a> {
    pub fn new(
        settings: &'a Settings,
        data: &'a Dataset,
        views: &'a Views,
        device: Arc<dyn Device>,
        threads: usize,
    ) -> Result<DeviceTrainer<'a>> {
        if let Some(reason) = unsupported(settings) {
            return Err(Error::setting("device", format!("`{}` is no choice here: {reason}; use `cpu`", settings.device)));
        }
        let engine = Engine::new(device, settings, data.item_count())?;
        let memory = engine.device().memory()?;
        Ok(DeviceTrainer {
            // A tenth is left to the driver and to packed arrays.
            budget: memory.free / 10 * 9,
            engine,
            settings,
            lanes: (0..threads).map(|_| PackLane { packer: Packer::new(settings, data, views), pieces: Vec::new() }).collect(),
            next: None,
            slot: vec![u32::MAX; data.item_count()],
            current: false,
            everyone: (0..data.users() as u32).collect(),
        })
    }

    /// Forgets what the device holds of the global weights, after they were changed elsewhere.
    pub fn invalidate(&mut self) {
        self.current = false;
        self.next = None;
    }

    /// At most so many bytes a chunk, for tests of chunking.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
        self.next = None;
    }

    fn pack(&mut self, clients: &[u32], round: u64) -> Result<ReadyCohort> {
        let start = Instant::now();
        for s in &mut self.slot {
            *s = u32::MAX;
        }
        let mut cohort = ReadyCohort {
            round,
            clients: clients.to_vec(),
            chunks: Vec::new(),
            visits: Vec::new(),
            items: Vec::new(),
            weight: 0,
            seconds: 0.0,
        };
        self.pack_from(&mut cohort, 0)?;
        cohort.seconds = start.elapsed().as_secs_f64();
        Ok(cohort)
    }

    /// Packs the clients from place `from` on into chunks that fit the budget.
    fn pack_from(&mut self, cohort: &mut ReadyCohort, from: usize) -> Result<()> {
        let round = cohort.round;
        let clients = &cohort.clients[from..];
        let users = &self.everyone;
        parallel::for_each(&mut self.lanes, clients.len().div_ceil(PIECE), 1, |lane, i| {
            let mut chunk = Chunk::new();
            for &client in &clients[i * PIECE..clients.len().min((i + 1) * PIECE)] {
                chunk.push(&mut lane.packer, client, std::slice::from_ref(&users[client as usize]), round);
            }
            lane.pieces.push((i, chunk));
        });
        let mut pieces: Vec<(usize, Chunk)> = self.lanes.iter_mut().flat_map(|l| l.pieces.drain(..)).collect();
        pieces.sort_by_key(|(i, _)| *i);
        cohort.visits.truncate(from);
        cohort.weight = 0;
        let mut at = from;
        let mut joined: Option<(Chunk, Shape)> = None;
        for (_, piece) in pieces {
            let shape = Shape::of(&piece);
            joined = Some(match joined.take() {
                None => (piece, shape),
                Some((mut chunk, sum)) if self.engine.chunk_bytes(&sum.plus(&shape)) <= self.budget => {
                    chunk.append(&piece);
                    (chunk, sum.plus(&shape))
                }
                Some((chunk, sum)) => {
                    self.lay_out(cohort, &chunk, sum, &mut at);
                    (piece, shape)
                }
            });
        }
        if let Some((chunk, shape)) = joined {
            self.lay_out(cohort, &chunk, shape, &mut at);
        }
        cohort.weight = cohort.visits.iter().map(|v| self.weight(v)).sum();
        Ok(())
    }

    fn weight(&self, visit: &Visit) -> i64 {
        match (visit.steps, self.settings.federation.weights) {
            (0, _) => 0,
            (_, Weighting::Examples) => i64::from(visit.plan.examples.max(1)),
            (_, Weighting::Equal) => 1,
        }
    }

    fn lay_out(&mut self, cohort: &mut ReadyCohort, chunk: &Chunk, shape: Shape, at: &mut usize) {
        let lambda = self.settings.loss.lambda_at(cohort.round);
        let mut slot = Vec::with_capacity(chunk.rows());
        for (&item, &uploads) in chunk.items.iter().zip(&chunk.uploads) {
            let s = &mut self.slot[item as usize];
            if uploads && *s == u32::MAX {
                *s = cohort.items.len() as u32;
                cohort.items.push(item);
            }
            slot.push(if uploads { *s } else { 0 });
        }
        let first = *at;
        for (c, (&client, &plan)) in chunk.clients.iter().zip(&chunk.plans).enumerate() {
            let mut visit = Visit { client, plan, steps: 0, tokens: 0 };
            for step in &chunk.steps {
                let tokens = step.client_tokens[c + 1] - step.client_tokens[c];
                visit.tokens += tokens;
                visit.steps += u32::from(tokens > 0);
            }
            cohort.visits.push(visit);
        }
        *at += chunk.clients.len();
        let weight = cohort.visits[first..].iter().map(|v| self.weight(v)).collect();
        cohort.chunks.push(ReadyChunk { first, host: HostChunk::new(chunk, lambda, 1), shape, weight, slot });
    }

    /// Trains `clients` in `round` from `weights`; their sums are left in `sums`, bytes down and up are added to `bytes`. `next`
    /// gives the clients of the round after, to be packed while the device is at work.
    #[allow(clippy::too_many_arguments)]
    pub fn train(
        &mut self,
        clients: &[u32],
        round: u64,
        weights: &Weights,
        sums: &mut Sums,
        bytes: &mut [u64; 2],
        next: Option<(Vec<u32>, u64)>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<DeviceTimes> {
        let start = Instant::now();
        let mut cohort = match self.next.take() {
            Some(c) if c.round == round && c.clients == clients => c,
            _ => self.pack(clients, round)?,
        };
        let waited = start.elapsed().as_secs_f64();
        self.engine.device().set_scope(&format!("round {round}"));
        if !self.current {
            self.engine.set_weights(weights)?;
            self.current = true;
        }
        let key = Stream::new(self.settings.seed, Purpose::Dropout, round, 0).key();
        self.engine.begin_round(round, cohort.clients.len(), cohort.items.len(), key)?;
        let mut i = 0;
        while i < cohort.chunks.len() {
            let (first, last) = (cohort.chunks[i].first, cohort.chunks[i].first + cohort.chunks[i].weight.len());
            self.engine.device().set_scope(&format!("round {round}, clients {first} to {} of the cohort", last - 1));
            match self.engine.train(&mut cohort.chunks[i]) {
                Ok(()) => i += 1,
                Err(e) if e.is_out_of_memory() && last - first > PIECE => {
                    // Something else took memory: smaller chunks from here on. No sum has been touched by this chunk.
                    self.budget = (self.engine.chunk_bytes(&cohort.chunks[i].shape) / 2).min(self.budget / 2);
                    self.engine.release()?;
                    cohort.chunks.truncate(i);
                    self.pack_from(&mut cohort, first)?;
                }
                Err(e) => return Err(e.into()),
            }
            progress(last as u64, cohort.clients.len() as u64);
        }
        let prepared = next.map(|(clients, round)| self.pack(&clients, round)).transpose()?;
        let result = self.engine.finish_round(cohort.clients.len(), cohort.items.len())?;
        self.next = prepared;
        self.check(&cohort, &result, round)?;
        self.report(&cohort, &result, weights, sums, bytes);
        Ok(DeviceTimes { waited, trained: start.elapsed().as_secs_f64() - waited })
    }

    fn check(&self, cohort: &ReadyCohort, result: &RoundResult, round: u64) -> Result<()> {
        let diverged = (0..cohort.visits.len()).find(|&c| result.losses[c].iter().any(|l| !l.is_finite()));
        let Some(c) = [result.failing.map(|c| c as usize), diverged].into_iter().flatten().min() else { return Ok(()) };
        let visit = &cohort.visits[c];
        let [r, k] = result.losses[c].map(|l| l / f64::from(visit.steps.max(1)));
        let message = format!(
            "the client's change is not finite or exceeds {} (mean next-item loss {r:.4}, contrast {k:.4}); lower local.lr, raise loss.tau or set local.clip",
            fixed::LIMIT
        );
        Err(Error::Training { round, client: u64::from(visit.client), message })
    }

    fn report(&self, cohort: &ReadyCohort, result: &RoundResult, weights: &Weights, sums: &mut Sums, bytes: &mut [u64; 2]) {
        let (d, p) = (weights.spec.dim(), weights.dense.len());
        sums.clear();
        sums.dense.copy_from_slice(&result.dense);
        for (slot, &item) in cohort.items.iter().enumerate().filter(|(slot, _)| result.row_weight[*slot] > 0) {
            sums.set_row(item, &result.rows[slot * d..][..d], result.row_weight[slot]);
        }
        sums.weight = cohort.weight;
        for (c, visit) in cohort.visits.iter().enumerate().filter(|(_, v)| v.steps > 0) {
            let uploaded = result.uploaded[c] as u64;
            let counts = [1, visit.steps.into(), visit.tokens.into(), visit.plan.examples.into(), uploaded, visit.plan.rows.into()];
            for (total, n) in sums.counts.iter_mut().zip(counts) {
                *total += n;
            }
            for (total, loss) in sums.losses.iter_mut().zip(result.losses[c]) {
                *total += fixed::from_f64(loss / f64::from(visit.steps));
            }
            bytes[0] += wire::encoded_len(p, visit.plan.rows as usize, d);
            bytes[1] += wire::encoded_len(p, uploaded as usize, d);
        }
    }

    /// Takes the server's step on the device as well, which gives the same bits as on the host.
    pub fn serve(&mut self, server: &Server, weights: &Weights) -> Result<()> {
        let _ = server;
        self.engine.set_weights(weights)?;
        Ok(())
    }
}

/// What the device did in a run so far.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct DeviceUse {
    /// The device.
    pub device: String,
    /// Kernels launched, graphs replayed and kernels in those.
    pub launches: u64,
    /// See `launches`.
    pub replays: u64,
    /// See `launches`.
    pub replayed: u64,
    /// Peak bytes foreseen by the plan and really held.
    pub predicted_bytes: u64,
    /// See `predicted_bytes`.
    pub peak_bytes: u64,
    /// Whether clients are resident in one block of threads (`gpu.resident`); otherwise they are trained step by step.
    pub resident: bool,
}

impl DeviceTrainer<'_> {
    /// What the device did so far.
    pub fn usage(&self) -> Result<DeviceUse, DeviceError> {
        let device = self.engine.device();
        let (counters, memory) = (device.counters(), device.memory()?);
        Ok(DeviceUse {
            device: device.name().to_string(),
            launches: counters.launches,
            replays: counters.replays,
            replayed: counters.replayed,
            predicted_bytes: self.engine.predicted_bytes(),
            peak_bytes: memory.peak,
            resident: self.engine.is_resident(),
        })
    }
}
