//! `poison-frs`: the target's row is drawn to where recommended items lie. No data is needed.

use super::crafted::{dot, norm};
use super::{Attacker, Kind, Rows, Scene};
use crate::Result;
use crate::base::options::Options;
use crate::engine::{Occasion, Update};

pub(super) const KIND: Kind = Kind {
    name: "poison-frs",
    summary: "draws the target's row to `length` times the mean of the `near` rows whose inner products with the mean row are the least, and \
              hides it among the rows that honest training moves most, `rows` in all",
    paper: "PoisonFRS, Yin et al., Poisoning Federated Recommender Systems with Fake Users, WWW 2024; rows by drift over rounds are replaced by \
            those that the client itself moves, and `length` does not adapt",
    knows: "nothing",
    options: &[("near", 5.0), ("length", 10.0), ("rows", 60.0), ("speed", 1.0)],
    promotes: true,
    build,
};

struct PoisonFrs {
    near: usize,
    length: f64,
    rows: usize,
    speed: f64,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(PoisonFrs {
        near: options.count("near", 1, 10_000)? as usize,
        length: options.get("length", |x| x > 0.0 && x <= 200.0, "a number above 0, at most 200")?,
        rows: options.count("rows", 1, 100_000)? as usize,
        speed: options.get("speed", |x| x > 0.0 && x <= 10.0, "a number above 0, at most 10")?,
    }))
}

impl Attacker for PoisonFrs {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        scene.others(&mut scene.stream(n), 30)
    }

    fn crafts(&self) -> bool {
        true
    }

    fn craft(&self, scene: &Scene, occasion: &Occasion, honest: &Update) -> Option<Rows> {
        let weights = occasion.weights?;
        let d = weights.spec.dim();
        let mean_of = |items: &mut dyn Iterator<Item = u32>| {
            let (mut sum, mut n) = (vec![0f64; d], 0.0);
            for item in items {
                sum.iter_mut().zip(weights.item(item as usize)).for_each(|(s, x)| *s += f64::from(*x));
                n += 1.0;
            }
            sum.into_iter().map(|s| (s / f64::max(n, 1.0)) as f32).collect::<Vec<f32>>()
        };
        let mean = mean_of(&mut (0..scene.items() as u32));
        let mut order: Vec<(f64, u32)> = (0..scene.items() as u32).map(|item| (dot(&mean, weights.item(item as usize)), item)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let near = mean_of(&mut order.iter().map(|(_, item)| *item).filter(|item| !scene.targets.contains(item)).take(self.near));
        let mut rows: Rows = Vec::new();
        for &target in &scene.targets {
            let now = weights.item(target as usize);
            let goal = near.iter().map(|x| self.length * f64::from(*x));
            rows.push((target, goal.zip(now).map(|(goal, &x)| (self.speed * (goal - f64::from(x))) as f32).collect()));
        }
        let mut own: Vec<(u32, &[f32])> = honest.items.iter().copied().zip(honest.rows.chunks_exact(d)).collect();
        own.sort_by(|a, b| norm(b.1).total_cmp(&norm(a.1)).then(a.0.cmp(&b.0)));
        let fill = own.into_iter().filter(|(item, _)| !scene.targets.contains(item)).take(self.rows.saturating_sub(scene.targets.len()));
        rows.extend(fill.map(|(item, row)| (item, row.to_vec())));
        Some(rows)
    }
}
