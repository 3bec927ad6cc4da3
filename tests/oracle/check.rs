//! Random inputs, packed steps, a worker to run single operations on, and the rule by which results are accepted.

use candle_core::{DType, Device, Result, Tensor, Var};
use lumos::backend::cpu::{Worker, WorkerShape};
use lumos::backend::{Act, Backend, RowKind, Step, TableRow};
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{LocalSettings, RecLoss};

/// Widths that are multiples of the vector and not, smaller and larger than it, and three drawn at random.
pub fn widths() -> Vec<usize> {
    let mut s = shapes(1);
    [4, 5, 7, 8, 12, 17, 24, 64, 65].into_iter().chain((0..3).map(|_| 1 + s.below(80) as usize)).collect()
}

/// Sequence lengths of packed steps: one token, ones among longer ones, primes, many, and two drawn at random.
pub fn packs() -> Vec<Vec<usize>> {
    let mut s = shapes(2);
    let fixed: [&[usize]; 5] = [&[1], &[1, 1, 1], &[13], &[7, 1, 11, 2, 3], &[5, 19, 1, 1, 31, 4]];
    let drawn = (0..2).map(|_| {
        let n = 1 + s.below(9);
        (0..n).map(|_| 1 + s.below(24) as usize).collect()
    });
    fixed.iter().map(|p| p.to_vec()).chain(drawn).collect()
}

/// Where random shapes come from: other ones with another `LUMOS_ORACLE_SEED`. A failure names the shape.
pub fn shapes(what: u64) -> Stream {
    let seed = std::env::var("LUMOS_ORACLE_SEED").map_or(1, |s| s.parse().expect("LUMOS_ORACLE_SEED is a whole number"));
    Stream::new(seed, Purpose::Bench, what, 1)
}

pub fn stream(case: u64) -> Stream {
    Stream::new(20_261_123, Purpose::Bench, case, 0)
}

/// A tensor that both sides read.
#[derive(Clone)]
pub struct Input {
    pub values: Vec<f32>,
    pub shape: Vec<usize>,
}

impl Input {
    pub fn new(values: &[f32], shape: &[usize]) -> Input {
        assert_eq!(values.len(), shape.iter().product::<usize>());
        Input { values: values.to_vec(), shape: shape.to_vec() }
    }

    pub fn normal(stream: &mut Stream, std: f32, shape: &[usize]) -> Input {
        Input { values: normal(stream, std, shape.iter().product()), shape: shape.to_vec() }
    }
}

pub fn normal(stream: &mut Stream, std: f32, n: usize) -> Vec<f32> {
    (0..n).map(|_| stream.normal() * std).collect()
}

pub fn tensor(values: &[f32], shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(values.to_vec(), shape, &Device::Cpu)?.to_dtype(dtype)
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The value of `f` and, from the upstream gradient `up`, the gradient of each input.
pub fn evaluate(dtype: DType, inputs: &[Input], up: &[f32], f: &dyn Fn(&[Tensor]) -> Result<Tensor>) -> Result<Vec<Vec<f64>>> {
    let wide = |i: &Input| (i.values.iter().map(|&x| f64::from(x)).collect(), i.shape.clone());
    evaluate_wide(dtype, inputs.iter().map(wide).collect(), up, f)
}

/// [`evaluate`] on f64 inputs with their shapes.
pub fn evaluate_wide(
    dtype: DType,
    inputs: Vec<(Vec<f64>, Vec<usize>)>,
    up: &[f32],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Vec<f64>>> {
    let var = |(values, shape): (Vec<f64>, Vec<usize>)| Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?);
    let vars = inputs.into_iter().map(var).collect::<Result<Vec<_>>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors)?;
    let grads = (&y * tensor(up, y.dims(), dtype)?)?.sum_all()?.backward()?;
    let mut out = vec![numbers(&y)?];
    for v in &vars {
        out.push(match grads.get(v) {
            Some(g) => numbers(g)?,
            None => vec![0.0; v.elem_count()],
        });
    }
    Ok(out)
}

fn worst(a: &[f64], b: &[f64]) -> f64 {
    // NaN must not pass for a small error.
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |m, e| if e <= m { m } else { e })
}

/// Holds `ours` against the f64 reference: at most four times the error of candle's f32, plus 1e-6 of the largest number, plus
/// `floor`.
pub fn accept(what: &str, ours: &[f32], exact: &[f64], single: &[f64], floor: f64) {
    assert_eq!(ours.len(), exact.len(), "{what}: sizes differ");
    let ours: Vec<f64> = ours.iter().map(|&x| f64::from(x)).collect();
    let scale = exact.iter().fold(0f64, |m, x| m.max(x.abs()));
    let (error, plain) = (worst(&ours, exact), worst(single, exact));
    let bound = 4.0 * plain + 1e-6 * scale + floor;
    if error.is_nan() || error > bound {
        let at = (0..ours.len()).find(|&i| (ours[i] - exact[i]).abs() >= error || ours[i].is_nan()).unwrap_or(0);
        panic!(
            "{what}: error {error:.3e} above {bound:.3e} (candle in f32 {plain:.3e}, largest number {scale:.3e}); element {at} of {}: {} instead of {}",
            ours.len(),
            ours[at],
            exact[at]
        );
    }
}

/// Holds a value (first of `ours`) and gradients of the leading inputs (the others) against the reference `f`.
pub fn hold(what: &str, ours: &[(&str, &[f32])], inputs: &[Input], up: &[f32], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let exact = evaluate(DType::F64, inputs, up, &f).unwrap();
    let single = evaluate(DType::F32, inputs, up, &f).unwrap();
    for (i, (name, values)) in ours.iter().enumerate() {
        accept(&format!("{what}: {name}"), values, &exact[i], &single[i], 1e-12);
    }
}

/// Which tokens are outputs.
#[derive(Clone, Copy, PartialEq)]
pub enum Outs {
    /// Every token of the first sequence, the last of the others.
    History,
    /// None.
    Nothing,
}

/// A packed step of sequences over `rows` item rows.
pub fn pack(stream: &mut Stream, lengths: &[usize], rows: usize, outs: Outs) -> Step {
    let mut step = Step::default();
    step.clear();
    step.width = 1;
    step.positive_weight = 1.0;
    for (s, &n) in lengths.iter().enumerate() {
        let first = step.push_sequence((0..n).map(|_| TableRow(stream.below(rows as u64) as u32)));
        if outs == Outs::History {
            let from = if s == 0 { 0 } else { n - 1 };
            for i in from..n {
                step.push_output(first + i as u32);
            }
        }
    }
    step.end_client();
    step
}

/// One participant's whole objective.
pub struct ClientShape {
    /// Length of each history.
    pub histories: Vec<usize>,
    /// Item rows of the participant.
    pub rows: usize,
    /// Positive views (1 or 2).
    pub positives: usize,
    /// Counterfactuals.
    pub counterfactuals: usize,
    /// Negatives an example; duplicates are likely where rows are few.
    pub negatives: usize,
    /// Whether every item of a view is an output, not its last alone.
    pub states: bool,
    /// Next-item loss.
    pub rec: RecLoss,
}

/// Packs histories with their examples, views and contrast groups.
pub fn client_step(stream: &mut Stream, shape: &ClientShape) -> Step {
    let mut step = Step::default();
    step.clear();
    step.width = if shape.rec == RecLoss::Softmax { 1 } else { 1 + shape.negatives };
    step.positive_weight = if shape.rec == RecLoss::Gbce { 0.37 } else { 1.0 };
    let draw = |s: &mut Stream| TableRow(s.below(shape.rows as u64) as u32);
    for &n in &shape.histories {
        let first = step.push_sequence((0..n).map(|_| draw(stream)));
        let mut anchor = 0;
        for t in 0..n {
            anchor = step.push_output(first + t as u32);
            step.example.push(anchor);
            for _ in 0..step.width {
                step.cands.push(draw(stream));
            }
        }
        let mut members = Vec::new();
        for view in 0..shape.positives + shape.counterfactuals {
            let m = if view == 0 { n + 3 } else { n };
            let first = step.push_sequence((0..m).map(|_| draw(stream)));
            let from = if shape.states { 0 } else { m as u32 - 1 };
            members.push((from..m as u32).fold(0, |_, i| step.push_output(first + i)));
        }
        step.push_group(anchor, &members[..shape.positives], &members[shape.positives..]);
    }
    step.end_client();
    step
}

pub fn plain_local() -> LocalSettings {
    LocalSettings { clip: 0.0, weight_decay: 0.0, ..LocalSettings::default() }
}

/// A worker with weights and a step, ready for single operations; its arena is full of NaN, so that a read of something
/// that no operation wrote shows.
pub fn worker(d: usize, dense: &[f32], positions: Option<(usize, usize)>, items: &[f32], step: Step) -> Worker {
    let mut w = Worker::new(WorkerShape { dim: d, dense_len: dense.len(), fused: vec![], plain: vec![], positions });
    w.begin_visit(dense, items.len() / d);
    for (i, row) in items.chunks_exact(d).enumerate() {
        w.row_mut(i).copy_from_slice(row);
    }
    w.step = step;
    poison(&mut w);
    w.begin_step(&plain_local(), 1, 1, false, None);
    w
}

/// Fills the arena with NaN.
pub fn poison(w: &mut Worker) {
    w.begin_pass();
    if w.step.tokens() > 0 {
        let width = (400_000 / w.step.tokens()).max(1);
        let a = w.act(RowKind::Tokens, width);
        w.values_mut(a).fill(f32::NAN);
    }
    w.begin_pass();
}

/// An activation with given values.
pub fn load(w: &mut Worker, rows: RowKind, width: usize, values: &[f32]) -> Act {
    let a = w.act(rows, width);
    w.values_mut(a).copy_from_slice(values);
    a
}

/// An activation full of NaN.
pub fn fresh(w: &mut Worker, rows: RowKind, width: usize) -> Act {
    let a = w.act(rows, width);
    w.values_mut(a).fill(f32::NAN);
    a
}
