//! InfoNCE within a mini-batch, between two copies of each sequence.

use super::gemm;
use super::rows::{axpy, dot};
use crate::config::{InBatchSettings, Similarity};

/// Added to a squared norm, so that a zero row has a finite cosine.
const NORM_FLOOR: f32 = 1e-24;

/// The pairs of one client.
pub struct Pairs<'a> {
    /// Hidden rows `[n]`: row `i` and row `i ^ 1` are twins.
    pub rows: &'a [u32],
    /// Width `d`.
    pub d: usize,
    /// Similarity, temperature, weight.
    pub settings: &'a InBatchSettings,
}

impl Pairs<'_> {
    /// Adds the gradient, times the weight, to `dh [Q, d]`; gives the mean loss without the weight.
    ///
    /// # Safety
    /// `h`, `dh` hold every row, `z` `n d` numbers, `scratch` `n (n + d + 2)`; all apart in memory, and no two rows alike.
    pub unsafe fn info_nce(&self, h: *const f32, z: *mut f32, dh: *mut f32, scratch: *mut f32) -> f64 {
        let (n, d, cosine) = (self.rows.len(), self.d, self.settings.similarity == Similarity::Cosine);
        let tau = self.settings.tau;
        // SAFETY: the caller's promise; every pointer below stays inside what it promises.
        unsafe {
            // `z [n, d]`: the hidden states, of length 1 under the cosine; `inverse [n]`: their inverse lengths.
            let (scores, back, vectors) = (scratch, scratch.add(n * n), scratch.add(n * (n + d)));
            let (levels, inverse) = (std::slice::from_raw_parts_mut(vectors, n), std::slice::from_raw_parts_mut(vectors.add(n), n));
            for (i, &row) in self.rows.iter().enumerate() {
                let (from, to) = (h.add(row as usize * d), z.add(i * d));
                inverse[i] = if cosine { 1.0 / (dot(d, from, from) + NORM_FLOOR).sqrt() } else { 1.0 };
                for k in 0..d {
                    *to.add(k) = *from.add(k) * inverse[i];
                }
            }
            gemm::linear_input(n, n, d, z, z, scores, false);
            let mut total = 0f64;
            for (i, level) in levels.iter_mut().enumerate() {
                let row = std::slice::from_raw_parts_mut(scores.add(i * n), n);
                row.iter_mut().for_each(|s| *s /= tau);
                let others = || row.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, &s)| s);
                let top = others().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = others().map(|s| f64::from((s - top).exp())).sum();
                *level = top + sum.ln() as f32;
                total += f64::from(*level - row[i ^ 1]);
            }
            // Scores are symmetric: row `i` has a slope as an anchor and one as the other side of anchor `j`.
            for i in 0..n {
                let row = std::slice::from_raw_parts_mut(scores.add(i * n), n);
                for (j, s) in row.iter_mut().enumerate() {
                    let twin = if j == i ^ 1 { 2.0 } else { 0.0 };
                    *s = if i == j { 0.0 } else { (*s - levels[i]).exp() + (*s - levels[j]).exp() - twin };
                }
            }
            gemm::linear(n, n, d, scores, z, std::ptr::null(), back);
            let share = self.settings.weight / n as f32 / tau;
            for (i, &row) in self.rows.iter().enumerate() {
                let (slope, own, to) = (back.add(i * d), z.add(i * d), dh.add(row as usize * d));
                if cosine {
                    // Only what is across the hidden state moves its direction.
                    axpy(d, -dot(d, slope, own), own, slope);
                }
                axpy(d, share * inverse[i], slope, to);
            }
            total / n as f64
        }
    }
}
