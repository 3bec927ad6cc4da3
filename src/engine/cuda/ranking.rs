//! Full ranking on the device: users packed by the host once for what is sought, chunk by chunk as memory allows.

use super::kept::with_own;
use super::ranker::{Keeps, RankChunk};
use super::round::CudaEngine;
use crate::backend::Step;
use crate::backend::TableRow;
use crate::backend::cuda::shape::{Shape, TILE_ROWS};
use crate::data::Sought;
use crate::engine::cpu::{own_state, pack_input};
use crate::engine::{Engine, PrivateStore, Progress};
use crate::{Error, Result};

/// Most users of a chunk: enough to fill any card, and few enough that the host packs one while another is ranked.
const MOST: usize = 8192;
/// Fewest users that a chunk is split down to.
const FEWEST: usize = 32;

/// Most bytes of packed users that are kept for the next validation.
const KEPT: usize = 256 << 20;

/// Users packed for ranking.
pub(super) struct Ranked {
    sought: Sought,
    users: Vec<u32>,
    /// By what of its own each user is ranked.
    keeps: Keeps,
    chunks: Vec<RankChunk>,
}

impl CudaEngine {
    /// Rank of the item that is sought of each user, as [`crate::engine::Engine::rank`] gives it.
    pub(super) fn rank_users(&mut self, sought: Sought, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        let (personal, shared) = (self.settings.federation.personal > 0.0, self.chunks.shared);
        let keeps = match private.is_empty() {
            true => Keeps::default(),
            false => Keeps { dense: personal || !shared.dense, rows: !shared.items },
        };
        if personal && keeps.dense {
            // The weights that a client does not keep are the global ones.
            self.snapshot()?;
        }
        self.upload()?;
        // Users without a target have no place on the device.
        let known: Vec<u32> = users.iter().copied().filter(|&u| self.data.sought(u as usize, sought).is_some()).collect();
        let mut packed = match self.ranked.take() {
            Some(r) if (r.sought, r.keeps) == (sought, keeps) && r.users == known => r,
            _ => Ranked { sought, users: known, keeps, chunks: Vec::new() },
        };
        let ranks = self.rank_known(&mut packed, private, progress);
        self.ranked = Some(packed);
        let mut ranks = ranks?.into_iter();
        let mut of = |&u: &u32| self.data.sought(u as usize, sought).map_or(0, |_| ranks.next().unwrap_or(0));
        Ok(users.iter().map(&mut of).collect())
    }

    fn rank_known(&mut self, packed: &mut Ranked, private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
        let total = packed.users.len();
        let scope = |at: usize, n: usize| format!("the ranking of users {at} to {} of {total}", (at + n).saturating_sub(1));
        let counts = match self.chunks.rank_counts(total) {
            Err(e) if e.is_out_of_memory() => {
                self.chunks.release()?;
                self.chunks.rank_counts(total)?
            }
            counts => counts?,
        };
        let (mut at, mut i, mut released) = (0, 0, false);
        while at < total {
            if i == packed.chunks.len() {
                let count = self.plan(packed, at);
                packed.chunks.push(self.pack_ranking(packed, at, count));
            }
            let n = packed.chunks[i].users();
            self.chunks.device().set_scope(&scope(at, n));
            let (participants, of) = (&self.participants, &packed.users[at..]);
            let state = |place: usize| own_state(participants, Some(of[place]), private).map(Some);
            let (chunks, chunk) = (&mut self.chunks, &packed.chunks[i]);
            let ranked = with_own(&self.snapshot.weights, state, |own| Ok(chunks.rank(chunk, own, &counts, at)?));
            match ranked {
                Ok(()) => {
                    at += n;
                    if i + 1 < packed.chunks.len() || packed.chunks.iter().map(RankChunk::bytes).sum::<usize>() <= KEPT {
                        i += 1;
                    } else {
                        packed.chunks.pop();
                    }
                    progress(at as u64, total as u64);
                }
                // What training holds is given back first; then fewer users at a time.
                Err(Error::Device(e)) if e.is_out_of_memory() && !released => {
                    self.chunks.release()?;
                    released = true;
                }
                Err(Error::Device(e)) if e.is_out_of_memory() && n > FEWEST => {
                    let shape = self.shape(packed, at, n);
                    self.rank_budget = (self.chunks.rank_bytes(&shape.0, shape.1, packed.keeps) / 2).min(self.rank_budget / 2);
                    packed.chunks.truncate(i);
                }
                Err(e) => return Err(e),
            }
        }
        self.chunks.device().set_scope(&scope(0, total));
        let ranks = self.chunks.take_ranks(&counts, total)?;
        self.chunks.take_busy_seconds()?;
        Ok(ranks)
    }

    /// How many users from place `at` on fit the budget.
    fn plan(&self, packed: &Ranked, at: usize) -> usize {
        let left = packed.users.len() - at;
        let mut count = left.min(MOST);
        while count > FEWEST {
            let (shape, masked) = self.shape(packed, at, count);
            if self.chunks.rank_bytes(&shape, masked, packed.keeps) <= self.rank_budget {
                break;
            }
            count = (count / 2).max(FEWEST);
        }
        count
    }

    /// Shape of `count` users from place `at` on, and the number of items masked from them.
    fn shape(&self, packed: &Ranked, at: usize, count: usize) -> (Shape, usize) {
        let most = self.settings.model.max_len as usize;
        let inputs = || packed.users[at..at + count].iter().map(|&u| self.input(packed.sought, u).0);
        let asked = usize::from(self.chunks.asked());
        let lengths = || inputs().map(|input| (input.len() + asked).min(most) as u32);
        let (tokens, count) = (lengths().sum::<u32>(), count as u32);
        // Tiles belong to one client each.
        let each = packed.keeps.dense;
        let (token_tiles, output_tiles) = match each {
            true => (lengths().map(|n| n.div_ceil(TILE_ROWS)).sum(), count),
            false => (tokens.div_ceil(TILE_ROWS), count.div_ceil(TILE_ROWS)),
        };
        let shape = Shape {
            clients: if each { count } else { 1 },
            tokens,
            sequences: count,
            outputs: count,
            token_tiles,
            output_tiles,
            ..Shape::default()
        };
        (shape, inputs().map(|input| self.settings.eval.mask.masked(input).len()).sum())
    }

    fn input(&self, sought: Sought, user: u32) -> (&[u32], u32) {
        self.data.sought(user as usize, sought).unwrap_or_default()
    }

    fn pack_ranking(&self, packed: &Ranked, at: usize, count: usize) -> RankChunk {
        let users = &packed.users[at..at + count];
        let inputs = users.iter().map(|&u| self.input(packed.sought, u));
        let weights = self.weights();
        let mut step = Step::default();
        step.clear();
        step.align = weights.spec.settings.align();
        let asked = weights.spec.asked_row(self.data.item_count());
        for (input, _) in inputs.clone() {
            pack_input(&mut step, TableRow::of_items(input), weights.spec.settings.max_len as usize, asked.map(TableRow::of_item));
            if packed.keeps.dense {
                step.end_client();
            }
        }
        let targets: Vec<u32> = inputs.clone().map(|(_, target)| target).collect();
        RankChunk::new(
            step,
            weights.spec.rows(self.data.item_count()),
            packed.keeps,
            &targets,
            inputs.map(|(input, _)| self.settings.eval.mask.masked(input)),
        )
    }
}
