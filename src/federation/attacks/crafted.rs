//! The rule that puts computed rows in the place of a malicious client's own.

use super::{Attacker, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Needs, Occasion, Rule, Update};
use crate::model::Weights;
use parking_lot::Mutex;
use std::sync::Arc;

pub(super) struct Crafted {
    pub attacker: Box<dyn Attacker>,
    pub scene: Scene,
}

impl Rule for Crafted {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, occasion: &Occasion, update: &mut Update) {
        if update.client < self.scene.first {
            return;
        }
        if let Some(rows) = self.attacker.craft(&self.scene, occasion, update) {
            update.items = rows.iter().map(|(item, _)| *item).collect();
            update.rows = rows.into_iter().flat_map(|(_, row)| row).collect();
        }
    }
}

/// The option `name`, a step or a length.
pub(super) fn size(options: &Options, name: &str) -> Result<f64> {
    options.get(name, |x| x > 0.0 && x <= 1e3, "a number above 0, at most 1000")
}

/// Shortens `row` to a Euclidean norm of at most `limit`.
pub(super) fn shorten(row: &mut [f32], limit: f64) {
    let norm = norm(row);
    if norm > limit {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) * limit / norm) as f32);
    }
}

pub(super) fn norm(row: &[f32]) -> f64 {
    row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `row += factor * other`.
pub(super) fn add(row: &mut [f32], factor: f64, other: &[f32]) {
    row.iter_mut().zip(other).for_each(|(x, y)| *x += (factor * f64::from(*y)) as f32);
}

/// The change that leads from the global row of `item` to `after`, of norm at most `limit`.
pub(super) fn change(weights: &Weights, item: u32, after: &[f32], limit: f64) -> (u32, Vec<f32>) {
    let mut row: Vec<f32> = after.iter().zip(weights.item(item as usize)).map(|(a, b)| a - b).collect();
    shorten(&mut row, limit);
    (item, row)
}

/// `rows` and, of the honest update, the other rows: the attack hides among them.
pub(super) fn among(mut rows: Rows, honest: &Update, d: usize) -> Rows {
    for (&item, row) in honest.items.iter().zip(honest.rows.chunks_exact(d)) {
        if rows.iter().all(|(other, _)| *other != item) {
            rows.push((item, row.to_vec()));
        }
    }
    rows
}

/// What all malicious clients of a round have in common, computed by the first that asks. It is a function of the weights: a round that is trained
/// again gets it anew where they differ.
pub(super) struct OncePerRound<T>(Mutex<Option<(u64, u32, Arc<T>)>>);

impl<T> Default for OncePerRound<T> {
    fn default() -> Self {
        OncePerRound(Mutex::new(None))
    }
}

impl<T> OncePerRound<T> {
    /// The value of `occasion`, by `make` where it is not there.
    pub fn get(&self, occasion: &Occasion, weights: &Weights, make: impl FnOnce() -> T) -> Arc<T> {
        let sum = fingerprint(weights);
        let mut held = self.0.lock();
        match &*held {
            Some((round, of, value)) if (*round, *of) == (occasion.round, sum) => value.clone(),
            _ => {
                let value = Arc::new(make());
                *held = Some((occasion.round, sum, value.clone()));
                value
            }
        }
    }
}

fn fingerprint(weights: &Weights) -> u32 {
    weights.dense.iter().chain(&weights.items).fold(0, |sum: u32, x| (sum.rotate_left(5) ^ x.to_bits()).wrapping_mul(0x9E37_79B1))
}
