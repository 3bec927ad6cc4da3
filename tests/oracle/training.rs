//! A whole client for ten optimiser steps, number by number, against autograd and a plainly written optimiser; and the
//! update on the spot against the update after the backward pass.

use candle_core::{DType, Tensor};
use lumos::backend::Step;
use lumos::config::{Backbone, Contrast, LocalOptimizer, LocalSettings, LossSettings, ModelSettings, RecLoss};
use lumos::model::{Model, ModelSpec};

use crate::check::{ClientShape, accept, client_step, evaluate_wide, normal, poison, stream};
use crate::model::{named, new_worker, random_dense};
use crate::reference::objective;

const STEPS: u32 = 10;

struct Visit {
    spec: ModelSpec,
    loss: LossSettings,
    local: LocalSettings,
    dense: Vec<f32>,
    rows: Vec<f32>,
    /// Second moments that a preconditioned visit begins with, dense and rows.
    second: Vec<f32>,
    steps: Vec<Step>,
}

impl Visit {
    fn new(case: u64, model: ModelSettings, rec: RecLoss, local: LocalSettings) -> Visit {
        let mut s = stream(case);
        let spec = ModelSpec::new(&model);
        let dense = random_dense(&mut s, &spec);
        let rows = normal(&mut s, 1.0 / (spec.dim() as f32).sqrt(), 11 * spec.dim());
        // Steps of different lengths: position rows are met in some and not in others.
        let steps = (0..STEPS as usize)
            .map(|i| {
                let shape = ClientShape {
                    histories: vec![[5, 2, 9, 1][i % 4], 3],
                    rows: 11,
                    positives: 2,
                    counterfactuals: 1 + i % 2,
                    negatives: 2,
                    states: false,
                    rec,
                };
                client_step(&mut s, &shape)
            })
            .collect();
        let loss = LossSettings { rec, contrast: Contrast::Decoupled, lambda: 0.3, tau: 0.5, ..LossSettings::default() };
        let second = normal(&mut s, 0.1, dense.len() + rows.len()).iter().map(|x| x * x).collect();
        Visit { spec, loss, local, dense, rows, second, steps }
    }

    /// Weights after each step on a worker: dense, then item rows.
    fn engine(&self, fuse: bool) -> Vec<Vec<f32>> {
        let model = Model::new(&self.spec);
        let mut w = new_worker(&self.spec, &self.dense, &self.rows);
        let mut out = Vec::new();
        for (t, step) in (1..).zip(&self.steps) {
            w.step = step.clone();
            poison(&mut w);
            w.begin_step(&self.local, t, STEPS, fuse, None);
            model.train(&mut w, &self.loss);
            w.end_step(&self.local, t, STEPS);
            let rows = (0..self.rows.len() / self.spec.dim()).flat_map(|r| w.row(r).to_vec());
            out.push(w.dense().iter().copied().chain(rows).collect());
        }
        out
    }

    /// Weights after a whole visit: dense, then item rows.
    fn visited(&self) -> Vec<f32> {
        let model = Model::new(&self.spec);
        let mut w = new_worker(&self.spec, &self.dense, &self.rows);
        poison(&mut w);
        let (d, (dense, rows)) = (self.spec.dim(), self.second.split_at(self.dense.len()));
        let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
        let second = self.local.optimizer.takes_second().then_some((dense, &rows[..]));
        let visit = lumos::backend::cpu::Visit { dense: &self.dense, steps: STEPS, local: &self.local, second, dropout: None };
        let pack = |number: u32, step: &mut Step| *step = self.steps[number as usize].clone();
        w.visit(&visit, self.rows.chunks_exact(d), pack, |worker| model.train(worker, &self.loss));
        w.dense().iter().chain(w.rows()).copied().collect()
    }

    /// The same from the formulas. In f32 every stored number is rounded to f32, as a plain program would.
    fn reference(&self, dtype: DType) -> Vec<Vec<f64>> {
        let l = &self.local;
        let [lr, decay, b1, b2, eps] = [l.lr, l.weight_decay, l.beta1, l.beta2, l.eps].map(f64::from);
        let mut w: Vec<f64> = self.dense.iter().chain(&self.rows).map(|&x| f64::from(x)).collect();
        let begun = w.clone();
        let mut m = vec![0f64; w.len()];
        let mut v: Vec<f64> = self.second.iter().map(|&x| if l.optimizer.takes_second() { f64::from(x) } else { 0.0 }).collect();
        let near = lr * f64::from(l.proximal);
        let keep = |x: f64| if dtype == DType::F32 { f64::from(x as f32) } else { x };
        let positions = self.spec.params.iter().find(|p| p.name == "positions");
        let mut out = Vec::new();
        for (t, step) in (1..).zip(&self.steps) {
            let g = self.gradient(dtype, &w, step);
            let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
            let scale = if l.clip > 0.0 && norm > f64::from(l.clip) { f64::from(l.clip) / norm } else { 1.0 };
            // Position rows that no sequence of the step reaches.
            let resting = positions.map(|p| p.offset + step.longest * self.spec.dim()..p.offset + p.len());
            for i in 0..w.len() {
                if resting.as_ref().is_some_and(|r| r.contains(&i)) {
                    continue;
                }
                let mut x = g[i] * scale;
                if l.optimizer == LocalOptimizer::Adamw {
                    w[i] -= lr * decay * w[i];
                } else {
                    x += decay * w[i];
                }
                let step = match l.optimizer {
                    LocalOptimizer::Sgd => x,
                    LocalOptimizer::Momentum => {
                        m[i] = keep(b1 * m[i] + x);
                        m[i]
                    }
                    LocalOptimizer::Adagrad => {
                        // The sum of squares, each step that did not reach the weight counting like one of the others.
                        v[i] = keep((v[i] * f64::from(t - 1) + x * x) / f64::from(t));
                        x / ((v[i] * f64::from(t)).sqrt() + eps)
                    }
                    LocalOptimizer::Preconditioned => x / (v[i].sqrt() + eps),
                    LocalOptimizer::Adam | LocalOptimizer::Adamw => {
                        m[i] = keep(b1 * m[i] + (1.0 - b1) * x);
                        v[i] = keep(b2 * v[i] + (1.0 - b2) * x * x);
                        let (mean, square) = (m[i] / (1.0 - b1.powi(t)), v[i] / (1.0 - b2.powi(t)));
                        mean / (square.sqrt() + eps)
                    }
                };
                w[i] = keep(w[i] - lr * step);
                w[i] = keep((w[i] + near * begun[i]) / (1.0 + near));
            }
            out.push(w.clone());
        }
        out
    }

    fn gradient(&self, dtype: DType, weights: &[f64], step: &Step) -> Vec<f64> {
        let tensors = self.spec.params.iter().map(|p| (weights[p.offset..][..p.len()].to_vec(), p.shape.clone()));
        let (rows, d) = (&weights[self.dense.len()..], self.spec.dim());
        let all = tensors.chain([(rows.to_vec(), vec![rows.len() / d, d])]).collect();
        let f = |t: &[Tensor]| objective(&named(&self.spec, t), &self.spec.settings, &self.loss, step, None);
        evaluate_wide(dtype, all, &[1.0], &f).unwrap()[1..].concat()
    }
}

fn model(backbone: Backbone, i: usize) -> ModelSettings {
    let (dim, heads, ffn) = [(8, 2, 0), (17, 1, 9), (12, 3, 20)][i % 3];
    ModelSettings { backbone, dim, heads, ffn, blocks: 2, max_len: 14, ..ModelSettings::default() }
}

fn local(optimizer: LocalOptimizer, weight_decay: f32, clip: f32) -> LocalSettings {
    let lr = if [LocalOptimizer::Sgd, LocalOptimizer::Momentum].contains(&optimizer) { 0.1 } else { 0.01 };
    LocalSettings { optimizer, lr, weight_decay, clip, ..LocalSettings::default() }
}

/// Every optimiser with and without decay; clips that bite and one that does not; a large epsilon, which lets every number be
/// compared closely, and the usual one.
fn settings() -> Vec<LocalSettings> {
    let mut all = Vec::new();
    use LocalOptimizer::*;
    for optimizer in [Adam, Adamw, Sgd, Momentum, Adagrad] {
        for (decay, clip, eps) in [(0.0, 0.0, 1e-3), (0.05, 0.5, 1e-3), (0.05, 0.0, 1e-3), (0.0, 1e6, 1e-3), (0.05, 1.0, 1e-8)] {
            all.push(LocalSettings { eps, ..local(optimizer, decay, clip) });
        }
    }
    all
}

#[test]
fn ten_steps_number_by_number() {
    let kinds = [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax];
    for (i, local) in settings().into_iter().enumerate() {
        for backbone in [Backbone::SASREC, Backbone::GRU4REC] {
            let visit = Visit::new(400 + i as u64, model(backbone, i), kinds[i % 4], local.clone());
            let (ours, exact, single) = (visit.engine(false), visit.reference(DType::F64), visit.reference(DType::F32));
            // Where a gradient is as small as Adam's usual epsilon, its rounding error moves the weight by a part of the rate.
            let rough = ![LocalOptimizer::Sgd, LocalOptimizer::Momentum].contains(&visit.local.optimizer) && visit.local.eps < 1e-6;
            let params = visit.spec.params.iter().map(|p| (p.name.as_str(), p.offset, p.len()));
            for (name, at, n) in params.chain([("item rows", visit.dense.len(), visit.rows.len())]) {
                // A key's bias has no influence, so its gradient is rounding alone, which Adam divides by its own size.
                if rough && name.ends_with(".k.b") {
                    continue;
                }
                for t in 0..STEPS as usize {
                    let what = format!(
                        "{} {} decay {} clip {} step {}: {name}",
                        backbone.name(),
                        visit.local.optimizer.name(),
                        visit.local.weight_decay,
                        visit.local.clip,
                        t + 1
                    );
                    let floor = f64::from(visit.local.lr) * if rough { 0.05 } else { 1e-4 };
                    let span = at..at + n;
                    accept(&what, &ours[t][span.clone()], &exact[t][span.clone()], &single[t][span], floor);
                }
            }
        }
    }
}

/// Visits that begin with the server's second moments, and visits that stay near where they began, with every optimiser.
#[test]
fn whole_visits_number_by_number() {
    use LocalOptimizer::*;
    for (i, optimizer) in [Adam, Adamw, Sgd, Momentum, Adagrad, Preconditioned].into_iter().enumerate() {
        for (j, (proximal, clip)) in [(0.0, 0.0), (4.0, 0.0), (30.0, 0.5)].into_iter().enumerate() {
            let local = LocalSettings { eps: 0.05, proximal, ..local(optimizer, 0.01, clip) };
            let visit = Visit::new(600 + 10 * i as u64 + j as u64, model(Backbone::SASREC, i + j), RecLoss::Bce, local);
            let (ours, exact, single) = (visit.visited(), visit.reference(DType::F64), visit.reference(DType::F32));
            let (exact, single) = (exact.last().unwrap(), single.last().unwrap());
            accept(&format!("{} proximal {proximal}", optimizer.name()), &ours, exact, single, 1e-5);
        }
    }
}

/// Updating a weight as soon as its gradient is complete gives the bits of updating all of them at the end.
#[test]
fn update_on_the_spot_is_the_same_to_the_bit() {
    for (i, local) in settings().into_iter().filter(|l| l.clip == 0.0).enumerate() {
        for backbone in [Backbone::SASREC, Backbone::GRU4REC] {
            let visit = Visit::new(500 + i as u64, model(backbone, i), RecLoss::Bce, local.clone());
            let (after, spot) = (visit.engine(false), visit.engine(true));
            for (t, (a, b)) in after.iter().zip(&spot).enumerate() {
                assert!(a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits()), "{} step {}", backbone.name(), t + 1);
            }
            assert_ne!(after[0], after[9], "training moves the weights");
        }
    }
}

/// A worker that trained another client before, with other shapes, gives the bits of a fresh one.
#[test]
fn nothing_is_left_over_from_the_client_before() {
    for backbone in [Backbone::SASREC, Backbone::GRU4REC] {
        let local = local(LocalOptimizer::Adam, 0.01, 0.0);
        let visit = Visit::new(600, model(backbone, 1), RecLoss::SampledSoftmax, local.clone());
        let model = Model::new(&visit.spec);
        let mut w = new_worker(&visit.spec, &visit.dense, &visit.rows);
        let mut trained = Vec::new();
        for reverse in [true, false] {
            w.begin_visit(&visit.dense, visit.rows.len() / visit.spec.dim());
            for (i, row) in visit.rows.chunks_exact(visit.spec.dim()).enumerate() {
                w.row_mut(i).copy_from_slice(row);
            }
            for t in 1..=STEPS {
                let i = if reverse { STEPS - t } else { t - 1 };
                w.step = visit.steps[i as usize].clone();
                w.begin_step(&local, t, STEPS, true, None);
                model.train(&mut w, &visit.loss);
                w.end_step(&local, t, STEPS);
            }
            trained = w.dense().to_vec();
        }
        assert_eq!(trained, visit.engine(true)[9][..visit.dense.len()], "{}", backbone.name());
    }
}
