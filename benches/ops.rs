//! Each packed operation at the reference shape: d = 64, one client's step of 20 tokens (a history of four, its future of eight,
//! a paraphrase and a counterfactual of four each). Rates are floating-point operations a second where an operation is
//! arithmetic, else numbers a second. Attention and the contrast also run as compositions of candle's operations on the same
//! inputs, after both have been checked to agree.

use candle_core::{DType, Device, Tensor, Var};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use lumos::backend::cpu::rank::Panels;
use lumos::backend::cpu::{Worker, WorkerShape};
use lumos::backend::{Act, Backend, Mask, RowKind, Step, TableRow};
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{Backbone, Contrast, LocalSettings, LossSettings, ModelSettings, RecLoss};
use lumos::model::{Model, ModelSpec, Weights};

#[allow(dead_code)]
#[path = "../tests/oracle/reference.rs"]
mod reference;

const D: usize = 64;
const LENGTHS: [usize; 4] = [4, 8, 4, 4];
const TOKENS: usize = 20;
const ITEM_ROWS: usize = 24;

fn normal(n: usize, case: u64) -> Vec<f32> {
    let mut s = Stream::new(1, Purpose::Bench, case, 0);
    (0..n).map(|_| s.normal()).collect()
}

/// The reference step: every token of the history and the last of each view are outputs.
fn step(negatives: usize) -> Step {
    let mut s = Stream::new(2, Purpose::Bench, 0, 0);
    let mut draw = || TableRow(s.below(ITEM_ROWS as u64) as u32);
    let mut step = Step { width: 1 + negatives, positive_weight: 1.0, ..Step::default() };
    step.clear();
    let mut last = Vec::new();
    for (i, &n) in LENGTHS.iter().enumerate() {
        let first = step.push_sequence((0..n).map(|_| draw()));
        for t in if i == 0 { 0..n } else { n - 1..n } {
            let q = step.push_output(first + t as u32);
            if i == 0 {
                step.example.push(q);
                step.cands.extend((0..=negatives).map(|_| draw()));
            }
            if t == n - 1 {
                last.push(q);
            }
        }
    }
    step.push_group(last[0], &last[1..3], &last[3..]);
    step.end_client();
    step
}

/// A worker with `dense` random weights in its slab, ready for operations.
fn worker(dense: usize, step: Step, fuse: bool) -> Worker {
    let mut w = Worker::new(WorkerShape { dim: D, dense_len: dense, fused: vec![], plain: vec![], positions: Some((0, 50)) });
    let weights: Vec<f32> = normal(dense, 1).iter().map(|x| 0.1 * x).collect();
    w.begin_visit(&weights, ITEM_ROWS);
    for (i, row) in normal(ITEM_ROWS * D, 2).chunks_exact(D).enumerate() {
        w.row_mut(i).copy_from_slice(row);
    }
    w.step = step;
    w.begin_step(&LocalSettings::default(), 2, 5, fuse, Some(Stream::new(3, Purpose::Dropout, 0, 0)));
    w
}

fn given(w: &mut Worker, rows: RowKind, width: usize, case: u64) -> Act {
    let a = w.act(rows, width);
    let n = w.values(a).len();
    w.values_mut(a).copy_from_slice(&normal(n, case));
    a
}

fn time(g: &mut BenchmarkGroup<'_, WallTime>, name: &str, work: usize, mut f: impl FnMut()) {
    g.throughput(Throughput::Elements(work as u64));
    g.bench_function(name, |b| b.iter(&mut f));
}

fn close(ours: &[f32], candle: &Tensor) {
    let theirs: Vec<f32> = candle.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(&theirs) {
        assert!((a - b).abs() < 1e-4 * (1.0 + b.abs()), "candle gives {b}, the kernel {a}");
    }
}

fn var(values: &[f32], rows: usize) -> Var {
    Var::from_tensor(&Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()).unwrap()
}

fn rows(c: &mut Criterion) {
    let mut g = c.benchmark_group("rows");
    let n = TOKENS * D;
    let mut w = worker(50 * D, step(1), false);
    let (x, y) = (given(&mut w, RowKind::Tokens, D, 10), given(&mut w, RowKind::Tokens, D, 11));
    let (dx, stats) = (given(&mut w, RowKind::Tokens, D, 12), w.act(RowKind::Tokens, 2));
    time(&mut g, "embed", n, || w.embed(8.0, Some(0), y));
    time(&mut g, "embed backward", n, || w.embed_backward(8.0, Some(0), x));
    time(&mut g, "layer norm", n, || w.layer_norm(x, 0, D, y, stats));
    time(&mut g, "layer norm backward", n, || w.layer_norm_backward(x, stats, 0, D, y, dx));
    time(&mut g, "relu", n, || w.relu(y));
    let source = normal(n, 13);
    time(&mut g, "dropout", n, || {
        // In place, so that its input has to be put back.
        w.values_mut(x).copy_from_slice(&source);
        w.dropout(1, 0.2, x);
    });
    g.finish();
}

fn linear(c: &mut Criterion) {
    let mut g = c.benchmark_group("linear");
    let work = 2 * TOKENS * D * D;
    for fuse in [false, true] {
        let mut w = worker(D * D + D, step(1), fuse);
        let (x, y) = (given(&mut w, RowKind::Tokens, D, 20), given(&mut w, RowKind::Tokens, D, 21));
        let (dy, dx) = (given(&mut w, RowKind::Tokens, D, 22), w.act(RowKind::Tokens, D));
        if !fuse {
            time(&mut g, "forward", work, || w.linear(x, 0, D * D, y));
        }
        let name = if fuse { "backward with Adam" } else { "backward" };
        time(&mut g, name, 2 * work, || w.linear_backward(x, dy, 0, D * D, Some(dx), false));
    }
    g.finish();
}

fn attention(c: &mut Criterion) {
    let mut g = c.benchmark_group("attention");
    // A query and each key that it sees: a dot product and a scaled addition.
    let work = 4 * D * LENGTHS.iter().map(|n| n * (n + 1) / 2).sum::<usize>();
    let packed = step(1);
    let mut w = worker(50 * D, packed.clone(), false);
    let [q, k, v, dy] = [30, 31, 32, 33].map(|i| given(&mut w, RowKind::Tokens, D, i));
    let [y, dq, dk, dv] = [0; 4].map(|_| w.act(RowKind::Tokens, D));
    let stats = w.act(RowKind::Tokens, 1);
    let [cq, ck, cv] = [q, k, v].map(|a| var(w.values(a), TOKENS));
    let up = Tensor::from_slice(w.values(dy), (TOKENS, D), &Device::Cpu).unwrap();
    let mask = reference::dense_mask(Mask::Causal, &packed, &packed.token, DType::F32).unwrap();
    let forward = || reference::attention(1, &cq, &ck, &cv, &mask).unwrap();
    let both = || (forward() * &up).unwrap().sum_all().unwrap().backward().unwrap();

    w.attention(Mask::Causal, 1, q, k, v, y, stats);
    w.attention_backward(Mask::Causal, 1, q, k, v, stats, dy, dq, dk, dv);
    close(w.values(y), &forward());
    let grads = both();
    for (ours, theirs) in [(dq, &cq), (dk, &ck), (dv, &cv)] {
        close(w.values(ours), grads.get(theirs).unwrap());
    }
    time(&mut g, "forward", work, || w.attention(Mask::Causal, 1, q, k, v, y, stats));
    time(&mut g, "forward and backward", 7 * work / 2, || {
        w.attention(Mask::Causal, 1, q, k, v, y, stats);
        w.attention_backward(Mask::Causal, 1, q, k, v, stats, dy, dq, dk, dv);
    });
    time(&mut g, "forward, candle", work, || drop(forward()));
    time(&mut g, "forward and backward, candle", 7 * work / 2, || drop(both()));
    g.finish();
}

fn gru(c: &mut Criterion) {
    let mut g = c.benchmark_group("gru");
    let work = 2 * TOKENS * D * 3 * D;
    let mut w = worker(3 * D * D + 3 * D, step(1), false);
    let lay = |w: &mut Worker| [3 * D, 3 * D, D, 4 * D, D, D].map(|width| w.act(RowKind::Tokens, width));
    let [xw, _, h, ..] = lay(&mut w);
    w.values_mut(xw).copy_from_slice(&normal(TOKENS * 3 * D, 40));
    let up = normal(TOKENS * D, 41);
    time(&mut g, "forward", work, || {
        w.begin_pass();
        let [xw, _, h, gates, previous, _] = lay(&mut w);
        w.gru(xw, 0, 3 * D * D, h, gates, previous);
    });
    assert!(w.values(h).iter().all(|x| x.abs() < 1.0));
    time(&mut g, "backward", 2 * work, || {
        // The backward pass takes room of its own: laying everything out again finds the same places and values.
        w.begin_pass();
        let [_, dxw, _, gates, previous, dh] = lay(&mut w);
        w.values_mut(dh).copy_from_slice(&up);
        w.gru_backward(0, 3 * D * D, gates, previous, dh, dxw);
    });
    g.finish();
}

fn losses(c: &mut Criterion) {
    let mut g = c.benchmark_group("next item");
    for (rec, negatives) in [(RecLoss::Bce, 1), (RecLoss::SampledSoftmax, 256), (RecLoss::Gbce, 256), (RecLoss::Softmax, 0)] {
        let packed = step(negatives);
        let candidates = if rec == RecLoss::Softmax { ITEM_ROWS } else { 1 + negatives };
        let mut w = worker(50 * D, packed, false);
        let (h, dh) = (given(&mut w, RowKind::Outputs, D, 50), given(&mut w, RowKind::Outputs, D, 51));
        let loss = LossSettings { rec, ..LossSettings::default() };
        // A score and two scaled additions a candidate.
        let work = 6 * D * candidates * LENGTHS[0];
        time(&mut g, &format!("{}, {candidates} candidates", rec.name()), work, || w.next_item_loss(&loss, h, dh));
    }
    g.finish();

    let mut g = c.benchmark_group("contrast");
    for contrast in [Contrast::Joint, Contrast::Decoupled] {
        let packed = step(1);
        let mut w = worker(50 * D, packed.clone(), false);
        let (h, dh) = (given(&mut w, RowKind::Outputs, D, 60), w.act(RowKind::Outputs, D));
        let loss = LossSettings { contrast, lambda: 1.0, ..LossSettings::default() };
        let hidden = var(w.values(h), packed.outputs());
        let candle = || reference::info_nce(contrast, loss.tau, &hidden, &packed).unwrap().backward().unwrap();
        w.zero(dh);
        w.info_nce(&loss, h, dh);
        close(w.values(dh), candle().get(&hidden).unwrap());
        // Norms, cosines and two scaled additions a view.
        let work = 3 * 12 * D;
        time(&mut g, contrast.name(), work, || w.info_nce(&loss, h, dh));
        time(&mut g, &format!("{}, candle", contrast.name()), work, || drop(candle()));
    }
    g.finish();
}

/// One local step of one client, optimiser included: a client-epoch.
fn client(c: &mut Criterion) {
    let mut g = c.benchmark_group("client-epoch");
    for backbone in [Backbone::SASREC, Backbone::GRU4REC] {
        let spec = ModelSpec::new(&ModelSettings { backbone, ..ModelSettings::default() });
        let weights = Weights::init(&spec, ITEM_ROWS, 1);
        let (model, loss, local) = (Model::new(&spec), LossSettings::default(), LocalSettings::default());
        for fuse in [true, false] {
            let mut w = Worker::new(WorkerShape::new(&spec));
            w.step = step(1);
            w.begin_visit(&weights.dense, ITEM_ROWS);
            for i in 0..ITEM_ROWS {
                w.row_mut(i).copy_from_slice(weights.item(i));
            }
            w.begin_step(&local, 1, 5, fuse, None);
            model.train(&mut w, &loss);
            w.end_step(&local, 1, 5);
            let name = format!("{}{}", backbone.name(), if fuse { "" } else { ", update at the end" });
            time(&mut g, &name, 1, || {
                w.begin_step(&local, 2, 5, fuse, None);
                model.train(&mut w, &loss);
                w.end_step(&local, 2, 5);
            });
        }
    }
    g.finish();
}

fn rank(c: &mut Criterion) {
    let mut g = c.benchmark_group("rank");
    let (items, users) = (10_429, 60);
    let (table, hidden) = (normal(items * D, 70), normal(users * D, 71));
    let panels = Panels::new(&table, D);
    let threshold: Vec<f32> = hidden.chunks_exact(D).map(|h| panels.score(h, 17)).collect();
    let mut counts = vec![0; users];
    time(&mut g, "count, 60 users x 10429 items", 2 * D * items * users, || panels.count(&hidden, &threshold, &mut counts));
    g.finish();
}

criterion_group!(benches, rows, linear, attention, gru, losses, client, rank);
criterion_main!(benches);
