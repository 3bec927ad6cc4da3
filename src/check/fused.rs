//! Products of gradients that step on their weights at once, as subjects: gradient descent, whose result has an error that can be bounded. That every
//! optimiser has the bits of the gradient and a step by itself is held by the kernels' own tests.

use super::packed::Placed;
use super::reference::{FIELDS, Field, Real, Reference, field_floats};
use super::single::{Given, cost, int, value};
use super::subject::{Array, Output, Subject, Want};
use crate::backend::cuda::kernels::LinearStep;
use crate::backend::cuda::optimiser::{DropoutClock, OptimiserStep};
use crate::backend::{Backend, RowKind};
use crate::config::{LocalOptimizer, LocalSettings, Precision};
use crate::device::launch::Pointer;

const RATE: f32 = 0.25;

/// A square layer over the tokens of a case, at a place of its slab that is off 16 bytes or not.
struct Layer<'a, 'p> {
    placed: &'a Placed<'p>,
    precision: Precision,
    at: usize,
}

impl Layer<'_, '_> {
    fn d(&self) -> usize {
        self.placed.case.d
    }

    /// Weights of a slab.
    fn slab(&self) -> usize {
        (self.at + self.d() * self.d() + self.d() + 3).next_multiple_of(4)
    }

    /// Inputs `[T, d]`, slopes `[T, d]` and gradients `[C, slab]`, zero beside the layer.
    fn gradients<R: Real>(&self) -> [Vec<R>; 3] {
        let (case, d, n) = (self.placed.case, self.d(), self.placed.normals());
        let mut fields: Vec<Vec<f32>> = field_floats(case, self.slab()).iter().map(|&floats| vec![0.0; floats]).collect();
        debug_assert_eq!(fields.len(), FIELDS.len());
        fields[Field::Arena as usize].clear();
        let arena_of = |i: usize| n.at(90, i);
        let mut plain = Reference::<R>::new(case, self.slab(), self.precision, DropoutClock::default(), &fields, &arena_of);
        let [x, dy] = [0, 1].map(|_| plain.act(RowKind::Tokens, d));
        plain.linear_backward(x, dy, self.at, self.at + d * d, None, false);
        let of = |act| plain.fields[Field::Arena as usize][plain.range(act)].to_vec();
        [of(x), of(dy), plain.fields[Field::DenseGrad as usize].clone()]
    }

    /// Weights after the step on those of the layer, and gradients of its bias, for clients with tokens; the others' biases have none.
    fn after<R: Real>(&self, p: &[f32]) -> [Vec<R>; 2] {
        let (d, slab) = (self.d(), self.slab());
        let [_, _, g] = self.gradients::<R>();
        let weights = self.at..self.at + d * d;
        let step = |(i, (&p, &g)): (usize, (&f32, &R))| {
            let p = R::of(f64::from(p));
            if weights.contains(&(i % slab)) { p - R::of(f64::from(RATE)) * g } else { p }
        };
        [p.iter().zip(&g).enumerate().map(step).collect(), g]
    }

    fn subject<'s>(&self, judged: bool) -> Subject<'s> {
        let (case, d, slab) = (self.placed.case, self.d(), self.slab());
        let p = self.placed.normals().take(91, case.clients() * slab, 0.3);
        let settings = LocalSettings { optimizer: LocalOptimizer::Sgd, lr: RATE, ..LocalSettings::default() };
        let bias = |c: usize| c * slab + self.at + d * d..c * slab + self.at + d * d + d;
        let tokens = &case.step().client_tokens;
        let (mut weights, mut biases) = (Want::Any, Vec::new());
        let (x, dy) = if judged {
            let [x, dy, _] = self.gradients::<f32>();
            let [plain, plain_grad] = self.after::<f32>(&p);
            let [exact, exact_grad] = self.after::<f64>(&p);
            weights = Want::Near { plain, exact };
            biases.extend((0..case.clients()).filter(|&c| tokens[c] < tokens[c + 1]).map(|c| {
                let want = Want::Near { plain: plain_grad[bias(c)].to_vec(), exact: exact_grad[bias(c)].to_vec() };
                Output { what: "gradients of the bias", array: 2, words: bias(c), want }
            }));
            (x, dy)
        } else {
            let n = self.placed.normals();
            (n.take(92, case.step().tokens() * d, 1.0), n.take(93, case.step().tokens() * d, 1.0))
        };
        let arrays = vec![
            Array::of("inputs", &x),
            Array::of("slopes", &dy),
            Array::of("gradients", &vec![7f32; p.len()]),
            value("step of the optimiser", &OptimiserStep::new(&settings, 1)),
            Array::of("weights", &p),
        ];
        let mut outputs = vec![Output { what: "weights", array: 4, words: 0..p.len(), want: weights }];
        outputs.extend(biases);
        let (t, c) = (case.step().tokens(), case.clients());
        let mut work = cost(2 * t * d + c * (2 * d + 1) * d, (2 * t * (d + 1) * d + 2 * c * d * d) as f64);
        work.precision = self.precision;
        let given = Given { case: format!("{}, d {d}, at {}", case.name, self.at), arrays, outputs, cost: work };
        let tiles = d.div_ceil(64).pow(2);
        let (step, w, b) = (Pointer::from(self.placed.chunk.table()), int(self.at), int(self.at + d * d));
        given.under(self.precision as usize, [c, tiles], move |at| LinearStep {
            step,
            kind: 0,
            x: at[0],
            r#in: int(d),
            dy: at[1],
            out: int(d),
            grad: at[2],
            opt: at[3],
            p: at[4],
            m: Pointer::NULL,
            s: Pointer::NULL,
            global: Pointer::NULL,
            stride: slab as i64,
            w,
            b,
        })
    }
}

/// `linear_step` in every precision.
pub fn subjects<'a>(placed: &'a Placed) -> Vec<Subject<'a>> {
    let mut all = Vec::new();
    for precision in [Precision::Fp32, Precision::Tf32, Precision::Bf16] {
        for at in [4, 3] {
            all.push(Layer { placed, precision, at }.subject(true));
        }
    }
    all
}

/// What is timed: every precision.
pub fn timed<'a>(placed: &'a Placed) -> Vec<Subject<'a>> {
    [Precision::Fp32, Precision::Tf32, Precision::Bf16].map(|precision| Layer { placed, precision, at: 4 }.subject(false)).into()
}
