//! The local optimiser, clipping and the sums of losses over packed clients, as subjects.

use super::packed::Placed;
use super::reference::{self, LocalStep};
use super::single::{Given, cost, int, value, whole, words};
use super::subject::{Array, Output, Subject, Want};
use crate::backend::cuda::kernels::{AdamDense, AdamRows, ClientLosses, ClipNorm};
use crate::backend::cuda::optimiser::OptimiserStep;
use crate::config::{LocalOptimizer, LocalSettings};
use crate::device::launch::Pointer;
use std::ops::Range;

/// Settings, their name, and the step of a visit.
pub(super) fn kinds() -> [(&'static str, LocalSettings, u32); 8] {
    let adam = LocalSettings { weight_decay: 0.01, lr: 0.01, ..LocalSettings::default() };
    let with = |optimizer| LocalSettings { optimizer, ..adam.clone() };
    [
        ("adam, first step", with(LocalOptimizer::Adam), 1),
        ("adam, fourth step", with(LocalOptimizer::Adam), 4),
        ("adamw", with(LocalOptimizer::Adamw), 2),
        ("sgd", with(LocalOptimizer::Sgd), 2),
        ("sgd, proximal", LocalSettings { proximal: 3.0, ..with(LocalOptimizer::Sgd) }, 2),
        ("momentum, proximal", LocalSettings { proximal: 30.0, ..with(LocalOptimizer::Momentum) }, 3),
        ("adagrad", LocalSettings { eps: 0.1, ..with(LocalOptimizer::Adagrad) }, 3),
        ("preconditioned", LocalSettings { eps: 0.01, ..with(LocalOptimizer::Preconditioned) }, 1),
    ]
}

/// Weights of the slab besides the position table.
const PLAIN: usize = 37;

/// `adam_dense` and `adam_rows` with every optimiser, `clip_norm` and `client_losses` on a case.
pub fn subjects<'a>(placed: &'a Placed) -> Vec<Subject<'a>> {
    let mut all = Vec::new();
    for (name, settings, t) in kinds() {
        all.push(adam_dense(placed, name, &settings, t, 0, true));
        all.push(adam_rows(placed, name, &settings, t, true));
    }
    for clip in [0.5, 1e9] {
        all.push(clip_norm(placed, clip, 0, true));
    }
    all.push(client_losses(placed, true));
    all
}

/// Where the position table lies in a slab, how many rows it has, the slab's length and stride.
fn slab(placed: &Placed, extra: usize) -> (usize, usize, usize, usize) {
    let rows = placed.case.step().positions().1 + 2;
    let length = PLAIN + extra + rows * placed.case.d;
    (PLAIN, rows, length, length + 1)
}

/// What is timed: a step of Adam with stored moments on slabs of `extra` more weights, clipping, and the sums of losses.
pub fn timed<'a>(placed: &'a Placed, extra: usize) -> Vec<Subject<'a>> {
    let [_, (name, settings, t), ..] = kinds();
    vec![
        adam_dense(placed, name, &settings, t, extra, false),
        adam_rows(placed, name, &settings, t, false),
        clip_norm(placed, 0.5, extra, false),
        client_losses(placed, false),
    ]
}

fn trains(placed: &Placed, c: usize) -> bool {
    let b = &placed.case.step().client_tokens;
    b[c] < b[c + 1]
}

/// Positions that the sequences of client `c` reach.
fn reach(placed: &Placed, c: usize) -> Range<usize> {
    let step = placed.case.step();
    let own = &step.position[step.client_tokens[c] as usize..step.client_tokens[c + 1] as usize];
    let (low, high) = (own.iter().min(), own.iter().max());
    low.map_or(0, |&p| p as usize)..high.map_or(0, |&p| p as usize + 1)
}

/// Whether weight `i` of a slab has a gradient: all but the position rows outside `reach`.
fn reached(placed: &Placed, (table, rows): (usize, usize), reach: &Range<usize>, i: usize) -> bool {
    match i.checked_sub(table).map(|x| x / placed.case.d) {
        Some(row) if row < rows => reach.contains(&row),
        _ => true,
    }
}

fn case_name(placed: &Placed, name: &str) -> String {
    format!("{}, d {}, {name}", placed.case.name, placed.case.d)
}

pub(super) fn moment_outputs(arrays: &[Array], wants: Option<[Vec<f32>; 3]>) -> Vec<Output> {
    let wants = wants.map_or([None, None, None], |w| w.map(|v| Some(Want::Bits(words(&v)))));
    let names = ["weights", "first moments", "second moments"];
    names.into_iter().zip(wants).enumerate().map(|(i, (what, want))| whole(what, arrays, 2 + i, want)).collect()
}

/// Both moments among a subject's arrays, which gradient descent has not.
fn moments(b: &[Pointer], sgd: bool) -> [Pointer; 2] {
    if sgd { [Pointer::NULL; 2] } else { [b[3], b[4]] }
}

fn adam_dense<'a>(placed: &'a Placed, name: &str, settings: &LocalSettings, t: u32, extra: usize, judged: bool) -> Subject<'a> {
    let (case, n) = (placed.case, placed.normals());
    let (table, rows, length, stride) = slab(placed, extra);
    let (clients, rule) = (case.clients(), LocalStep::new(settings, t));
    let count = clients * stride;
    let scale: Vec<f32> = (0..clients).map(|c| 0.5 + n.at(50, c).abs()).collect();
    let (p, m, g) = (n.take(51, count, 1.0), n.take(52, count, 0.1), n.take(54, count, 1.0));
    let start = n.take(49, length, 1.0);
    let s: Vec<f32> = (0..count).map(|i| n.at(53, i).powi(2)).collect();
    let arrays = vec![
        value("step of the optimiser", &OptimiserStep::new(settings, t)),
        Array::of("factors", &scale),
        Array::of("weights", &p),
        Array::of("first moments", &m),
        Array::of("second moments", &s),
        Array::of("gradients", &g),
        Array::of("global weights", &start),
    ];
    let sgd = rule.is_sgd();
    let wants = judged.then(|| {
        let (mut p, mut m, mut s) = (p, m, s);
        for (c, &factor) in scale.iter().enumerate() {
            let reach = reach(placed, c);
            for i in (0..length).map(|i| c * stride + i) {
                if trains(placed, c) && reached(placed, (table, rows), &reach, i - c * stride) {
                    rule.one(factor, [&mut p[i], &mut m[i], &mut s[i]], g[i]);
                    rule.back(&mut p[i], start[i - c * stride]);
                } else if rule.is_first() && !rule.is_sgd() {
                    (m[i], s[i]) = (0.0, 0.0);
                }
            }
        }
        [p, m, s]
    });
    let outs = moment_outputs(&arrays, wants);
    let d = case.d;
    let floats = if sgd { 3 } else { 7 };
    let work = cost(floats * clients * length, 14.0 * (clients * length) as f64);
    let given = Given { case: case_name(placed, name), arrays, outputs: outs, cost: work };
    given.to([clients, length.div_ceil(2048)], move |b| {
        let [m, s] = moments(b, sgd);
        AdamDense {
            step: placed.chunk.table().into(),
            opt: b[0],
            scale: b[1],
            p: b[2],
            m,
            s,
            g: b[5],
            global: b[6],
            places: Pointer::NULL,
            count: int(length),
            stride: stride as i64,
            length: int(length),
            position_at: int(table),
            position_rows: int(rows),
            d: int(d),
        }
    })
}

fn adam_rows<'a>(placed: &'a Placed, name: &str, settings: &LocalSettings, t: u32, judged: bool) -> Subject<'a> {
    let (case, n, rule) = (placed.case, placed.normals(), LocalStep::new(settings, t));
    let (clients, d, count) = (case.clients(), case.d, case.chunk.rows() * case.d);
    let (p, m, g) = (n.take(55, count, 1.0), n.take(56, count, 0.1), n.take(58, count, 1.0));
    let table = n.take(59, (case.chunk.items.iter().max().map_or(0, |&item| item as usize) + 1) * d, 1.0);
    let s: Vec<f32> = (0..count).map(|i| n.at(57, i).powi(2)).collect();
    let arrays = vec![
        value("step of the optimiser", &OptimiserStep::new(settings, t)),
        Array::of("factors", &[0f32; 1]),
        Array::of("weights", &p),
        Array::of("first moments", &m),
        Array::of("second moments", &s),
        Array::of("gradients", &g),
        Array::of("item table", &table),
    ];
    let sgd = rule.is_sgd();
    let wants = judged.then(|| {
        let (mut p, mut m, mut s) = (p, m, s);
        for c in 0..clients {
            let rows = case.rows_of(c);
            for i in rows.start * d..rows.end * d {
                if trains(placed, c) {
                    rule.one(1.0, [&mut p[i], &mut m[i], &mut s[i]], g[i]);
                    rule.back(&mut p[i], table[case.chunk.items[i / d] as usize * d + i % d]);
                } else if rule.is_first() && !rule.is_sgd() {
                    (m[i], s[i]) = (0.0, 0.0);
                }
            }
        }
        [p, m, s]
    });
    let outs = moment_outputs(&arrays, wants);
    let blocks = (case.shape.client_rows as usize * d).div_ceil(2048).clamp(1, 65_535);
    let floats = if sgd { 3 } else { 7 };
    let work = cost(floats * count, 14.0 * count as f64);
    Given { case: case_name(placed, name), arrays, outputs: outs, cost: work }.to([clients, blocks], move |b| {
        let [m, s] = moments(b, sgd);
        AdamRows { step: placed.chunk.table().into(), opt: b[0], scale: Pointer::NULL, p: b[2], m, s, g: b[5], table: b[6], d: int(d) }
    })
}

fn clip_norm<'a>(placed: &'a Placed, clip: f32, extra: usize, judged: bool) -> Subject<'a> {
    let (case, n) = (placed.case, placed.normals());
    let (table, rows, length, stride) = slab(placed, extra);
    let (clients, d, count) = (case.clients(), case.d, case.chunk.rows() * case.d);
    let (g, row_grad) = (n.take(59, clients * stride, 1.0), n.take(60, count, 1.0));
    let arrays =
        vec![Array::of("gradients", &g), Array::of("item row gradients", &row_grad), Array::of("factors", &n.take(61, clients, 1.0))];
    let want = judged.then(|| {
        let (mut exact, mut plain) = (Vec::new(), Vec::new());
        for c in 0..clients {
            let reach = reach(placed, c);
            let own = (0..length).filter(|&i| reached(placed, (table, rows), &reach, i)).map(|i| g[c * stride + i]);
            let rows = case.rows_of(c);
            let all: Vec<f32> = own.chain(row_grad[rows.start * d..rows.end * d].iter().copied()).collect();
            exact.push(reference::clip_factor(all.iter().copied(), clip));
            let norm = all.iter().map(|x| x * x).sum::<f32>().sqrt();
            plain.push(if norm > clip { clip / norm } else { 1.0 });
        }
        Want::Near { plain, exact }
    });
    let outs = vec![whole("factors", &arrays, 2, want)];
    let work = cost(clients * length + count + clients, 2.0 * (clients * length + count) as f64);
    let given = Given { case: case_name(placed, &format!("clip {clip}")), arrays, outputs: outs, cost: work };
    given.to([clients, 1], move |b| ClipNorm {
        step: placed.chunk.table().into(),
        g: b[0],
        row_grad: b[1],
        stride: stride as i64,
        length: int(length),
        position_at: int(table),
        position_rows: int(rows),
        d: int(d),
        clip,
        scale: b[2],
    })
}

fn client_losses<'a>(placed: &'a Placed, judged: bool) -> Subject<'a> {
    let (case, n) = (placed.case, placed.normals());
    let (step, clients) = (case.step(), case.clients());
    let (loss, contrast) = (n.take(62, step.example.len(), 1.0), n.take(63, step.positives.len(), 1.0));
    let paired = n.take(64, step.pair.len(), 1.0);
    let mut sums: Vec<f64> = (0..2 * clients).map(|i| f64::from(i as u32) / 8.0).collect();
    let arrays = vec![
        Array::of("losses", &loss),
        Array::of("contrasts", &contrast),
        Array::of("losses of pairs", &paired),
        Array::of("sums of clients", &sums),
    ];
    let want = judged.then(|| {
        let mean = |values: &[f32], bounds: &[u32], c: usize| reference::mean(&values[bounds[c] as usize..bounds[c + 1] as usize]);
        let twice: Vec<u32> = step.client_pairs.iter().map(|b| 2 * b).collect();
        for c in 0..clients {
            sums[2 * c] += mean(&loss, &step.client_examples, c);
            sums[2 * c + 1] += mean(&contrast, &step.client_groups, c) + mean(&paired, &twice, c);
        }
        Want::Doubles(sums)
    });
    let outs = vec![whole("sums of clients", &arrays, 3, want)];
    let numbers = loss.len() + contrast.len() + paired.len();
    let given = Given { case: case_name(placed, "means"), arrays, outputs: outs, cost: cost(numbers + 8 * clients, numbers as f64) };
    given.to([clients.div_ceil(4), 1], move |b| ClientLosses {
        step: placed.chunk.table().into(),
        loss: b[0],
        contrast: b[1],
        pairs: b[2],
        out: b[3],
    })
}
