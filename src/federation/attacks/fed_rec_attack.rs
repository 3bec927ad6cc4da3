//! `fed-rec-attack`: the rows of the target and of its rivals, moved by what known users are recommended.

use super::crafted::{OncePerRound, add, norm, shorten, size};
use super::encoded::{hidden, scores, top};
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};
use crate::model::Weights;
use std::collections::BTreeMap;

pub(super) const KIND: Kind = Kind {
    name: "fed-rec-attack",
    summary: "of a share `known` of the users the histories are known: moves the target above the `top` items that they are recommended, by \
              `rows` item rows of norm `limit` at most, drawn by the size of their gradients, with noise",
    paper: "FedRecAttack, Rong et al., ICDE 2022; a known user is encoded, where the paper learns a vector for it",
    knows: "some users' histories",
    options: &[("known", 0.05), ("top", 10.0), ("rows", 60.0), ("rate", 1.0), ("limit", 1.0)],
    promotes: true,
    build,
};

/// Variance of the noise on a row that is uploaded.
const NOISE: f32 = 1e-7;
/// Most users that are looked at.
const MOST: usize = 2048;

struct FedRecAttack {
    known: f64,
    top: usize,
    rows: usize,
    rate: f64,
    limit: f64,
    gradients: OncePerRound<BTreeMap<u32, Vec<f32>>>,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(FedRecAttack {
        known: options.get("known", |x| x > 0.0 && x <= 1.0, "a share above 0 and at most 1")?,
        top: options.count("top", 1, 1000)? as usize,
        rows: options.count("rows", 1, 100_000)? as usize,
        rate: size(options, "rate")?,
        limit: size(options, "limit")?,
        gradients: OncePerRound::default(),
    }))
}

/// Derivative of `g(x) = x` for x of at least 0, `e^x - 1` below.
fn slope(x: f64) -> f64 {
    if x >= 0.0 { 1.0 } else { x.exp() }
}

impl FedRecAttack {
    /// Gradients of the mean over known users and targets of `sum g(s_rival - s_target)`, by item.
    fn gradients(&self, scene: &Scene, weights: &Weights) -> BTreeMap<u32, Vec<f32>> {
        let mut users: Vec<usize> = (0..scene.data.users()).filter(|&user| !scene.data.train(user).is_empty()).collect();
        scene.stream_in(0, u32::MAX).shuffle(&mut users);
        users.truncate(((self.known * users.len() as f64).ceil() as usize).min(MOST));
        let histories: Vec<Vec<u32>> = users.iter().map(|&user| scene.data.train(user).to_vec()).collect();
        let (hidden, d) = (hidden(weights, &histories), weights.spec.dim());
        let mut gradients: BTreeMap<u32, Vec<f32>> = BTreeMap::new();
        let share = 1.0 / (histories.len() * scene.targets.len()).max(1) as f64;
        for ((h, scores), history) in hidden.chunks_exact(d).zip(scores(weights, &hidden)).zip(&histories) {
            let without: Vec<u32> = history.iter().chain(&scene.targets).copied().collect();
            let rivals = top(&scores, self.top, &without);
            for &target in scene.targets.iter().filter(|target| !history.contains(target)) {
                for &rival in &rivals {
                    let slope = share * slope(f64::from(scores[rival as usize] - scores[target as usize]));
                    add(gradients.entry(rival).or_insert_with(|| vec![0.0; d]), slope, h);
                    add(gradients.entry(target).or_insert_with(|| vec![0.0; d]), -slope, h);
                }
            }
        }
        gradients
    }
}

impl Attacker for FedRecAttack {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.others(&mut scene.stream(n), 30)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let gradients = self.gradients.get(occasion, weights, || self.gradients(scene, weights));
        let mut stream = scene.stream_in(occasion.round, honest.client);
        // Without replacement with probabilities by norm: the largest of u^(1 / norm), Efraimidis and Spirakis, IPL 2006.
        let mut order: Vec<(f64, u32)> = Vec::new();
        for (&item, row) in gradients.iter().filter(|(item, _)| !scene.targets.contains(item)) {
            let draw = (f64::from(stream.u32()) + 0.5) / 4_294_967_296.0;
            order.push((draw.ln() / norm(row).max(1e-30), item));
        }
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let rivals = order.iter().map(|(_, item)| *item).take(self.rows.saturating_sub(scene.targets.len()));
        let mut upload = |item: u32| {
            let mut row: Vec<f32> = gradients.get(&item)?.iter().map(|g| (-self.rate * f64::from(*g)) as f32).collect();
            shorten(&mut row, self.limit);
            row.iter_mut().for_each(|x| *x += NOISE.sqrt() * stream.normal());
            Some((item, row))
        };
        Some(scene.targets.iter().copied().chain(rivals).filter_map(&mut upload).collect())
    }
}
