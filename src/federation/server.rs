//! The server's step: from summed changes to new global weights.

use super::fixed;
use super::update::Sums;
use crate::config::{Average, FederationSettings, Group, ServerOptimizer};
use crate::model::Weights;

/// State of the server's optimiser. Moments of an item row move only in rounds that touch the row, so a round's time does
/// not follow the catalogue.
#[derive(Clone)]
pub struct Server {
    /// First moments (momentum): dense `[P]`, rows `[I, d]`; empty where not used.
    pub first: (Vec<f32>, Vec<f32>),
    /// Second moments of FedAdam.
    pub second: (Vec<f32>, Vec<f32>),
}

impl Server {
    /// Fresh state for `weights`.
    pub fn new(settings: &FederationSettings, weights: &Weights) -> Server {
        let zeros = |on: bool| if on { (vec![0.0; weights.dense.len()], vec![0.0; weights.items.len()]) } else { Default::default() };
        let adam = settings.server == ServerOptimizer::Fedadam;
        Server { first: zeros(adam || settings.server_momentum > 0.0), second: zeros(adam) }
    }

    /// Applies the averaged change of a round. Item rows are divided by the weight of the clients that uploaded them, or by
    /// the cohort's (`federation.average`).
    pub fn apply(&mut self, settings: &FederationSettings, sums: &Sums, weights: &mut Weights) {
        if sums.weight == 0 {
            return;
        }
        let d = weights.spec.dim();
        if settings.shared.contains(&Group::Encoder) {
            let (first, second) = (&mut self.first.0, &mut self.second.0);
            update(settings, &sums.dense, sums.weight, first, second, &mut weights.dense);
        }
        if settings.shared.contains(&Group::Items) {
            for (i, &item) in sums.items.iter().enumerate() {
                let weight = if settings.average == Average::PerItem { sums.row_weight[i] } else { sums.weight };
                let span = item as usize * d..(item as usize + 1) * d;
                let first = self.first.1.get_mut(span.clone()).unwrap_or_default();
                let second = self.second.1.get_mut(span.clone()).unwrap_or_default();
                update(settings, &sums.rows[i * d..][..d], weight, first, second, &mut weights.items[span]);
            }
        }
    }
}

/// One step on a span of weights. The moments are empty where the optimiser has none.
fn update(settings: &FederationSettings, sums: &[i64], weight: i64, first: &mut [f32], second: &mut [f32], w: &mut [f32]) {
    let share = 1.0 / weight as f64;
    let (lr, beta1, beta2) = (settings.server_lr, settings.server_momentum, settings.server_beta2);
    for (k, (w, &sum)) in w.iter_mut().zip(sums).enumerate() {
        let change = (fixed::to_f64(sum) * share) as f32;
        *w += match settings.server {
            ServerOptimizer::Sgd if first.is_empty() => lr * change,
            ServerOptimizer::Sgd => {
                first[k] = beta1 * first[k] + change;
                lr * first[k]
            }
            ServerOptimizer::Fedadam => {
                first[k] = beta1 * first[k] + (1.0 - beta1) * change;
                second[k] = beta2 * second[k] + (1.0 - beta2) * change * change;
                lr * first[k] / (second[k].sqrt() + settings.server_eps)
            }
        };
    }
}
