//! The graph of item transitions (GCL4SR, Zhang et al., IJCAI 2022, after its published code): items at distance 1, 2 and 3 of a training history are
//! joined with weights 1, 1/2 and 1/3, in both directions; the weight of an edge is then multiplied by `1 / degree + 1 / degree` of its ends.

use crate::config::{Copies, LossSettings};
use crate::data::Dataset;
use std::collections::HashMap;

/// Largest distance of two items that are joined.
const REACH: usize = 3;
/// What the weights of an item's edges are scaled to.
const UNITS: f64 = (1u32 << 31) as f64;

/// Edges of each item, ready to draw one by its weight.
pub struct TransitionGraph {
    /// Bounds of each item's edges `[I + 1]`.
    bounds: Vec<usize>,
    /// Neighbour, and the running sum of the item's weights up to it, of [`UNITS`] `[E]`.
    edges: Vec<(u32, u32)>,
}

impl TransitionGraph {
    /// Whether the objective of `loss` asks for it.
    pub fn wanted(loss: &LossSettings) -> bool {
        loss.in_batch.weight > 0.0 && loss.in_batch.copies == Copies::Neighbours
    }

    /// The graph of the training histories of `data`.
    pub fn new(data: &Dataset) -> TransitionGraph {
        let mut bounds = vec![0];
        let mut edges = Vec::new();
        for neighbours in weights(data) {
            let total: f64 = neighbours.iter().map(|(_, weight)| weight).sum();
            let mut sum = 0.0;
            for (item, weight) in neighbours {
                sum += weight;
                edges.push((item, (sum / total * UNITS).round() as u32));
            }
            bounds.push(edges.len());
        }
        TransitionGraph { bounds, edges }
    }

    /// A neighbour of `item`, drawn by the weights of its edges with `below(n)`, which gives a number below `n`; nothing where it has none.
    pub fn draw(&self, item: u32, mut below: impl FnMut(usize) -> usize) -> Option<u32> {
        let edges = &self.edges[self.bounds[item as usize]..self.bounds[item as usize + 1]];
        let &(_, total) = edges.last()?;
        let drawn = below(total as usize) as u32;
        edges.get(edges.partition_point(|(_, sum)| *sum <= drawn)).map(|(item, _)| *item)
    }
}

/// Weighted neighbours of each item, ascending `[I]`.
fn weights(data: &Dataset) -> Vec<Vec<(u32, f64)>> {
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
    let finished = all.into_iter().enumerate().map(|(from, neighbours)| {
        let scaled = neighbours.into_iter().map(|(to, weight)| (to, weight * (1.0 / degree[from] + 1.0 / degree[to as usize])));
        let mut list: Vec<(u32, f64)> = scaled.collect();
        list.sort_unstable_by_key(|(item, _)| *item);
        list
    });
    finished.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn data(sequences: &[&[u32]]) -> Dataset {
        let mut data = Dataset { item_tokens: vec![String::new(); 6], offsets: vec![0], ..Default::default() };
        for sequence in sequences {
            // Two more that are held out.
            data.items.extend(sequence.iter().chain(&[5, 5]));
            data.offsets.push(data.items.len() as u64);
        }
        data
    }

    #[test]
    fn weights_are_those_worked_out_by_hand() {
        let found = weights(&data(&[&[0, 1, 2, 3, 4], &[1, 0]]));
        let of = |a: usize, b: u32| found[a].iter().find(|(item, _)| *item == b).map(|(_, weight)| *weight);
        // 0 meets 1, 2, 3; 1 meets 0, 2, 3, 4; 0 and 1 are neighbours twice.
        assert!((of(0, 1).unwrap() - 2.0 * (1.0 / 3.0 + 1.0 / 4.0)).abs() < 1e-12);
        assert_eq!(of(0, 1), of(1, 0));
        assert!((of(0, 3).unwrap() - (1.0 / 3.0) * (1.0 / 3.0 + 1.0 / 4.0)).abs() < 1e-12);
        assert_eq!((of(0, 4), found[5].len()), (None, 0), "farther than three, and what is held out");
    }

    #[test]
    fn neighbours_are_drawn_by_their_weights() {
        let data = data(&[&[0, 1, 2, 3, 4], &[1, 0], &[0, 0, 2]]);
        let (graph, weights) = (TransitionGraph::new(&data), weights(&data));
        let mut stream = Stream::new(1, Purpose::Bench, 0, 0);
        for item in 0..5u32 {
            let total: f64 = weights[item as usize].iter().map(|(_, weight)| weight).sum();
            let mut drawn = [0u32; 6];
            (0..4000).for_each(|_| drawn[graph.draw(item, |n| stream.below(n as u64) as usize).unwrap() as usize] += 1);
            for &(to, weight) in &weights[item as usize] {
                let share = f64::from(drawn[to as usize]) / 4000.0;
                assert!((share - weight / total).abs() < 0.04, "{item} to {to}: {share} and {}", weight / total);
            }
        }
        assert_eq!(graph.draw(5, |_| 0), None);
    }
}
