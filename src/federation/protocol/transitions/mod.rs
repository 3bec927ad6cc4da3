//! `transitions`: which item follows which, counted. Clients add weighted counts of the item pairs of their histories, once each, in 64-bit
//! fixed point; the server's sums rank.
//!
//! With one participant (`federation.clients = "one"`) it is a baseline that counts all histories in one round. With a client a user it is
//! the same table by secure sums: the sums of a round are all that the server has to see, and after everybody has taken part they have the
//! bits of the central count. With `clip` and `noise` the sums of a round carry Gaussian noise (the Gaussian mechanism; a participant adds
//! to one round only, so the noise of that round is all that protects it). Secure aggregation itself is not carried out here: uploads are
//! added up in this process, and their bytes are those of the pairs in the clear. Of several processes each counts all of them, which takes less
//! than an exchange; users are ranked by shares.

mod constants;
mod ranker;

use super::{Kind, Parts, Place, Protocol};
use crate::base::parallel;
use crate::data::{PAIR_BYTES, PairCounts, Sought};
use crate::engine::{NamedTensor, Participants, Progress, TensorData, Tensors, Totals};
use crate::eval::rank_from_count;
use crate::federation::{Cohort, RoundReport, Shares};
use crate::{Error, Result};
use constants::Constants;
use ranker::{Noise, Ranker};
use std::time::Instant;

/// Why a device is left alone: nothing is trained, and a table is read.
const ON_CPU: &str = "protocol `transitions` counts and ranks on the CPU";

pub(super) const KIND: Kind = Kind {
    name: "transitions",
    summary: "clients add weighted counts of item pairs, once each; the server's sums rank by smoothed transitions",
    paper: "sequential rules, Ludewig and Jannach, UMUAI 2018; smoothed transitions, arXiv 2608.19833 (second-hand)",
    options: constants::OPTIONS,
    check: |options, settings| Constants::read(options, settings).map(|_| ()),
    trains: |_| Place::Cpu(ON_CPU),
    ranks: |_| Place::Cpu(ON_CPU),
    build: |options, parts| Ok(Box::new(Transitions::new(Constants::read(options, &parts.settings)?, parts)?)),
};

/// The server's sums and who has added to them.
struct Transitions {
    parts: Parts,
    constants: Constants,
    participants: Participants,
    counts: PairCounts,
    /// Whether a participant has added its counts `[C]`.
    done: Vec<u8>,
    /// Rounds in which clients did.
    rounds: Vec<u64>,
    last: u64,
    /// Made from the sums at the first ranking.
    ranker: Option<Ranker>,
    shares: Shares,
}

impl Transitions {
    fn new(constants: Constants, parts: Parts) -> Result<Transitions> {
        let participants = Participants::new(parts.settings.federation.clients, &parts.data);
        let shares = Shares::new(&*parts.reduce, &parts.data, &participants, usize::MAX, false);
        let done = vec![0; participants.len()];
        Ok(Transitions {
            constants,
            participants,
            counts: PairCounts::default(),
            done,
            rounds: Vec::new(),
            last: 0,
            ranker: None,
            shares,
            parts,
        })
    }

    fn threads(&self) -> usize {
        parallel::threads(self.parts.settings.threads as usize)
    }

    fn ranker(&mut self) -> &Ranker {
        let threads = self.threads();
        self.ranker.get_or_insert_with(|| {
            let Constants { noise, clip, .. } = self.constants;
            let noise = Noise { deviation: noise * clip, seed: self.parts.settings.seed, rounds: &self.rounds };
            let noise = Some(&noise).filter(|noise| noise.deviation > 0.0);
            Ranker::new(self.constants, &self.counts, self.parts.data.item_count(), noise, threads)
        })
    }
}

impl Protocol for Transitions {
    fn round(&mut self, round: u64, cohort: &Cohort, _next: Option<&Cohort>, progress: &Progress) -> Result<RoundReport> {
        let start = Instant::now();
        let new: Vec<u32> = cohort.clients.iter().copied().filter(|&client| self.done[client as usize] == 0).collect();
        let (data, weights) = (&self.parts.data, self.constants.weights());
        let uploads = parallel::map(self.threads(), new.len(), 8, |i| {
            PairCounts::of(self.participants.users(new[i]).iter().map(|&user| data.train(user as usize)), &weights)
        });
        let mut totals = Totals::default();
        for (&client, upload) in new.iter().zip(&uploads) {
            let tokens = self.participants.users(client).iter().map(|&user| data.train(user as usize).len() as u64).sum();
            let pairs = upload.keys.len() as u64;
            totals.add(&Totals { counts: [1, 1, tokens, pairs, 0, 0, 0], bytes: [0, PAIR_BYTES * pairs], ..Totals::default() });
        }
        self.counts.add(uploads.into_iter());
        if !new.is_empty() {
            self.rounds.push(round);
            self.ranker = None;
        }
        new.iter().for_each(|&client| self.done[client as usize] = 1);
        self.last = round;
        progress(cohort.clients.len() as u64, cohort.clients.len() as u64);
        Ok(RoundReport::of(round, cohort, &totals, 0, start))
    }

    fn rank(&mut self, sought: Sought, users: &[u32], progress: &Progress) -> Result<Vec<u32>> {
        let threads = self.threads();
        self.ranker();
        let (Some(ranker), data, mask) = (&self.ranker, &self.parts.data, self.parts.settings.eval.mask) else { return Ok(Vec::new()) };
        let rank = |&user: &u32| {
            let Some((input, target)) = data.sought(user as usize, sought) else { return 0 };
            let scores = ranker.scores(input);
            let threshold = scores[target as usize];
            let counts = |item: u32| scores[item as usize] >= threshold;
            let counted = scores.iter().filter(|score| **score >= threshold).count() as u32;
            rank_from_count(counted, target, mask.masked(input), counts)
        };
        let all = |users: &[u32]| Ok(parallel::map(threads, users.len(), 16, |i| rank(&users[i])));
        let ranks = self.shares.rank(&*self.parts.reduce, &self.participants, users, all)?;
        progress(users.len() as u64, users.len() as u64);
        Ok(ranks)
    }

    fn scores(&mut self, _user: Option<u32>, history: &[u32]) -> Result<Vec<f32>> {
        Ok(self.ranker().scores(history))
    }

    fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let tensor = |name: &str, n: usize, data: TensorData| NamedTensor { name: name.into(), shape: vec![n], data };
        Ok(vec![
            tensor(PAIRS, self.counts.keys.len(), TensorData::U64(self.counts.keys.clone())),
            tensor(SUMS, self.counts.sums.len(), TensorData::I64(self.counts.sums.clone())),
            tensor(DONE, self.done.len(), TensorData::U8(self.done.clone())),
            tensor(ROUNDS, self.rounds.len(), TensorData::U64(self.rounds.clone())),
        ])
    }

    fn restore(&mut self, tensors: &Tensors, rounds_done: u64) -> Result<()> {
        let fail = |name: &str| Error::Usage(format!("checkpoint: tensor `{name}` is missing, damaged or of another method or data set"));
        let [pairs, sums, done, rounds] =
            [PAIRS, SUMS, DONE, ROUNDS].map(|name| tensors.get(name).map(|t| &t.data).ok_or_else(|| fail(name)));
        let TensorData::U64(keys) = pairs? else { return Err(fail(PAIRS)) };
        let TensorData::I64(sums) = sums? else { return Err(fail(SUMS)) };
        let TensorData::U8(done) = done? else { return Err(fail(DONE)) };
        let TensorData::U64(rounds) = rounds? else { return Err(fail(ROUNDS)) };
        let counts = PairCounts { keys: keys.clone(), sums: sums.clone() };
        if !counts.fits(self.parts.data.item_count()) {
            return Err(fail(PAIRS));
        }
        if done.len() != self.done.len() {
            return Err(fail(DONE));
        }
        (self.counts, self.done, self.rounds, self.last, self.ranker) = (counts, done.clone(), rounds.clone(), rounds_done, None);
        Ok(())
    }

    fn last_snapshot(&self) -> Result<(Vec<NamedTensor>, u64)> {
        Ok((self.tensors()?, self.last))
    }

    fn bytes(&self) -> usize {
        16 * self.counts.keys.len() + self.ranker.as_ref().map_or(0, Ranker::bytes)
    }
}

/// Names of the tensors in a checkpoint.
const PAIRS: &str = "transitions.pairs";
const SUMS: &str = "transitions.sums";
const DONE: &str = "transitions.done";
const ROUNDS: &str = "transitions.rounds";
