//! The server's step: from summed changes to new global weights.

use super::sums::Sums;
use super::{Mean, Scales, ServerSteps, Update, fixed};
use crate::backend::cpu::simd::{Simd, dispatch};
use crate::config::{Average, FederationSettings, Group, ServerOptimizer};
use crate::model::Weights;

/// State of the server's optimiser. Moments of an item row move only in rounds that touch the row, so a round's time does
/// not follow the catalogue.
#[derive(Clone)]
pub struct Server {
    /// First moments (momentum): dense `[P]`, rows `[I, d]`; empty where not used.
    pub first: (Vec<f32>, Vec<f32>),
    /// Second moments of FedAdam, FedAdagrad and FedYogi.
    pub second: (Vec<f32>, Vec<f32>),
    /// Steps by which the moments are corrected.
    pub steps: ServerSteps,
}

impl Server {
    /// Fresh state for `weights`.
    pub fn new(settings: &FederationSettings, weights: &Weights) -> Server {
        let zeros = |on: bool| if on { (vec![0.0; weights.dense.len()], vec![0.0; weights.items.len()]) } else { Default::default() };
        let adapts = settings.server.adapts();
        let steps = ServerSteps::new(settings, weights.items.len() / weights.spec.dim());
        Server { first: zeros(adapts || settings.server_momentum > 0.0), second: zeros(adapts), steps }
    }

    /// The averaged change of a round as a value, for rules; `updates` are the uploads themselves where a rule needs them.
    pub fn mean(settings: &FederationSettings, sums: &Sums, d: usize, mut updates: Vec<Update>) -> Mean {
        let mut order: Vec<usize> = (0..sums.items.len()).collect();
        order.sort_unstable_by_key(|&slot| sums.items[slot]);
        updates.sort_unstable_by_key(|u| u.client);
        let dense = if settings.shared.contains(&Group::Encoder) { &sums.dense[..] } else { &[] };
        Mean {
            d,
            weight: sums.weight,
            dense: averaged(dense, sums.weight).collect(),
            items: order.iter().map(|&slot| sums.items[slot]).collect(),
            rows: order.iter().flat_map(|&slot| averaged(&sums.rows[slot * d..][..d], row_weight(settings, sums, slot))).collect(),
            updates,
        }
    }

    /// The step of `round` on an averaged change.
    pub fn apply_mean(&mut self, settings: &FederationSettings, round: u64, mean: &Mean, weights: &mut Weights) {
        let d = mean.d;
        let step = Step::of(settings, round, mean.weight);
        let (first, second) = (&mut self.first.0, &mut self.second.0);
        if !mean.dense.is_empty() {
            step.scaled(self.steps.next_dense(settings)).take(&mean.dense, first, second, &mut weights.dense);
            self.steps.count_dense();
        }
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact(d)) {
            let span = item as usize * d..(item as usize + 1) * d;
            let first = self.first.1.get_mut(span.clone()).unwrap_or_default();
            let second = self.second.1.get_mut(span.clone()).unwrap_or_default();
            step.scaled(self.steps.next_row(settings, item)).take(row, first, second, &mut weights.items[span]);
            self.steps.count_row(item);
        }
    }

    /// Applies the averaged change of `round`. Item rows are divided by the weight of the clients that uploaded them, or by
    /// the cohort's (`federation.average`).
    pub fn apply(&mut self, settings: &FederationSettings, round: u64, sums: &Sums, weights: &mut Weights) {
        if sums.weight == 0 {
            return;
        }
        let d = weights.spec.dim();
        let step = Step::of(settings, round, sums.weight);
        let mut change = Vec::new();
        if settings.shared.contains(&Group::Encoder) && !sums.dense.is_empty() {
            let (first, second) = (&mut self.first.0, &mut self.second.0);
            change.extend(averaged(&sums.dense, sums.weight));
            step.scaled(self.steps.next_dense(settings)).take(&change, first, second, &mut weights.dense);
            self.steps.count_dense();
        }
        if settings.shared.contains(&Group::Items) {
            for (i, &item) in sums.items.iter().enumerate() {
                let weight = row_weight(settings, sums, i);
                let span = item as usize * d..(item as usize + 1) * d;
                let first = self.first.1.get_mut(span.clone()).unwrap_or_default();
                let second = self.second.1.get_mut(span.clone()).unwrap_or_default();
                change.clear();
                change.extend(averaged(&sums.rows[i * d..][..d], weight));
                step.scaled(self.steps.next_row(settings, item)).take(&change, first, second, &mut weights.items[span]);
                self.steps.count_row(item);
            }
        }
    }
}

/// The weight that the row in `slot` is divided by.
fn row_weight(settings: &FederationSettings, sums: &Sums, slot: usize) -> i64 {
    if settings.average == Average::PerItem { sums.row_weight[slot] } else { sums.weight }
}

/// Sums divided by their weight.
fn averaged(sums: &[i64], weight: i64) -> impl Iterator<Item = f32> {
    let share = 1.0 / weight as f64;
    sums.iter().map(move |&sum| (fixed::to_f64(sum) * share) as f32)
}

/// The coefficients of a round's step.
#[derive(Clone, Copy)]
struct Step {
    optimizer: ServerOptimizer,
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    scales: Scales,
}

impl Step {
    fn of(settings: &FederationSettings, round: u64, weight: i64) -> Step {
        Step {
            optimizer: settings.server,
            lr: settings.server_lr_at(round),
            beta1: settings.server_momentum,
            beta2: settings.server_beta2,
            eps: settings.server_eps_at(weight),
            scales: Scales::NONE,
        }
    }

    fn scaled(self, scales: Scales) -> Step {
        Step { scales, ..self }
    }

    /// The step on a span of weights by averaged changes. The moments are empty where the optimiser has none.
    fn take(&self, changes: &[f32], first: &mut [f32], second: &mut [f32], w: &mut [f32]) {
        // SAFETY: no instruction but those of the level.
        unsafe { take_at(self, changes, first, second, w) }
    }
}

dispatch! {
    unsafe fn take_at(step: &Step, changes: &[f32], first: &mut [f32], second: &mut [f32], w: &mut [f32]) = take_kernel
}

// Plain loops: what the level changes is the instructions that they are compiled to.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn take_kernel<S: Simd>(step: &Step, changes: &[f32], first: &mut [f32], second: &mut [f32], w: &mut [f32]) {
    let Step { lr, beta1, beta2, .. } = *step;
    match step.optimizer {
        ServerOptimizer::Sgd if first.is_empty() => w.iter_mut().zip(changes).for_each(|(w, change)| *w += lr * change),
        ServerOptimizer::Sgd => {
            for ((w, change), first) in w.iter_mut().zip(changes).zip(first) {
                *first = beta1 * *first + change;
                *w += lr * *first;
            }
        }
        ServerOptimizer::Fedadam => step.adapt(changes, first, second, w, |old, _, part| beta2 * old + part),
        ServerOptimizer::Fedadagrad => step.adapt(changes, first, second, w, |old, square, _| old + square),
        ServerOptimizer::Fedyogi => step.adapt(changes, first, second, w, |old, square, part| match old {
            old if old > square => old - part,
            old if old < square => old + part,
            old => old,
        }),
    }
}

impl Step {
    /// The step of an optimiser whose second moment becomes `next(second moment, change^2, (1 - beta2) change^2)`.
    #[inline(always)]
    fn adapt(&self, changes: &[f32], first: &mut [f32], second: &mut [f32], w: &mut [f32], next: impl Fn(f32, f32, f32) -> f32) {
        let Step { lr, beta1, beta2, eps, scales, .. } = *self;
        for (((w, &change), first), second) in w.iter_mut().zip(changes).zip(first).zip(second) {
            *first = beta1 * *first + (1.0 - beta1) * change;
            *second = next(*second, change * change, (1.0 - beta2) * change * change);
            *w += lr * (scales.first * *first) / ((scales.second * *second).sqrt() + eps);
        }
    }
}
