//! The reference of `lumos::check`, plain loops in f32 and in f64, on the steps of these tests.

use super::packed::{OUTPUTS, PackedStep};
use lumos::backend::{Act, Backend, RowKind, Step, TableRow};
use lumos::check::case::Case;
use lumos::check::reference::{Field, Reference, field_floats};
pub use lumos::check::reference::{Real, gelu};
use lumos::config::Precision;
use lumos::engine::Chunk;
use lumos::testing::DropoutClock;

/// A step as a case of the check, with item rows of width `d`.
pub fn case(s: &PackedStep, d: usize) -> Case {
    let list = |values: &[i32]| values.iter().map(|&v| v as u32).collect::<Vec<u32>>();
    let rows = |values: &[i32]| list(values).into_iter().map(TableRow).collect::<Vec<_>>();
    let mut chunk = Chunk::new();
    chunk.clients = s.client_id.clone();
    chunk.client_rows = list(&s.client_rows);
    chunk.items = (0..s.rows() as u32).collect();
    chunk.steps.push(Step {
        row: rows(&s.row),
        position: list(&s.position),
        start: list(&s.start),
        token: (0..s.tokens() as u32).collect(),
        bounds: list(&s.bounds),
        out_token: list(&s.out_token),
        out_start: list(&s.out_start),
        example: list(&s.example),
        cands: rows(&s.cands),
        width: s.width,
        positive_weight: s.positive_weight,
        group: list(&s.group),
        group_bounds: list(&s.group_bounds),
        positives: list(&s.positives),
        pair: list(&s.pair),
        client_tokens: list(&s.client_tokens),
        client_outs: list(&s.client_outs),
        client_examples: list(&s.client_examples),
        client_groups: list(&s.client_groups),
        client_pairs: list(&s.client_pairs),
        longest: s.longest,
        // Where positions end; that is all, whether they begin at 0 or not.
        align: s.position_high as u32,
        ..Step::default()
    });
    Case { number: s.number as u32, lambda: s.lambda, ..Case::new("a step of a test", chunk, (d, 1)) }
}

/// Numbers of the reference.
pub fn numbers<R: Real>(values: &[f32]) -> Vec<R> {
    values.iter().map(|&v| R::of(f64::from(v))).collect()
}

/// `RowKind` of packed.cuh.
pub fn rows_of(kind: i32) -> RowKind {
    if kind == OUTPUTS { RowKind::Outputs } else { RowKind::Tokens }
}

/// The reference on a case, and what it works on.
pub struct Plain<'a, R>(pub Reference<'a, R>);

impl<'a, R: Real> Plain<'a, R> {
    /// All zeros, `dense` weights a client.
    pub fn new(case: &'a Case, dense: usize) -> Plain<'a, R> {
        Plain::with(case, dense, Precision::Fp32, DropoutClock::default())
    }

    /// The same with products in `precision` and draws by `clock`.
    pub fn with(case: &'a Case, dense: usize, precision: Precision, clock: DropoutClock) -> Plain<'a, R> {
        let zeros: Vec<Vec<f32>> = field_floats(case, dense).into_iter().map(|n| vec![0.0; n]).collect();
        Plain(Reference::new(case, dense, precision, clock, &zeros, &|_| 0.0))
    }

    /// Gives a field its values.
    pub fn set(mut self, field: Field, values: Vec<R>) -> Self {
        assert_eq!(self.0.fields[field as usize].len(), values.len(), "{field:?}");
        self.0.fields[field as usize] = values;
        self
    }

    /// An activation with these values.
    pub fn load(&mut self, rows: RowKind, width: usize, values: &[R]) -> Act {
        let act = self.0.act(rows, width);
        let range = self.0.range(act);
        self.0.fields[Field::Arena as usize][range].copy_from_slice(values);
        act
    }

    /// The values of an activation.
    pub fn values(&self, act: Act) -> Vec<R> {
        self.0.fields[Field::Arena as usize][self.0.range(act)].to_vec()
    }

    /// The values of a field.
    pub fn field(&self, field: Field) -> Vec<R> {
        self.0.fields[field as usize].clone()
    }
}
