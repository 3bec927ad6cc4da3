//! Distances between whole updates: dense weights and item rows together, a row that a client did not upload being no change.

use crate::backend::cpu::gram;
use crate::engine::Update;

/// Inner products `[n, n]` of `updates` with rows of width `d`.
pub(super) fn products(updates: &[Update], d: usize, threads: usize) -> Vec<f64> {
    let n = updates.len();
    let dense: Vec<&[f32]> = updates.iter().map(|u| &u.dense[..]).collect();
    let mut products: Vec<f64> = gram(&dense, threads).into_iter().map(f64::from).collect();
    // Rows of the same item meet.
    let mut met: Vec<(u32, usize, usize)> = Vec::new();
    for (u, update) in updates.iter().enumerate() {
        met.extend(update.items.iter().enumerate().map(|(row, &item)| (item, u, row)));
    }
    met.sort_unstable();
    let row = |&(_, u, row): &(u32, usize, usize)| &updates[u].rows[row * d..][..d];
    for group in met.chunk_by(|a, b| a.0 == b.0) {
        for (k, a) in group.iter().enumerate() {
            for b in &group[k..] {
                let product: f64 = row(a).iter().zip(row(b)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                products[a.1 * n + b.1] += product;
                if a.1 != b.1 {
                    products[b.1 * n + a.1] += product;
                }
            }
        }
    }
    products
}

/// Squared Euclidean distances `[n, n]` between `updates` with rows of width `d`; 0 on the diagonal.
pub(super) fn squared_distances(updates: &[Update], d: usize, threads: usize) -> Vec<f64> {
    let (n, products) = (updates.len(), products(updates, d, threads));
    let square = |i: usize| products[i * n + i];
    let distance = |i: usize, j: usize| if i == j { 0.0 } else { (square(i) + square(j) - 2.0 * products[i * n + j]).max(0.0) };
    (0..n * n).map(|at| distance(at / n, at % n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        let update = |dense: [f32; 2], rows: &[(u32, [f32; 2])]| Update {
            dense: dense.to_vec(),
            items: rows.iter().map(|r| r.0).collect(),
            rows: rows.iter().flat_map(|r| r.1).collect(),
            ..Update::default()
        };
        let updates =
            [update([1.0, 2.0], &[(3, [1.0, 0.0])]), update([1.0, -1.0], &[(3, [0.0, 2.0]), (9, [3.0, 0.0])]), update([1.0, 2.0], &[])];
        // 9 of dense weights, 1 + 4 of item 3, 9 of item 9.
        assert_eq!(squared_distances(&updates, 2, 1), [0.0, 23.0, 1.0, 23.0, 0.0, 22.0, 1.0, 22.0, 0.0]);
    }
}
