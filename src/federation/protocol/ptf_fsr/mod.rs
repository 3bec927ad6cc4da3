//! `ptf-fsr`: no weight is ever exchanged (PTF-FSR, arXiv 2406.05387).
//!
//! Each client trains a small recommender of its own and uploads one perturbed sequence a round ([`Upload`]). The server trains a larger
//! model on the uploads, with two contrasts, and sends each client the upload of the client that is most like it, with soft labels
//! ([`Labelled`]), on which the client trains beside its own history in its next round. Ours, where the paper leaves it open:
//!
//! * A round trains the drawn cohort, then the server on the cohort's uploads, then answers; all clients take part where
//!   `federation.fraction` is 1. The paper walks through all clients in groups.
//! * A client's optimiser starts afresh in each round; the server's goes on.
//! * A sequence stands for its client by its last hidden state. The contrast with the upload before needs two clients that have one.
//! * Negatives of an upload are none of the client's own items.
//!
//! Several processes train a share of the clients each, and every one of them trains the server's model on the uploads of all: the same bits
//! everywhere, and no weight is sent.

mod client;
mod constants;
mod contrast;
mod exchange;
pub mod perturb;
mod rank;
mod server;
mod state;
mod upload;

pub use constants::{Constants, RankBy};
pub use upload::{Labelled, Upload};

use super::{Kind, Parts, Place, Protocol};
use crate::backend::cpu::{Worker, WorkerShape};
use crate::base::parallel;
use crate::cluster::{Reduce, agree};
use crate::config::{Clients, Settings, Validated};
use crate::data::{Dataset, Sought};
use crate::engine::{NamedTensor, Participants, PrivateStore, Progress, Tensors, Totals, fixed};
use crate::federation::{Cohort, RoundReport, Shares, divergence};
use crate::model::{Model, ModelSpec, Weights};
use crate::{Error, Result};
use client::{Outcome, Round};
use server::{Lane, Pair, Server, Training};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Why a device is left alone: every client has a model of its own, small and trained on two sequences.
const ON_CPU: &str = "protocol `ptf-fsr` trains and ranks on the CPU";

pub(super) const KIND: Kind = Kind {
    name: "ptf-fsr",
    summary: "clients upload perturbed sequences; the server trains its own model on them and answers with soft-labelled sequences",
    paper: "PTF-FSR, arXiv 2406.05387",
    options: constants::OPTIONS,
    check: |options, settings| Constants::read(options, settings).map(|_| ()),
    trains: |_| Place::Cpu(ON_CPU),
    ranks: |_| Place::Cpu(ON_CPU),
    build: |options, parts| Ok(Box::new(PtfFsr::new(Constants::read(options, &parts.settings)?, parts)?)),
};

/// The state of a training.
struct PtfFsr {
    settings: Arc<Validated<Settings>>,
    data: Arc<Dataset>,
    constants: Constants,
    threads: usize,
    client_model: Model,
    /// What every client's model starts as.
    initial: Weights,
    server_model: Model,
    server: Server,
    /// Clients' models: their dense weights and the rows of the items that they have trained on.
    private: PrivateStore,
    /// The last upload of each client `[U]`.
    uploads: Vec<Option<Upload>>,
    /// What each client was sent last `[U]`.
    received: Vec<Option<Labelled>>,
    visitors: Vec<Visitor>,
    lanes: Vec<Lane>,
    rounds: u64,
    participants: Participants,
    reduce: Arc<dyn Reduce>,
    shares: Shares,
}

/// A client that diverged, and what happened.
type Diverged = (u32, String);

/// A thread that trains clients.
struct Visitor {
    worker: Worker,
    outcomes: Vec<Outcome>,
    /// Clients that diverged.
    diverged: Vec<Diverged>,
    failure: Option<(u32, Error)>,
    seconds: f64,
}

impl PtfFsr {
    fn new(constants: Constants, parts: Parts) -> Result<PtfFsr> {
        let Parts { settings, data, reduce, .. } = parts;
        let participants = Participants::new(Clients::User, &data);
        let shares = Shares::new(&*reduce, &data, &participants, constants.client.max_len as usize, true);
        let threads = parallel::threads(settings.threads as usize);
        let (client, server) = (ModelSpec::new(&constants.client), ModelSpec::new(&constants.server));
        let visitor = || Visitor {
            worker: Worker::new(WorkerShape::new(&client)),
            outcomes: Vec::new(),
            diverged: Vec::new(),
            failure: None,
            seconds: 0.0,
        };
        Ok(PtfFsr {
            threads,
            client_model: Model::new(&client),
            initial: Weights::init(&client, data.item_count(), settings.seed),
            server_model: Model::new(&server),
            server: Server::new(&server, data.item_count(), settings.seed),
            private: PrivateStore::new(settings.federation.private_memory_mb),
            uploads: vec![None; data.users()],
            received: vec![None; data.users()],
            visitors: (0..threads).map(|_| visitor()).collect(),
            lanes: (0..threads).map(|_| Lane::new(&server)).collect(),
            rounds: 0,
            participants,
            reduce,
            shares,
            constants,
            settings,
            data,
        })
    }

    /// Trains the clients; what came of them, ascending, and those that diverged, ascending.
    fn visit(&mut self, round: u64, clients: &[u32], progress: &Progress) -> Result<(Vec<Outcome>, Vec<Diverged>)> {
        let (settings, constants, data) = (&self.settings, &self.constants, &self.data);
        let at = Round { settings, constants, data, model: &self.client_model, initial: &self.initial, round };
        let (private, received, done) = (&self.private, &self.received, AtomicU64::new(0));
        parallel::for_each(&mut self.visitors, clients.len(), 8, |visitor, i| {
            let (client, begun) = (clients[i], Instant::now());
            let visited = private.get(client).map(|state| {
                let received = received[client as usize].as_ref();
                at.visit(&mut visitor.worker, client, &state.unwrap_or_default(), received)
            });
            match visited {
                Ok(Ok(outcome)) => visitor.outcomes.extend(outcome),
                Ok(Err(message)) => visitor.diverged.push((client, message)),
                // The lowest client is named, whichever failed first.
                Err(e) if visitor.failure.as_ref().is_none_or(|(c, _)| client < *c) => visitor.failure = Some((client, e)),
                Err(_) => {}
            }
            visitor.seconds += begun.elapsed().as_secs_f64();
            let n = done.fetch_add(1, Ordering::Relaxed) + 1;
            if n.is_multiple_of(64) || n == clients.len() as u64 {
                progress(n, clients.len() as u64);
            }
        });
        let mut outcomes: Vec<Outcome> = self.visitors.iter_mut().flat_map(|v| v.outcomes.drain(..)).collect();
        let failures = self.visitors.iter_mut().filter_map(|v| v.failure.take());
        if let Some((_, e)) = failures.min_by_key(|(client, _)| *client) {
            return Err(e);
        }
        outcomes.sort_unstable_by_key(|o| o.client);
        let mut diverged: Vec<Diverged> = self.visitors.iter_mut().flat_map(|v| v.diverged.drain(..)).collect();
        diverged.sort_unstable();
        Ok((outcomes, diverged))
    }
}

impl Protocol for PtfFsr {
    fn round(&mut self, round: u64, cohort: &Cohort, _next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        self.visitors.iter_mut().for_each(|v| v.seconds = 0.0);
        let clients = self.shares.clients(&self.participants, &cohort.clients).into_owned();
        let visited = self.visit(round, &clients, progress);
        let (outcomes, diverged) = exchange::joined(&*self.reduce, agree(&*self.reduce, visited)?)?;
        divergence::judge(&self.settings, round, cohort, diverged.len() as u64, diverged.first().cloned())?;
        let train_s = self.visitors.iter().map(|v| v.seconds).sum::<f64>() / self.threads as f64;

        let served = Instant::now();
        let at =
            Training { constants: &self.constants, model: &self.server_model, loss: &self.settings.loss, seed: self.settings.seed, round };
        let pairs: Vec<Pair> = outcomes.iter().map(|o| Pair { now: &o.upload, before: self.uploads[o.client as usize].as_ref() }).collect();
        // A copy, so that a failure leaves the state of the round before.
        let mut server = self.server.clone();
        let [_, contrast] = server.train(&at, &mut self.lanes, &pairs)?;
        let uploads: Vec<&Upload> = outcomes.iter().map(|o| &o.upload).collect();
        let replies = server.replies(&at, &mut self.lanes, &uploads);
        let add_s = served.elapsed().as_secs_f64();

        let mut totals = Totals { counts: [0, 0, 0, 0, 0, 0, diverged.len() as u64], ..Totals::default() };
        for (Outcome { client, state, upload, visited, examples }, reply) in outcomes.into_iter().zip(replies) {
            let [loss, _] = visited.losses.map(|sum| sum / visited.steps.max(1) as f64);
            totals.add(&Totals {
                counts: [1, visited.steps, visited.tokens, examples, 0, 0, 0],
                losses: [fixed::from_f64(loss), 0],
                bytes: [reply.as_ref().map_or(0, Labelled::bytes), upload.bytes()],
            });
            if let Some(state) = state {
                self.private.put(client, &state)?;
            }
            self.uploads[client as usize] = Some(upload);
            self.received[client as usize] = reply;
        }
        (self.server, self.rounds) = (server, round);
        let report = RoundReport::of(round, cohort, &totals, 0, start);
        Ok(RoundReport { contrast_loss: contrast, train_s, add_s, ..report })
    }

    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        self.shares.rank(&*self.reduce, &self.participants, users, |users| self.all_ranks(sought, users, progress))
    }

    fn scores(&mut self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        self.all_scores(user, history)
    }

    fn weights(&self) -> Result<Cow<'_, Weights>> {
        Ok(Cow::Borrowed(&self.server.weights))
    }

    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        self.name_tensors()
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        self.take_tensors(tensors, rounds_done)
    }

    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        if self.reduce.size() > 1 {
            return Err(Error::Cluster("clients' models lie with several processes".into()));
        }
        Ok((self.name_tensors()?, self.rounds))
    }

    fn set_spill_folder(&mut self, folder: PathBuf) {
        self.private.set_folder(folder);
    }

    fn bytes(&self) -> usize {
        let weights = |w: &Weights| w.dense.len() + w.items.len();
        // Weights, two moments each, and the weights that clients start with.
        4 * (3 * weights(&self.server.weights) + weights(&self.initial)) + self.visitors.iter().map(|v| v.worker.bytes()).sum::<usize>()
    }
}
