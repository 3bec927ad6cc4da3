//! Distances between whole updates: dense weights and item rows together, a row that a client did not upload being no change.

use crate::backend::cpu::{gram, inner};
use crate::base::parallel;
use crate::engine::Update;

/// Updates whose products with others one task takes.
const SPAN: usize = 64;

/// Contributors from which an item's rows are multiplied as dense weights are.
const MANY: usize = 64;

/// Where an item row lies: item, update, row of the update.
type Place = (u32, usize, usize);

/// Inner products `[n, n]` of `updates` with rows of width `d`. They have the same bits for any number of threads: those of dense weights first, then
/// those of items with few contributors, then those of items with many, each in the order of items.
pub(super) fn products(updates: &[Update], d: usize, threads: usize) -> Vec<f64> {
    let n = updates.len();
    let dense: Vec<&[f32]> = updates.iter().map(|u| &u.dense[..]).collect();
    let mut products = gram(&dense, threads);
    // Rows of the same item meet. An item that one client alone uploads adds to its own square.
    let met = by_item(updates);
    let row = |&(_, u, row): &Place| &updates[u].rows[row * d..][..d];
    let (many, few): (Vec<&[Place]>, Vec<&[Place]>) = met.chunk_by(|a, b| a.0 == b.0).partition(|group| group.len() >= MANY);
    by_spans(&mut products, n, threads, |lo, lines| {
        for group in &few {
            let (from, to) = (group.partition_point(|place| place.1 < lo), group.partition_point(|place| place.1 < lo + SPAN));
            for a in &group[from..to] {
                let line = &mut lines[(a.1 - lo) * n..][..n];
                group.iter().for_each(|b| line[b.1] += f64::from(inner(row(a), row(b))));
            }
        }
    });
    for group in many {
        let own = gram(&group.iter().map(row).collect::<Vec<_>>(), threads);
        by_spans(&mut products, n, threads, |lo, lines| {
            let (from, to) = (group.partition_point(|place| place.1 < lo), group.partition_point(|place| place.1 < lo + SPAN));
            for (a, own) in group.iter().zip(own.chunks_exact(group.len())).take(to).skip(from) {
                let line = &mut lines[(a.1 - lo) * n..][..n];
                group.iter().zip(own).for_each(|(b, product)| line[b.1] += product);
            }
        });
    }
    products
}

/// Calls `work(first line, lines)` for spans of the `n` lines of `products [n, n]`.
fn by_spans(products: &mut [f64], n: usize, threads: usize, work: impl Fn(usize, &mut [f64]) + Sync) {
    let spans = products.chunks_mut(SPAN * n.max(1)).enumerate().collect();
    parallel::consume(threads, spans, |(span, lines): (usize, &mut [f64])| work(span * SPAN, lines));
}

/// Every row of `updates`, by item and then by update.
fn by_item(updates: &[Update]) -> Vec<Place> {
    let highest = updates.iter().flat_map(|update| &update.items).max();
    // Where the rows of each item begin, and while they are put down, where the next one goes.
    let mut next = vec![0; highest.map_or(0, |&item| item as usize + 2)];
    updates.iter().flat_map(|update| &update.items).for_each(|&item| next[item as usize + 1] += 1);
    for item in 1..next.len() {
        next[item] += next[item - 1];
    }
    let mut places = vec![(0, 0, 0); next.last().copied().unwrap_or(0)];
    for (u, update) in updates.iter().enumerate() {
        for (row, &item) in update.items.iter().enumerate() {
            places[next[item as usize]] = (item, u, row);
            next[item as usize] += 1;
        }
    }
    places
}

/// Squared Euclidean distances `[n, n]` between `updates` with rows of width `d`; 0 on the diagonal.
pub(super) fn squared_distances(updates: &[Update], d: usize, threads: usize) -> Vec<f64> {
    let n = updates.len();
    let mut all = products(updates, d, threads);
    let squares: Vec<f64> = (0..n).map(|i| all[i * n + i]).collect();
    by_spans(&mut all, n, threads, |lo, lines| {
        for (i, line) in (lo..).zip(lines.chunks_exact_mut(n.max(1))) {
            line.iter_mut().zip(&squares).for_each(|(value, square)| *value = (squares[i] + square - 2.0 * *value).max(0.0));
            line[i] = 0.0;
        }
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

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

    #[test]
    fn rows_that_many_share_count_like_those_that_few_share_for_any_number_of_threads() {
        // Item 7 has 90 contributors, item 2 a third of them.
        let updates: Vec<Update> = (0..90u32)
            .map(|client| {
                let mut stream = Stream::new(1, Purpose::Bench, client.into(), 0);
                let items: Vec<u32> = if client % 3 == 0 { vec![7, 2] } else { vec![7] };
                let rows = (0..items.len() * 5).map(|_| stream.normal()).collect();
                Update { client, weight: 1, dense: vec![stream.normal(); 3], items, rows }
            })
            .collect();
        let found = squared_distances(&updates, 5, 1);
        assert_eq!(found, squared_distances(&updates, 5, 3));
        // Every update as one long vector.
        let whole = |update: &Update| {
            let mut values = vec![0f64; 3 + 8 * 5];
            values.iter_mut().zip(&update.dense).for_each(|(to, x)| *to = f64::from(*x));
            for (item, row) in update.items.iter().zip(update.rows.chunks_exact(5)) {
                values[3 + *item as usize * 5..][..5].iter_mut().zip(row).for_each(|(to, x)| *to = f64::from(*x));
            }
            values
        };
        for (i, a) in updates.iter().enumerate() {
            for (j, b) in updates.iter().enumerate() {
                let want: f64 = whole(a).iter().zip(whole(b)).map(|(x, y)| (x - y) * (x - y)).sum();
                assert!((found[i * 90 + j] - want).abs() < 1e-4, "{i} {j}: {} {want}", found[i * 90 + j]);
            }
        }
    }
}
