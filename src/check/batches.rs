//! The kernels of mini-batches that are cut into parts, as subjects: sums of gradients in fixed point, the mask on a whole table, the clip
//! over spans, and the optimiser's step.

use super::case::Normals;
use super::local;
use super::reference::LocalStep;
use super::single::{Given, cost, int, whole, words};
use super::subject::{Array, Subject, Want};
use crate::backend::cuda::kernels::{AddGradients, AddRowGradients, ClipFactor, DropTable, GradientSquares, StepSpan, TakeGradients};
use crate::backend::cuda::optimiser::{DropoutClock, OptimiserStep};
use crate::base::rng::{self, Purpose, Stream};
use crate::device::launch::Pointer;
use crate::engine::fixed::GRADIENT_SCALE;

/// `refused` while no mini-batch is.
const NOT_REFUSED: u32 = u32::MAX;

/// Blocks of a kernel that walks over `n` numbers.
fn blocks(n: usize) -> [usize; 2] {
    [n.div_ceil(1024), 1]
}

fn shares(parts: usize) -> Vec<f32> {
    (0..parts).map(|c| 1.0 / (2 + c % 5) as f32).collect()
}

fn to_fixed(g: f32, share: f32) -> i64 {
    (f64::from(share * g) * GRADIENT_SCALE).round_ties_even() as i64
}

/// `add_gradients`: `parts` parts of `length` weights.
pub fn add_gradients(n: &Normals, parts: usize, length: usize, judged: bool) -> Subject<'static> {
    let stride = length + 3;
    let (g, share) = (n.take(70, parts * stride, 0.5), shares(parts));
    let mut sums: Vec<i64> = (0..length as i64).map(|i| i - 9).collect();
    let arrays =
        vec![Array::of("gradients", &g), Array::of("shares", &share), Array::of("sums", &sums), Array::of("first refused", &[NOT_REFUSED])];
    let want = judged.then(|| {
        for (c, &share) in share.iter().enumerate() {
            sums.iter_mut().enumerate().for_each(|(i, sum)| *sum += to_fixed(g[c * stride + i], share));
        }
        Want::Bits(words(&sums))
    });
    let outs = vec![whole("sums", &arrays, 2, want)];
    let work = cost(parts * length + 4 * length, 3.0 * (parts * length) as f64);
    let given = Given { case: format!("{parts} parts, {length} weights"), arrays, outputs: outs, cost: work };
    given.to([length.div_ceil(256), 1], move |b| AddGradients {
        g: b[0],
        share: b[1],
        parts: int(parts),
        stride: stride as i64,
        length: int(length),
        sums: b[2],
        number: 3,
        refused: b[3],
    })
}

/// `add_row_gradients`: `parts` parts of `each` item rows, of a catalogue of `items`.
pub fn add_row_gradients(n: &Normals, parts: usize, each: usize, items: usize, d: usize, judged: bool) -> Subject<'static> {
    let rows = parts * each;
    let (g, share) = (n.take(71, rows * d, 0.5), shares(parts));
    let item: Vec<u32> = (0..rows).map(|r| ((r * 7) % items) as u32).collect();
    let bounds: Vec<u32> = (0..=parts).map(|c| (c * each) as u32).collect();
    let mut sums: Vec<i64> = (0..(items * d) as i64).collect();
    let arrays = vec![
        Array::of("row gradients", &g),
        Array::of("items", &item),
        Array::of("bounds of rows", &bounds),
        Array::of("shares", &share),
        Array::of("sums", &sums),
        Array::of("first refused", &[NOT_REFUSED]),
    ];
    let want = judged.then(|| {
        for r in 0..rows {
            for k in 0..d {
                sums[item[r] as usize * d + k] += to_fixed(g[r * d + k], share[r / each]);
            }
        }
        Want::Bits(words(&sums))
    });
    let outs = vec![whole("sums", &arrays, 4, want)];
    let work = cost(5 * rows * d, 3.0 * (rows * d) as f64);
    let given = Given { case: format!("{parts} parts of {each} rows, d {d}"), arrays, outputs: outs, cost: work };
    given.to([parts, each.div_ceil(16).max(1)], move |b| AddRowGradients {
        g: b[0],
        item: b[1],
        part_rows: b[2],
        share: b[3],
        parts: int(parts),
        d: int(d),
        sums: b[4],
        number: 3,
        refused: b[5],
    })
}

/// `take_gradients`: `count` sums.
pub fn take_gradients(n: &Normals, count: usize, judged: bool) -> Subject<'static> {
    let factor = 1.1f32;
    let sums: Vec<i64> = (0..count).map(|i| to_fixed(n.at(72, i), 1.0)).collect();
    let arrays = vec![Array::of("sums", &sums), Array::of("gradients", &n.take(73, count, 1.0))];
    let wants = judged.then(|| {
        let g: Vec<f32> = sums.iter().map(|&sum| factor * (sum as f64 / GRADIENT_SCALE) as f32).collect();
        [words(&vec![0i64; count]), words(&g)].map(Want::Bits)
    });
    let [zeros, g] = wants.map_or([None, None], |w| w.map(Some));
    let outs = vec![whole("sums", &arrays, 0, zeros), whole("gradients", &arrays, 1, g)];
    let given = Given { case: format!("{count} weights"), arrays, outputs: outs, cost: cost(5 * count, 2.0 * count as f64) };
    given.to(blocks(count), move |b| TakeGradients { sums: b[0], factor, g: b[1], n: count as i64 })
}

/// `drop_table`: `count` numbers.
pub fn drop_table(n: &Normals, count: usize, judged: bool) -> Subject<'static> {
    let (number, client, site) = (5u32, 77u32, 255u32);
    let clock = DropoutClock::new(Stream::new(11, Purpose::Dropout, 0, 0).key(), 5);
    let (threshold, keep) = rng::dropout_threshold(0.25);
    let x = n.take(74, count, 1.0);
    let arrays = vec![Array::of("item table", &x), Array::of("dropped", &n.take(75, count, 1.0))];
    let want = judged.then(|| {
        let kept = |(i, &x): (usize, &f32)| {
            let words = rng::philox([(i / 8) as u32, (number << 8) | site, clock.round, client], clock.key());
            x * if (words[i % 8 / 2] >> (16 * (i % 2))) & 0xffff < threshold { 0.0 } else { keep }
        };
        Want::Bits(words(&x.iter().enumerate().map(kept).collect::<Vec<f32>>()))
    });
    let outs = vec![whole("dropped", &arrays, 1, want)];
    let given = Given { case: format!("{count} numbers"), arrays, outputs: outs, cost: cost(2 * count, count as f64) };
    given.to(blocks(count), move |b| DropTable { clock, number, client, threshold, keep, x: b[0], y: b[1], n: count as i64 })
}

/// `gradient_squares` and `clip_factor`: `count` gradients in spans of `span`.
pub fn clip(n: &Normals, count: usize, span: usize, judged: bool) -> [Subject<'static>; 2] {
    let (g, spans, limit) = (n.take(76, count, 0.5), count.div_ceil(span), 0.75f32);
    let squares: Vec<f64> = g.chunks(span).map(|s| s.iter().map(|&x| f64::from(x).powi(2)).sum()).collect();
    let arrays = vec![Array::of("gradients", &g), Array::of("squares", &vec![0f64; spans])];
    let outs = vec![whole("squares", &arrays, 1, judged.then(|| Want::Doubles(squares.clone())))];
    let case = format!("{count} gradients in {spans} spans");
    let given = Given { case: case.clone(), arrays, outputs: outs, cost: cost(count + 2 * spans, 2.0 * count as f64) };
    let sums = given.to([spans, 1], move |b| GradientSquares { g: b[0], n: count as i64, span: int(span), squares: b[1] });

    let arrays = vec![Array::of("squares", &squares), Array::of("factor", &[0f32])];
    let want = judged.then(|| {
        let norm = squares.iter().sum::<f64>().sqrt();
        let exact = if norm > f64::from(limit) { f64::from(limit) / norm } else { 1.0 };
        Want::Near { plain: vec![exact as f32], exact: vec![exact] }
    });
    let outs = vec![whole("factor", &arrays, 1, want)];
    let given = Given { case, arrays, outputs: outs, cost: cost(2 * spans + 1, spans as f64) };
    let factor = move |b: &[Pointer]| ClipFactor { squares: b[0], count: int(spans), clip: limit, scale: b[1] };
    [sums, given.to([1, 1], factor)]
}

/// `step_span` with every optimiser: `count` weights; and after a refusal, when nothing moves.
pub fn step_span(n: &Normals, count: usize, judged: bool) -> Vec<Subject<'static>> {
    let mut all = Vec::new();
    for ((name, settings, t), refused) in local::kinds().into_iter().map(|kind| (kind, NOT_REFUSED)).chain([(local::kinds()[1].clone(), 4)])
    {
        let rule = LocalStep::new(&settings, t);
        let (p, m, g) = (n.take(77, count, 1.0), n.take(78, count, 0.1), n.take(79, count, 1.0));
        let start = n.take(76, count, 1.0);
        let s: Vec<f32> = (0..count).map(|i| n.at(80, i).powi(2)).collect();
        let scale = 0.6f32;
        let arrays = vec![
            Array::of("factor", &[scale]),
            Array::of("first refused", &[refused]),
            Array::of("weights", &p),
            Array::of("first moments", &m),
            Array::of("second moments", &s),
            Array::of("gradients", &g),
            Array::of("weights at the start", &start),
        ];
        let wants = judged.then(|| {
            let (mut p, mut m, mut s) = (p, m, s);
            if refused == NOT_REFUSED {
                (0..count).for_each(|i| {
                    rule.one(scale, [&mut p[i], &mut m[i], &mut s[i]], g[i]);
                    rule.back(&mut p[i], start[i]);
                });
            }
            [p, m, s]
        });
        let outs = local::moment_outputs(&arrays, wants);
        let coefficients = OptimiserStep::new(&settings, t);
        let name = if refused == NOT_REFUSED { name } else { "refused" };
        let work = cost(7 * count, 14.0 * count as f64);
        let given = Given { case: format!("{name}, {count} weights"), arrays, outputs: outs, cost: work };
        all.push(given.to(blocks(count), move |b| StepSpan {
            opt: coefficients,
            scale: b[0],
            refused: b[1],
            p: b[2],
            m: b[3],
            s: b[4],
            g: b[5],
            start: b[6],
            n: count as i64,
        }));
    }
    all
}

/// What is timed: mini-batches of eight parts with `rows` item rows each, of a model of `length` dense weights and a catalogue of `items`.
pub fn timed(n: &Normals, length: usize, rows: usize, items: usize, d: usize) -> Vec<Subject<'static>> {
    let all = items * d;
    let mut subjects = vec![
        add_gradients(n, 8, length, false),
        add_row_gradients(n, 8, rows, items, d, false),
        take_gradients(n, all, false),
        drop_table(n, all, false),
    ];
    subjects.extend(clip(n, all, 1 << 14, false));
    subjects.extend(step_span(n, all, false).into_iter().nth(1));
    subjects
}
