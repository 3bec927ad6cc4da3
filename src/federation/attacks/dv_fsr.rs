//! `dv-fsr`: a made-up sequence is disturbed where the model listens most, and the target is taught as what follows it.

use super::crafted::{add, change, dot, norm, sigmoid, size};
use super::encoded::hidden;
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};
use crate::model::Weights;

pub(super) const KIND: Kind = Kind {
    name: "dv-fsr",
    summary: "teaches the target after each of `places` variants of a sequence of `items` items whose `disturbed` most sensitive ones are replaced by \
              what is most like the target, and with `contrast` draws the target's row to the sequence's and away from random ones",
    paper: "DV-FSR, arXiv 2409.07500 (withdrawn by its authors for errors): seqAttack without `contrast`, DV-FSR with it. Sensitivity by leaving an \
            item out, where the paper takes gradients",
    knows: "nothing",
    options: &[("items", 30.0), ("places", 10.0), ("disturbed", 2.0), ("contrast", 1.0), ("steps", 30.0), ("rate", 0.05), ("limit", 1.0)],
    promotes: true,
    build,
};

/// Random items whose mean row the target's is drawn away from.
const AWAY: usize = 100;

struct DvFsr {
    items: usize,
    places: usize,
    disturbed: usize,
    contrast: f64,
    steps: u32,
    rate: f64,
    limit: f64,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(DvFsr {
        items: options.count("items", 3, 10_000)? as usize,
        places: options.count("places", 1, 1000)? as usize,
        disturbed: options.count("disturbed", 0, 1000)? as usize,
        contrast: options.get("contrast", |x| (0.0..=1e3).contains(&x), "a number from 0 to 1000")?,
        steps: options.count("steps", 1, 10_000)?,
        rate: size(options, "rate")?,
        limit: size(options, "limit")?,
    }))
}

/// Gradient of the cosine of `row` and `other` by `row`.
fn cosine_gradient(row: &[f32], other: &[f32]) -> Vec<f32> {
    let (a, b) = (norm(row).max(1e-12), norm(other).max(1e-12));
    let cosine = dot(row, other) / (a * b);
    row.iter().zip(other).map(|(x, y)| (f64::from(*y) / (a * b) - cosine * f64::from(*x) / (a * a)) as f32).collect()
}

fn mean_row(weights: &Weights, items: &[u32]) -> Vec<f32> {
    let mut mean = vec![0.0; weights.spec.dim()];
    items.iter().for_each(|&item| add(&mut mean, 1.0 / items.len().max(1) as f64, weights.item(item as usize)));
    mean
}

impl DvFsr {
    /// `history` with the items replaced that move its hidden state most by their absence.
    fn disturb(&self, scene: &Scene, weights: &Weights, history: &[u32], target: u32) -> Vec<u32> {
        let without = |place: usize| history.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, &item)| item).collect();
        let mut variants: Vec<Vec<u32>> = (0..history.len()).map(without).collect();
        variants.push(history.to_vec());
        let (hidden, d) = (hidden(weights, &variants), weights.spec.dim());
        let whole = &hidden[history.len() * d..];
        let mut order: Vec<(f64, usize)> = hidden
            .chunks_exact(d)
            .take(history.len())
            .map(|h| h.iter().zip(whole).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>())
            .zip(0..)
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let own = weights.item(target as usize);
        let like = |item: u32| dot(own, weights.item(item as usize)) / norm(weights.item(item as usize)).max(1e-12);
        let nearest = (0..scene.items() as u32).filter(|item| !scene.targets.contains(item)).max_by(|&a, &b| like(a).total_cmp(&like(b)));
        let mut disturbed = history.to_vec();
        for &(_, place) in order.iter().take(self.disturbed) {
            disturbed[place] = nearest.unwrap_or(disturbed[place]);
        }
        disturbed
    }
}

impl Attacker for DvFsr {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.random_history(n, self.items)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let d = weights.spec.dim();
        let own = self.history(scene, honest.client - scene.first);
        let mut stream = scene.stream_in(occasion.round, honest.client);
        let away = mean_row(weights, &scene.others(&mut stream, AWAY));
        let own_mean = mean_row(weights, &own);
        let rows = scene.targets.iter().map(|&target| {
            let disturbed = self.disturb(scene, weights, &own, target);
            // Prefixes of the disturbed sequence, the longest first.
            let least = disturbed.len().saturating_sub(self.places).max(1);
            let prefixes: Vec<Vec<u32>> = (least..=disturbed.len()).rev().take(self.places).map(|n| disturbed[..n].to_vec()).collect();
            let hidden = hidden(weights, &prefixes);
            let mut row = weights.item(target as usize).to_vec();
            for _ in 0..self.steps {
                let pull: Vec<f64> = hidden.chunks_exact(d).map(|h| 1.0 - sigmoid(dot(h, &row))).collect();
                let (near, far) = (cosine_gradient(&row, &own_mean), cosine_gradient(&row, &away));
                hidden.chunks_exact(d).zip(&pull).for_each(|(h, pull)| add(&mut row, self.rate * pull / prefixes.len() as f64, h));
                add(&mut row, self.rate * self.contrast, &near);
                // The cosine embedding loss of unlike pairs is the cosine where it is above 0.
                let factor = if dot(&row, &away) > 0.0 { -self.rate * self.contrast } else { 0.0 };
                add(&mut row, factor, &far);
            }
            change(weights, target, &row, self.limit)
        });
        Some(super::crafted::among(rows.collect(), honest, d))
    }
}
