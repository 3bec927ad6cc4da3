//! What clients send back, added up as it comes.

use super::{Update, fixed};
use crate::Result;
use crate::backend::cpu::simd::prefetch;
use crate::cluster::Reduce;
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
        }
    }

    /// Sums that a device has made: dense `[P]` with the weight of all clients, the rows `[S, d]` of `items [S]` with their weights `[S]`.
    /// Rows without weight are those that no client changed.
    pub fn from_parts(
        spec: &ModelSpec,
        items_in_all: usize,
        (dense, weight): (Vec<i64>, i64),
        items: &[u32],
        rows: &[i64],
        row_weight: &[i64],
    ) -> Sums {
        let mut sums = Sums { dense, weight, ..Sums::new(spec, items_in_all) };
        let d = sums.d;
        for (i, &item) in items.iter().enumerate().filter(|(i, _)| row_weight[*i] > 0) {
            let slot = sums.slot(item);
            sums.rows[slot * d..][..d].copy_from_slice(&rows[i * d..][..d]);
            sums.row_weight[slot] = row_weight[i];
        }
        sums
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

    /// Asks the caches for the sums of an item row that is added to soon.
    pub fn ask_for(&self, item: u32) {
        if let Some(row) = self.rows.chunks_exact(self.d).nth(self.slot[item as usize] as usize) {
            prefetch(row);
        }
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

    /// Takes an update back that was added, whatever it held: afterwards the sums are what they were, but for slots without weight
    /// (see [`Sums::drop_empty`]).
    pub fn take_back(&mut self, update: &Update) {
        let (weight, d) = (-i64::from(update.weight), self.d);
        // The numbers are turned into fixed point as before and cancel out; whether they were fine is known.
        if !update.dense.is_empty() {
            let _ = fixed::add_values(&mut self.dense, &update.dense, weight);
        }
        for (&item, row) in update.items.iter().zip(update.rows.chunks_exact(d)) {
            let slot = self.slot(item);
            self.row_weight[slot] += weight;
            let _ = fixed::add_values(&mut self.rows[slot * d..][..d], row, weight);
        }
    }

    /// Removes the rows whose every contribution was taken back.
    pub fn drop_empty(&mut self) {
        let held: Vec<u32> = self.items.iter().zip(&self.row_weight).filter(|(_, weight)| **weight > 0).map(|(&item, _)| item).collect();
        if held.len() == self.items.len() {
            return;
        }
        let gone: Vec<u32> = self.items.iter().zip(&self.row_weight).filter(|(_, weight)| **weight == 0).map(|(&item, _)| item).collect();
        self.lay_out(&held);
        gone.iter().for_each(|&item| self.slot[item as usize] = u32::MAX);
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
    }

    /// The items that any client uploaded, ascending.
    pub fn touched(&self) -> Vec<u32> {
        let mut items = self.items.clone();
        items.sort_unstable();
        items
    }

    /// Gives the items of `union` (ascending, every touched item among them) the slots 0, 1, ..., in that order.
    pub fn lay_out(&mut self, union: &[u32]) {
        let d = self.d;
        let (mut rows, mut weights) = (vec![0; union.len() * d], vec![0; union.len()]);
        for (new, &item) in union.iter().enumerate() {
            let old = std::mem::replace(&mut self.slot[item as usize], new as u32) as usize;
            if old < self.items.len() {
                rows[new * d..][..d].copy_from_slice(&self.rows[old * d..][..d]);
                weights[new] = self.row_weight[old];
            }
        }
        (self.items, self.rows, self.row_weight) = (union.to_vec(), rows, weights);
    }

    /// Adds the sums of other processes: the dense ones whole, of item rows those that any process has, in the order of items.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] where the clients of all processes weigh so much that a sum could overflow; nothing was added then. Where
    /// the transport fails.
    pub fn reduce(&mut self, reduce: &dyn Reduce) -> Result<()> {
        let mut weight = [self.weight];
        reduce.sum(&mut weight)?;
        fixed::check_weight(weight[0])?;
        self.weight = weight[0];
        let union = reduce.union(&self.touched())?;
        self.lay_out(&union);
        for values in [&mut self.dense, &mut self.rows, &mut self.row_weight] {
            reduce.sum(values)?;
        }
        Ok(())
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        8 * (self.dense.capacity() + self.rows.capacity() + self.row_weight.capacity()) + 4 * (self.slot.capacity() + self.items.capacity())
    }
}
