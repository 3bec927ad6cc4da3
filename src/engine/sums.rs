//! What clients send back, added up as it comes.

use super::{Update, fixed};
use crate::model::ModelSpec;

/// Sums over the clients that one worker has trained. Merging two is adding integers, so who trained whom leaves no trace.
pub struct Sums {
    d: usize,
    /// Weighted changes of dense weights `[P]`.
    pub dense: Vec<i64>,
    /// Total weight of the clients.
    pub weight: i64,
    /// Slot of each row of the item table `[I + S]`; `u32::MAX` where none.
    slot: Vec<u32>,
    /// Item of each slot, in order of first touch.
    pub items: Vec<u32>,
    /// Weighted changes of item rows `[slots, d]`.
    pub rows: Vec<i64>,
    /// Total weight of the clients that uploaded each slot's row `[slots]`.
    pub row_weight: Vec<i64>,
    /// Clients, local steps, tokens, examples, uploaded rows, downloaded rows.
    pub counts: [u64; 6],
    /// Losses in fixed point: next-item and contrast, each summed over clients (mean over the client's steps).
    pub losses: [i64; 2],
}

impl Sums {
    /// Empty sums for a model of `spec` with an item table of `rows`.
    pub fn new(spec: &ModelSpec, rows: usize) -> Sums {
        Sums {
            d: spec.dim(),
            dense: vec![0; spec.dense_len],
            weight: 0,
            slot: vec![u32::MAX; rows],
            items: Vec::new(),
            rows: Vec::new(),
            row_weight: Vec::new(),
            counts: [0; 6],
            losses: [0; 2],
        }
    }

    /// Empties the sums; time follows what was touched, not the catalogue.
    pub fn clear(&mut self) {
        for &item in &self.items {
            self.slot[item as usize] = u32::MAX;
        }
        self.items.clear();
        self.rows.clear();
        self.row_weight.clear();
        self.dense.fill(0);
        self.weight = 0;
        self.counts = [0; 6];
        self.losses = [0; 2];
    }

    fn slot(&mut self, item: u32) -> usize {
        let slot = &mut self.slot[item as usize];
        if *slot == u32::MAX {
            *slot = self.items.len() as u32;
            self.items.push(item);
            self.rows.resize(self.rows.len() + self.d, 0);
            self.row_weight.push(0);
        }
        *slot as usize
    }

    /// Adds one client's dense change. False if it is not finite or too large.
    #[must_use]
    pub fn add_dense(&mut self, before: &[f32], after: &[f32], weight: i64) -> bool {
        fixed::add_change(&mut self.dense, before, after, weight)
    }

    /// Adds one client's change of one item row. False if it is not finite or too large.
    #[must_use]
    pub fn add_row(&mut self, item: u32, before: &[f32], after: &[f32], weight: i64) -> bool {
        let (slot, d) = (self.slot(item), self.d);
        self.row_weight[slot] += weight;
        fixed::add_change(&mut self.rows[slot * d..][..d], before, after, weight)
    }

    /// Adds an update. False if a number of it is not finite or too large.
    #[must_use]
    pub fn add(&mut self, update: &Update) -> bool {
        let (weight, d) = (i64::from(update.weight), self.d);
        let mut fine = update.dense.is_empty() || fixed::add_values(&mut self.dense, &update.dense, weight);
        for (&item, row) in update.items.iter().zip(update.rows.chunks_exact(d)) {
            let slot = self.slot(item);
            self.row_weight[slot] += weight;
            fine &= fixed::add_values(&mut self.rows[slot * d..][..d], row, weight);
        }
        fine
    }

    /// Adds `other` to these sums.
    pub fn merge(&mut self, other: &Sums) {
        for (a, b) in self.dense.iter_mut().zip(&other.dense) {
            *a += b;
        }
        self.weight += other.weight;
        for (i, &item) in other.items.iter().enumerate() {
            let (slot, d) = (self.slot(item), self.d);
            self.row_weight[slot] += other.row_weight[i];
            for (a, b) in self.rows[slot * d..][..d].iter_mut().zip(&other.rows[i * d..][..d]) {
                *a += b;
            }
        }
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        for (a, b) in self.losses.iter_mut().zip(&other.losses) {
            *a += b;
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        8 * (self.dense.capacity() + self.rows.capacity() + self.row_weight.capacity()) + 4 * (self.slot.capacity() + self.items.capacity())
    }
}
