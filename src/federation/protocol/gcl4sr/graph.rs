//! The graph of item transitions: items at distance 1, 2 and 3 of a training history are joined with weights 1, 1/2 and 1/3, in both directions; the
//! weight of an edge is then multiplied by `1 / degree + 1 / degree` of its ends.

use crate::data::Dataset;
use std::collections::HashMap;

/// Largest distance of two items that are joined.
const REACH: usize = 3;

/// Weighted neighbours of every item.
pub struct TransitionGraph {
    /// Bounds of each item's edges `[I + 1]`.
    bounds: Vec<usize>,
    /// Neighbour, ascending, and weight `[E]`.
    edges: Vec<(u32, f64)>,
}

impl TransitionGraph {
    /// Those of the training histories of `data`.
    pub fn new(data: &Dataset) -> TransitionGraph {
        let mut all = vec![HashMap::<u32, f64>::new(); data.item_count()];
        for user in 0..data.users() {
            let train = data.train(user);
            for (place, &from) in train.iter().enumerate() {
                for (step, &to) in train[place + 1..].iter().take(REACH).enumerate() {
                    let weight = 1.0 / (step + 1) as f64;
                    *all[from as usize].entry(to).or_default() += weight;
                    *all[to as usize].entry(from).or_default() += weight;
                }
            }
        }
        let degree: Vec<f64> = all.iter().map(|neighbours| neighbours.len() as f64).collect();
        let (mut bounds, mut edges) = (vec![0], Vec::new());
        for (from, neighbours) in all.into_iter().enumerate() {
            let first = edges.len();
            edges.extend(neighbours.into_iter().map(|(to, weight)| (to, weight * (1.0 / degree[from] + 1.0 / degree[to as usize]))));
            edges[first..].sort_unstable_by_key(|(item, _)| *item);
            bounds.push(edges.len());
        }
        TransitionGraph { bounds, edges }
    }

    /// Edges, each counted at both ends.
    pub fn edges(&self) -> usize {
        self.edges.len()
    }

    /// The neighbours of `item`, ascending, with their weights.
    ///
    /// # Panics
    /// For an item that is not in the catalogue.
    pub fn of(&self, item: u32) -> &[(u32, f64)] {
        &self.edges[self.bounds[item as usize]..self.bounds[item as usize + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_worked_out_by_hand() {
        let mut data = Dataset { item_tokens: vec![String::new(); 6], offsets: vec![0], ..Default::default() };
        for sequence in [&[0, 1, 2, 3, 4][..], &[1, 0]] {
            // Two more that are held out.
            data.items.extend(sequence.iter().chain(&[5, 5]));
            data.offsets.push(data.items.len() as u64);
        }
        let found = TransitionGraph::new(&data);
        let of = |a: u32, b: u32| found.of(a).iter().find(|(item, _)| *item == b).map(|(_, weight)| *weight);
        // 0 meets 1, 2, 3; 1 meets 0, 2, 3, 4; 0 and 1 are neighbours twice.
        assert!((of(0, 1).unwrap() - 2.0 * (1.0 / 3.0 + 1.0 / 4.0)).abs() < 1e-12);
        assert_eq!(of(0, 1), of(1, 0));
        assert!((of(0, 3).unwrap() - (1.0 / 3.0) * (1.0 / 3.0 + 1.0 / 4.0)).abs() < 1e-12);
        assert_eq!((of(0, 4), found.of(5).len()), (None, 0), "farther than three, and what is held out");
        assert_eq!(found.edges(), (0..5).map(|item| found.of(item).len()).sum::<usize>());
    }
}
