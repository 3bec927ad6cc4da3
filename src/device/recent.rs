//! The recorded graphs that were used last.

use super::interface::Graph;

/// Graphs kept. Chunks of a run come in a few shapes, and each graph holds device memory of the driver's.
const KEPT: usize = 16;

/// Graphs by what they were recorded for; those not used for longest go first.
pub struct RecentGraphs<K> {
    /// The last was used last.
    graphs: Vec<(K, Graph)>,
}

impl<K> Default for RecentGraphs<K> {
    fn default() -> Self {
        RecentGraphs { graphs: Vec::new() }
    }
}

impl<K: PartialEq> RecentGraphs<K> {
    /// Whether there is one for `key`, which counts as a use.
    pub fn has(&mut self, key: &K) -> bool {
        let Some(place) = self.graphs.iter().position(|(k, _)| k == key) else { return false };
        self.graphs[place..].rotate_left(1);
        true
    }

    /// The one for `key`.
    pub fn get(&self, key: &K) -> Option<&Graph> {
        self.graphs.iter().rev().find(|(k, _)| k == key).map(|(_, graph)| graph)
    }

    /// Bytes of device memory that they take.
    pub fn bytes(&self) -> u64 {
        self.graphs.iter().map(|(_, graph)| graph.bytes).sum()
    }

    /// The same at most while one for `key` is added that takes up to `most` bytes: another goes only when it is there.
    pub fn bytes_with(&self, key: &K, most: u64) -> u64 {
        self.bytes() + if self.get(key).is_some() { 0 } else { most }
    }

    /// Adds one, and drops the one not used for longest where there are too many. A replay of it that is queued still ends.
    pub fn add(&mut self, key: K, graph: Graph) {
        self.graphs.retain(|(k, _)| *k != key);
        if self.graphs.len() == KEPT {
            self.graphs.remove(0);
        }
        self.graphs.push((key, graph));
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.graphs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_goes() {
        let graph = |n: usize| Graph { label: n.to_string(), launches: n, bytes: 1 << n, inner: Box::new(()) };
        let mut recent = RecentGraphs::default();
        (0..KEPT).for_each(|n| recent.add(n, graph(n)));
        assert!(recent.has(&0));
        assert_eq!((recent.bytes_with(&3, 1 << 40), recent.bytes_with(&KEPT, 1 << 40)), ((1 << KEPT) - 1, (1 << 40) + (1 << KEPT) - 1));
        recent.add(KEPT, graph(KEPT));
        assert_eq!(recent.bytes(), (1 << (KEPT + 1)) - 1 - 2);
        assert!(!recent.has(&1), "0 was used after it");
        assert!((0..=KEPT).filter(|n| *n != 1).all(|n| recent.get(&n).is_some_and(|g| g.launches == n)));
        recent.add(5, graph(50));
        assert_eq!(recent.get(&5).map(|g| g.launches), Some(50));
        assert!(recent.has(&0), "a graph that is replaced makes no other go");
        recent.clear();
        assert!(recent.get(&0).is_none());
    }
}
