//! The objective against plain loops in 64-bit numbers, its gradient against differences of those.

use super::constants::{Constants, OPTIONS};
use super::graph::TransitionGraph;
use super::loss::objective;
use super::network::{Dropout, Histories, Network};
use super::sample::Sample;
use super::sparse::Sparse;
use crate::base::rng::{Purpose, Stream};
use crate::config::ModelSettings;
use crate::data::Dataset;
use candle_core::{Device, Tensor, Var};
use std::collections::HashMap;

const LONGEST: usize = 5;
const CONSTANTS: Constants =
    Constants { contrast: 0.7, tau: 0.5, mmd: 0.3, neighbours: 100, hops: 2, graph_dropout: 0.0, decay: 0.7, every: 5, prefixes: 0 };
/// Histories whose last item is what is sought; the second is longer than what is read.
const SEQUENCES: [&[u32]; 3] = [&[0, 1, 2, 0, 3], &[2, 4, 5, 6, 5, 7, 8], &[9, 1, 3]];
const ITEMS: usize = 11;

type Rows = Vec<Vec<f64>>;

/// What the second sample is drawn from in its place, so that the two differ where both take all neighbours.
const OTHERS: [&[u32]; 3] = [&[3, 1, 0, 2], &[5, 2, 7, 4, 6], &[9, 0, 1]];

fn data(sequences: &[&[u32]]) -> Dataset {
    let mut data = Dataset { item_tokens: vec![String::new(); ITEMS], offsets: vec![0], ..Default::default() };
    for sequence in sequences {
        // Two more that are held out.
        data.items.extend(sequence.iter().chain(&[10, 10]));
        data.offsets.push(data.items.len() as u64);
    }
    data
}

fn model() -> ModelSettings {
    ModelSettings { dim: 4, heads: 2, blocks: 2, ffn: 6, max_len: LONGEST as u32, ..ModelSettings::default() }
}

/// A network whose biases and norms are not as they begin.
fn network() -> Network {
    let network = Network::new(&model(), &CONSTANTS, ITEMS, SEQUENCES.len() + 1, 3).unwrap();
    for (name, var) in network.vars() {
        let moved: Vec<f32> = (0..var.elem_count()).map(|i| 0.2 * ((i + name.len()) as f32 * 1.7).sin()).collect();
        var.set(&(var.as_tensor() + Tensor::from_vec(moved, var.dims(), &Device::Cpu).unwrap()).unwrap()).unwrap();
    }
    network
}

fn histories() -> (Histories, Vec<u32>) {
    let mut histories = Histories::default();
    // The last user is in no data set.
    for (user, sequence) in [Some(0), Some(1), None].into_iter().zip(SEQUENCES) {
        histories.push(user, &sequence[..sequence.len() - 1], LONGEST);
    }
    (histories, SEQUENCES.map(|sequence| sequence[sequence.len() - 1]).to_vec())
}

/// Weights by name, as rows.
struct Plain(HashMap<String, Rows>);

impl Plain {
    fn of(network: &Network) -> Plain {
        let rows = |var: &Var| {
            let width = *var.dims().last().unwrap();
            let flat: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
            flat.chunks(width).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
        };
        Plain(network.vars().iter().map(|(name, var)| (name.clone(), rows(var))).collect())
    }

    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let bias = self.0.get(&format!("{name}.b"));
        let dot = |(i, w): (usize, &Vec<f64>)| bias.map_or(0.0, |b| b[0][i]) + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        self.0[&format!("{name}.w")].iter().enumerate().map(dot).collect()
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let weights = &self.0[name];
        x.iter().enumerate().map(|(i, x)| (x - mean) / (variance + 1e-12).sqrt() * weights[0][i] + weights[1][i]).collect()
    }

    /// States of `items` after graph layers over whole neighbourhoods.
    fn surroundings(&self, graph: &TransitionGraph, items: &[u32]) -> HashMap<u32, Vec<f64>> {
        let reach = |items: &[u32]| {
            let mut more: Vec<u32> = items.iter().flat_map(|item| graph.of(*item).iter().map(|(to, _)| *to).chain([*item])).collect();
            more.sort_unstable();
            more.dedup();
            more
        };
        let near = reach(items);
        let mut x: HashMap<u32, Vec<f64>> = reach(&near).iter().map(|item| (*item, self.0["items"][*item as usize].clone())).collect();
        for (layer, targets) in [&near[..], items].into_iter().enumerate() {
            let edges = |item: u32| if targets.contains(&item) { graph.of(item) } else { &[] };
            let own = |item: u32| edges(item).iter().find(|(to, _)| *to == item).map_or(1.0, |(_, weight)| *weight);
            let degree = |item: u32| own(item) + edges(item).iter().filter(|(to, _)| *to != item).map(|(_, weight)| weight).sum::<f64>();
            let mut spread = HashMap::new();
            for item in x.keys().copied() {
                let mut sum = vec![0.0; 4];
                let others = edges(item).iter().copied().filter(|(to, _)| *to != item);
                for (from, weight) in others.chain([(item, own(item))]) {
                    let share = weight / (degree(from) * degree(item)).sqrt();
                    sum.iter_mut()
                        .zip(self.linear(&x[&from], "gcn"))
                        .zip(&self.0["gcn.b"][0])
                        .for_each(|((s, y), b)| *s += share * (y - b));
                }
                sum.iter_mut().zip(&self.0["gcn.b"][0]).for_each(|(s, b)| *s += b);
                spread.insert(item, sum);
            }
            x = targets
                .iter()
                .map(|item| {
                    let mut mean = vec![0.0; 4];
                    for (from, _) in graph.of(*item) {
                        mean.iter_mut().zip(&spread[from]).for_each(|(m, x)| *m += x / graph.of(*item).len() as f64);
                    }
                    let mut y = self.linear(&mean, &format!("sage{layer}.neighbours"));
                    y.iter_mut().zip(self.linear(&spread[item], &format!("sage{layer}.own"))).for_each(|(y, own)| *y += own);
                    let length = y.iter().map(|y| y * y).sum::<f64>().sqrt();
                    let bent = y.iter().map(|y| if layer == 0 { (y / length).max(0.0) } else { y / length }).collect();
                    (*item, bent)
                })
                .collect();
        }
        x
    }

    /// The transformer's states of one history.
    fn read(&self, items: &[u32]) -> Rows {
        let mut x: Rows = items.iter().map(|item| self.norm(&self.0["items"][*item as usize], "norm")).collect();
        for block in 0..2 {
            let name = |part: &str| format!("block{block}.{part}");
            let qkv: Rows = x.iter().map(|x| self.linear(x, &name("qkv"))).collect();
            let seen = |at: usize| {
                let head = |head: usize| {
                    let part = |of: usize, row: usize| &qkv[row][of * 4 + head * 2..][..2];
                    let dot = |row: usize| part(0, at).iter().zip(part(1, row)).map(|(q, k)| q * k).sum::<f64>() / 2f64.sqrt();
                    let powers: Vec<f64> = (0..=at).map(|row| dot(row).exp()).collect();
                    let total: f64 = powers.iter().sum();
                    (0..2).map(move |k| (0..=at).map(|row| powers[row] / total * part(2, row)[k]).sum::<f64>()).collect::<Vec<_>>()
                };
                [head(0), head(1)].concat()
            };
            let after: Rows = (0..x.len())
                .map(|at| {
                    let out = self.linear(&seen(at), &name("out"));
                    let y: Vec<f64> = self.norm(&x[at].iter().zip(out).map(|(x, y)| x + y).collect::<Vec<_>>(), &name("norm1"));
                    let inner: Vec<f64> =
                        self.linear(&y, &name("up")).into_iter().map(|x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))).collect();
                    let out = self.linear(&inner, &name("down"));
                    self.norm(&y.iter().zip(out).map(|(x, y)| x + y).collect::<Vec<_>>(), &name("norm2"))
                })
                .collect();
            x = after;
        }
        x
    }

    /// The whole objective. A distance's bandwidth is a constant of the gradient: it is taken from `widths`, or written there.
    fn objective(&self, graphs: &[TransitionGraph; 2], histories: &Histories, targets: &[u32], widths: &mut Vec<f64>) -> f64 {
        let mut distinct = histories.items.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let around = [0, 1].map(|side| self.surroundings(&graphs[side], &distinct));
        let (mut first, mut total) = (0, 0.0);
        let (mut means, mut points): ([Rows; 2], [Rows; 3]) = Default::default();
        for ((n, user), target) in histories.lengths.iter().zip(&histories.users).zip(targets) {
            let items = &histories.items[first..first + n];
            first += n;
            let read = self.read(items);
            let zero = vec![0.0; 4];
            let user = user.map_or(&zero, |user| &self.0["users"][user as usize]);
            let by_place = self.linear(user, "gate.user");
            let (mut hidden, mut line): (Rows, [Vec<f64>; 3]) = (Vec::new(), [0; 3].map(|_| vec![0.0; LONGEST - n]));
            let mut mean = [vec![0.0; 4], vec![0.0; 4]];
            for (i, item) in items.iter().enumerate() {
                line[2].push(self.linear(&self.0["items"][*item as usize], "mmd.item")[0]);
                let gated = [0, 1].map(|side| {
                    let state = &around[side][item];
                    let open = sigmoid(self.linear(state, "gate.item")[0] + by_place[LONGEST - n + i]);
                    let gated: Vec<f64> = state.iter().map(|x| x * open).collect();
                    line[side].push(self.linear(&gated, "mmd.graph")[0]);
                    mean[side].iter_mut().zip(state).for_each(|(m, x)| *m += x / *n as f64);
                    gated
                });
                hidden.push(self.linear(&[&read[i][..], &gated[0], &gated[1]].concat(), "mix"));
            }
            let middle: Vec<f64> = (0..4).map(|k| hidden.iter().map(|h| h[k]).sum::<f64>() / *n as f64).collect();
            let middle = self.linear(&middle, "pool.mean");
            let mut pooled = vec![0.0; 4];
            for (i, h) in hidden.iter().enumerate() {
                let place = &self.0["positions"][LONGEST - n + i];
                let placed: Vec<f64> = self.linear(&[&place[..], h].concat(), "pool.place").into_iter().map(f64::tanh).collect();
                let open: Vec<f64> = self.linear(&placed, "pool.item").iter().zip(&middle).map(|(a, b)| sigmoid(a + b)).collect();
                let score = self.linear(&open, "pool.score")[0];
                pooled.iter_mut().zip(h).for_each(|(p, h)| *p += score * h);
            }
            let logits: Vec<f64> = self.0["items"].iter().map(|row| row.iter().zip(&pooled).map(|(a, b)| a * b).sum()).collect();
            let all = logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            total += (all - logits[*target as usize]) / targets.len() as f64;
            means.iter_mut().zip(mean).for_each(|(means, mean)| means.push(mean));
            points.iter_mut().zip(line).for_each(|(points, line)| points.push(line));
        }
        let length = |m: &Vec<f64>| m.iter().map(|x| x * x).sum::<f64>().sqrt();
        let cosine = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / (length(a) * length(b));
        let all: Vec<&Vec<f64>> = means.iter().flatten().collect();
        for (at, mean) in all.iter().enumerate() {
            let partner = (at + targets.len()) % all.len();
            let power = |other: usize| (cosine(mean, all[other]) / CONSTANTS.tau).exp();
            let others: f64 = (0..all.len()).filter(|other| *other != at).map(power).sum();
            total += CONSTANTS.contrast * (others / power(partner)).ln() / targets.len() as f64;
        }
        for side in 0..2 {
            total += CONSTANTS.mmd * discrepancy(&points, side, widths);
        }
        total
    }
}

fn discrepancy(points: &[Rows; 3], side: usize, widths: &mut Vec<f64>) -> f64 {
    let (a, b) = (&points[2], &points[side]);
    let all: Vec<&Vec<f64>> = a.iter().chain(b).collect();
    let apart = |i: usize, j: usize| all[i].iter().zip(all[j]).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
    let count = all.len();
    if widths.len() == side {
        let sum: f64 = (0..count * count).map(|at| apart(at / count, at % count)).sum();
        widths.push(sum / (count * count - count) as f64);
    }
    let kernel = |i: usize, j: usize| (0..5).map(|k| (-apart(i, j) / (widths[side] / 4.0 * f64::from(1 << k))).exp()).sum::<f64>();
    let sign = |i: usize, j: usize| if (i < a.len()) == (j < a.len()) { 1.0 } else { -1.0 };
    let sum: f64 = (0..count * count).map(|at| sign(at / count, at % count) * kernel(at / count, at % count)).sum();
    sum / (a.len() * a.len()) as f64
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn the_objective_and_its_gradient_are_those_of_plain_loops() {
    let (network, graphs) = (network(), [&SEQUENCES, &OTHERS].map(|sequences| TransitionGraph::new(&data(sequences))));
    let (histories, targets) = histories();
    let mut distinct = histories.items.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let places: Vec<u32> = histories.items.iter().map(|item| distinct.binary_search(item).unwrap() as u32).collect();
    let states = |side: usize| {
        let mut stream = Stream::new(1, Purpose::Augment, side as u64, 0);
        let sample = Sample::draw(&graphs[side], &distinct, CONSTANTS.neighbours, CONSTANTS.hops, &mut stream);
        let states = network.surroundings(&sample, &mut Dropout(None)).unwrap();
        states.index_select(&Tensor::new(&places[..], &Device::Cpu).unwrap(), 0).unwrap()
    };
    let states = network.states(&histories, [states(0), states(1)], &mut Dropout(None)).unwrap();
    let loss = objective(&network, &CONSTANTS, &histories, &states, &targets).unwrap();
    let mut plain = Plain::of(&network);
    let mut widths = Vec::new();
    let want = plain.objective(&graphs, &histories, &targets, &mut widths);
    let got = f64::from(loss.whole.to_scalar::<f32>().unwrap());
    assert!((got - want).abs() < 1e-5 * want.abs(), "{got} instead of {want}");
    assert!((loss.next_item + loss.graph - got).abs() < 1e-5 && loss.graph > 0.0);

    let gradients = loss.whole.backward().unwrap();
    for (name, var) in network.vars() {
        let gradient: Vec<f32> =
            gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient")).flatten_all().unwrap().to_vec1().unwrap();
        let size = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let width = *var.dims().last().unwrap();
        let mut order: Vec<usize> = (0..gradient.len()).collect();
        order.sort_by(|a, b| gradient[*b].abs().total_cmp(&gradient[*a].abs()));
        let places = [0, gradient.len() / 2, gradient.len() - 1];
        for at in order.into_iter().take(3).chain(places) {
            let mut value = |by: f64| {
                plain.0.get_mut(&name).unwrap()[at / width][at % width] += by;
                let value = plain.objective(&graphs, &histories, &targets, &mut widths);
                plain.0.get_mut(&name).unwrap()[at / width][at % width] -= by;
                value
            };
            let difference = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!(
                (difference - f64::from(gradient[at])).abs() < 1e-3 * size + 2e-6,
                "{name}[{at}]: {} instead of {difference}",
                gradient[at]
            );
        }
    }
}

#[test]
fn a_sample_takes_some_neighbours_of_every_item() {
    let graph = TransitionGraph::new(&data(&SEQUENCES));
    let draw = |seed, most| Sample::draw(&graph, &[2, 0], most, 2, &mut Stream::new(seed, Purpose::Augment, 0, 0));
    let sample = draw(1, 2);
    assert_eq!(&sample.items[..2], &[2, 0]);
    let mut distinct = sample.items.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), sample.items.len());
    let targets: Vec<usize> = sample.hops.iter().map(|hop| hop.targets).collect();
    assert!(targets[1] == 2 && targets[0] > 2 && targets[0] <= 6, "{targets:?}");
    // Every mean is over neighbours in the graph, at most two of them.
    let hop = &sample.hops[1];
    let table: Vec<f32> = (0..targets[0] * targets[0]).map(|at| if at / targets[0] == at % targets[0] { 1.0 } else { 0.0 }).collect();
    let table = Tensor::from_vec(table, (targets[0], targets[0]), &Device::Cpu).unwrap();
    for (row, item) in hop.mean.apply(&table).unwrap().to_vec2::<f32>().unwrap().into_iter().zip([2, 0]) {
        let chosen: Vec<u32> = row.iter().zip(&sample.items).filter(|(share, _)| **share > 0.0).map(|(_, item)| *item).collect();
        assert!(chosen.len() == 2 && chosen.iter().all(|to| graph.of(item).iter().any(|(other, _)| other == to)), "{item}: {chosen:?}");
        assert!(row.iter().filter(|share| **share > 0.0).all(|share| *share == 0.5));
    }
    let drawn: Vec<Vec<u32>> = (0..20).map(|seed| draw(seed, 2).items).collect();
    assert!(drawn.iter().any(|items| items != &drawn[0]) && draw(3, 2).items == drawn[3]);
    assert!(draw(1, 100).items.len() >= sample.items.len());
    // An item without neighbours is alone.
    assert_eq!(Sample::draw(&graph, &[10], 5, 2, &mut Stream::new(1, Purpose::Augment, 0, 0)).items, [10]);
}

#[test]
fn sums_of_rows_and_their_gradient_are_products_with_the_matrix() {
    let sparse = Sparse::new(3, [vec![(2, 0.5), (0, 2.0)], vec![], vec![(1, 3.0)], vec![(2, -1.0)]]);
    let x = Var::from_vec(vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2), &Device::Cpu).unwrap();
    let y = sparse.apply(&x).unwrap();
    assert_eq!(y.to_vec2::<f32>().unwrap(), [[4.5, 7.0], [0.0, 0.0], [9.0, 12.0], [-5.0, -6.0]]);
    let weights = Tensor::from_vec((1..=8).map(|i| i as f32).collect::<Vec<_>>(), (4, 2), &Device::Cpu).unwrap();
    let gradient = (y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(gradient.get(&x).unwrap().to_vec2::<f32>().unwrap(), [[2.0, 4.0], [15.0, 18.0], [0.5 - 7.0, 1.0 - 8.0]]);
    assert!(sparse.apply(&Tensor::zeros((2, 2), candle_core::DType::F32, &Device::Cpu).unwrap()).is_err());
}

#[test]
fn dropout_keeps_the_mean_and_rests_outside_training() {
    let x = Var::ones((100, 50), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut stream = Stream::new(1, Purpose::Dropout, 0, 0);
    let y = Dropout(Some(&mut stream)).apply(x.as_tensor().clone(), 0.25).unwrap();
    let gradient = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(gradient.get(&x).unwrap().to_vec2::<f32>().unwrap(), y.to_vec2::<f32>().unwrap());
    let dropped = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let gone = dropped.iter().filter(|x| **x == 0.0).count();
    assert!((1150..1350).contains(&gone) && dropped.iter().all(|x| *x == 0.0 || (*x - 4.0 / 3.0).abs() < 1e-4), "{gone}");
    let still = Dropout(None).apply(x.as_tensor().clone(), 0.25).unwrap();
    assert_eq!(still.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
}

#[test]
fn a_row_of_zeros_hands_on_a_gradient_of_some_size() {
    let x = Var::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let y = super::network::unit_rows(&x).unwrap();
    let gradient = y.sum_all().unwrap().backward().unwrap();
    let gradient = gradient.get(&x).unwrap().to_vec2::<f32>().unwrap();
    assert!(y.to_vec2::<f32>().unwrap() == [[0.0; 3]; 2] && gradient.iter().flatten().all(|g| g.abs() < 1e5), "{gradient:?}");
}

#[test]
fn the_rate_falls_in_steps() {
    assert_eq!(OPTIONS.iter().find(|(name, _)| *name == "decay").unwrap().1, CONSTANTS.decay);
    let rates: Vec<f64> = [1, 5, 6, 11].map(|round| CONSTANTS.rate_at(round)).to_vec();
    assert!(rates[..2] == [1.0, 1.0] && (rates[2] - 0.7).abs() < 1e-12 && (rates[3] - 0.49).abs() < 1e-12, "{rates:?}");
}
