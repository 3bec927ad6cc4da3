//! What the clients of one thread have given: sums of their updates, counts, private state; who had to be left out.

use crate::backend::cpu::Visited;
use crate::backend::cpu::simd::prefetch;
use crate::config::{ClientWeighting, Settings};
use crate::engine::{Needs, Occasion, PrivateState, Rules, Shared, Sums, Totals, Update, VisitPlan, fixed, wire};
use crate::model::{Model, ModelSpec, Weights};

/// How many rows ahead of the one that is added the caches are asked for: rows lie anywhere in tables that no second cache holds.
const AHEAD: usize = 4;

/// What the visits of a round have in common.
pub(super) struct Place<'p> {
    pub settings: &'p Settings,
    pub model: &'p Model,
    pub global: &'p Weights,
    /// The server's second moments: dense `[P]` and rows `[I, d]`, where it keeps them.
    pub second: &'p (Vec<f32>, Vec<f32>),
    pub round: u64,
    pub rules: &'p Rules,
}

/// A client's weights after its visit.
pub(super) struct After<'a> {
    /// `[P]`
    pub dense: &'a [f32],
    /// Items of its rows `[R]`.
    pub items: &'a [u32],
    /// `[R, d]`
    pub rows: &'a [f32],
    /// Which rows it uploads; nothing where all.
    pub uploaded: Option<&'a [bool]>,
    /// Of the dense weights those that it keeps, NaN for others `[P]`, where it shares a part of them.
    pub kept: Option<Vec<f32>>,
}

impl After<'_> {
    /// Item, row before and row after of each row that is uploaded and has changed.
    fn changes<'c>(&'c self, global: &'c Weights) -> impl Iterator<Item = (u32, &'c [f32], &'c [f32])> {
        let rows = self.items.iter().zip(self.rows.chunks_exact(global.spec.dim())).enumerate();
        let uploaded = rows.filter(|(row, _)| self.uploaded.is_none_or(|uploaded| uploaded[*row]));
        uploaded.map(|(_, (&item, after))| (item, global.item(item as usize), after)).filter(|(_, before, after)| before != after)
    }
}

/// What the clients of one thread have given.
pub(super) struct Tally {
    pub sums: Sums,
    pub totals: Totals,
    /// The lowest client whose private state could not be read, and why.
    pub failure: Option<(u32, String)>,
    /// The lowest client that diverged, and what happened.
    pub diverged: Option<(u32, String)>,
    /// The update of the client at hand, where rules look at it.
    update: Update,
    /// Updates of the round, where a rule needs all of them.
    pub updates: Vec<Update>,
    /// Those of the round before, whose memory the next ones take.
    pub spare: Vec<Update>,
    /// Private state that visits have changed.
    pub private: Vec<(u32, PrivateState)>,
}

impl Tally {
    pub fn new(spec: &ModelSpec, items: usize) -> Tally {
        Tally {
            sums: Sums::new(spec, items),
            totals: Totals::default(),
            failure: None,
            diverged: None,
            update: Update::default(),
            updates: Vec::new(),
            spare: Vec::new(),
            private: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.sums.clear();
        self.totals = Totals::default();
        self.failure = None;
        self.diverged = None;
        self.updates.clear();
        self.private.clear();
    }

    /// Notes that `client` failed. The lowest client is named, whichever failed first.
    pub fn fail(&mut self, client: u32, message: String) {
        if self.failure.as_ref().is_none_or(|(c, _)| client < *c) {
            self.failure = Some((client, message));
        }
    }

    /// Counts `client` as diverged: nothing of it is in the sums.
    pub fn leave_out(&mut self, client: u32, [next_item, contrast]: [f64; 2]) {
        self.totals.counts[6] += 1;
        if self.diverged.as_ref().is_none_or(|(c, _)| client < *c) {
            self.diverged = Some((client, fixed::diverged(next_item, contrast)));
        }
    }

    /// Adds the change of `client`, as the rules leave it. A client that has diverged is left out.
    pub fn add(&mut self, at: &Place, client: u32, plan: &VisitPlan, visited: &Visited, after: &After, private: Option<&PrivateState>) {
        if visited.steps == 0 {
            return;
        }
        let shared = Shared::of(&at.settings.federation);
        let weight = if at.settings.federation.weights == ClientWeighting::Examples { i64::from(plan.examples.max(1)) } else { 1 };
        let [next_item, contrast] = visited.losses.map(|sum| sum / visited.steps as f64);
        if !next_item.is_finite() || !contrast.is_finite() || !shared.rest_is_finite(after.dense, after.rows) {
            return self.leave_out(client, [next_item, contrast]);
        }
        let looked_at = at.rules.see_updates();
        let (fine, uploaded) =
            if !looked_at { self.add_change(at, shared, weight, after) } else { self.add_update(at, shared, client, weight, after) };
        if !fine {
            if !looked_at {
                // The same numbers cancel out, whatever they are.
                let _ = self.add_change(at, shared, -weight, after);
            } else {
                self.sums.take_back(&self.update);
                at.rules.left_out(client);
            }
            return self.leave_out(client, [next_item, contrast]);
        }
        if at.rules.needs() == Needs::All {
            let next = self.spare.pop().unwrap_or_default();
            self.updates.push(std::mem::replace(&mut self.update, next));
        }
        self.keep_private(shared, client, private, after);
        self.sums.weight += weight;
        let rows = plan.rows as usize;
        let (d, p) = (at.global.spec.dim(), if shared.dense { at.global.dense.len() } else { 0 });
        self.totals.add(&Totals {
            counts: [1, visited.steps, visited.tokens, plan.examples.into(), uploaded, plan.rows.into(), 0],
            losses: [fixed::from_f64(next_item), fixed::from_f64(contrast)],
            bytes: [
                wire::sent_len(p, if shared.items { rows } else { 0 }, d, at.settings.local.optimizer.takes_second()),
                at.rules.upload_bytes(p, uploaded as usize, d),
            ],
        });
    }

    /// Adds the change to the sums: whether it is finite and within bounds, and the rows that are uploaded.
    fn add_change(&mut self, at: &Place, shared: Shared, weight: i64, after: &After) -> (bool, u64) {
        let (mut fine, mut uploaded) = (true, 0);
        if shared.dense {
            fine &= self.sums.add_dense(&at.global.dense, after.dense, weight);
        }
        if shared.items {
            let mut soon = after.items.iter().skip(AHEAD);
            for (item, before, after) in after.changes(at.global) {
                if let Some(&item) = soon.next() {
                    prefetch(at.global.item(item as usize));
                    self.sums.ask_for(item);
                }
                fine &= self.sums.add_row(item, before, after, weight);
                uploaded += 1;
            }
        }
        (fine, uploaded)
    }

    /// The same by way of an update that rules may change.
    fn add_update(&mut self, at: &Place, shared: Shared, client: u32, weight: i64, after: &After) -> (bool, u64) {
        self.update.begin(client, weight as u32);
        if shared.dense {
            self.update.set_dense(&at.global.dense, after.dense);
        }
        if shared.items {
            after.changes(at.global).for_each(|(item, before, after)| self.update.push_row(item, before, after));
        }
        at.rules.client(&Occasion { seed: at.settings.seed, round: at.round, weights: Some(at.global) }, &mut self.update);
        (self.sums.add(&self.update), self.update.items.len() as u64)
    }

    /// Notes the groups that are not shared as private state.
    fn keep_private(&mut self, shared: Shared, client: u32, private: Option<&PrivateState>, after: &After) {
        if shared.all() && after.kept.is_none() {
            return;
        }
        let mut state = private.cloned().unwrap_or_default();
        state.keep(shared, after.dense, after.items, after.rows);
        if let Some(kept) = &after.kept {
            state.dense = Some(kept.clone());
        }
        self.private.push((client, state));
    }
}
