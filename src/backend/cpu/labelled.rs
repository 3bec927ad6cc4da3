//! Binary cross-entropy towards given labels, and gradients of hidden states that come with a step.

use super::Worker;
use super::rows;
use crate::backend::Act;

/// `ln(1 + e^x)` without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The probability that a logit stands for.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Dot product of two rows of equal width.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // SAFETY: both hold as many numbers.
    unsafe { rows::dot(a.len(), a.as_ptr(), b.as_ptr()) }
}

impl Worker {
    /// With logits `s = h[e] . row[c]` and labels `y` of [`crate::backend::Step::labels`] the mean over examples of
    /// `sum_c y ln(1 + e^-s) + (1 - y) ln(1 + e^s)`; adds gradients to `dh [Q, d]` and to the item rows.
    pub(super) fn labelled_loss(&mut self, h: Act, dh: Act) -> f64 {
        let (count, width, d) = (self.step.example.len(), self.step.width, self.shape.dim);
        assert_eq!(self.step.labels.len(), count * width, "a label for each candidate");
        assert!(self.row_log.is_none(), "gradients of labelled candidates are not logged");
        let (h, dh) = (h.at, dh.at);
        let (share, mut total) = (1.0 / count as f32, 0f64);
        for e in 0..count {
            let q = self.step.example[e] as usize * d;
            for c in e * width..(e + 1) * width {
                let (row, y) = (self.step.cands[c].index() * d, self.step.labels[c]);
                assert!(row + d <= self.row_count * d);
                // SAFETY: the row is one of those that the worker reads.
                let row_at = unsafe { std::slice::from_raw_parts(self.read_rows.add(row), d) };
                let s = dot(&self.arena[h + q..][..d], row_at);
                total += f64::from(y * softplus(-s) + (1.0 - y) * softplus(s));
                let g = share * (sigmoid(s) - y);
                self.arena[dh + q..][..d].iter_mut().zip(row_at).for_each(|(x, r)| *x += g * r);
                let hidden = &self.arena[h + q..][..d];
                self.rows.g[row..][..d].iter_mut().zip(hidden).for_each(|(x, h)| *x += g * h);
            }
        }
        total / count as f64
    }

    /// Adds [`crate::backend::Step::pull`] to `dh [Q, d]`, where the step has one.
    pub(super) fn add_pull(&mut self, dh: Act) {
        if self.step.pull.is_empty() {
            return;
        }
        assert_eq!(self.step.pull.len(), self.step.outputs() * dh.width, "a gradient for each output row");
        let to = &mut self.arena[dh.at..][..self.step.pull.len()];
        to.iter_mut().zip(&self.step.pull).for_each(|(x, g)| *x += g);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{GradientAt, WorkerShape};
    use crate::backend::{Step, TableRow};
    use crate::base::rng::{Purpose, Stream};
    use crate::config::{Backbone, LossSettings, ModelSettings};
    use crate::model::{Model, ModelSpec, Weights};

    const ITEMS: usize = 7;

    fn model(backbone: Backbone) -> (ModelSettings, LossSettings) {
        let m = ModelSettings { backbone, dim: 5, blocks: 2, max_len: 6, init_std: 0.4, ..Default::default() };
        (m, LossSettings { contrast: crate::config::Contrast::None, ..Default::default() })
    }

    /// Two sequences; every output has an example with two labelled candidates, and a gradient from outside.
    fn pack(step: &mut Step, pull: bool) {
        step.clear();
        (step.width, step.positive_weight) = (2, 1.0);
        let mut draws = Stream::new(3, Purpose::Bench, 0, 0);
        for rows in [&[0u32, 3, 2][..], &[5, 1, 3, 6, 2]] {
            let first = step.push_sequence(rows.iter().map(|&row| TableRow(row)));
            for i in 0..rows.len() as u32 {
                let out = step.push_output(first + i);
                step.example.push(out);
                step.cands.extend([(); 2].map(|()| TableRow(draws.below(ITEMS as u64) as u32)));
                step.labels.extend([draws.unit(), draws.unit()]);
            }
        }
        step.end_client();
        if pull {
            step.pull.extend((0..step.outputs() * 5).map(|_| 0.1 * draws.normal()));
        }
    }

    /// Loss in f64 of hidden states in f32 under the weights, with the gradient from outside as a linear term.
    fn loss(worker: &mut Worker, model: &Model, dense: &[f32], items: &[f32], pull: bool) -> f64 {
        worker.read(
            dense,
            items,
            |step| pack(step, pull),
            |worker| {
                let h = model.encode(worker);
                let (h, step, d) = (worker.values(h).to_vec(), &worker.step, 5);
                let mut total = 0f64;
                for (c, (&row, &y)) in step.cands.iter().zip(&step.labels).enumerate() {
                    let q = step.example[c / step.width] as usize;
                    let products = h[q * d..][..d].iter().zip(&items[row.index() * d..][..d]);
                    let (s, y) = (products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>(), f64::from(y));
                    total += y * (1.0 + (-s).exp()).ln() + (1.0 - y) * (1.0 + s.exp()).ln();
                }
                let outside: f64 = step.pull.iter().zip(&h).map(|(g, h)| f64::from(*g) * f64::from(*h)).sum();
                total / step.example.len() as f64 + outside
            },
        )
    }

    #[test]
    fn loss_and_gradients_agree_with_finite_differences() {
        for (backbone, pull) in [(Backbone::SASREC, false), (Backbone::SASREC, true), (Backbone::GRU4REC, true)] {
            let (settings, loss_settings) = model(backbone);
            let spec = ModelSpec::new(&settings);
            let mut weights = Weights::init(&spec, ITEMS, 1);
            let (mut worker, model) = (Worker::new(WorkerShape::new(&spec)), Model::new(&spec));
            let part = GradientAt { dense: &weights.dense.clone(), items: &weights.items.clone(), dropout: None, number: 1 };
            let [value, _] = worker.gradient(&part, None, |step| pack(step, pull), |worker| model.train(worker, &loss_settings));
            let (dense, items) = (worker.dense_gradient().to_vec(), worker.item_gradient().to_vec());
            let expected = loss(&mut worker, &model, &weights.dense, &weights.items, false);
            assert!((value - expected).abs() < 1e-6, "{backbone:?}: {value} and {expected}");
            // Hidden states are f32: a step that is large beside their rounding and small beside the curvature.
            let step = 2e-3f32;
            let mut close = |name: &str, i: usize, g: f32, slot: fn(&mut Weights) -> &mut Vec<f32>| {
                let before = slot(&mut weights)[i];
                let mut at = |x: f32| {
                    slot(&mut weights)[i] = x;
                    loss(&mut worker, &model, &weights.dense, &weights.items, pull)
                };
                let slope = (at(before + step) - at(before - step)) / f64::from((before + step) - (before - step));
                at(before);
                let error = (slope - f64::from(g)).abs();
                assert!(error < 2e-3 + 2e-2 * slope.abs(), "{backbone:?}, {name} {i}: {slope} and {g}");
            };
            items.iter().enumerate().for_each(|(i, &g)| close("item", i, g, |w| &mut w.items));
            dense.iter().enumerate().step_by(3).for_each(|(i, &g)| close("dense", i, g, |w| &mut w.dense));
        }
    }

    #[test]
    fn labels_of_one_and_zero_are_the_plain_loss() {
        let (settings, loss_settings) = model(Backbone::SASREC);
        let spec = ModelSpec::new(&settings);
        let weights = Weights::init(&spec, ITEMS, 1);
        let (mut worker, model) = (Worker::new(WorkerShape::new(&spec)), Model::new(&spec));
        let mut of = |labelled: bool| {
            let part = GradientAt { dense: &weights.dense, items: &weights.items, dropout: None, number: 1 };
            let fill = |step: &mut Step| {
                pack(step, false);
                let labels = std::mem::take(&mut step.labels).len();
                step.labels.extend((0..if labelled { labels } else { 0 }).map(|c| if c % 2 == 0 { 1.0 } else { 0.0 }));
            };
            let losses = worker.gradient(&part, None, fill, |worker| model.train(worker, &loss_settings));
            (losses[0], worker.dense_gradient().to_vec(), worker.item_gradient().to_vec())
        };
        let (plain, labelled) = (of(false), of(true));
        assert!((plain.0 - labelled.0).abs() < 1e-6);
        let all = |x: &(f64, Vec<f32>, Vec<f32>)| x.1.iter().chain(&x.2).copied().collect::<Vec<_>>();
        assert!(all(&plain).iter().zip(all(&labelled)).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}
