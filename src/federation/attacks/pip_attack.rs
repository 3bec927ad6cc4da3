//! `pip-attack`: the target's row is made to look like that of a popular item, and liked by made-up users.

use super::classifier::Classifier;
use super::crafted::{OncePerRound, add, among, change, dot, sigmoid, size};
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};
use crate::model::Weights;

pub(super) const KIND: Kind = Kind {
    name: "pip-attack",
    summary: "moves the target's row to where a network takes it for one of the most popular items (weight `popular`) and made-up users like it",
    paper: "PipAttack, Zhang et al., WSDM 2022",
    knows: "which items are popular",
    options: &[("popular", 60.0), ("draws", 10.0), ("deviation", 0.01), ("epochs", 30.0), ("steps", 30.0), ("rate", 0.01), ("limit", 1.0)],
    promotes: true,
    build,
};

/// Most items that the network learns from.
const MOST: usize = 2048;
/// Items of one of its mini-batches.
const BATCH: usize = 64;

struct PipAttack {
    popular: f64,
    draws: u32,
    deviation: f64,
    epochs: u32,
    steps: u32,
    rate: f64,
    limit: f64,
    network: OncePerRound<Classifier>,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(PipAttack {
        popular: options.get("popular", |x| (0.0..=1e4).contains(&x), "a number from 0 to 10000")?,
        draws: options.count("draws", 1, 10_000)?,
        deviation: options.get("deviation", |x| x > 0.0 && x <= 100.0, "a number above 0, at most 100")?,
        epochs: options.count("epochs", 1, 10_000)?,
        steps: options.count("steps", 1, 10_000)?,
        rate: size(options, "rate")?,
        limit: size(options, "limit")?,
        network: OncePerRound::default(),
    }))
}

impl PipAttack {
    /// A network that has learnt to tell the most popular tenth, the next 35 % and the rest apart.
    fn network(&self, scene: &Scene, occasion: &Occasion, weights: &Weights) -> Classifier {
        let n = scene.popular.len() as f64;
        let class = |place: usize| if (place as f64) < 0.1 * n { 0 } else { usize::from(place as f64 >= 0.45 * n) + 1 };
        let mut rows: Vec<(u32, usize)> = scene.popular.iter().enumerate().map(|(place, &item)| (item, class(place))).collect();
        let mut stream = scene.stream_in(occasion.round, u32::MAX - 1);
        stream.shuffle(&mut rows);
        rows.truncate(MOST);
        let mut network = Classifier::new(weights.spec.dim(), &mut stream);
        let mut step = 0;
        for _ in 0..self.epochs {
            for batch in rows.chunks(BATCH) {
                step += 1;
                network.train(batch.iter().map(|&(item, class)| (weights.item(item as usize), class)), step);
            }
        }
        network
    }
}

impl Attacker for PipAttack {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.others(&mut scene.stream(n), 30)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let d = weights.spec.dim();
        let network = self.network.get(occasion, weights, || self.network(scene, occasion, weights));
        let mut stream = scene.stream_in(occasion.round, honest.client);
        let users: Vec<Vec<f32>> =
            (0..self.draws).map(|_| (0..d).map(|_| (self.deviation * f64::from(stream.normal())) as f32).collect()).collect();
        let rows = scene.targets.iter().map(|&target| {
            let mut row = weights.item(target as usize).to_vec();
            for _ in 0..self.steps {
                let pull: Vec<f64> = users.iter().map(|user| 1.0 - sigmoid(dot(user, &row))).collect();
                let popular = network.gradient(&row, 0);
                users.iter().zip(pull).for_each(|(user, pull)| add(&mut row, self.rate * pull, user));
                add(&mut row, -self.rate * self.popular, &popular);
            }
            change(weights, target, &row, self.limit)
        });
        Some(among(rows.collect(), honest, d))
    }
}
