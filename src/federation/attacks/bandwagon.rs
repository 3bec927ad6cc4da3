//! `bandwagon`: an honest client of a user who likes the target, what is popular, and random items.

use super::{Attacker, Kind, Scene};
use crate::Result;
use crate::base::options::Options;

pub(super) const KIND: Kind = Kind {
    name: "bandwagon",
    summary: "trains honestly on the target, a share `popular` of items out of the most popular tenth, and random ones, `items` in all",
    paper: "the bandwagon attack of shilling, with the shares of PoisonFRS's evaluation, Yin et al., WWW 2024",
    knows: "which items are popular",
    options: &[("items", 30.0), ("popular", 0.1)],
    promotes: true,
    build,
};

struct Bandwagon {
    items: usize,
    popular: f64,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    let popular = options.get("popular", |x| (0.0..=1.0).contains(&x), "a share from 0 to 1")?;
    Ok(Box::new(Bandwagon { items: options.count("items", 2, 10_000)? as usize, popular }))
}

impl Attacker for Bandwagon {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        let mut stream = scene.stream(n);
        let tenth = scene.popular.len().div_ceil(10);
        let mut known: Vec<u32> = scene.popular[..tenth].iter().copied().filter(|item| !scene.targets.contains(item)).collect();
        stream.shuffle(&mut known);
        known.truncate((self.popular * self.items as f64).ceil() as usize);
        let mut history = known.clone();
        let more = scene.others(&mut stream, self.items + known.len()).into_iter().filter(|item| !known.contains(item));
        history.extend(more.take((self.items - 1).saturating_sub(known.len())));
        history.push(scene.target(n));
        stream.shuffle(&mut history);
        history
    }
}
