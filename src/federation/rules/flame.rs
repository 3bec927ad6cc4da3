//! `flame`: the densest majority of the updates by direction, shortened to the median norm, with a little noise.

use super::coordinates::scaled_mean;
use super::distances::products;
use super::median_norm::{median_norm, shortening};
use super::{Kind, Needs, Occasion, Options, Role, Rule};
use crate::Result;
use crate::base::rng::{Purpose, Stream};
use crate::engine::Mean;

pub(super) const KIND: Kind = Kind {
    name: "flame",
    role: Role::Defence,
    summary: "the mean of the densest majority of the updates by cosine distance, each shortened to the median norm, with normal noise of `noise` \
              times that norm in every number",
    paper: "FLAME, Nguyen et al., USENIX Security 2022; noise as in PoisonFRS's evaluation. Distances of updates, where the paper takes models",
    options: &[("noise", 0.01)],
    build,
};

struct Flame {
    noise: f64,
    threads: usize,
}

fn build(options: &Options) -> Result<Box<dyn Rule>> {
    Ok(Box::new(Flame { noise: options.get("noise", |x| (0.0..=10.0).contains(&x), "a number from 0 to 10")?, threads: options.threads() }))
}

/// The one cluster that HDBSCAN finds with a least size of `n / 2 + 1`, one sample for a core and a single cluster allowed: of the tree of single
/// linkage over `distances [n, n]` the first branch, as distances grow, that holds a majority. Two branches of a majority each there cannot be.
fn majority(distances: &[f64], n: usize) -> Vec<bool> {
    // The least spanning tree by Prim's algorithm, of equal distances the first.
    let mut nearest: Vec<(f64, usize)> = (0..n).map(|i| (distances[i], 0)).collect();
    let mut inside = vec![false; n];
    inside[0] = true;
    let mut edges: Vec<(f64, usize, usize)> = Vec::with_capacity(n - 1);
    for _ in 1..n {
        let next = (0..n).filter(|i| !inside[*i]).min_by(|&a, &b| nearest[a].0.total_cmp(&nearest[b].0)).unwrap_or(0);
        inside[next] = true;
        edges.push((nearest[next].0, nearest[next].1, next));
        for i in (0..n).filter(|i| !inside[*i]) {
            if distances[next * n + i] < nearest[i].0 {
                nearest[i] = (distances[next * n + i], next);
            }
        }
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut branch: Vec<usize> = (0..n).collect();
    for (_, a, b) in edges {
        let (from, to) = (branch[b], branch[a]);
        branch.iter_mut().filter(|of| **of == from).for_each(|of| *of = to);
        if branch.iter().filter(|of| **of == to).count() > n / 2 {
            return branch.into_iter().map(|of| of == to).collect();
        }
    }
    vec![true; n]
}

impl Rule for Flame {
    fn needs(&self) -> Needs {
        Needs::All
    }

    fn at_client(&self) -> bool {
        false
    }

    fn server(&self, occasion: &Occasion, mean: &mut Mean) {
        let n = mean.updates.len();
        if n < 2 {
            return;
        }
        let products = products(&mean.updates, mean.d, self.threads);
        let norms: Vec<f64> = (0..n).map(|i| products[i * n + i].sqrt()).collect();
        let cosine = |at: usize| products[at] / (norms[at / n] * norms[at % n]).max(1e-30);
        let distances: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 0.0 } else { 1.0 - cosine(at) }).collect();
        let taken = majority(&distances, n);
        let bound = median_norm(&norms);
        let weights: Vec<f64> = taken.iter().map(|&taken| f64::from(u8::from(taken))).collect();
        let factors: Vec<f64> = norms.iter().map(|&norm| shortening(norm, bound)).collect();
        scaled_mean(mean, self.threads, &weights, &factors);
        let deviation = (self.noise * bound) as f32;
        let disturb = |part: u64, values: &mut [f32]| {
            let mut stream = Stream::new(occasion.seed, Purpose::Defence, occasion.round, part);
            values.iter_mut().for_each(|x| *x += deviation * stream.normal());
        };
        disturb(u64::from(u32::MAX), &mut mean.dense);
        for (&item, row) in mean.items.iter().zip(mean.rows.chunks_exact_mut(mean.d)) {
            disturb(item.into(), row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Update;

    #[test]
    fn the_densest_majority_is_found() {
        // On a line: 0, 1, 2, 3.5 are linked at 1, 1 and 1.5; 9 and 9.1 at .1 are only two of seven, and 30 is alone.
        let x = [0.0f64, 9.0, 1.0, 9.1, 2.0, 30.0, 3.5];
        let distances: Vec<f64> = (0..49).map(|at| (x[at / 7] - x[at % 7]).abs()).collect();
        assert_eq!(majority(&distances, 7), [true, false, true, false, true, false, true]);
        assert_eq!(majority(&[0.0; 4], 2), [true, true]);
    }

    #[test]
    fn the_majority_is_shortened_and_averaged_and_others_have_no_say() {
        let update = |client: u32, dense: [f32; 2]| Update { client, weight: 1, dense: dense.to_vec(), ..Update::default() };
        // Three that point right, with norms 1, 2 and 4; two that point left. The median norm is 2.
        let updates =
            vec![update(0, [1.0, 0.0]), update(1, [2.0, 0.0]), update(2, [4.0, 0.0]), update(3, [-2.0, 0.0]), update(4, [-9.0, 3.0])];
        let mut mean = Mean { d: 1, weight: 5, dense: vec![0.0; 2], updates, ..Mean::default() };
        Flame { noise: 0.0, threads: 1 }.server(&Occasion { seed: 0, round: 1, weights: None }, &mut mean);
        assert!((mean.dense[0] - 5.0 / 3.0).abs() < 1e-6 && mean.dense[1] == 0.0, "{:?}", mean.dense);
    }
}
