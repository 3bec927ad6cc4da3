//! `random-items`: an honest client of a user who likes the target and random items.

use super::{Attacker, Kind, Scene};
use crate::Result;
use crate::base::options::Options;

pub(super) const KIND: Kind = Kind {
    name: "random-items",
    summary: "trains honestly on a history of the target and `items` - 1 random items in a random order",
    paper: "the random attack of shilling (Lam and Riedl, WWW 2004), as in DV-FSR and PoisonFRS",
    knows: "nothing",
    options: &[("items", 30.0)],
    promotes: true,
    build,
};

struct RandomItems {
    items: usize,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(RandomItems { items: options.count("items", 2, 10_000)? as usize }))
}

impl Attacker for RandomItems {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        let mut stream = scene.stream(n);
        let mut history = scene.others(&mut stream, self.items - 1);
        history.push(scene.target(n));
        stream.shuffle(&mut history);
        history
    }
}
