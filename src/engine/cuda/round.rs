//! Rounds on a device: the cohort packed by host threads into chunks that fit, trained by [`Engine`], and the server's step taken
//! there as well. The global weights stay on the device; the host is told counts and losses, and copies weights back when it wants
//! them. While the device trains a round the host packs the next.

use super::ranking::Ranked;
use super::usage::DeviceRound;
use crate::backend::cuda::shape::Shape;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::{ClientWeighting, Clients, Group, Settings};
use crate::data::Dataset;
use crate::device::{Counters, Device};
use crate::engine::cuda::chunks::{Engine, ReadyChunk, RoundResult};
use crate::engine::cuda::packed::HostChunk;
use crate::engine::{Chunk, Packer, Server, Totals, VisitPlan, fixed, wire};
use crate::model::{ModelSpec, Weights};
use crate::views::Views;
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

/// Clients that one thread packs at a time: the least that a chunk is made of, until memory is too small for it.
const PIECE: usize = 64;

/// Why a run with these settings cannot be trained on a device yet, if so.
pub fn unsupported(settings: &Settings) -> Option<&'static str> {
    if settings.federation.clients == Clients::One {
        return Some("centralised training (federation.clients = \"one\") runs on the CPU");
    }
    if !settings.federation.rules.is_empty() {
        return Some("rules for updates (federation.rules) are applied on the CPU");
    }
    unsupported_ranking(settings)
}

/// Why users cannot be ranked on a device under a model trained with these settings, if so.
pub fn unsupported_ranking(settings: &Settings) -> Option<&'static str> {
    let shared = &settings.federation.shared;
    let private = !shared.contains(&Group::Items) || !shared.contains(&Group::Encoder);
    private.then_some("private parameter groups (federation.shared) are kept on the CPU")
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
pub(crate) struct DeviceTrainer<'a> {
    pub(crate) engine: Engine,
    pub(crate) settings: &'a Settings,
    pub(crate) data: &'a Dataset,
    lanes: Vec<PackLane<'a>>,
    next: Option<ReadyCohort>,
    /// Most bytes that a chunk may take.
    budget: u64,
    /// See [`PIECE`].
    piece: usize,
    /// Most bytes that a chunk of users to be ranked may take.
    pub(crate) rank_budget: u64,
    /// Slot of each item in the round being packed; `u32::MAX` where none.
    slot: Vec<u32>,
    /// Which copy of the global weights is the newest.
    newest: Newest,
    /// Users packed for ranking, for the next validation of the same users.
    pub(super) ranked: Option<Ranked>,
    pub(crate) counters: Counters,
    everyone: Vec<u32>,
}

/// Who has the newest global weights.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newest {
    /// The host alone.
    Host,
    /// Both have the same.
    Both,
    /// The device alone.
    Device,
}

/// Times of a round on a device, in seconds of wall time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeviceTimes {
    /// Packing that the device had to wait for.
    pub waited: f64,
    /// From the first upload to the last result.
    pub trained: f64,
    /// Of checking the sums and starting the server's step.
    pub served: f64,
}

impl<'a> DeviceTrainer<'a> {
    pub fn new(
        settings: &'a Settings,
        data: &'a Dataset,
        views: &'a Views,
        device: Arc<dyn Device>,
        threads: usize,
    ) -> Result<DeviceTrainer<'a>> {
        if let Some(reason) = unsupported_ranking(settings) {
            return Err(not_here(settings, reason));
        }
        let engine = Engine::new(device, settings, data.item_count())?;
        let memory = engine.device().memory()?;
        Ok(DeviceTrainer {
            // A tenth is left to the driver and to packed arrays.
            budget: memory.free / 10 * 9,
            piece: PIECE,
            rank_budget: memory.free / 10 * 9,
            counters: engine.device().counters(),
            engine,
            settings,
            data,
            lanes: (0..threads).map(|_| PackLane { packer: Packer::new(settings, data, views), pieces: Vec::new() }).collect(),
            next: None,
            slot: vec![u32::MAX; ModelSpec::of(settings).rows(data.item_count())],
            newest: Newest::Host,
            ranked: None,
            everyone: (0..data.users() as u32).collect(),
        })
    }

    /// Forgets what the device holds of the global weights, after they were changed elsewhere.
    pub fn invalidate(&mut self) {
        self.newest = Newest::Host;
        self.next = None;
    }

    /// Whether the host's copy of the global weights is behind the device's.
    pub fn ahead(&self) -> bool {
        self.newest == Newest::Device
    }

    /// Sees to it that the device has the global weights.
    pub(crate) fn bring(&mut self, weights: &Weights, server: &Server) -> Result<()> {
        if self.newest == Newest::Host {
            let (first, second) = (&server.first, &server.second);
            self.engine.set_global([[&weights.dense, &weights.items], [&first.0, &first.1], [&second.0, &second.1]])?;
            self.newest = Newest::Both;
        }
        Ok(())
    }

    /// Copies the global weights and the server's moments back. After an error what they hold is of no use.
    pub fn fetch(&self, weights: &mut Weights, server: &mut Server) -> Result<()> {
        let (first, second) = (&mut server.first, &mut server.second);
        let state = [[&mut weights.dense[..], &mut weights.items], [&mut first.0, &mut first.1], [&mut second.0, &mut second.1]];
        Ok(self.engine.get_global(state)?)
    }

    /// Notes that the host has what [`DeviceTrainer::fetch`] gave.
    pub fn fetched(&mut self) {
        self.newest = Newest::Both;
    }

    /// At most so many bytes a chunk, for tests of chunking.
    pub fn set_budget(&mut self, bytes: u64) {
        (self.budget, self.rank_budget) = (bytes, bytes);
        (self.next, self.ranked) = (None, None);
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
        let (users, piece) = (&self.everyone, self.piece);
        parallel::for_each(&mut self.lanes, clients.len().div_ceil(piece), 1, |lane, i| {
            let mut chunk = Chunk::new();
            for &client in &clients[i * piece..clients.len().min((i + 1) * piece)] {
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
            (_, ClientWeighting::Examples) => i64::from(visit.plan.examples.max(1)),
            (_, ClientWeighting::Equal) => 1,
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

    /// Trains `clients` in `round` from the global weights, which are `weights` and `server` where the host's are the newest, and
    /// takes the server's step. `next` gives the clients of the round after, to be packed while the device is at work.
    #[allow(clippy::too_many_arguments)]
    pub fn train(
        &mut self,
        clients: &[u32],
        round: u64,
        weights: &Weights,
        server: &Server,
        next: Option<(Vec<u32>, u64)>,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<(Totals, DeviceTimes, DeviceRound)> {
        if let Some(reason) = unsupported(self.settings) {
            return Err(not_here(self.settings, reason));
        }
        let start = Instant::now();
        let mut cohort = match self.next.take() {
            Some(c) if c.round == round && c.clients == clients => c,
            _ => self.pack(clients, round)?,
        };
        let waited = start.elapsed().as_secs_f64();
        fixed::check_weight(cohort.weight)?;
        self.engine.device().set_scope(&format!("round {round}"));
        self.bring(weights, server)?;
        let key = Stream::new(self.settings.seed, Purpose::Dropout, round, 0).key();
        self.engine.begin_round(round, cohort.clients.len(), cohort.items.len(), key)?;
        let (mut i, mut released) = (0, false);
        while i < cohort.chunks.len() {
            let (first, last) = (cohort.chunks[i].first, cohort.chunks[i].first + cohort.chunks[i].weight.len());
            self.engine.device().set_scope(&format!("round {round}, clients {first} to {} of the cohort", last - 1));
            match self.engine.train(&mut cohort.chunks[i]) {
                Ok(()) => (i, released) = (i + 1, false),
                // What earlier chunks and rankings hold is given back first. No sum has been touched by this chunk.
                Err(e) if e.is_out_of_memory() && !released => {
                    self.engine.release()?;
                    released = true;
                }
                Err(e) if e.is_out_of_memory() && last - first > 1 => {
                    // Something else took memory: smaller chunks from here on.
                    self.piece = self.piece.min((last - first).div_ceil(2));
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
        // What failed in the queue shows only now, and any chunk may be the one.
        let last = cohort.clients.len().saturating_sub(1);
        self.engine.device().set_scope(&format!("round {round}, clients 0 to {last} of the cohort"));
        let result = self.engine.finish_round(cohort.clients.len(), cohort.items.len())?;
        self.next = prepared;
        self.check(&cohort, &result, round)?;
        let trained = start.elapsed().as_secs_f64() - waited;
        self.engine.device().set_scope(&format!("the server's step of round {round}"));
        // From here on the host's weights are those of an earlier round, whatever becomes of the step.
        self.newest = Newest::Device;
        match self.engine.serve(&self.settings.federation, cohort.weight, &cohort.items) {
            // The list of items did not fit, and no weight has been touched: what chunks hold is given back.
            Err(e) if e.is_out_of_memory() => {
                self.engine.release()?;
                self.engine.serve(&self.settings.federation, cohort.weight, &cohort.items)?;
            }
            served => served?,
        }
        let totals = self.totals(&cohort, &result, weights);
        let served = start.elapsed().as_secs_f64() - waited - trained;
        let round = self.round(cohort.chunks.len(), waited)?;
        Ok((totals, DeviceTimes { waited, trained, served }, round))
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

    fn totals(&self, cohort: &ReadyCohort, result: &RoundResult, weights: &Weights) -> Totals {
        let (d, p) = (weights.spec.dim(), weights.dense.len());
        let items = self.data.item_count() as u32;
        let item_rows = result.row_weight.iter().zip(&cohort.items).filter(|&(&w, &item)| w > 0 && item < items).count() as u64;
        let mut totals = Totals { item_rows, ..Totals::default() };
        for (c, visit) in cohort.visits.iter().enumerate().filter(|(_, v)| v.steps > 0) {
            let uploaded = result.uploaded[c] as u64;
            let counts = [1, visit.steps.into(), visit.tokens.into(), visit.plan.examples.into(), uploaded, visit.plan.rows.into()];
            for (total, n) in totals.counts.iter_mut().zip(counts) {
                *total += n;
            }
            for (total, loss) in totals.losses.iter_mut().zip(result.losses[c]) {
                *total += fixed::from_f64(loss / f64::from(visit.steps));
            }
            totals.bytes[0] += wire::encoded_len(p, visit.plan.rows as usize, d);
            totals.bytes[1] += wire::encoded_len(p, uploaded as usize, d);
        }
        totals
    }
}

fn not_here(settings: &Settings, reason: &str) -> Error {
    Error::setting("device", format!("`{}` is no choice here: {reason}; use `cpu`", settings.device))
}
