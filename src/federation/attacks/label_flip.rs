//! `label-flip`: an untargeted attack. Malicious clients train honestly on histories whose every item stands for another.

use super::{Attacker, Kind, Scene};
use crate::Result;
use crate::base::options::Options;

pub(super) const KIND: Kind = Kind {
    name: "label-flip",
    summary: "trains honestly on the history of some user with item i of I replaced by I - 1 - i",
    paper: "Fang et al., Local Model Poisoning Attacks, USENIX Security 2020: label l of L becomes L - 1 - l; items in the place of labels: ours",
    knows: "as many histories as it has clients",
    options: &[],
    promotes: false,
    build: |_: &Options| -> Result<Box<dyn Attacker>> { Ok(Box::new(LabelFlip)) },
};

struct LabelFlip;

impl Attacker for LabelFlip {
    fn history(&self, scene: &Scene, n: u32) -> Vec<u32> {
        let users: Vec<usize> = (0..scene.data.users()).filter(|&user| scene.data.train(user).len() >= 2).collect();
        let mirrored = |item: u32| scene.items() as u32 - 1 - item;
        match users.len() as u64 {
            0 => vec![mirrored(0); 2],
            count => scene.data.train(users[scene.stream(n).below(count) as usize]).iter().map(|&item| mirrored(item)).collect(),
        }
    }
}
