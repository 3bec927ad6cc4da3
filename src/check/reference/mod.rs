//! The packed operations as plain loops, in f64 for what is right and in f32 for the error that a plain program would make.
//!
//! Written from the definitions in [`Backend`] and nothing else, without a thought for speed, so that a kernel and its reference do not
//! share a mistake. They stand here, beside the check that a user runs, because they are written over the product's own steps and shapes;
//! the kernels' tests (`kernels/simt`) take them from here. Independent of both are the formulas of `tests/oracle`, which candle
//! differentiates.

mod losses;
mod rank;
mod real;
mod sequence;
mod steps;
mod sums;

pub use rank::{Ranked, rank};
pub use real::{Real, gelu};
pub use steps::{LocalStep, server_step};
pub use sums::{clip_factor, fixed_change, mean, update_norm};

use super::case::Case;
use super::round::rounded;
use crate::backend::cuda::meter::place;
use crate::backend::cuda::optimiser::DropoutClock;
use crate::backend::{Act, Backend, Mask, RowKind, Step};
use crate::base::rng;
use crate::config::{Contrast, InBatchSettings, LossSettings, Precision, RecLoss};
use std::ops::Range;

/// What a step works on, besides the packed arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Activations.
    Arena,
    /// Dense weights `[C, P]`.
    Dense,
    /// Their gradients.
    DenseGrad,
    /// Item rows `[R, d]`.
    Rows,
    /// Their gradients.
    RowGrad,
    /// Item rows after dropout.
    Dropped,
    /// Derivatives by the candidates' logits `[E, width]`.
    Coef,
    /// Next-item losses `[E]`.
    Loss,
    /// Contrasts `[G]`.
    Contrast,
    /// Log partition sums of a full softmax `[E]`.
    Lse,
    /// Losses of paired outputs `[2 N]`.
    Paired,
}

/// All fields, in the order of their numbers.
pub const FIELDS: [(Field, &str); 11] = [
    (Field::Arena, "activations"),
    (Field::Dense, "dense weights"),
    (Field::DenseGrad, "dense gradients"),
    (Field::Rows, "item rows"),
    (Field::RowGrad, "item row gradients"),
    (Field::Dropped, "dropped item rows"),
    (Field::Coef, "candidate derivatives"),
    (Field::Loss, "losses"),
    (Field::Contrast, "contrasts"),
    (Field::Lse, "log partition sums"),
    (Field::Paired, "losses of pairs"),
];

/// Floats of each field but the arena, for clients with `dense` weights each.
pub fn field_floats(case: &Case, dense: usize) -> [usize; FIELDS.len()] {
    let (c, rows, step) = (case.clients(), case.chunk.rows() * case.d, case.step());
    let examples = step.example.len();
    [0, c * dense, c * dense, rows, rows, rows, examples * step.width, examples, step.positives.len(), examples, step.pair.len()]
}

/// A backend of plain loops over numbers `R`.
pub struct Reference<'a, R> {
    case: &'a Case,
    dense: usize,
    precision: Precision,
    clock: DropoutClock,
    top: usize,
    dropping: bool,
    arena_of: &'a dyn Fn(usize) -> f32,
    /// The fields.
    pub fields: Vec<Vec<R>>,
}

impl<'a, R: Real> Reference<'a, R> {
    /// Over fields of these values; the arena grows by `arena_of` as far as activations reach.
    pub fn new(
        case: &'a Case,
        dense: usize,
        precision: Precision,
        clock: DropoutClock,
        fields: &[Vec<f32>],
        arena_of: &'a dyn Fn(usize) -> f32,
    ) -> Self {
        let fields = fields.iter().map(|f| f.iter().map(|&x| R::of(f64::from(x))).collect()).collect();
        Reference { case, dense, precision, clock, top: 0, dropping: false, arena_of, fields }
    }

    fn step(&self) -> &'a Step {
        self.case.step()
    }

    fn d(&self) -> usize {
        self.case.d
    }

    fn get(&self, field: Field) -> &[R] {
        &self.fields[field as usize]
    }

    fn set(&mut self, field: Field) -> &mut [R] {
        &mut self.fields[field as usize]
    }

    /// Item rows as operations read them.
    fn table(&self) -> &[R] {
        self.get(if self.dropping { Field::Dropped } else { Field::Rows })
    }

    fn count(&self, rows: RowKind) -> usize {
        match rows {
            RowKind::Tokens => self.step().tokens(),
            RowKind::Outputs => self.step().outputs(),
        }
    }

    fn bounds(&self, rows: RowKind) -> &'a [u32] {
        match rows {
            RowKind::Tokens => &self.step().client_tokens,
            RowKind::Outputs => &self.step().client_outs,
        }
    }

    /// Rows of client `c`.
    fn own(&self, rows: RowKind, c: usize) -> Range<usize> {
        let b = self.bounds(rows);
        b[c] as usize..b[c + 1] as usize
    }

    /// Where an activation lies in the arena.
    pub fn range(&self, act: Act) -> Range<usize> {
        act.at..act.at + self.count(act.rows) * act.width
    }

    fn values(&self, act: Act) -> &[R] {
        &self.fields[Field::Arena as usize][self.range(act)]
    }

    fn values_mut(&mut self, act: Act) -> &mut [R] {
        let range = self.range(act);
        &mut self.fields[Field::Arena as usize][range]
    }

    /// Row `r` of an activation.
    fn row(&self, act: Act, r: usize) -> &[R] {
        &self.fields[Field::Arena as usize][act.at + r * act.width..][..act.width]
    }

    fn row_mut(&mut self, act: Act, r: usize) -> &mut [R] {
        &mut self.fields[Field::Arena as usize][act.at + r * act.width..][..act.width]
    }

    /// `len` dense weights of client `c` from `at` on.
    fn weight(&self, c: usize, at: usize, len: usize) -> &[R] {
        &self.get(Field::Dense)[c * self.dense + at..][..len]
    }

    fn weight_grad(&mut self, c: usize, at: usize, len: usize) -> &mut [R] {
        let from = c * self.dense + at;
        &mut self.fields[Field::DenseGrad as usize][from..from + len]
    }

    /// A factor of a product as the tensor cores take it.
    fn factor(&self, x: R) -> R {
        match self.precision {
            Precision::Fp32 => x,
            p => R::of(f64::from(rounded(p, x.wide() as f32))),
        }
    }

    fn map(&mut self, x: Act, y: Act, f: impl Fn(R, R) -> R) {
        let from: Vec<R> = self.values(x).to_vec();
        for (y, x) in self.values_mut(y).iter_mut().zip(from) {
            *y = f(x, *y);
        }
    }

    /// Gradients of weight and bias over each client's rows.
    fn linear_weight(&mut self, x: Act, dy: Act, w: usize, b: usize) {
        let (ins, outs) = (x.width, dy.width);
        for c in 0..self.case.clients() {
            let mut grad = vec![R::ZERO; ins * outs + outs];
            let (weights, bias) = grad.split_at_mut(ins * outs);
            for r in self.own(x.rows, c) {
                let slopes: Vec<R> = self.row(dy, r).iter().map(|&g| self.factor(g)).collect();
                for (i, &value) in self.row(x, r).iter().enumerate() {
                    let value = self.factor(value);
                    for (sum, &g) in weights[i * outs..][..outs].iter_mut().zip(&slopes) {
                        *sum += value * g;
                    }
                }
                for (sum, &g) in bias.iter_mut().zip(self.row(dy, r)) {
                    *sum += g;
                }
            }
            self.weight_grad(c, w, ins * outs).copy_from_slice(&grad[..ins * outs]);
            self.weight_grad(c, b, outs).copy_from_slice(&grad[ins * outs..]);
        }
    }

    /// The factor of dropout on element `i` of client `c`, counted from the client's first: sixteen bits of block `i / 8` of the
    /// client's stream.
    fn kept(&self, c: usize, site: u32, i: usize, rate: f32) -> R {
        let (threshold, keep) = rng::dropout_threshold(rate);
        let words =
            rng::philox([(i / 8) as u32, (self.case.number << 8) | site, self.clock.round, self.case.chunk.clients[c]], self.clock.key());
        let bits = (words[i % 8 / 2] >> (16 * (i % 2))) & 0xffff;
        if bits < threshold { R::ZERO } else { R::of(f64::from(keep)) }
    }
}

impl<R: Real> Backend for Reference<'_, R> {
    fn act(&mut self, rows: RowKind, width: usize) -> Act {
        let act = place(&self.case.shape, &mut self.top, rows, width);
        let arena = &mut self.fields[Field::Arena as usize];
        for i in arena.len()..self.top {
            arena.push(R::of(f64::from((self.arena_of)(i))));
        }
        act
    }

    fn embed(&mut self, scale: f32, positions: Option<usize>, y: Act) {
        let (step, d, scale) = (self.step(), self.d(), R::of(f64::from(scale)));
        for c in 0..self.case.clients() {
            for t in self.own(RowKind::Tokens, c) {
                let mut row: Vec<R> = self.table()[step.row[t].index() * d..][..d].iter().map(|&x| scale * x).collect();
                if let Some(at) = positions {
                    let place = self.weight(c, at + step.position[t] as usize * d, d);
                    row.iter_mut().zip(place).for_each(|(x, &p)| *x += p);
                }
                self.row_mut(y, t).copy_from_slice(&row);
            }
        }
    }

    fn embed_backward(&mut self, scale: f32, positions: Option<usize>, dy: Act) {
        let (step, d, scale) = (self.step(), self.d(), R::of(f64::from(scale)));
        let (low, high) = step.positions();
        for c in 0..self.case.clients() {
            let mut table = vec![R::ZERO; (high - low) * d];
            for t in self.own(RowKind::Tokens, c) {
                let slope: Vec<R> = self.row(dy, t).to_vec();
                let place = (step.position[t] as usize - low) * d;
                table[place..][..d].iter_mut().zip(&slope).for_each(|(x, &g)| *x += g);
                let row = step.row[t].index() * d;
                self.set(Field::RowGrad)[row..][..d].iter_mut().zip(&slope).for_each(|(x, &g)| *x += scale * g);
            }
            if let Some(at) = positions {
                self.weight_grad(c, at + low * d, table.len()).copy_from_slice(&table);
            }
        }
    }

    fn select(&mut self, x: Act, y: Act) {
        for (q, &t) in self.step().out_token.iter().enumerate() {
            let row = self.row(x, t as usize).to_vec();
            self.row_mut(y, q).copy_from_slice(&row);
        }
    }

    fn select_backward(&mut self, dy: Act, dx: Act) {
        for (q, &t) in self.step().out_token.iter().enumerate() {
            let slope = self.row(dy, q).to_vec();
            self.row_mut(dx, t as usize).iter_mut().zip(slope).for_each(|(x, g)| *x += g);
        }
    }

    fn layer_norm(&mut self, x: Act, g: usize, b: usize, y: Act, stats: Act) {
        let width = R::of(x.width as f64);
        for c in 0..self.case.clients() {
            let (gain, bias) = (self.weight(c, g, x.width).to_vec(), self.weight(c, b, x.width).to_vec());
            for r in self.own(x.rows, c) {
                let row = self.row(x, r).to_vec();
                let mean = row.iter().copied().sum::<R>() / width;
                let variance = row.iter().map(|&v| (v - mean) * (v - mean)).sum::<R>() / width;
                let factor = R::ONE / (variance + R::of(1e-5)).sqrt();
                let out = self.row_mut(y, r);
                for k in 0..row.len() {
                    out[k] = (row[k] - mean) * factor * gain[k] + bias[k];
                }
                self.row_mut(stats, r).copy_from_slice(&[mean, factor]);
            }
        }
    }

    fn layer_norm_backward(&mut self, x: Act, stats: Act, g: usize, b: usize, dy: Act, dx: Act) {
        let width = R::of(x.width as f64);
        for c in 0..self.case.clients() {
            let gain = self.weight(c, g, x.width).to_vec();
            let (mut dg, mut db) = (vec![R::ZERO; x.width], vec![R::ZERO; x.width]);
            for r in self.own(x.rows, c) {
                let [mean, factor] = [self.row(stats, r)[0], self.row(stats, r)[1]];
                let normed: Vec<R> = self.row(x, r).iter().map(|&v| (v - mean) * factor).collect();
                let slope = self.row(dy, r).to_vec();
                let e: Vec<R> = slope.iter().zip(&gain).map(|(&s, &g)| s * g).collect();
                let (along, across) = (e.iter().copied().sum::<R>() / width, real::inner(&e, &normed) / width);
                let out = self.row_mut(dx, r);
                for k in 0..normed.len() {
                    out[k] += (e[k] - along - normed[k] * across) * factor;
                    dg[k] += slope[k] * normed[k];
                    db[k] += slope[k];
                }
            }
            self.weight_grad(c, g, x.width).copy_from_slice(&dg);
            self.weight_grad(c, b, x.width).copy_from_slice(&db);
        }
    }

    fn linear(&mut self, x: Act, w: usize, b: usize, y: Act) {
        let (ins, outs) = (x.width, y.width);
        for c in 0..self.case.clients() {
            let weight: Vec<R> = self.weight(c, w, ins * outs).iter().map(|&v| self.factor(v)).collect();
            let bias = self.weight(c, b, outs).to_vec();
            for r in self.own(x.rows, c) {
                let mut sums = vec![R::ZERO; outs];
                for (i, &value) in self.row(x, r).iter().enumerate() {
                    let value = self.factor(value);
                    sums.iter_mut().zip(&weight[i * outs..][..outs]).for_each(|(s, &w)| *s += value * w);
                }
                sums.iter_mut().zip(&bias).for_each(|(s, &b)| *s += b);
                self.row_mut(y, r).copy_from_slice(&sums);
            }
        }
    }

    fn linear_backward(&mut self, x: Act, dy: Act, w: usize, b: usize, dx: Option<Act>, add: bool) {
        let (ins, outs) = (x.width, dy.width);
        if let Some(dx) = dx {
            for c in 0..self.case.clients() {
                let weight: Vec<R> = self.weight(c, w, ins * outs).iter().map(|&v| self.factor(v)).collect();
                for r in self.own(x.rows, c) {
                    let slope: Vec<R> = self.row(dy, r).iter().map(|&g| self.factor(g)).collect();
                    for i in 0..ins {
                        let sum = real::inner(&slope, &weight[i * outs..][..outs]);
                        let to = &mut self.row_mut(dx, r)[i];
                        *to = if add { *to + sum } else { sum };
                    }
                }
            }
        }
        self.linear_weight(x, dy, w, b);
    }

    fn attention(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, y: Act, stats: Act) {
        self.attention_forward(mask, heads, q, k, v, y, stats);
    }

    fn attention_backward(&mut self, mask: Mask, heads: usize, q: Act, k: Act, v: Act, _: Act, dy: Act, dq: Act, dk: Act, dv: Act) {
        // Scratch of the kernels: they compute probabilities again from `stats`, this reference from the scores.
        self.act(q.rows, 2 * heads);
        self.attention_gradients(mask, heads, [q, k, v], dy, [dq, dk, dv]);
    }

    fn gru(&mut self, xw: Act, w: usize, b: usize, h: Act, gates: Act, previous: Act) {
        self.recurrence(xw, w, b, h, gates, previous);
    }

    fn gru_backward(&mut self, w: usize, b: usize, gates: Act, previous: Act, dh: Act, dxw: Act) {
        let dhw = self.act(RowKind::Tokens, 3 * dh.width);
        self.recurrence_gradients(w, gates, previous, dh, dxw, dhw);
        self.linear_weight(previous, dhw, w, b);
    }

    fn relu(&mut self, x: Act) {
        self.map(x, x, |x, _| if x > R::ZERO { x } else { R::ZERO });
    }

    fn relu_backward(&mut self, y: Act, dx: Act) {
        self.map(y, dx, |y, g| if y > R::ZERO { g } else { R::ZERO });
    }

    fn gelu(&mut self, x: Act, y: Act) {
        self.map(x, y, |x, _| real::gelu(x).0);
    }

    fn gelu_backward(&mut self, x: Act, dx: Act) {
        self.map(x, dx, |x, g| g * real::gelu(x).1);
    }

    fn dropout(&mut self, site: u32, rate: f32, x: Act) {
        for c in 0..self.case.clients() {
            let rows = self.own(x.rows, c);
            for (i, at) in (rows.start * x.width..rows.end * x.width).enumerate() {
                let kept = self.kept(c, site, i, rate);
                self.values_mut(x)[at] *= kept;
            }
        }
    }

    fn drop_items(&mut self, rate: f32) {
        for c in 0..self.case.clients() {
            let rows = self.case.rows_of(c);
            for (i, at) in (rows.start * self.d()..rows.end * self.d()).enumerate() {
                self.set(Field::Dropped)[at] = self.kept(c, 255, i, rate) * self.get(Field::Rows)[at];
            }
        }
        self.dropping = true;
    }

    fn drop_items_backward(&mut self, rate: f32) {
        for c in 0..self.case.clients() {
            let rows = self.case.rows_of(c);
            for (i, at) in (rows.start * self.d()..rows.end * self.d()).enumerate() {
                let kept = self.kept(c, 255, i, rate);
                self.set(Field::RowGrad)[at] *= kept;
            }
        }
        self.dropping = false;
    }

    fn add(&mut self, x: Act, y: Act) {
        self.map(x, y, |x, y| y + x);
    }

    fn add_mean(&mut self, factor: f32, x: Act, y: Act) {
        for c in 0..self.case.clients() {
            let own = self.own(y.rows, c);
            let share = R::of(f64::from(factor)) / R::of(own.len() as f64);
            for r in own {
                for k in 0..y.width {
                    let value = self.row(x, r)[k];
                    self.row_mut(y, r)[k] += share * value;
                }
            }
        }
    }

    fn copy(&mut self, x: Act, y: Act) {
        self.map(x, y, |x, _| x);
    }

    fn zero(&mut self, x: Act) {
        self.map(x, x, |_, _| R::ZERO);
    }

    fn next_item_loss(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        match loss.rec {
            RecLoss::Softmax => self.full_softmax(h, dh),
            rec => self.sampled_loss(rec, h, dh),
        }
    }

    fn in_batch_info_nce(&mut self, settings: &InBatchSettings, h: Act, scratch: [Act; 3], dh: Act) {
        self.paired(settings, h, scratch, dh);
    }

    fn info_nce(&mut self, loss: &LossSettings, h: Act, dh: Act) {
        if loss.contrast != Contrast::None {
            self.tri_view(loss, h, dh);
        }
    }
}
