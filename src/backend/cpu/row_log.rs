//! Gradients of item rows as a list instead of a table: which vector, times which number, belongs to which row. A part of a mini-batch
//! touches a row here and there; whoever owns a range of rows adds up what all parts say of it, in their order.

use crate::backend::TableRow;

/// Rows of a bucket: their gradients `[BUCKET, d]` stay in the second cache.
pub const BUCKET: usize = 512;

/// One addition: `gradient[row] += factor * vectors[vector]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowEntry {
    /// Row of the table.
    pub row: TableRow,
    /// Vector of the log.
    pub vector: u32,
    /// Factor.
    pub factor: f32,
}

/// The additions of one part.
#[derive(Debug, Default)]
pub struct RowLog {
    /// In the order in which they were made, then (after [`RowLog::sort`]) by bucket, in that order within each.
    entries: Vec<RowEntry>,
    /// Vectors `[n, d]`.
    vectors: Vec<f32>,
    /// Bounds of buckets `[buckets + 1]`.
    bounds: Vec<u32>,
    sorted: Vec<RowEntry>,
}

impl RowLog {
    /// Empties the log; its memory stays.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.vectors.clear();
    }

    /// Keeps a vector `[d]`; gives its number.
    pub fn push_vector(&mut self, vector: &[f32]) -> u32 {
        let number = (self.vectors.len() / vector.len()) as u32;
        self.vectors.extend_from_slice(vector);
        number
    }

    /// Notes one addition.
    pub fn push(&mut self, row: TableRow, vector: u32, factor: f32) {
        self.entries.push(RowEntry { row, vector, factor });
    }

    /// Sorts the additions into buckets of a table of `rows` rows.
    pub fn sort(&mut self, rows: usize) {
        let bucket = |entry: &RowEntry| entry.row.index() / BUCKET;
        self.bounds.clear();
        self.bounds.resize(rows.div_ceil(BUCKET) + 1, 0);
        for entry in &self.entries {
            self.bounds[bucket(entry) + 1] += 1;
        }
        for b in 1..self.bounds.len() {
            self.bounds[b] += self.bounds[b - 1];
        }
        self.sorted.clear();
        self.sorted.resize(self.entries.len(), RowEntry::default());
        let mut next = self.bounds.clone();
        for entry in &self.entries {
            let at = &mut next[bucket(entry)];
            self.sorted[*at as usize] = *entry;
            *at += 1;
        }
    }

    /// Adds `share` times what the log says of bucket `bucket` to its gradients `[up to BUCKET, d]`.
    pub fn add_to(&self, bucket: usize, share: f32, d: usize, gradient: &mut [f32]) {
        for entry in &self.sorted[self.bounds[bucket] as usize..self.bounds[bucket + 1] as usize] {
            let to = &mut gradient[(entry.row.index() - bucket * BUCKET) * d..][..d];
            let from = &self.vectors[entry.vector as usize * d..][..d];
            // SAFETY: both hold `d` numbers.
            unsafe { super::rows::axpy(d, share * entry.factor, from.as_ptr(), to.as_mut_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buckets_add_up_to_a_scatter(entries in prop::collection::vec((0u32..1300, 0u32..7, -2f32..2.0), 0..200), d in 1usize..20) {
            let vectors: Vec<f32> = (0..7 * d).map(|i| (i as f32 * 0.37).sin()).collect();
            let mut log = RowLog::default();
            vectors.chunks(d).for_each(|vector| { log.push_vector(vector); });
            entries.iter().for_each(|&(row, vector, factor)| log.push(TableRow(row), vector, factor));
            log.sort(1300);
            let (mut got, mut want) = (vec![0f32; 1300 * d], vec![0f64; 1300 * d]);
            for (bucket, gradient) in got.chunks_mut(BUCKET * d).enumerate() {
                log.add_to(bucket, 0.5, d, gradient);
            }
            for &(row, vector, factor) in &entries {
                for k in 0..d {
                    want[row as usize * d + k] += 0.5 * f64::from(factor) * f64::from(vectors[vector as usize * d + k]);
                }
            }
            prop_assert!(got.iter().zip(&want).all(|(g, w)| (f64::from(*g) - w).abs() < 1e-4));
        }
    }
}
