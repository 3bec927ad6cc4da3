//! Gradients of whole models: every weight of `Model::train` against autograd of the whole objective.

use std::cell::RefCell;

use candle_core::{Result, Tensor};
use lumos::backend::cpu::{Worker, WorkerShape};
use lumos::backend::{Backend, RowKind, Step, TableRow};
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{Backbone, Contrast, LocalSettings, LossSettings, ModelSettings, Pool, RecLoss, Residual};
use lumos::model::{Model, ModelSpec};

use crate::check::{ClientShape, Input, Outs, accept, client_step, evaluate, normal, pack, poison, stream};
use crate::reference::{Masks, Named, objective};

/// Weights of a model as inputs of the reference: the slab's tensors, then the item rows.
fn inputs(spec: &ModelSpec, dense: &[f32], rows: &[f32]) -> Vec<Input> {
    let mut all: Vec<Input> = spec.params.iter().map(|p| Input::new(&dense[p.offset..][..p.len()], &p.shape)).collect();
    all.push(Input::new(rows, &[rows.len() / spec.dim(), spec.dim()]));
    all
}

/// The inputs by name.
pub fn named(spec: &ModelSpec, tensors: &[Tensor]) -> Named {
    let names = spec.params.iter().map(|p| p.name.clone()).chain(["items".to_string()]);
    names.zip(tensors.iter().cloned()).collect()
}

/// Random weights at which no gradient is tiny: gains around one, biases away from zero.
pub fn random_dense(s: &mut Stream, spec: &ModelSpec) -> Vec<f32> {
    let mut dense = Vec::with_capacity(spec.dense_len);
    for p in &spec.params {
        let (centre, std) = match p.shape.len() {
            2 if p.name == "positions" => (0.0, 0.5),
            2 => (0.0, 1.0 / (p.shape[0] as f32).sqrt()),
            _ if p.name.ends_with(".g") => (1.0, 0.2),
            _ => (0.0, 0.3),
        };
        dense.extend(normal(s, std, p.len()).iter().map(|x| x + centre));
    }
    dense
}

pub fn new_worker(spec: &ModelSpec, dense: &[f32], rows: &[f32]) -> Worker {
    let d = spec.dim();
    let mut w = Worker::new(WorkerShape::new(spec));
    w.begin_visit(dense, rows.len() / d);
    for (i, row) in rows.chunks_exact(d).enumerate() {
        w.row_mut(i).copy_from_slice(row);
    }
    w
}

/// The worker's masks, as factors on every token; rows that are not outputs are never used where the mask has output rows.
fn masks_of(w: &RefCell<Worker>, step: &Step, last: std::ops::Range<u32>, rate: f32) -> impl Fn(u32, usize) -> Result<Tensor> {
    move |site, width| {
        let mut w = w.borrow_mut();
        let rows = if last.contains(&site) { RowKind::Outputs } else { RowKind::Tokens };
        w.begin_pass();
        let a = w.act(rows, width);
        w.values_mut(a).fill(1.0);
        w.dropout(site, rate, a);
        let mut all = vec![1f32; step.tokens() * width];
        let tokens = if rows == RowKind::Tokens { &step.token } else { &step.out_token };
        for (r, &t) in tokens.iter().enumerate() {
            all[t as usize * width..][..width].copy_from_slice(&w.values(a)[r * width..][..width]);
        }
        Tensor::from_vec(all, (step.tokens(), width), &candle_core::Device::Cpu)
    }
}

/// The mask of the whole item table `[R, d]`, read through the embedding of one sequence that holds every row.
fn item_mask(spec: &ModelSpec, rows: usize, rate: f32, dropout: Option<Stream>) -> Tensor {
    let d = spec.dim();
    let mut w = new_worker(spec, &vec![0.0; spec.dense_len], &vec![1.0; rows * d]);
    w.step.clear();
    w.step.push_sequence((0..rows as u32).map(TableRow));
    w.step.end_client();
    w.begin_step(&LocalSettings::default(), 2, 5, false, dropout);
    w.drop_items(rate);
    let mask = w.act(RowKind::Tokens, d);
    w.embed(1.0, None, mask);
    Tensor::from_slice(w.values(mask), (rows, d), &candle_core::Device::Cpu).unwrap()
}

fn check(case: u64, model: &ModelSettings, loss: &LossSettings, shape: &ClientShape) {
    let what = format!(
        "{} d {} blocks {} heads {} ffn {} dropout {} items {} {} {} cf {} histories {:?}",
        model.backbone.name(),
        model.dim,
        model.blocks,
        model.heads,
        model.ffn,
        model.dropout,
        model.item_dropout,
        loss.rec.name(),
        loss.contrast.name(),
        shape.counterfactuals,
        shape.histories
    );
    let mut s = stream(case);
    let spec = ModelSpec::new(model);
    let step = client_step(&mut s, shape);
    let dense = random_dense(&mut s, &spec);
    let rows = normal(&mut s, 1.0 / (spec.dim() as f32).sqrt(), shape.rows * spec.dim());
    let mut w = new_worker(&spec, &dense, &rows);
    w.step = step.clone();
    poison(&mut w);
    let dropout = (model.dropout.max(model.item_dropout) > 0.0).then(|| Stream::new(case, Purpose::Dropout, 3, 4));
    let item_mask = item_mask(&spec, shape.rows, model.item_dropout, dropout.clone());
    if model.item_dropout > 0.0 && shape.rows * spec.dim() > 64 {
        let kept = item_mask.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let zeros = kept.iter().filter(|&&x| x == 0.0).count();
        assert!(zeros > 0 && zeros < kept.len(), "{zeros} of {} dropped", kept.len());
    }
    w.begin_step(&LocalSettings::default(), 2, 5, false, dropout);
    Model::new(&spec).train(&mut w, loss);

    let (rec, tri) = w.losses();
    let value = [(rec + f64::from(loss.lambda) * tri) as f32];
    let (dense_g, row_g) = (w.dense_gradient().to_vec(), w.row_gradient().to_vec());
    let w = RefCell::new(w);
    let last = 1 + 3 * (model.blocks - 1)..1 + 3 * model.blocks;
    let masks = masks_of(&w, &step, last, model.dropout);
    let masks: Masks = if model.dropout > 0.0 { Some(&masks) } else { None };
    let given = inputs(&spec, &dense, &rows);
    let f = |t: &[Tensor]| {
        let (items, others) = t.split_last().expect("the item rows come last");
        let items = (items * item_mask.to_dtype(items.dtype())?)?;
        objective(&named(&spec, &[others, &[items]].concat()), model, loss, &step, masks)
    };
    let exact = evaluate(candle_core::DType::F64, &given, &[1.0], &f).unwrap();
    let single = evaluate(candle_core::DType::F32, &given, &[1.0], &f).unwrap();

    accept(&format!("{what}: loss"), &value, &exact[0], &single[0], 1e-6);
    // A tensor whose gradient vanishes by symmetry (a key's bias) is held against the model's largest gradient.
    let largest = exact[1..].iter().flatten().fold(0f64, |m, x| m.max(x.abs()));
    for (i, p) in spec.params.iter().enumerate() {
        // Position rows past the longest sequence are not written.
        let n = if p.name == "positions" { step.longest * spec.dim() } else { p.len() };
        accept(&format!("{what}: {}", p.name), &dense_g[p.offset..][..n], &exact[i + 1][..n], &single[i + 1][..n], 1e-7 * largest);
    }
    let at = exact.len() - 1;
    accept(&format!("{what}: item rows"), &row_g, &exact[at], &single[at], 1e-12);
}

fn model(backbone: Backbone, dim: u32, blocks: u32, heads: u32, ffn: u32, dropout: f32) -> ModelSettings {
    ModelSettings {
        backbone,
        dim,
        blocks,
        heads,
        ffn,
        dropout,
        max_len: 40,
        scale_items: dim.is_multiple_of(2),
        ..ModelSettings::default()
    }
}

fn losses(i: usize) -> LossSettings {
    let rec = [RecLoss::Bce, RecLoss::SampledSoftmax, RecLoss::Gbce, RecLoss::Softmax][i % 4];
    let contrast = [Contrast::Joint, Contrast::Decoupled, Contrast::None][i % 3];
    LossSettings { rec, contrast, lambda: 0.4, tau: [0.07, 0.5, 1.0][i % 3], ..LossSettings::default() }
}

fn clients(i: usize, rec: RecLoss) -> ClientShape {
    let histories: &[&[usize]] = &[&[1], &[5], &[13, 1, 7], &[2, 2], &[31], &[1, 1, 1, 1, 1]];
    ClientShape {
        histories: histories[i % histories.len()].to_vec(),
        rows: [3, 17, 40][i % 3],
        positives: 1 + (i % 5 != 3) as usize,
        counterfactuals: i % 4,
        negatives: [1, 4, 7][(i / 2) % 3],
        states: false,
        rec,
    }
}

#[test]
fn sasrec_gradients() {
    let shapes = [
        (4, 1, 1, 0),
        (5, 2, 1, 7),
        (7, 1, 7, 3),
        (8, 2, 2, 0),
        (12, 3, 3, 20),
        (17, 1, 1, 0),
        (24, 2, 3, 65),
        (64, 2, 1, 0),
        (65, 1, 5, 33),
    ];
    for (i, &(d, blocks, heads, ffn)) in shapes.iter().enumerate() {
        for j in 0..3 {
            let loss = losses(i + 5 * j);
            let dropout = if j == 2 { 0.3 } else { 0.0 };
            check(
                100 + 10 * i as u64 + j as u64,
                &ModelSettings {
                    residual: if (i + j) % 2 == 1 { Residual::Normed } else { Residual::Input },
                    item_dropout: [0.0, 0.4, 0.25][j],
                    ..model(Backbone::SASREC, d, blocks, heads, ffn, dropout)
                },
                &loss,
                &clients(i + j, loss.rec),
            );
        }
    }
}

#[test]
fn bert4rec_gradients() {
    let shapes = [(4, 1, 1, 0), (5, 2, 1, 7), (8, 2, 2, 0), (12, 3, 3, 20), (17, 1, 1, 33), (64, 2, 1, 0), (65, 1, 5, 0)];
    for (i, &(d, blocks, heads, ffn)) in shapes.iter().enumerate() {
        for j in 0..2 {
            let loss = losses(i + 5 * j);
            let dropout = if j == 1 { 0.3 } else { 0.0 };
            let settings = ModelSettings { item_dropout: dropout, ..model(Backbone::BERT4REC, d, blocks, heads, ffn, dropout) };
            check(500 + 10 * i as u64 + j as u64, &settings, &loss, &clients(i + j, loss.rec));
        }
    }
}

#[test]
fn gru4rec_gradients() {
    for (i, &(d, layers)) in [(4, 1), (5, 2), (7, 1), (8, 3), (12, 2), (17, 1), (24, 1), (64, 1), (65, 2)].iter().enumerate() {
        for j in 0..2 {
            let loss = losses(i + 5 * j);
            let dropout = if j == 1 { 0.2 } else { 0.0 };
            let settings = ModelSettings { item_dropout: 2.0 * dropout, ..model(Backbone::GRU4REC, d, layers, 1, 0, dropout) };
            check(300 + 10 * i as u64 + j as u64, &settings, &loss, &clients(i + j, loss.rec));
        }
    }
}

/// The contrast of means, over steps in which every item of a view is an output.
#[test]
fn gradients_of_means() {
    for (i, backbone) in [Backbone::SASREC, Backbone::GRU4REC].into_iter().enumerate() {
        for j in 0..4 {
            let loss = LossSettings { pool: Pool::Mean, ..losses(3 * i + j) };
            let shape = ClientShape { states: true, ..clients(i + j, loss.rec) };
            check(600 + 10 * i as u64 + j as u64, &model(backbone, [5, 8, 17, 64][j], 1 + j as u32 % 2, 1, 0, 0.0), &loss, &shape);
        }
    }
}

/// 250 histories with three views each: a thousand sequences in one step.
#[test]
fn a_thousand_sequences() {
    for (case, backbone) in [(390, Backbone::SASREC), (391, Backbone::GRU4REC), (392, Backbone::BERT4REC)] {
        let shape = ClientShape {
            histories: (0..250).map(|i| 1 + usize::from(i % 9 == 0)).collect(),
            rows: 23,
            positives: 2,
            counterfactuals: 1,
            negatives: 2,
            states: false,
            rec: RecLoss::Bce,
        };
        check(case, &model(backbone, 5, 1, 1, 3, 0.0), &losses(4), &shape);
    }
}

/// Steps without tokens, or with tokens of which none is an output, have zero gradients and no loss.
#[test]
fn nothing_to_learn() {
    for backbone in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC] {
        for dropout in [0.0, 0.5] {
            let settings = model(backbone, 9, 2, 3, 0, dropout);
            let spec = ModelSpec::new(&settings);
            let mut s = stream(395);
            let (dense, rows) = (random_dense(&mut s, &spec), normal(&mut s, 1.0, 4 * 9));
            for lengths in [&[][..], &[3, 1]] {
                let mut w = new_worker(&spec, &dense, &rows);
                w.step = pack(&mut s, lengths, 4, Outs::Nothing);
                let local = LocalSettings { clip: 1.0, ..LocalSettings::default() };
                w.begin_step(&local, 1, 1, false, Some(Stream::new(1, Purpose::Dropout, 0, 0)));
                Model::new(&spec).train(&mut w, &losses(4));
                assert_eq!(w.losses(), (0.0, 0.0));
                assert!(w.dense_gradient().iter().chain(w.row_gradient()).all(|&g| g == 0.0), "{} {lengths:?}", backbone.name());
                w.end_step(&local, 1, 1);
                assert_eq!(w.dense(), dense);
                assert_eq!((0..4).flat_map(|r| w.row(r).to_vec()).collect::<Vec<_>>(), rows);
            }
        }
    }
}
