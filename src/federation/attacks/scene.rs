//! What an attacker works with.

use crate::base::rng::{Purpose, Stream};
use crate::config::Settings;
use crate::data::Dataset;
use std::sync::Arc;

/// The setting of an attack: the same in every round.
pub struct Scene {
    /// The data set without malicious clients. What an attack reads of it is what its `knows` says.
    pub data: Arc<Dataset>,
    /// Items that are promoted.
    pub targets: Vec<u32>,
    /// All items by falling popularity in training items.
    pub popular: Vec<u32>,
    /// Seed of the run.
    pub seed: u64,
    /// Index of the first malicious client.
    pub first: u32,
}

impl Scene {
    pub(super) fn new(settings: &Settings, data: &Arc<Dataset>, targets: Vec<u32>) -> Scene {
        let counts = data.train_counts();
        let mut popular: Vec<u32> = (0..data.item_count() as u32).collect();
        popular.sort_by_key(|&item| (std::cmp::Reverse(counts[item as usize]), item));
        Scene { data: data.clone(), targets, popular, seed: settings.seed, first: data.users() as u32 }
    }

    /// Number of items.
    pub fn items(&self) -> usize {
        self.popular.len()
    }

    /// Draws of client `n` for its history.
    pub fn stream(&self, n: u32) -> Stream {
        self.stream_in(0, self.first + n)
    }

    /// Draws of `client` in `round`.
    pub fn stream_in(&self, round: u64, client: u32) -> Stream {
        Stream::new(self.seed, Purpose::Attack, round, u64::from(client))
    }

    /// The target that client `n` takes, in turn.
    pub fn target(&self, n: u32) -> u32 {
        self.targets[n as usize % self.targets.len()]
    }

    /// The history of client `n`: `count` items of [`Scene::others`].
    pub fn random_history(&self, n: u32, count: usize) -> Vec<u32> {
        self.others(&mut self.stream(n), count)
    }

    /// `count` distinct items without the targets, drawn from `stream`; fewer where there are not as many.
    pub fn others(&self, stream: &mut Stream, count: usize) -> Vec<u32> {
        let mut open: Vec<u32> = (0..self.items() as u32).filter(|item| !self.targets.contains(item)).collect();
        let count = count.min(open.len());
        for i in 0..count {
            let j = i + stream.below((open.len() - i) as u64) as usize;
            open.swap(i, j);
        }
        open.truncate(count);
        open
    }
}
