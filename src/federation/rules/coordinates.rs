//! Robust means: of an item row over the clients that uploaded it.

use crate::engine::Mean;

/// Puts `middle` of what the clients uploaded in the place of every coordinate of `mean`. Weights are left aside. `middle` may reorder its values,
/// which are never none.
pub(super) fn each_coordinate(mean: &mut Mean, middle: impl Fn(&mut [f32]) -> f32) {
    let Mean { d, dense, items, rows, updates, .. } = mean;
    let mut column = Vec::with_capacity(updates.len());
    for (k, value) in dense.iter_mut().enumerate() {
        column.clear();
        column.extend(updates.iter().filter_map(|u| u.dense.get(k)));
        if !column.is_empty() {
            *value = middle(&mut column);
        }
    }
    // Contributors of each item: (slot, update, row), by slot.
    let mut contributors: Vec<(usize, usize, usize)> = Vec::new();
    for (u, update) in updates.iter().enumerate() {
        let slot = |item: &u32| items.binary_search(item).ok();
        contributors.extend(update.items.iter().enumerate().filter_map(|(row, item)| Some((slot(item)?, u, row))));
    }
    contributors.sort_unstable();
    for group in contributors.chunk_by(|a, b| a.0 == b.0) {
        for k in 0..*d {
            column.clear();
            column.extend(group.iter().map(|&(_, u, row)| updates[u].rows[row * *d + k]));
            rows[group[0].0 * *d + k] = middle(&mut column);
        }
    }
}

/// Puts the mean of the clients' uploads by `weights` (one each, at least 0) in the place of `mean`, of an item row over its contributors. A row none
/// of whose contributors weighs anything does not change.
pub(super) fn weighted_mean(mean: &mut Mean, weights: &[f64]) {
    scaled_mean(mean, weights, &vec![1.0; weights.len()]);
}

/// The same of uploads that are multiplied by `factors` (one each) first.
pub(super) fn scaled_mean(mean: &mut Mean, weights: &[f64], factors: &[f64]) {
    let Mean { d, dense, items, rows, updates, .. } = mean;
    let total: f64 = weights.iter().sum();
    let mut sum = vec![0f64; dense.len()];
    let (mut row_sums, mut row_weights) = (vec![0f64; rows.len()], vec![0f64; items.len()]);
    for ((update, &weight), &factor) in updates.iter().zip(weights).zip(factors).filter(|((_, weight), _)| **weight > 0.0) {
        let scale = weight * factor;
        sum.iter_mut().zip(&update.dense).for_each(|(s, &x)| *s += scale * f64::from(x));
        for (item, row) in update.items.iter().zip(update.rows.chunks_exact(*d)) {
            let Ok(slot) = items.binary_search(item) else { continue };
            row_weights[slot] += weight;
            row_sums[slot * *d..][..*d].iter_mut().zip(row).for_each(|(s, &x)| *s += scale * f64::from(x));
        }
    }
    let over = |sum: f64, weight: f64| if weight > 0.0 { (sum / weight) as f32 } else { 0.0 };
    dense.iter_mut().zip(sum).for_each(|(to, s)| *to = over(s, total));
    for ((to, sums), weight) in rows.chunks_exact_mut(*d).zip(row_sums.chunks_exact(*d)).zip(row_weights) {
        to.iter_mut().zip(sums).for_each(|(to, &s)| *to = over(s, weight));
    }
}
