//! The state of a training, and its steps.

use super::constants::Constants;
use super::graph::TransitionGraph;
use super::loss::{Loss, objective};
use super::network::{Dropout, Histories, Network};
use super::sample::Sample;
use crate::base::rng::{Purpose, Stream};
use crate::base::{memory, parallel};
use crate::cluster::agree;
use crate::data::Sought;
use crate::engine::{NamedTensor, Participants, Progress, Tensors, Totals, fixed};
use crate::eval::rank_of;
use crate::federation::protocol::{Parts, Protocol, central};
use crate::federation::{Cohort, RoundReport, Shares};
use crate::llm::tune::{Optimiser, failed};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::time::Instant;

/// What the names of its tensors in a checkpoint begin with.
const NAME: &str = "gcl4sr";
/// Users that are ranked at a time.
const USERS: usize = 256;

/// The network, its optimiser and the graph.
pub struct Gcl4sr {
    parts: Parts,
    constants: Constants,
    participants: Participants,
    shares: Shares,
    graph: TransitionGraph,
    network: Network,
    optimiser: Optimiser,
    /// States of all items in the two samples that rank `[I, d]`; none since the weights have moved.
    ranking: Option<[Tensor; 2]>,
    last: u64,
}

/// A prefix of a user's training history, and what follows it: user, and place of the target.
type Prefix = (u32, u32);

impl Gcl4sr {
    /// A training of `parts`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a data set without two training items of one user.
    pub fn new(constants: Constants, parts: Parts) -> Result<Gcl4sr> {
        let (settings, data) = (&parts.settings, &parts.data);
        if (0..data.users()).all(|user| data.train(user).len() < 2) {
            let message = "no user has two training items, and gcl4sr learns from one item after another: take a larger data set";
            return Err(Error::Usage(message.into()));
        }
        memory::keep_what_is_freed();
        let network = Network::new(&settings.model, &constants, data.item_count(), data.users(), settings.seed).map_err(failed)?;
        let participants = Participants::new(settings.federation.clients, data);
        Ok(Gcl4sr {
            shares: Shares::new(&*parts.reduce, data, &participants, usize::MAX, false),
            graph: TransitionGraph::new(data),
            optimiser: Optimiser::new(network.vars())?,
            ranking: None,
            last: 0,
            constants,
            participants,
            network,
            parts,
        })
    }

    /// The prefixes that a local epoch trains on, in the order in which it does.
    fn prefixes(&self, stream: &mut Stream) -> Vec<Prefix> {
        let (data, most) = (&self.parts.data, self.constants.prefixes);
        let mut all: Vec<Prefix> = Vec::new();
        for user in 0..data.users() {
            let first = all.len();
            all.extend((1..data.train(user).len() as u32).map(|at| (user as u32, at)));
            if most > 0 && all.len() - first > most {
                stream.shuffle(&mut all[first..]);
                all.truncate(first + most);
            }
        }
        stream.shuffle(&mut all);
        all
    }

    /// The states of all the items of `histories` in a sample drawn around them.
    fn surroundings(&self, histories: &Histories, stream: &mut Stream, dropout: &mut Dropout) -> candle_core::Result<Tensor> {
        let mut distinct = histories.items.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let sample = Sample::draw(&self.graph, &distinct, self.constants.neighbours, self.constants.hops, stream);
        let states = self.network.surroundings(&sample, dropout)?;
        let at = |item: &u32| distinct.partition_point(|other| other < item) as u32;
        let places: Vec<u32> = histories.items.iter().map(at).collect();
        states.index_select(&Tensor::new(places, &Device::Cpu)?, 0)
    }

    fn loss(&self, prefixes: &[Prefix], draws: &mut Stream, dropped: &mut Stream) -> candle_core::Result<(Loss, u64)> {
        let (mut histories, mut targets) = (Histories::default(), Vec::with_capacity(prefixes.len()));
        for &(user, at) in prefixes {
            let items = self.parts.data.train(user as usize);
            histories.push(Some(user), &items[..at as usize], self.network.longest);
            targets.push(items[at as usize]);
        }
        let mut dropout = Dropout(Some(dropped));
        let a = self.surroundings(&histories, draws, &mut dropout)?;
        let b = self.surroundings(&histories, draws, &mut dropout)?;
        let states = self.network.states(&histories, [a, b], &mut dropout)?;
        let loss = objective(&self.network, &self.constants, &histories, &states, &targets)?;
        Ok((loss, histories.items.len() as u64))
    }

    /// Sees to the states of all items that rank: both samples drawn around the whole catalogue, the same ones whenever this is asked for.
    fn refresh(&mut self) -> Result<()> {
        if self.ranking.is_none() {
            let items: Vec<u32> = (0..self.parts.data.item_count() as u32).collect();
            let states = |side: u64| {
                let mut stream = Stream::new(self.parts.settings.seed, Purpose::Augment, 0, side);
                let sample = Sample::draw(&self.graph, &items, self.constants.neighbours, self.constants.hops, &mut stream);
                Ok(self.network.surroundings(&sample, &mut Dropout(None))?.detach())
            };
            self.ranking = Some([states(0).map_err(failed)?, states(1).map_err(failed)?]);
        }
        Ok(())
    }

    /// Scores of all items `[B, I]` for each of `histories`.
    fn score(&self, histories: &Histories) -> candle_core::Result<Vec<Vec<f32>>> {
        let Some([a, b]) = &self.ranking else { return Ok(Vec::new()) };
        let items = Tensor::new(&histories.items[..], &Device::Cpu)?;
        let graph = [a.index_select(&items, 0)?, b.index_select(&items, 0)?];
        let states = self.network.states(histories, graph, &mut Dropout(None))?;
        states.pooled.detach().matmul(&self.network.items()?.detach().t()?)?.to_vec2()
    }

    fn ranks(&self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let (data, mask) = (&self.parts.data, self.parts.settings.eval.mask);
        let (mut ranks, total) = (Vec::with_capacity(users.len()), users.len() as u64);
        for part in users.chunks(USERS) {
            let asked: Vec<_> = part.iter().map(|&user| data.sought(user as usize, sought)).collect();
            let mut histories = Histories::default();
            for (&user, (input, _)) in part.iter().zip(&asked).filter_map(|(user, asked)| asked.as_ref().map(|asked| (user, asked))) {
                histories.push(Some(user), input, self.network.longest);
            }
            let mut scores = if histories.lengths.is_empty() { Vec::new() } else { self.score(&histories).map_err(failed)? }.into_iter();
            for asked in asked {
                let scores = asked.and_then(|asked| Some((scores.next()?, asked)));
                ranks.push(scores.map_or(0, |(scores, (input, target))| rank_of(&scores, target, mask.masked(input))));
            }
            progress(ranks.len() as u64, total);
        }
        Ok(ranks)
    }
}

impl Gcl4sr {
    /// The passes of one round.
    fn train(&mut self, round: u64, progress: &Progress) -> Result<Totals> {
        let settings = self.parts.settings.clone();
        let batch = settings.local.batch.max(1) as usize;
        let rates = central::rates(&settings.local, self.constants.rate_at(round));
        self.ranking = None;
        let (mut done, mut tokens, mut examples, mut losses) = (0, 0, 0, [0.0; 2]);
        for epoch in 0..u64::from(settings.local.epochs) {
            let stream = |purpose| Stream::new(settings.seed, purpose, round, epoch);
            let (mut order, mut draws, mut dropped) = (stream(Purpose::Shuffle), stream(Purpose::Augment), stream(Purpose::Dropout));
            let prefixes = self.prefixes(&mut order);
            let steps = prefixes.len().div_ceil(batch) as u64;
            for prefixes in prefixes.chunks(batch) {
                let (loss, read) = self.loss(prefixes, &mut draws, &mut dropped).map_err(failed)?;
                if !(loss.next_item + loss.graph).is_finite() {
                    let message = "the loss is not finite; lower local.lr, or set local.clip".to_owned();
                    return Err(Error::Training { round, client: 0, message });
                }
                let gradients = loss.whole.backward().map_err(failed)?;
                self.optimiser.step(&gradients, &rates)?;
                losses = [losses[0] + loss.next_item, losses[1] + loss.graph];
                (done, tokens, examples) = (done + 1, tokens + read, examples + prefixes.len() as u64);
                progress(done, steps * u64::from(settings.local.epochs));
            }
        }
        let losses = losses.map(|sum| fixed::from_f64(sum / done.max(1) as f64));
        Ok(Totals { counts: [1, done, tokens, examples, 0, 0, 0], losses, ..Totals::default() })
    }
}

impl Protocol for Gcl4sr {
    fn round(&mut self, round: u64, cohort: &Cohort, _next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let totals = parallel::pool(self.parts.settings.threads as usize)?.install(|| self.train(round, progress))?;
        self.last = round;
        central::same(&*self.parts.reduce, &self.optimiser)?;
        let report = RoundReport::of(round, cohort, &totals, 0, start);
        Ok(RoundReport { train_s: report.seconds, ..report })
    }

    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let pool = parallel::pool(self.parts.settings.threads as usize)?;
        let refreshed = pool.install(|| self.refresh());
        agree(&*self.parts.reduce, refreshed)?;
        let ranks = |users: &[u32]| pool.install(|| self.ranks(sought, users, progress));
        self.shares.rank(&*self.parts.reduce, &self.participants, users, ranks)
    }

    fn scores(&mut self, user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        self.refresh()?;
        let mut histories = Histories::default();
        histories.push(user, history, self.network.longest);
        Ok(self.score(&histories).map_err(failed)?.swap_remove(0))
    }

    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        central::kept(NAME, &self.optimiser)
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        central::restored(NAME, &mut self.optimiser, tensors)?;
        (self.ranking, self.last) = (None, rounds_done);
        Ok(())
    }

    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        Ok((self.tensors()?, self.last))
    }

    fn describe(&self) -> Option<String> {
        Some(format!("gcl4sr: {} weights, a graph of {} edges", self.network.count(), self.graph.edges()))
    }

    fn bytes(&self) -> usize {
        // Weights, their gradients and two moments; edges; states that rank; the scores of a mini-batch, their softmax and its gradient.
        let (items, settings) = (self.parts.data.item_count(), &self.parts.settings);
        let scores = settings.local.batch.max(USERS as u32) as usize * items;
        16 * self.network.count() + 16 * self.graph.edges() + 8 * items * settings.model.dim as usize + 16 * scores
    }
}
