//! `psmu`: the target against its rivals in the eyes of a made-up user.

use super::crafted::{add, dot, shorten, sigmoid, size};
use super::encoded::{hidden, scores, top};
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};

pub(super) const KIND: Kind = Kind {
    name: "psmu",
    summary: "moves the target above its `rivals`, the items most like it and the `top` that a made-up user of `items` random items is recommended",
    paper: "PSMU, Yuan et al., Manipulating Federated Recommender Systems: Poisoning with Synthetic Users, SIGIR 2023; the made-up user is encoded, \
            where the paper learns a vector for it",
    knows: "nothing",
    options: &[("items", 30.0), ("top", 5.0), ("rivals", 10.0), ("rate", 1.0), ("limit", 1.0)],
    promotes: true,
    build,
};

struct Psmu {
    items: usize,
    top: usize,
    rivals: usize,
    rate: f64,
    limit: f64,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(Psmu {
        items: options.count("items", 2, 10_000)? as usize,
        top: options.count("top", 1, 1000)? as usize,
        rivals: options.count("rivals", 1, 1000)? as usize,
        rate: size(options, "rate")?,
        limit: size(options, "limit")?,
    }))
}

impl Attacker for Psmu {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.random_history(n, self.items)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let history = scene.others(&mut scene.stream_in(occasion.round, honest.client), self.items);
        let h = hidden(weights, std::slice::from_ref(&history));
        let liked = scores(weights, &h).pop()?;
        let without: Vec<u32> = history.iter().chain(&scene.targets).copied().collect();
        let favourites = top(&liked, self.top, &without);
        let mut rows: Rows = Vec::new();
        let mut move_by = |item: u32, factor: f64| match rows.iter_mut().find(|(other, _)| *other == item) {
            Some((_, row)) => add(row, factor, &h),
            None => rows.push((item, h.iter().map(|x| (factor * f64::from(*x)) as f32).collect())),
        };
        for &target in &scene.targets {
            let own = weights.item(target as usize);
            let alike: Vec<f32> = (0..scene.items()).map(|item| dot(own, weights.item(item)) as f32).collect();
            let mut rivals = favourites.clone();
            rivals.extend(top(&alike, self.rivals + self.top, &scene.targets).into_iter().filter(|item| !favourites.contains(item)));
            rivals.truncate(self.rivals.max(favourites.len()));
            for rival in rivals {
                // Down the gradient of sigmoid(s_rival - s_target).
                let likely = sigmoid(f64::from(liked[rival as usize] - liked[target as usize]));
                let slope = self.rate * likely * (1.0 - likely);
                move_by(target, slope);
                move_by(rival, -slope);
            }
        }
        rows.iter_mut().for_each(|(_, row)| shorten(row, self.limit));
        Some(rows)
    }
}
