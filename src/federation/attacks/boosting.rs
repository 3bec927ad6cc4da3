//! `explicit-boosting`: an honest client of a user who has met nothing but the target.

use super::{Attacker, Kind, Scene};
use crate::Result;
use crate::base::options::Options;

pub(super) const KIND: Kind = Kind {
    name: "explicit-boosting",
    summary: "trains honestly on the target alone, `items` times: in a sequence the target is its own next item",
    paper: "explicit boosting, as in PipAttack, Zhang et al., WSDM 2022",
    knows: "nothing",
    options: &[("items", 30.0)],
    promotes: true,
    build,
};

struct Boosting {
    items: usize,
}

fn build(options: &Options) -> Result<Box<dyn Attacker>> {
    Ok(Box::new(Boosting { items: options.count("items", 2, 10_000)? as usize }))
}

impl Attacker for Boosting {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        vec![scene.target(n); self.items]
    }
}
