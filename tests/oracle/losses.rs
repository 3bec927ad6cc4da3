//! Next-item losses and the tri-view contrast.

use candle_core::Tensor;
use lumos::backend::{Backend, RowKind, Step, TableRow};
use lumos::config::{Contrast, LossSettings, RecLoss};

use crate::check::{Input, Outs, accept, evaluate, load, normal, pack, stream, widths, worker};
use crate::reference::{info_nce, next_item};

fn flat(t: &Tensor) -> candle_core::Result<Tensor> {
    t.flatten_all()
}

fn next_item_case(case: u64, rec: RecLoss, d: usize, outputs: usize, examples: usize, negatives: usize, rows: usize, spread: f32) {
    weighted_case(case, rec, d, outputs, examples, &[], negatives, rows, spread);
}

/// Every `weights.len()` examples one that is no training position, with a weight of its own.
#[allow(clippy::too_many_arguments)]
fn weighted_case(
    case: u64,
    rec: RecLoss,
    d: usize,
    outputs: usize,
    examples: usize,
    weights: &[f32],
    negatives: usize,
    rows: usize,
    spread: f32,
) {
    loss_case(case, rec, d, (outputs, examples), weights, (negatives, rows), (spread, false));
}

/// `shared`: all examples have the negatives of the first.
fn loss_case(
    case: u64,
    rec: RecLoss,
    d: usize,
    (outputs, examples): (usize, usize),
    weights: &[f32],
    (negatives, rows): (usize, usize),
    (spread, shared): (f32, bool),
) {
    let mut s = stream(case);
    let mut step = pack(&mut s, &vec![1; outputs], rows, Outs::Nothing);
    for t in 0..outputs as u32 {
        step.push_output(t);
    }
    step.width = if rec == RecLoss::Softmax { 1 } else { 1 + negatives };
    // Label smoothing in every other case.
    step.positive_weight = match rec {
        RecLoss::Gbce => 0.21,
        RecLoss::SampledSoftmax if case.is_multiple_of(2) => 0.85,
        _ => 1.0,
    };
    step.end_client();
    for e in 0..examples {
        // Several examples may share a hidden row, and candidates repeat.
        let output = s.below(outputs as u64) as u32;
        match weights.get(e % 5) {
            Some(&weight) => step.push_weighted(output, weight),
            None => step.push_example(output),
        }
        let own = if shared && e > 0 { 1 } else { step.width };
        step.cands.extend((0..own).map(|_| TableRow(s.below(rows as u64) as u32)));
        if own < step.width {
            step.cands.extend_from_within(1..step.width);
        }
    }
    // Every third case takes something off the scores.
    if case.is_multiple_of(3) && rec != RecLoss::Softmax {
        step.offset = normal(&mut s, 1.5, examples * step.width);
    }
    step.end_client();
    if !weights.is_empty() {
        let own = (0..examples).filter(|e| e % 5 < weights.len()).count();
        let ordinary = step.share.iter().filter(|&&share| share == 1.0 / (examples - own).max(1) as f32).count();
        assert_eq!((step.weighted as usize, ordinary), (own, examples - own));
    }
    let h = Input::normal(&mut s, spread, &[outputs, d]);
    let items = Input::normal(&mut s, 1.0, &[rows, d]);
    let base = normal(&mut s, 0.1, outputs * d);
    let mut w = worker(d, &[], None, &items.values, step.clone());
    let ha = load(&mut w, RowKind::Outputs, d, &h.values);
    let dh = load(&mut w, RowKind::Outputs, d, &base);
    w.next_item_loss(&LossSettings { rec, ..LossSettings::default() }, ha, dh);
    let what = format!("{} d {d} outputs {outputs} examples {examples} weights {weights:?} negatives {negatives} rows {rows}", rec.name());
    let up = [&[1.0], base.as_slice()].concat();
    let f = |t: &[Tensor]| Tensor::cat(&[&flat(&next_item(rec, &t[0], &t[1], &step)?)?, &flat(&t[0])?], 0);
    let (exact, single) = both(&[h, items], &up, &f);
    accept(&format!("{what}: loss"), &[w.losses().0 as f32], &exact[0][..1], &single[0][..1], 1e-7);
    // A probability close to one is known to a unit in its last place, and that times a row is what a gradient can miss.
    let unit = f64::from(f32::EPSILON) * f64::from(spread.max(1.0)) * 4.0 / examples as f64;
    accept(&format!("{what}: dh"), w.values(dh), &exact[1], &single[1], unit);
    accept(&format!("{what}: rows"), w.row_gradient(), &exact[2], &single[2], unit);
}

type Numbers = Vec<Vec<f64>>;

fn both(inputs: &[Input], up: &[f32], f: &dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>) -> (Numbers, Numbers) {
    let at = |dtype| evaluate(dtype, inputs, up, f).unwrap();
    (at(candle_core::DType::F64), at(candle_core::DType::F32))
}

const KINDS: [RecLoss; 4] = [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax];

#[test]
fn next_item_losses() {
    for (k, &rec) in KINDS.iter().enumerate() {
        for (i, &d) in widths().iter().enumerate() {
            let case = 8000 + (100 * k + 10 * i) as u64;
            next_item_case(case, rec, d, 1, 1, 1, 2, 1.0);
            next_item_case(case + 1, rec, d, 5, 13, 3, 4, 1.0);
            next_item_case(case + 2, rec, d, 31, 29, 8, 53, 0.3);
            next_item_case(case + 3, rec, d, 7, 6, 16, 19, 1.0);
        }
        // More negatives than there are rows, and more examples than a chunk of the full softmax.
        next_item_case(8900 + k as u64, rec, 17, 40, 41, 256, 300, 1.0);
    }
}

/// More items than are read together, more examples than are under way together, widths that vectors divide and one that they do not: the
/// plain loss, and the same bits by any number of threads.
#[test]
fn a_large_catalogue() {
    for (case, d) in [(8950, 64), (8951, 20)] {
        next_item_case(case, RecLoss::Softmax, d, 190, 203, 1, 1100, 0.5);
        let (outputs, examples, rows) = (190, 203, 1100);
        let mut s = stream(case + 10);
        let mut step = pack(&mut s, &vec![1; outputs], rows, Outs::Nothing);
        for t in 0..outputs as u32 {
            step.push_output(t);
        }
        step.width = 1;
        step.end_client();
        for _ in 0..examples {
            step.push_example(s.below(outputs as u64) as u32);
            step.cands.push(TableRow(s.below(rows as u64) as u32));
        }
        step.end_client();
        let (h, items) = (normal(&mut s, 1.0, outputs * d), normal(&mut s, 1.0, rows * d));
        let by = |threads: usize| {
            let mut w = worker(d, &[], None, &items, step.clone());
            w.set_threads(threads);
            let (ha, dh) = (load(&mut w, RowKind::Outputs, d, &h), load(&mut w, RowKind::Outputs, d, &vec![0.0; outputs * d]));
            w.next_item_loss(&LossSettings { rec: RecLoss::Softmax, ..LossSettings::default() }, ha, dh);
            let numbers = w.values(dh).iter().chain(w.row_gradient()).map(|v| v.to_bits()).collect::<Vec<u32>>();
            (w.losses().0.to_bits(), numbers)
        };
        let one = by(1);
        assert!((2..=5).all(|threads| by(threads) == one), "d {d}");
    }
}

/// Examples beside the training positions, each with a weight, some of them alone.
#[test]
fn weighted_examples() {
    for (k, &rec) in KINDS[..3].iter().enumerate() {
        for (i, &d) in widths().iter().enumerate() {
            let case = 8400 + (100 * k + 10 * i) as u64;
            weighted_case(case, rec, d, 1, 1, &[0.3], 1, 2, 1.0);
            weighted_case(case + 1, rec, d, 5, 13, &[0.1, 2.5], 3, 4, 1.0);
            weighted_case(case + 2, rec, d, 31, 29, &[0.02], 8, 53, 0.3);
        }
    }
}

/// Negatives that all examples share, some of them twice and some of them a positive.
#[test]
fn shared_negatives() {
    for (k, &rec) in KINDS[..3].iter().enumerate() {
        for (i, &d) in widths().iter().enumerate() {
            let case = 8600 + (100 * k + 10 * i) as u64;
            loss_case(case, rec, d, (5, 2), &[], (8, 11), (1.0, true));
            loss_case(case + 1, rec, d, (6, 13), &[], (19, 12), (1.0, true));
            loss_case(case + 2, rec, d, (31, 29), &[0.02, 1.5], (64, 153), (0.3, true));
        }
        loss_case(8990 + k as u64, rec, 17, (40, 41), &[], (256, 300), (1.0, true));
    }
}

/// Scores far out on both sides: nothing overflows and small probabilities keep their digits.
#[test]
fn large_scores() {
    for (k, &rec) in KINDS.iter().enumerate() {
        next_item_case(8950 + k as u64, rec, 64, 9, 11, 5, 23, 6.0);
    }
}

#[test]
fn no_examples_no_loss() {
    let mut s = stream(8990);
    let mut step = pack(&mut s, &[2], 3, Outs::History);
    step.width = 2;
    let mut w = worker(5, &[], None, &normal(&mut s, 1.0, 15), step);
    let h = load(&mut w, RowKind::Outputs, 5, &[0.3; 10]);
    let dh = load(&mut w, RowKind::Outputs, 5, &[0.5; 10]);
    for rec in KINDS {
        w.next_item_loss(&LossSettings { rec, ..LossSettings::default() }, h, dh);
        w.info_nce(&LossSettings::default(), h, dh);
    }
    assert_eq!(w.losses(), (0.0, 0.0));
    assert_eq!(w.values(dh), [0.5; 10]);
    assert_eq!(w.row_gradient(), [0.0; 15]);
}

/// Groups of `1 + positives[g] + counterfactuals` hidden rows in shuffled order.
fn groups(case: u64, shape: &[(usize, usize)]) -> Step {
    let mut s = stream(case);
    let count = shape.iter().map(|(p, c)| 1 + p + c).sum::<usize>();
    let mut step = pack(&mut s, &vec![1; count], 3, Outs::History);
    let mut order: Vec<u32> = (0..count as u32).collect();
    s.shuffle(&mut order);
    for &(p, c) in shape {
        let members: Vec<u32> = order.drain(..1 + p + c).collect();
        step.push_group(members[0], &members[1..=p], &members[p + 1..]);
    }
    step
}

fn contrast_case(case: u64, form: Contrast, d: usize, tau: f32, shape: &[(usize, usize)], near: f32) {
    let step = groups(case, shape);
    let mut s = stream(case + 1_000_000);
    // `near` below 1 makes all rows alike: cosines close to one.
    let common = normal(&mut s, 1.0, d);
    let own = normal(&mut s, 1.0, step.outputs() * d);
    let values: Vec<f32> = own.iter().enumerate().map(|(i, x)| near * x + (1.0 - near) * common[i % d]).collect();
    let h = Input::new(&values, &[step.outputs(), d]);
    let base = normal(&mut s, 0.01, values.len());
    let loss = LossSettings { contrast: form, tau, lambda: 0.7, ..LossSettings::default() };
    let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step.clone());
    let ha = load(&mut w, RowKind::Outputs, d, &h.values);
    let dh = load(&mut w, RowKind::Outputs, d, &base);
    w.info_nce(&loss, ha, dh);
    let what = format!("{} d {d} tau {tau} groups {shape:?} near {near}", form.name());
    let up = [&[1.0], base.as_slice()].concat();
    let f = |t: &[Tensor]| {
        let value = (info_nce(form, tau, &t[0], &step)? * f64::from(loss.lambda))?;
        Tensor::cat(&[&flat(&value)?, &flat(&t[0])?], 0)
    };
    let (exact, single) = both(&[h], &up, &f);
    // A cosine is known to about one unit in the last place, and the loss divides it by tau.
    accept(
        &format!("{what}: loss"),
        &[(w.losses().1 * f64::from(loss.lambda)) as f32],
        &exact[0][..1],
        &single[0][..1],
        2e-7 / f64::from(tau),
    );
    accept(&format!("{what}: dh"), w.values(dh), &exact[1], &single[1], 1e-12);
}

#[test]
fn contrast_of_views() {
    let shapes: [&[(usize, usize)]; 8] =
        [&[(2, 1)], &[(2, 0)], &[(1, 1)], &[(1, 3)], &[(2, 3)], &[(2, 1), (2, 1), (1, 2), (2, 0), (1, 0)], &[(2, 2); 17], &[(1, 0)]];
    for (f, form) in [Contrast::Joint, Contrast::Decoupled, Contrast::None].into_iter().enumerate() {
        for (i, &d) in widths().iter().enumerate() {
            for (j, shape) in shapes.iter().enumerate() {
                let case = 9000 + (1000 * f + 100 * i + j) as u64;
                let tau = [0.07, 0.2, 0.5, 1.0][(i + j) % 4];
                contrast_case(case, form, d, tau, shape, if j % 3 == 2 { 0.1 } else { 1.0 });
            }
        }
    }
}

/// With two positives and no counterfactual the joint loss has its floor at 2 ln 2, the decoupled one at 0.
#[test]
fn floors() {
    let step = groups(9990, &[(2, 0)]);
    for (form, floor) in [(Contrast::Joint, 2.0 * std::f64::consts::LN_2), (Contrast::Decoupled, 0.0)] {
        let mut w = worker(6, &[], None, &[0.0; 18], step.clone());
        let h = load(&mut w, RowKind::Outputs, 6, &[1.25; 18]);
        let dh = load(&mut w, RowKind::Outputs, 6, &[0.0; 18]);
        w.info_nce(&LossSettings { contrast: form, ..LossSettings::default() }, h, dh);
        assert!((w.losses().1 - floor).abs() < 1e-6, "{}: {}", form.name(), w.losses().1);
        assert!(w.values(dh).iter().all(|g| g.abs() < 1e-6));
    }
}

/// Hidden states of zero have no direction; the gradient must stay finite.
#[test]
fn zero_hidden_states() {
    let step = groups(9991, &[(2, 1)]);
    for form in [Contrast::Joint, Contrast::Decoupled] {
        let mut w = worker(6, &[], None, &[0.0; 18], step.clone());
        let h = load(&mut w, RowKind::Outputs, 6, &[0.0; 24]);
        let dh = load(&mut w, RowKind::Outputs, 6, &[0.0; 24]);
        w.info_nce(&LossSettings { contrast: form, ..LossSettings::default() }, h, dh);
        assert!(w.losses().1.is_finite());
        assert!(w.values(dh).iter().all(|g| g.is_finite()));
    }
}
