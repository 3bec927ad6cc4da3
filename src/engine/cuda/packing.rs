//! Packing a cohort for a device: threads of the host pack pieces, which are joined to chunks that fit its memory.

use super::CudaEngine;
use super::chunks::ReadyChunk;
use super::micro_batches::PackedMicroBatch;
use super::packed::HostChunk;
use crate::Result;
use crate::backend::cuda::shape::Shape;
use crate::base::parallel;
use crate::config::ClientWeighting;
use crate::engine::{Chunk, Packer, VisitPlan};
use std::time::Instant;

/// What a client's visit was, for the round's report.
#[derive(Clone, Copy)]
pub(super) struct Visit {
    pub client: u32,
    pub plan: VisitPlan,
    /// Steps that had tokens, and their tokens.
    pub steps: u32,
    pub tokens: u64,
}

/// A cohort ready for the device.
pub(super) struct ReadyCohort {
    pub round: u64,
    pub clients: Vec<u32>,
    pub chunks: Vec<ReadyChunk>,
    pub visits: Vec<Visit>,
    /// Item of each slot of the sums, ascending.
    pub items: Vec<u32>,
    pub weight: i64,
    /// Seconds of packing.
    pub seconds: f64,
}

/// One packing thread.
pub(super) struct PackLane {
    pub packer: Packer,
    pub pieces: Vec<(usize, Chunk)>,
    /// Micro-batches of a mini-batch.
    pub parts: Vec<(usize, PackedMicroBatch)>,
    /// Row of each item in the micro-batch being packed; `u32::MAX` where none.
    pub row: Vec<u32>,
}

impl PackLane {
    pub fn new(packer: Packer) -> PackLane {
        PackLane { packer, pieces: Vec::new(), parts: Vec::new(), row: Vec::new() }
    }
}

impl CudaEngine {
    /// Packs `clients` for `round`.
    pub(super) fn pack(&mut self, clients: &[u32], round: u64) -> Result<ReadyCohort> {
        let start = Instant::now();
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
    pub(super) fn pack_from(&mut self, cohort: &mut ReadyCohort, from: usize) -> Result<()> {
        let round = cohort.round;
        let clients = &cohort.clients[from..];
        let (participants, piece) = (&self.participants, self.piece);
        parallel::for_each(&mut self.lanes, clients.len().div_ceil(piece), 1, |lane, i| {
            let mut chunk = Chunk::new();
            for &client in &clients[i * piece..clients.len().min((i + 1) * piece)] {
                chunk.push(&mut lane.packer, client, participants.users(client), round);
            }
            lane.pieces.push((i, chunk));
        });
        let mut pieces: Vec<(usize, Chunk)> = self.lanes.iter_mut().flat_map(|l| l.pieces.drain(..)).collect();
        pieces.sort_by_key(|(i, _)| *i);
        if from == 0 {
            self.number_slots(cohort, pieces.iter().map(|(_, piece)| piece));
        }
        cohort.visits.truncate(from);
        let mut at = from;
        let mut joined: Option<(Chunk, Shape)> = None;
        for (_, piece) in pieces {
            let shape = Shape::of(&piece);
            joined = Some(match joined.take() {
                None => (piece, shape),
                Some((mut chunk, sum)) if self.chunks.chunk_bytes(&sum.plus(&shape)) <= self.budget => {
                    chunk.append(&piece);
                    (chunk, sum.plus(&shape))
                }
                Some((chunk, sum)) => {
                    self.lay_out(cohort, chunk, sum, &mut at);
                    (piece, shape)
                }
            });
        }
        if let Some((chunk, shape)) = joined {
            self.lay_out(cohort, chunk, shape, &mut at);
        }
        cohort.weight = cohort.visits.iter().map(|v| self.weight(v)).sum();
        Ok(())
    }

    pub(super) fn weight(&self, visit: &Visit) -> i64 {
        match (visit.steps, self.settings.federation.weights) {
            (0, _) => 0,
            (_, ClientWeighting::Examples) => i64::from(visit.plan.examples.max(1)),
            (_, ClientWeighting::Equal) => 1,
        }
    }

    /// Gives each item that a client may upload a slot of the sums, in item order, so that no number depends on who met it first.
    fn number_slots<'c>(&mut self, cohort: &mut ReadyCohort, pieces: impl Iterator<Item = &'c Chunk>) {
        cohort.items.clear();
        if self.participants.share_batches() {
            // A participant with many sequences may upload any item.
            self.slot.iter_mut().enumerate().for_each(|(item, slot)| *slot = item as u32);
            cohort.items.extend(0..self.slot.len() as u32);
            return;
        }
        self.slot.fill(u32::MAX);
        for piece in pieces {
            for (&item, _) in piece.items.iter().zip(&piece.uploads).filter(|(_, uploads)| **uploads) {
                self.slot[item as usize] = 0;
            }
        }
        for (item, slot) in self.slot.iter_mut().enumerate().filter(|(_, slot)| **slot == 0) {
            *slot = cohort.items.len() as u32;
            cohort.items.push(item as u32);
        }
    }

    fn lay_out(&mut self, cohort: &mut ReadyCohort, chunk: Chunk, shape: Shape, at: &mut usize) {
        let lambda = self.settings.loss.group_weight_at(cohort.round);
        let slot_of = |(&item, &uploads): (&u32, &bool)| if uploads { self.slot[item as usize] } else { 0 };
        let slot = chunk.items.iter().zip(&chunk.uploads).map(slot_of).collect();
        let first = *at;
        for (c, (&client, &plan)) in chunk.clients.iter().zip(&chunk.plans).enumerate() {
            let mut visit = Visit { client, plan, steps: 0, tokens: 0 };
            for step in &chunk.steps {
                let tokens = step.client_tokens[c + 1] - step.client_tokens[c];
                visit.tokens += u64::from(tokens);
                visit.steps += u32::from(tokens > 0);
            }
            cohort.visits.push(visit);
        }
        *at += chunk.clients.len();
        let weight = cohort.visits[first..].iter().map(|v| self.weight(v)).collect();
        self.packed += 1;
        let number = self.packed;
        cohort.chunks.push(ReadyChunk {
            number,
            first,
            host: HostChunk::new(&chunk, lambda, 1),
            shape,
            weight,
            slot,
            rows: chunk.without_steps(),
        });
    }
}
