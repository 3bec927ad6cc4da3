//! Next-item losses and the contrast, one example and one group after another.

use super::real::{Real, inner, log_sum, softplus};
use super::{Act, Field, Reference};
use crate::backend::TableRow;
use crate::config::{Contrast, InBatchSettings, LossSettings, RecLoss, Similarity};

/// Added to a squared norm, so that a zero row has a finite cosine.
const NORM_FLOOR: f64 = 1e-24;

impl<R: Real> Reference<'_, R> {
    /// Client that owns output `q`.
    fn owner(&self, q: usize) -> usize {
        self.step().client_outs.partition_point(|&b| b as usize <= q) - 1
    }

    /// Examples of the client that owns output `q`.
    fn examples(&self, q: usize) -> R {
        let (c, bounds) = (self.owner(q), &self.step().client_examples);
        R::of(f64::from(bounds[c + 1] - bounds[c]))
    }

    /// Adds `g` times row `r` of the table to the gradient of output `q`, and `g` times its hidden state to the row's gradient.
    fn meet(&mut self, q: usize, r: usize, g: R, h: Act, dh: Act) {
        let d = self.d();
        let item = self.table()[r * d..][..d].to_vec();
        let hidden = self.row(h, q).to_vec();
        self.row_mut(dh, q).iter_mut().zip(item).for_each(|(x, y)| *x += g * y);
        self.set(Field::RowGrad)[r * d..][..d].iter_mut().zip(hidden).for_each(|(x, y)| *x += g * y);
    }

    pub(super) fn sampled_loss(&mut self, rec: RecLoss, h: Act, dh: Act) {
        let (step, d) = (self.step(), self.d());
        let beta = R::of(f64::from(step.positive_weight));
        let power = if rec == RecLoss::Gbce { beta } else { R::ONE };
        let each = (R::ONE - beta) / R::of(step.width as f64);
        for (e, &q) in step.example.iter().enumerate() {
            let (q, examples) = (q as usize, self.examples(q as usize));
            let share = step.share.get(e).map_or(R::ONE / examples, |&share| R::of(f64::from(share)));
            let cands = &step.cands[e * step.width..][..step.width];
            let offset = |i: usize| step.offset.get(e * step.width + i).map_or(R::ZERO, |&offset| R::of(f64::from(offset)));
            let score = |r: TableRow| inner(self.row(h, q), &self.table()[r.index() * d..][..d]);
            let logits: Vec<R> = cands.iter().enumerate().map(|(i, &r)| score(r) - offset(i)).collect();
            let lse = log_sum(&logits);
            let mut loss = if rec == RecLoss::SampledSoftmax { lse - beta * logits[0] } else { R::ZERO };
            for (i, (&r, &x)) in cands.iter().zip(&logits).enumerate() {
                let g = match (rec, i) {
                    (RecLoss::SampledSoftmax, _) => {
                        loss += -(each * x);
                        (x - lse).exp() - each - if i == 0 { beta } else { R::ZERO }
                    }
                    (_, 0) => {
                        loss += power * softplus(-x);
                        -power / (R::ONE + x.exp())
                    }
                    _ => {
                        loss += softplus(x);
                        R::ONE / (R::ONE + (-x).exp())
                    }
                };
                self.set(Field::Coef)[e * step.width + i] = g * share;
                self.meet(q, r.index(), g * share, h, dh);
            }
            // With shares the mean over a client's examples is the sum of its losses times their shares.
            self.set(Field::Loss)[e] = if step.share.is_empty() { loss } else { loss * (share * examples) };
        }
    }

    pub(super) fn full_softmax(&mut self, h: Act, dh: Act) {
        let (step, d) = (self.step(), self.d());
        for (e, &q) in step.example.iter().enumerate() {
            let (q, share) = (q as usize, R::ONE / self.examples(q as usize));
            let rows = self.case.rows_of(self.owner(q));
            let positive = step.cands[e * step.width].index();
            let logits: Vec<R> = rows.clone().map(|r| inner(self.row(h, q), &self.table()[r * d..][..d])).collect();
            let lse = log_sum(&logits);
            self.set(Field::Lse)[e] = lse;
            self.set(Field::Loss)[e] = lse - logits[positive - rows.start];
            for (r, x) in rows.zip(logits) {
                let g = (x - lse).exp() - if r == positive { R::ONE } else { R::ZERO };
                self.meet(q, r, g * share, h, dh);
            }
        }
    }

    /// InfoNCE of each client's pairs; leaves paired rows, inverse norms and log partition sums in the first rows of the scratch.
    pub(super) fn paired(&mut self, settings: &InBatchSettings, h: Act, [z, inverse, lse]: [Act; 3], dh: Act) {
        let step = self.step();
        let (tau, weight) = (R::of(f64::from(settings.tau)), R::of(f64::from(settings.weight)));
        let cosine = settings.similarity == Similarity::Cosine;
        for c in 0..self.case.clients() {
            let own = 2 * step.client_pairs[c] as usize..2 * step.client_pairs[c + 1] as usize;
            let n = own.len();
            let of: Vec<Vec<R>> = own.clone().map(|r| self.row(h, step.pair[r] as usize).to_vec()).collect();
            let norms: Vec<R> = of.iter().map(|x| if cosine { (inner(x, x) + R::of(NORM_FLOOR)).sqrt() } else { R::ONE }).collect();
            let score = |i: usize, j: usize| inner(&of[i], &of[j]) / (norms[i] * norms[j]);
            for i in 0..n {
                let others: Vec<usize> = (0..n).filter(|&j| j != i).collect();
                let scores: Vec<R> = others.iter().map(|&j| score(i, j) / tau).collect();
                let level = log_sum(&scores);
                self.row_mut(z, own.start + i).copy_from_slice(&of[i]);
                self.row_mut(inverse, own.start + i)[0] = R::ONE / norms[i];
                self.row_mut(lse, own.start + i)[0] = level;
                self.set(Field::Paired)[own.start + i] = level - score(i, i ^ 1) / tau;
                for (&j, &s) in others.iter().zip(&scores) {
                    let slope = ((s - level).exp() - if j == i ^ 1 { R::ONE } else { R::ZERO }) * weight / R::of(n as f64) / tau;
                    let along = if cosine { score(i, j) } else { R::ZERO };
                    for (k, (&x, &y)) in of[i].iter().zip(&of[j]).enumerate() {
                        let (x, y) = (x / norms[i], y / norms[j]);
                        self.row_mut(dh, step.pair[own.start + i] as usize)[k] += slope * (y - along * x) / norms[i];
                        self.row_mut(dh, step.pair[own.start + j] as usize)[k] += slope * (x - along * y) / norms[j];
                    }
                }
            }
        }
    }

    pub(super) fn tri_view(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        let (step, d) = (self.step(), self.d());
        let tau = R::of(f64::from(loss.tau));
        for (g, &positives) in step.positives.iter().enumerate() {
            let members: Vec<usize> =
                step.group[step.group_bounds[g] as usize..step.group_bounds[g + 1] as usize].iter().map(|&q| q as usize).collect();
            let (anchor, views) = (members[0], &members[1..]);
            let c = self.owner(anchor);
            let groups = R::of(f64::from(step.client_groups[c + 1] - step.client_groups[c]));
            let weight = R::of(f64::from(self.case.lambda)) / groups;
            let of = |q: usize| self.row(h, q).to_vec();
            let norm = |x: &[R]| (inner(x, x) + R::of(NORM_FLOOR)).sqrt();
            let a = of(anchor);
            let b: Vec<Vec<R>> = views.iter().map(|&v| of(v)).collect();
            let cosines: Vec<R> = b.iter().map(|v| inner(&a, v) / (norm(&a) * norm(v))).collect();
            let mut total = R::ZERO;
            let mut slopes = vec![R::ZERO; views.len()];
            for p in 0..positives as usize {
                let inside = |v: &usize| loss.contrast == Contrast::Joint || *v == p || *v >= positives as usize;
                let list: Vec<usize> = (0..views.len()).filter(inside).collect();
                let scores: Vec<R> = list.iter().map(|&v| cosines[v] / tau).collect();
                let lse = log_sum(&scores);
                total += lse - cosines[p] / tau;
                for (&v, &s) in list.iter().zip(&scores) {
                    slopes[v] += (s - lse).exp() - if v == p { R::ONE } else { R::ZERO };
                }
            }
            self.set(Field::Contrast)[g] = total;
            let (na, mut own) = (norm(&a), vec![R::ZERO; d]);
            for (i, v) in b.iter().enumerate() {
                let (nv, slope, cosine) = (norm(v), slopes[i] * weight / tau, cosines[i]);
                for k in 0..d {
                    let (x, y) = (a[k] / na, v[k] / nv);
                    own[k] += slope * (y - cosine * x) / na;
                    self.row_mut(dh, views[i])[k] += slope * (x - cosine * y) / nv;
                }
            }
            self.row_mut(dh, anchor).iter_mut().zip(own).for_each(|(x, g)| *x += g);
        }
    }
}
