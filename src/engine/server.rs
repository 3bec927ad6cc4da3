//! The server's step: from summed changes to new global weights.

use super::sums::Sums;
use super::{Mean, Update, fixed};
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

    /// The averaged change of a round as a value, for rules; `updates` are the uploads themselves where a rule needs them.
    pub fn mean(settings: &FederationSettings, sums: &Sums, d: usize, mut updates: Vec<Update>) -> Mean {
        let mut order: Vec<usize> = (0..sums.items.len()).collect();
        order.sort_unstable_by_key(|&slot| sums.items[slot]);
        updates.sort_unstable_by_key(|u| u.client);
        let dense = if settings.shared.contains(&Group::Encoder) { &sums.dense[..] } else { &[] };
        Mean {
            d,
            dense: averaged(dense, sums.weight).collect(),
            items: order.iter().map(|&slot| sums.items[slot]).collect(),
            rows: order.iter().flat_map(|&slot| averaged(&sums.rows[slot * d..][..d], row_weight(settings, sums, slot))).collect(),
            updates,
        }
    }

    /// The step on an averaged change.
    pub fn apply_mean(&mut self, settings: &FederationSettings, mean: &Mean, weights: &mut Weights) {
        let d = mean.d;
        let (first, second) = (&mut self.first.0, &mut self.second.0);
        update(settings, mean.dense.iter().copied(), first, second, &mut weights.dense);
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact(d)) {
            let span = item as usize * d..(item as usize + 1) * d;
            let first = self.first.1.get_mut(span.clone()).unwrap_or_default();
            let second = self.second.1.get_mut(span.clone()).unwrap_or_default();
            update(settings, row.iter().copied(), first, second, &mut weights.items[span]);
        }
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
            update(settings, averaged(&sums.dense, sums.weight), first, second, &mut weights.dense);
        }
        if settings.shared.contains(&Group::Items) {
            for (i, &item) in sums.items.iter().enumerate() {
                let weight = row_weight(settings, sums, i);
                let span = item as usize * d..(item as usize + 1) * d;
                let first = self.first.1.get_mut(span.clone()).unwrap_or_default();
                let second = self.second.1.get_mut(span.clone()).unwrap_or_default();
                update(settings, averaged(&sums.rows[i * d..][..d], weight), first, second, &mut weights.items[span]);
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

/// One step on a span of weights by averaged changes. The moments are empty where the optimiser has none.
fn update(settings: &FederationSettings, changes: impl Iterator<Item = f32>, first: &mut [f32], second: &mut [f32], w: &mut [f32]) {
    let (lr, beta1, beta2) = (settings.server_lr, settings.server_momentum, settings.server_beta2);
    for (k, (w, change)) in w.iter_mut().zip(changes).enumerate() {
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
