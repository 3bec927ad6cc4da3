//! A sample of the graph of item transitions around some items.

use super::graph::TransitionGraph;
use super::sparse::Sparse;
use crate::base::rng::Stream;
use std::collections::{BTreeSet, HashMap};

/// What one graph layer sums: from `sources` of the sample's items to the first `targets` of them.
pub struct Hop {
    /// The weighted, symmetrically normalised neighbourhood of each source, itself included `[sources, sources]` (Kipf and Welling, ICLR 2017).
    pub spread: Sparse,
    /// The mean of each target's neighbours `[targets, sources]` (GraphSAGE, Hamilton et al., NeurIPS 2017).
    pub mean: Sparse,
    /// Items that the layer gives states of.
    pub targets: usize,
}

/// A sample, its layers outermost first.
pub struct Sample {
    /// Items, those that were asked for first.
    pub items: Vec<u32>,
    /// Layers, in the order in which they are applied.
    pub hops: Vec<Hop>,
}

impl Sample {
    /// A sample around `items`, which are distinct: up to `neighbours` of each item's, drawn uniformly, for each of `hops`.
    ///
    /// # Panics
    /// For an item that is not in the catalogue.
    pub fn draw(graph: &TransitionGraph, items: &[u32], neighbours: usize, hops: usize, stream: &mut Stream) -> Sample {
        let mut items = items.to_vec();
        let mut place: HashMap<u32, u32> = items.iter().copied().zip(0..).collect();
        let mut drawn = Vec::with_capacity(hops);
        for _ in 0..hops {
            let targets = items.len();
            let mut edges: Vec<Vec<(u32, f64)>> = Vec::with_capacity(targets);
            for target in 0..targets {
                let all = graph.of(items[target]);
                // Floyd's way to distinct numbers, whose time does not follow the number of neighbours (Bentley and Floyd, CACM 1987).
                let mut chosen = BTreeSet::new();
                for last in all.len().saturating_sub(neighbours)..all.len() {
                    let drawn = if all.len() > neighbours { stream.below(last as u64 + 1) as usize } else { last };
                    if !chosen.insert(drawn) {
                        chosen.insert(last);
                    }
                }
                let mut own = Vec::with_capacity(chosen.len());
                for (item, weight) in chosen.into_iter().map(|at| all[at]) {
                    let next = items.len() as u32;
                    let found = *place.entry(item).or_insert(next);
                    if found == next {
                        items.push(item);
                    }
                    own.push((found, weight));
                }
                edges.push(own);
            }
            drawn.push(Hop::new(&edges, items.len()));
        }
        drawn.reverse();
        Sample { items, hops: drawn }
    }
}

impl Hop {
    /// From the weighted sources of each target; `sources` in all. A target that is its own neighbour keeps that weight, every other item sees itself
    /// with weight 1.
    fn new(edges: &[Vec<(u32, f64)>], sources: usize) -> Hop {
        let seen = |at: usize| edges.get(at).map_or(&[][..], Vec::as_slice);
        let own = |at: usize| seen(at).iter().find(|(from, _)| *from as usize == at).map_or(1.0, |(_, weight)| *weight);
        let others = |at: usize| seen(at).iter().filter(move |(from, _)| *from as usize != at);
        let degree: Vec<f64> = (0..sources).map(|at| own(at) + others(at).map(|(_, weight)| weight).sum::<f64>()).collect();
        let row = |at: usize| {
            let scaled = |from: usize, weight: f64| (from as u32, (weight / (degree[from] * degree[at]).sqrt()) as f32);
            let others = others(at).map(|(from, weight)| scaled(*from as usize, *weight));
            others.chain([scaled(at, own(at))]).collect::<Vec<_>>()
        };
        let mean = |own: &Vec<(u32, f64)>| {
            let share = 1.0 / own.len() as f32;
            own.iter().map(|(from, _)| (*from, share)).collect::<Vec<_>>()
        };
        Hop {
            spread: Sparse::new(sources, (0..sources).map(row)),
            mean: Sparse::new(sources, edges.iter().map(mean)),
            targets: edges.len(),
        }
    }
}
