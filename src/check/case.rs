//! Packed steps that kernels are checked and timed on, and the random numbers that fill their inputs.

use crate::backend::cuda::shape::Shape;
use crate::backend::{Step, TableRow};
use crate::base::rng::{Purpose, Stream};
use crate::engine::Chunk;

/// Local step of the visit that a case stands for: not the first, so that dropout counts it.
const NUMBER: u32 = 3;
/// Weight of the contrast.
const LAMBDA: f32 = 0.25;
/// Item rows that a client of the reference shape touches besides those of its own sequences.
const SPARE_ROWS: usize = 2;

/// Clients packed into one local step.
pub struct Case {
    /// What it is, for a reader.
    pub name: String,
    /// One local step; its row table and clients.
    pub chunk: Chunk,
    /// What launches are sized for.
    pub shape: Shape,
    /// Width of item rows and heads of attention.
    pub d: usize,
    /// See `d`.
    pub heads: usize,
    /// Number of the local step in the visit.
    pub number: u32,
    /// Weight of the contrast.
    pub lambda: f32,
}

impl Case {
    /// A case of one step, with item rows of a width and heads of attention.
    pub fn new(name: &str, chunk: Chunk, (d, heads): (usize, usize)) -> Case {
        let shape = Shape::of(&chunk).rounded();
        Case { name: name.into(), chunk, shape, d, heads, number: NUMBER, lambda: LAMBDA }
    }

    /// The step.
    pub fn step(&self) -> &Step {
        &self.chunk.steps[0]
    }

    /// Item rows `[from, to)` of client `c`.
    pub fn rows_of(&self, c: usize) -> std::ops::Range<usize> {
        self.chunk.client_rows[c] as usize..self.chunk.client_rows[c + 1] as usize
    }

    /// Clients `C`.
    pub fn clients(&self) -> usize {
        self.chunk.clients.len()
    }
}

/// How a case is made.
pub struct Plan<'a> {
    /// Name.
    pub name: &'a str,
    /// For each client the lengths of its sequences: histories, each with its views.
    pub clients: &'a [Vec<Vec<usize>>],
    /// Candidates of an example.
    pub width: usize,
    /// Positions end here; 0: they begin at 0.
    pub align: u32,
    /// Width of item rows and heads.
    pub dims: (usize, usize),
    /// Rows of a client's table beyond those that are drawn.
    pub spare: usize,
}

/// Packs random items: every token of a history and the last of each view are outputs, every output of a history but the last (all
/// where there are no views) is an example, and the last outputs of a history and its views form a group, those
/// of the first two views a pair.
pub fn build(seed: u64, plan: &Plan) -> Case {
    let mut chunk = Chunk::new();
    let mut step = Step { width: plan.width, positive_weight: 0.6, align: plan.align, ..Step::default() };
    step.clear();
    let mut first_row = 0u32;
    for (c, users) in plan.clients.iter().enumerate() {
        let mut s = Stream::new(seed, Purpose::Bench, 2, c as u64);
        let tokens: usize = users.iter().flatten().sum();
        // Fewer rows than tokens, so that gradients of a row meet.
        let rows = if tokens == 0 { 0 } else { (tokens * 3).div_ceil(4) + plan.spare };
        let mut draw = || TableRow(first_row + s.below(rows as u64) as u32);
        for lengths in users {
            let Some((&history, views)) = lengths.split_first() else { continue };
            let first = step.push_sequence((0..history).map(|_| draw()));
            let mut last = 0;
            for t in 0..history as u32 {
                last = step.push_output(first + t);
                if views.is_empty() || t as usize + 1 < history {
                    step.example.push(last);
                    // Candidates need not differ: a negative may be the positive.
                    step.cands.extend((0..plan.width).map(|_| draw()));
                }
            }
            let members: Vec<u32> = views
                .iter()
                .map(|&n| {
                    let first = step.push_sequence((0..n).map(|_| draw()));
                    step.push_output(first + n as u32 - 1)
                })
                .collect();
            if !members.is_empty() {
                let (positives, negatives) = members.split_at(members.len().div_ceil(2));
                step.push_group(last, positives, negatives);
            }
            // The first two views stand for two copies of a sequence as well.
            if let [a, b, ..] = members[..] {
                step.pair.extend([a, b]);
            }
        }
        step.end_client();
        // Numbers with gaps: streams are keyed by them, not by places.
        chunk.clients.push(7 + 3 * c as u32);
        chunk.plans.push(crate::engine::VisitPlan { steps: 1, rows: rows as u32, examples: 0 });
        first_row += rows as u32;
        chunk.client_rows.push(first_row);
        // Rows of the global table, of which there are as many.
        chunk.items.extend(first_row - rows as u32..first_row);
        chunk.uploads.extend((0..rows).map(|r| r % 5 != 4));
    }
    chunk.steps.push(step);
    Case::new(plan.name, chunk, plan.dims)
}

/// One history with its views for each list of lengths.
fn one_each(clients: &[&[usize]]) -> Vec<Vec<Vec<usize>>> {
    clients.iter().map(|&lengths| if lengths.is_empty() { vec![] } else { vec![lengths.to_vec()] }).collect()
}

/// Clients of the reference shape: a history, its future four longer, a paraphrase and a counterfactual as long.
pub fn reference_clients(clients: usize, lengths: &[u32]) -> Vec<Vec<Vec<usize>>> {
    let of = |c: usize| lengths[c % lengths.len()] as usize;
    (0..clients).map(|c| vec![vec![of(c), (of(c) + 4).min(50), of(c), of(c)]]).collect()
}

/// Clients with as many sequences and outputs as `reference_clients`, at the width of the paper.
pub fn reference(clients: usize, width: usize, heads: usize, d: usize) -> Case {
    let lengths = crate::bench::default_lengths(7, 50);
    let clients = reference_clients(clients, &lengths);
    let name = format!("{} clients of the reference shape", clients.len());
    build(7, &Plan { name: &name, clients: &clients, width, align: 0, dims: (d, heads), spare: SPARE_ROWS })
}

/// Odd shapes: empty clients first, last and between, one token, sequences longer than a tile, widths that nothing divides, a client
/// with many histories whose last items share a position.
pub fn odd() -> Vec<Case> {
    let few = one_each(&[&[5, 2, 1], &[], &[1], &[13, 7, 7, 3], &[2, 1], &[]]);
    let long = one_each(&[&[], &[67, 3, 5], &[31], &[33, 1, 1, 1, 1]]);
    let one = one_each(&[&[1]]);
    let crowd: Vec<Vec<Vec<usize>>> = vec![(0..13).map(|u| vec![1 + u % 7, 2, 1]).collect(), vec![], (0..5).map(|u| vec![2 + u]).collect()];
    vec![
        build(1, &Plan { name: "few clients", clients: &few, width: 3, align: 0, dims: (12, 2), spare: 1 }),
        build(2, &Plan { name: "long sequences", clients: &long, width: 2, align: 0, dims: (65, 5), spare: 2 }),
        build(3, &Plan { name: "one token", clients: &one, width: 1, align: 0, dims: (1, 1), spare: 0 }),
        offset(build(4, &Plan { name: "many histories", clients: &crowd, width: 35, align: 20, dims: (36, 3), spare: 3 })),
    ]
}

/// The same case with scores that are less something of their own, and with shares.
fn offset(case: Case) -> Case {
    let mut case = weighted(case);
    let step = &mut case.chunk.steps[0];
    step.offset = (0..step.cands.len()).map(|c| (c % 7) as f32 * 0.3 - 0.8).collect();
    case
}

/// The same case with shares of the examples that differ.
fn weighted(mut case: Case) -> Case {
    let step = &mut case.chunk.steps[0];
    step.share = step.shares().zip([1.0, 0.1, 2.5].into_iter().cycle()).map(|(share, weight)| share * weight).collect();
    case
}

/// A client whose softmax runs over a table of many rows, most of which are never a target.
pub fn wide_table(clients: usize, rows: usize, d: usize) -> Case {
    let lengths: Vec<Vec<Vec<usize>>> = (0..clients).map(|c| vec![vec![9 + c % 5, 3, 2]]).collect();
    let name = format!("{clients} clients with tables of {rows} rows");
    build(5, &Plan { name: &name, clients: &lengths, width: 1, align: 0, dims: (d, 1), spare: rows })
}

/// One client with `pairs` pairs of copies, between two clients without any.
pub fn pairs(pairs: usize, d: usize) -> Case {
    let clients = vec![vec![], vec![vec![1, 2, 1]; pairs], vec![vec![3]]];
    let name = format!("a client with {pairs} pairs");
    build(6, &Plan { name: &name, clients: &clients, width: 1, align: 0, dims: (d, 2 - d % 2), spare: 1 })
}

/// Normal numbers, `TILE` of them repeated: an odd length, so that equal numbers never lie at like places of rows.
pub struct Normals(Vec<f32>);

const TILE: usize = 100_003;

impl Normals {
    /// Numbers of `seed`.
    pub fn new(seed: u64) -> Normals {
        let mut s = Stream::new(seed, Purpose::Bench, 3, 0);
        Normals((0..TILE).map(|_| s.normal()).collect())
    }

    /// The `i`th number of array `array`.
    pub fn at(&self, array: usize, i: usize) -> f32 {
        self.0[(i + array * 7919) % TILE]
    }

    /// `n` numbers of array `array`, of deviation `std`.
    pub fn take(&self, array: usize, n: usize, std: f32) -> Vec<f32> {
        (0..n).map(|i| std * self.at(array, i)).collect()
    }
}
