//! Robust means: of an item row over the clients that uploaded it. Threads take spans of coordinates, so that no bit depends on their number.

use crate::base::parallel;
use crate::engine::Mean;

/// Coordinates that one task takes together: a cache line of each update.
const LINE: usize = 16;

/// Dense weights whose mean one task takes.
const SPAN: usize = 2048;

/// Puts `middle` of what the clients uploaded in the place of every coordinate of `mean`. Weights are left aside. `middle` may reorder its values,
/// which are never none.
pub(super) fn each_coordinate(mean: &mut Mean, threads: usize, middle: impl Fn(&mut [f32]) -> f32 + Sync) {
    let Mean { d, dense, items, rows, updates, .. } = mean;
    // Columns `[LINE, n]` of one task after the other.
    let each = |to: &mut [f32], values: &mut dyn Iterator<Item = &[f32]>| {
        let mut columns: Vec<Vec<f32>> = vec![Vec::new(); to.len()];
        values.for_each(|row| columns.iter_mut().zip(row).for_each(|(column, x)| column.push(*x)));
        for (to, column) in to.iter_mut().zip(&mut columns).filter(|(_, column)| !column.is_empty()) {
            *to = middle(column);
        }
    };
    parallel::consume(threads, dense.chunks_mut(LINE).enumerate().collect(), |(span, to): (usize, &mut [f32])| {
        let place = span * LINE..span * LINE + to.len();
        each(to, &mut updates.iter().filter_map(|u| u.dense.get(place.clone())));
    });
    // Contributors of each item: (slot, update, row), by slot.
    let mut contributors: Vec<(usize, usize, usize)> = Vec::new();
    for (u, update) in updates.iter().enumerate() {
        let slot = |item: &u32| items.binary_search(item).ok();
        contributors.extend(update.items.iter().enumerate().filter_map(|(row, item)| Some((slot(item)?, u, row))));
    }
    contributors.sort_unstable();
    parallel::consume(threads, rows.chunks_exact_mut((*d).max(1)).enumerate().collect(), |(slot, to): (usize, &mut [f32])| {
        let [lo, hi] = [slot, slot + 1].map(|slot| contributors.partition_point(|place| place.0 < slot));
        each(to, &mut contributors[lo..hi].iter().map(|&(_, u, row)| &updates[u].rows[row * *d..][..*d]));
    });
}

/// Puts the mean of the clients' uploads by `weights` (one each, at least 0) in the place of `mean`, of an item row over its contributors. A row none
/// of whose contributors weighs anything does not change.
pub(super) fn weighted_mean(mean: &mut Mean, threads: usize, weights: &[f64]) {
    scaled_mean(mean, threads, weights, &vec![1.0; weights.len()]);
}

/// The same of uploads that are multiplied by `factors` (one each) first.
pub(super) fn scaled_mean(mean: &mut Mean, threads: usize, weights: &[f64], factors: &[f64]) {
    let Mean { d, dense, items, rows, updates, .. } = mean;
    let total: f64 = weights.iter().sum();
    let over = |sum: f64, weight: f64| if weight > 0.0 { (sum / weight) as f32 } else { 0.0 };
    let counted = || updates.iter().zip(weights).zip(factors).filter(|((_, weight), _)| **weight > 0.0);
    parallel::consume(threads, dense.chunks_mut(SPAN).enumerate().collect(), |(span, to): (usize, &mut [f32])| {
        let mut sum = vec![0f64; to.len()];
        for ((update, weight), factor) in counted() {
            let scale = weight * factor;
            let own = update.dense.get(span * SPAN..span * SPAN + to.len()).unwrap_or_default();
            sum.iter_mut().zip(own).for_each(|(s, &x)| *s += scale * f64::from(x));
        }
        to.iter_mut().zip(sum).for_each(|(to, s)| *to = over(s, total));
    });
    let (mut row_sums, mut row_weights) = (vec![0f64; rows.len()], vec![0f64; items.len()]);
    for ((update, &weight), &factor) in counted() {
        let scale = weight * factor;
        for (item, row) in update.items.iter().zip(update.rows.chunks_exact(*d)) {
            let Ok(slot) = items.binary_search(item) else { continue };
            row_weights[slot] += weight;
            row_sums[slot * *d..][..*d].iter_mut().zip(row).for_each(|(s, &x)| *s += scale * f64::from(x));
        }
    }
    for ((to, sums), weight) in rows.chunks_exact_mut(*d).zip(row_sums.chunks_exact(*d)).zip(row_weights) {
        to.iter_mut().zip(sums).for_each(|(to, &s)| *to = over(s, weight));
    }
}
