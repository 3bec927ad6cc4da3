//! Kernels of `losses.cu` and `full_softmax.cu` against the reference.

use super::packed::{PackedStep, same_bits};
use super::reference::{Plain, Real, case, numbers};
use super::steps::{accept, alone, largest, part, spread, steps};
use lumos::backend::{Backend, RowKind};
use lumos::check::reference::{Field, mean};
use lumos::config::{LossSettings, RecLoss};
use lumos_simt::check::{Random, close};

const BCE: i32 = 0;
const SAMPLED_SOFTMAX: i32 = 1;
const GBCE: i32 = 2;
/// The softmax over all rows of the client, with the first candidate as positive: kernels of its own.
const SOFTMAX: i32 = 3;

/// Losses of examples, and their gradients by hidden states and rows added to what `dh` and `rows` hold.
struct Losses<R> {
    loss: Vec<R>,
    dh: Vec<R>,
    rows: Vec<R>,
}

fn next_item<R: Real>(s: &PackedStep, kind: i32, h: &[R], table: &[R], dh: &[f32], rows: &[f32], d: usize) -> Losses<R> {
    let case = case(s, d);
    let mut plain = Plain::new(&case, 0).set(Field::Rows, table.to_vec()).set(Field::RowGrad, numbers(rows));
    let (h, dh) = (plain.load(RowKind::Outputs, d, h), plain.load(RowKind::Outputs, d, &numbers::<R>(dh)));
    let rec = [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax][kind as usize];
    plain.0.next_item_loss(&LossSettings { rec, ..LossSettings::default() }, h, dh);
    Losses { loss: plain.field(Field::Loss), dh: plain.values(dh), rows: plain.field(Field::RowGrad) }
}

/// What the kernels of a loss leave behind.
struct Outcome {
    loss: Vec<f32>,
    dh: Vec<f32>,
    rows: Vec<f32>,
}

fn sampled(s: &mut PackedStep, kind: i32, h: &[f32], table: &[f32], dh: &[f32], rows: &[f32], few: bool, d: usize) -> Outcome {
    let examples = s.example.len();
    let (mut coef, mut loss) = (vec![f32::NAN; examples * s.width], vec![f32::NAN; examples]);
    let (mut dh, mut rows) = (dh.to_vec(), rows.to_vec());
    let blocks = if few { 1 } else { examples.div_ceil(4).max(1) as u32 };
    let slices = if few { 1 } else { largest(&s.client_rows).div_ceil(64) as u32 };
    let (step, clients) = (s.ptr(), s.clients() as u32);
    launch!(
        "next_item_loss",
        [blocks, 1, 1],
        [128, 1, 1],
        0,
        step,
        kind,
        h.as_ptr(),
        table.as_ptr(),
        dh.as_mut_ptr(),
        coef.as_mut_ptr(),
        loss.as_mut_ptr(),
        d as i32
    )
    .unwrap();
    launch!("next_item_rows", [clients, slices, 1], [128, 1, 1], 6160, step, h.as_ptr(), coef.as_ptr(), rows.as_mut_ptr(), d as i32)
        .unwrap();
    Outcome { loss, dh, rows }
}

fn full(s: &mut PackedStep, h: &[f32], table: &[f32], dh: &[f32], rows: &[f32], few: bool, d: usize) -> Outcome {
    let examples = s.example.len();
    let (mut lse, mut loss) = (vec![f32::NAN; examples], vec![f32::NAN; examples]);
    let (mut dh, mut rows) = (dh.to_vec(), rows.to_vec());
    let tiles = if few { 1 } else { largest(&s.client_examples).div_ceil(16).max(1) as u32 };
    let slices = if few { 1 } else { largest(&s.client_rows).div_ceil(128) as u32 };
    let (step, clients) = (s.ptr(), s.clients() as u32);
    let (hp, tp, dim) = (h.as_ptr(), table.as_ptr(), d as i32);
    let block = [128, 1, 1];
    launch!("full_softmax_stats", [clients, tiles, 1], block, 19456, step, hp, tp, lse.as_mut_ptr(), loss.as_mut_ptr(), dim).unwrap();
    launch!("full_softmax_hidden", [clients, tiles, 1], block, 27648, step, hp, tp, lse.as_ptr(), dh.as_mut_ptr(), dim).unwrap();
    launch!("full_softmax_rows", [clients, slices, 1], block, 27904, step, hp, tp, lse.as_ptr(), rows.as_mut_ptr(), dim).unwrap();
    Outcome { loss, dh, rows }
}

fn run(s: &mut PackedStep, kind: i32, h: &[f32], table: &[f32], dh: &[f32], rows: &[f32], few: bool, d: usize) -> Outcome {
    if kind == SOFTMAX { full(s, h, table, dh, rows, few, d) } else { sampled(s, kind, h, table, dh, rows, few, d) }
}

fn check(name: &str, mut s: PackedStep, kind: i32, seed: u64, d: usize) {
    let mut r = Random::new(seed);
    let std = 1.5 / (d as f32).powf(0.25);
    let (h, table) = (r.normals(std, s.outputs() * d), r.normals(std, s.rows() * d));
    let (dh, rows) = (r.normals(0.1, s.outputs() * d), r.normals(0.1, s.rows() * d));
    let got = run(&mut s, kind, &h, &table, &dh, &rows, seed.is_multiple_of(2), d);
    let plain = next_item::<f32>(&s, kind, &h, &table, &dh, &rows, d);
    let exact = next_item::<f64>(&s, kind, &numbers(&h), &numbers(&table), &dh, &rows, d);
    let name = format!("{name}, loss {kind}, d {d}");
    accept(&format!("loss of {name}"), &got.loss, &plain.loss, &exact.loss);
    accept(&format!("dh of {name}"), &got.dh, &plain.dh, &exact.dh);
    accept(&format!("rows of {name}"), &got.rows, &plain.rows, &exact.rows);
}

#[test]
fn sampled_losses() {
    for (j, (width, d)) in [(2, 64), (1, 7), (5, 33), (31, 4), (33, 17), (70, 1), (2, 130)].into_iter().enumerate() {
        for (i, mut s) in steps(width).into_iter().enumerate() {
            s.positive_weight = 0.37;
            check(&format!("step {i}, width {width}"), s, [BCE, SAMPLED_SOFTMAX, GBCE][(i + j) % 3], (10 * i + j) as u64, d);
        }
    }
}

#[test]
fn full_softmax() {
    for (j, d) in [64, 3, 33, 130, 65].into_iter().enumerate() {
        for (i, s) in steps(1).into_iter().enumerate() {
            if d < 100 || i == 2 {
                check(&format!("step {i}"), s, SOFTMAX, (10 * i + j) as u64, d);
            }
        }
    }
    // Tables of several tiles of rows for every client, of which most are never a target.
    let wide = PackedStep::random(5, 1, &[&[9, 2], &[], &[33]]);
    check("wide", spread(wide, 23), SOFTMAX, 3, 20);
}

#[test]
fn reference_gradients_are_differences() {
    let (d, step) = (5, 1e-5);
    for kind in [BCE, SAMPLED_SOFTMAX, GBCE, SOFTMAX] {
        let mut s = PackedStep::random(4, 3, &[&[4, 2], &[], &[3]]);
        s.positive_weight = 0.6;
        let mut r = Random::new(8);
        let (mut h, mut table) = (numbers(&r.normals(1.0, s.outputs() * d)), numbers(&r.normals(1.0, s.rows() * d)));
        let (dh, rows) = (vec![0f32; h.len()], vec![0f32; table.len()]);
        let total = |h: &[f64], table: &[f64]| {
            let loss = next_item::<f64>(&s, kind, h, table, &dh, &rows, d).loss;
            let mean = |c: usize| {
                let own = &loss[s.client_examples[c] as usize..s.client_examples[c + 1] as usize];
                own.iter().sum::<f64>() / own.len().max(1) as f64
            };
            (0..s.clients()).map(mean).sum::<f64>()
        };
        let out = next_item::<f64>(&s, kind, &h, &table, &dh, &rows, d);
        for i in 0..h.len() {
            let x = h[i];
            h[i] = x + step;
            let up = total(&h, &table);
            h[i] = x - step;
            let slope = (up - total(&h, &table)) / (2.0 * step);
            h[i] = x;
            close("dh", &[slope as f32], &[out.dh[i]], 1e-5, 1e-6);
        }
        for i in 0..table.len() {
            let x = table[i];
            table[i] = x + step;
            let up = total(&h, &table);
            table[i] = x - step;
            let slope = (up - total(&h, &table)) / (2.0 * step);
            table[i] = x;
            close("rows", &[slope as f32], &[out.rows[i]], 1e-5, 1e-6);
        }
    }
}

#[test]
fn neighbouring_examples_may_share_an_output() {
    for mut s in steps(3) {
        for c in 0..s.clients() {
            let own = s.client_examples[c] as usize..s.client_examples[c + 1] as usize;
            for e in own.skip(1) {
                if e % 3 != 0 {
                    s.example[e] = s.example[e - 1];
                }
            }
        }
        check("shared outputs", s, SAMPLED_SOFTMAX, 77, 12);
    }
}

#[test]
fn large_logits_stay_finite() {
    let d = 3;
    for kind in [BCE, SAMPLED_SOFTMAX, GBCE, SOFTMAX] {
        let mut s = PackedStep::random(6, 4, &[&[6], &[2, 2]]);
        let mut r = Random::new(2);
        let (h, table) = (r.normals(60.0, s.outputs() * d), r.normals(60.0, s.rows() * d));
        let (dh, rows) = (vec![0f32; h.len()], vec![0f32; table.len()]);
        let got = run(&mut s, kind, &h, &table, &dh, &rows, false, d);
        let exact = next_item::<f64>(&s, kind, &numbers(&h), &numbers(&table), &dh, &rows, d);
        close("loss", &got.loss, &exact.loss, 1e-4, 1e-2);
        assert!(got.dh.iter().chain(&got.rows).all(|x| x.is_finite()));
    }
}

#[test]
fn a_client_depends_on_itself_alone() {
    let d = 33;
    for kind in [BCE, SAMPLED_SOFTMAX, SOFTMAX] {
        for mut s in steps(3) {
            let mut r = Random::new(6);
            let (h, table) = (r.normals(0.7, s.outputs() * d), r.normals(0.7, s.rows() * d));
            let (dh, rows) = (r.normals(0.1, s.outputs() * d), r.normals(0.1, s.rows() * d));
            let all = run(&mut s, kind, &h, &table, &dh, &rows, true, d);
            for c in 0..s.clients() {
                let mut one = alone(&s, c);
                if one.example.is_empty() {
                    continue;
                }
                let outs = |v| part(v, &s.client_outs, c, d);
                let items = |v| part(v, &s.client_rows, c, d);
                let own = run(&mut one, kind, outs(&h), items(&table), outs(&dh), items(&rows), false, d);
                assert!(same_bits(&own.loss, part(&all.loss, &s.client_examples, c, 1)));
                assert!(same_bits(&own.dh, outs(&all.dh)) && same_bits(&own.rows, items(&all.rows)));
            }
        }
    }
}

#[test]
fn losses_of_clients() {
    for mut s in steps(2) {
        let mut r = Random::new(4);
        let (loss, contrast) = (r.normals(1.0, s.example.len()), r.normals(1.0, s.positives.len()));
        // The first and the last output of each client as a pair.
        for c in 0..s.clients() {
            let (first, last) = (s.client_outs[c], s.client_outs[c + 1] - 1);
            if first < last {
                s.pair.extend([first, last]);
            }
            s.client_pairs[c + 1] = s.pair.len() as i32 / 2;
        }
        let paired = r.normals(1.0, s.pair.len());
        let twice: Vec<i32> = s.client_pairs.iter().map(|b| 2 * b).collect();
        let before: Vec<f64> = (0..2 * s.clients()).map(|i| i as f64).collect();
        let mean = |values: &[f32], bounds: &[i32], c: usize| mean(part(values, bounds, c, 1));
        let none = std::ptr::null::<f32>();
        for (blocks, with_loss, with_contrast, with_pairs) in
            [(1, true, true, false), (s.clients() as u32, true, false, true), (1, false, true, true)]
        {
            let mut out = before.clone();
            let p = if with_pairs { paired.as_ptr() } else { none };
            let (l, g) = (if with_loss { loss.as_ptr() } else { none }, if with_contrast { contrast.as_ptr() } else { none });
            launch!("client_losses", [blocks, 1, 1], [128, 1, 1], 0, s.ptr(), l, g, p, out.as_mut_ptr()).unwrap();
            for c in 0..s.clients() {
                let l = if with_loss { mean(&loss, &s.client_examples, c) } else { 0.0 };
                let g = if with_contrast { mean(&contrast, &s.client_groups, c) } else { 0.0 };
                let g = g + if with_pairs { mean(&paired, &twice, c) } else { 0.0 };
                assert!((out[2 * c] - before[2 * c] - l).abs() < 1e-12 && (out[2 * c + 1] - before[2 * c + 1] - g).abs() < 1e-12);
            }
        }
    }
}
