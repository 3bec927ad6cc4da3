//! `a-ra`: target rows that random users would like.

use super::crafted::{add, among, change, dot, sigmoid, size};
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};

pub(super) const KIND: Kind = Kind {
    name: "a-ra",
    summary: "moves the target's row down the loss of `draws` random users of standard deviation `deviation` who ought to like it",
    paper: "A-ra, Rong et al., Poisoning Deep Learning Based Recommender Model in Federated Learning Scenarios, IJCAI 2022",
    knows: "nothing",
    options: &[("draws", 10.0), ("deviation", 0.01), ("steps", 30.0), ("rate", 1.0), ("limit", 1.0)],
    promotes: true,
    build: |options| Ok(Box::new(Drawn::of(options, 0)?)),
};

/// Users that are drawn, and what is done with them.
pub(super) struct Drawn {
    draws: u32,
    deviation: f64,
    /// Steps in which each user first learns to dislike the target.
    dislike: u32,
    steps: u32,
    rate: f64,
    limit: f64,
}

impl Drawn {
    pub fn of(options: &Options, dislike: u32) -> Result<Drawn> {
        Ok(Drawn {
            draws: options.count("draws", 1, 10_000)?,
            deviation: options.get("deviation", |x| x > 0.0 && x <= 100.0, "a number above 0, at most 100")?,
            dislike,
            steps: options.count("steps", 1, 10_000)?,
            rate: size(options, "rate")?,
            limit: size(options, "limit")?,
        })
    }

    /// The row `[d]` after the steps: the mean over the users `u` of `-log sigmoid(u . row)` falls, `u` being fixed.
    pub fn climb(&self, row: &mut [f32], users: &[Vec<f32>]) {
        for _ in 0..self.steps {
            let pull: Vec<f64> = users.iter().map(|u| 1.0 - sigmoid(dot(u, row))).collect();
            users.iter().zip(pull).for_each(|(u, pull)| add(row, self.rate * pull / users.len() as f64, u));
        }
    }
}

impl Attacker for Drawn {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.others(&mut scene.stream(n), 30)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let d = weights.spec.dim();
        let mut stream = scene.stream_in(occasion.round, honest.client);
        let crafted = scene.targets.iter().map(|&target| {
            let mut row = weights.item(target as usize).to_vec();
            let mut users: Vec<Vec<f32>> =
                (0..self.draws).map(|_| (0..d).map(|_| (self.deviation * f64::from(stream.normal())) as f32).collect()).collect();
            for user in &mut users {
                for _ in 0..self.dislike {
                    let liked = sigmoid(dot(user, &row));
                    add(user, -self.rate * liked, &row);
                }
            }
            self.climb(&mut row, &users);
            change(weights, target, &row, self.limit)
        });
        Some(among(crafted.collect(), honest, d))
    }
}
