//! Attention and the recurrence, one sequence after another.

use super::real::{Real, inner, log_sum, sigmoid};
use super::{Act, Field, Mask, Reference, RowKind};

impl<R: Real> Reference<'_, R> {
    /// Last and first token that each query sees.
    fn queries(&self, mask: Mask, rows: RowKind) -> Vec<(usize, usize)> {
        let step = self.step();
        let end = |start: u32| step.bounds[step.bounds.partition_point(|&b| b <= start)] - 1;
        let last = |token: u32, start: u32| if mask == Mask::Full { end(start) } else { token };
        let pairs = |tokens: &[u32], starts: &[u32]| tokens.iter().zip(starts).map(|(&t, &s)| (last(t, s) as usize, s as usize)).collect();
        match rows {
            RowKind::Tokens => pairs(&step.token, &step.start),
            RowKind::Outputs => pairs(&step.out_token, &step.out_start),
        }
    }

    /// Scores of a query against the tokens it sees.
    fn scores(&self, q: Act, k: Act, r: usize, at: usize, w: usize, (token, start): (usize, usize)) -> Vec<R> {
        let scale = R::of(w as f64).sqrt();
        let query = &self.row(q, r)[at..at + w];
        (start..=token).map(|t| inner(query, &self.row(k, t)[at..at + w]) / scale).collect()
    }

    pub(super) fn attention_forward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        let w = q.width / heads;
        for (r, query) in self.queries(mask, q.rows).into_iter().enumerate() {
            for head in 0..heads {
                let at = head * w;
                let scores = self.scores(q, k, r, at, w, query);
                let lse = log_sum(&scores);
                let mut sums = vec![R::ZERO; w];
                // Normalised by the sum of the exponentials themselves, as every program does.
                let total: R = scores.iter().map(|&s| (s - lse).exp()).sum();
                for (t, &score) in (query.1..).zip(&scores) {
                    let p = (score - lse).exp() / total;
                    sums.iter_mut().zip(&self.row(v, t)[at..at + w]).for_each(|(s, &x)| *s += p * x);
                }
                self.row_mut(y, r)[at..at + w].copy_from_slice(&sums);
                self.row_mut(stats, r)[head] = lse;
            }
        }
    }

    pub(super) fn attention_gradients(&mut self, mask: Mask, heads: usize, [q, k, v]: [Act; 3], dy: Act, [dq, dk, dv]: [Act; 3]) {
        let w = q.width / heads;
        for act in [dq, dk, dv] {
            self.values_mut(act).fill(R::ZERO);
        }
        let scale = R::of(w as f64).sqrt();
        for (r, query) in self.queries(mask, q.rows).into_iter().enumerate() {
            for at in (0..q.width).step_by(w) {
                let scores = self.scores(q, k, r, at, w, query);
                let lse = log_sum(&scores);
                let total: R = scores.iter().map(|&s| (s - lse).exp()).sum();
                let p: Vec<R> = scores.iter().map(|&s| (s - lse).exp() / total).collect();
                let slope = self.row(dy, r)[at..at + w].to_vec();
                let own = self.row(q, r)[at..at + w].to_vec();
                let dp: Vec<R> = (query.1..=query.0).map(|t| inner(&slope, &self.row(v, t)[at..at + w])).collect();
                let mean = inner(&p, &dp);
                for (i, t) in (query.1..=query.0).enumerate() {
                    let ds = p[i] * (dp[i] - mean) / scale;
                    let key = self.row(k, t)[at..at + w].to_vec();
                    for c in 0..w {
                        self.row_mut(dq, r)[at + c] += ds * key[c];
                        self.row_mut(dk, t)[at + c] += ds * own[c];
                        self.row_mut(dv, t)[at + c] += p[i] * slope[c];
                    }
                }
            }
        }
    }

    /// Client that owns sequence `s`, and its tokens.
    fn sequences(&self) -> Vec<(usize, std::ops::Range<usize>)> {
        let step = self.step();
        let owner = |token: u32| step.client_tokens.partition_point(|&b| b <= token) - 1;
        step.bounds.windows(2).map(|b| (owner(b[0]), b[0] as usize..b[1] as usize)).collect()
    }

    pub(super) fn recurrence(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        let d = h.width;
        for (c, tokens) in self.sequences() {
            let (weight, bias) = (self.weight(c, w, 3 * d * d).to_vec(), self.weight(c, b, 3 * d).to_vec());
            let mut state = vec![R::ZERO; d];
            for t in tokens {
                let mut product = bias.clone();
                for (i, &s) in state.iter().enumerate() {
                    product.iter_mut().zip(&weight[i * 3 * d..][..3 * d]).for_each(|(p, &w)| *p += s * w);
                }
                let x = self.row(xw, t).to_vec();
                self.row_mut(previous, t).copy_from_slice(&state);
                for k in 0..d {
                    let (r, z) = (sigmoid(x[k] + product[k]), sigmoid(x[d + k] + product[d + k]));
                    let n = (x[2 * d + k] + r * product[2 * d + k]).tanh();
                    let kept = self.row_mut(gates, t);
                    (kept[k], kept[d + k], kept[2 * d + k], kept[3 * d + k]) = (r, z, n, product[2 * d + k]);
                    state[k] = (R::ONE - z) * n + z * state[k];
                }
                self.row_mut(h, t).copy_from_slice(&state);
            }
        }
    }

    pub(super) fn recurrence_gradients(&mut self, w: usize, gates: Act, previous: Act, dh: Act, dxw: Act, dhw: Act) {
        let d = dh.width;
        for (c, tokens) in self.sequences() {
            let weight = self.get(Field::Dense)[c * self.dense + w..][..3 * d * d].to_vec();
            let mut passed = vec![R::ZERO; d];
            for t in tokens.rev() {
                let (kept, before, up) = (self.row(gates, t).to_vec(), self.row(previous, t).to_vec(), self.row(dh, t).to_vec());
                let (mut input, mut state) = (vec![R::ZERO; 3 * d], vec![R::ZERO; 3 * d]);
                for k in 0..d {
                    let (r, z, n, hn) = (kept[k], kept[d + k], kept[2 * d + k], kept[3 * d + k]);
                    let up = up[k] + passed[k];
                    let dz = up * (before[k] - n) * z * (R::ONE - z);
                    let dn = up * (R::ONE - z) * (R::ONE - n * n);
                    let dr = dn * hn * r * (R::ONE - r);
                    (input[k], input[d + k], input[2 * d + k]) = (dr, dz, dn);
                    (state[k], state[d + k], state[2 * d + k]) = (dr, dz, dn * r);
                    passed[k] = up * z;
                }
                for (i, p) in passed.iter_mut().enumerate() {
                    *p += inner(&state, &weight[i * 3 * d..][..3 * d]);
                }
                self.row_mut(dxw, t).copy_from_slice(&input);
                self.row_mut(dhw, t).copy_from_slice(&state);
            }
        }
    }
}
