//! What shares of a GPU are measured against: the bandwidth of a copy and the rate of multiply-adds, from kernels that do nothing else.

use super::report::Yardstick;
use super::single::{Given, cost, int, whole, words};
use super::subject::{Array, Subject, Want};
use super::timing::{self, Sample};
use crate::Result;
use crate::config::Precision;
use crate::device::interface::Device;
use crate::device::launch::{Pointer, kernels};

/// Accumulators of a thread of `yardstick_fma`.
const CHAINS: usize = 16;
/// Independent sums of a warp of the tensor-core yardsticks.
const TILES: usize = 8;

kernels! {
    // yardstick.cu
    Copy = yardstick_copy (from: Pointer, to: Pointer, fours: i64) 256, 0;
    MultiplyAdd = yardstick_fma (a: f32, b: f32, rounds: i32, sums: Pointer) 256, 0;
    MultiplyTiles = yardstick_tf32 yardstick_bf16 (x: f32, rounds: i32, sums: Pointer) 256, 0;
}

/// Name of the yardstick of a precision.
pub fn name(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "fma",
        Precision::Tf32 => "tf32",
        Precision::Bf16 => "bf16",
    }
}

/// A copy of `fours` groups of four floats by `blocks` blocks.
fn copy(fours: usize, blocks: usize, judged: bool) -> Subject<'static> {
    let from: Vec<f32> = (0..4 * fours).map(|i| (i % 1021) as f32 - 500.0).collect();
    let arrays = vec![Array::of("from", &from), Array::of("to", &vec![0f32; 4 * fours])];
    let outs = vec![whole("to", &arrays, 1, judged.then(|| Want::Bits(words(&from))))];
    let given = Given { case: format!("{fours} x 16 bytes"), arrays, outputs: outs, cost: cost(8 * fours, 0.0) };
    given.to([blocks, 1], move |b| Copy { from: b[0], to: b[1], fours: fours as i64 })
}

/// `rounds` rounds of multiply-adds on every thread (or warp) of `blocks` blocks. All threads come to the same sum.
fn multiply(precision: Precision, blocks: usize, rounds: usize, judged: bool) -> Subject<'static> {
    let threads = 256 * blocks;
    let arrays = vec![Array::of("sums", &vec![0f32; threads])];
    let (operations, want) = match precision {
        Precision::Fp32 => {
            let (a, b) = (0.5f32, 1.25f32);
            let chain = |start: usize| (0..rounds).fold(start as f32, |x, _| x.mul_add(a, b));
            let sum = if judged { (0..CHAINS).fold(0f32, |sum, i| sum + chain(i)) } else { 0.0 };
            ((2 * CHAINS * rounds * threads) as f64, sum)
        }
        // Every element of A and B is 1/4: each product adds depth / 16 to each of a thread's four sums in each tile.
        p => {
            let depth = if p == Precision::Tf32 { 8 } else { 16 };
            let one = (0..rounds).fold(1f32, |x, _| x + depth as f32 / 16.0);
            ((2 * 16 * 8 * depth * TILES * rounds * threads / 32) as f64, (4 * TILES) as f32 * one)
        }
    };
    let outs = vec![whole("sums", &arrays, 0, judged.then(|| Want::Bits(words(&vec![want; threads]))))];
    let (mut work, rounds_done) = (cost(threads, operations), int(rounds));
    work.precision = precision;
    let given = Given { case: format!("{blocks} blocks, {rounds} rounds"), arrays, outputs: outs, cost: work };
    let tiles = move |b: &[Pointer]| MultiplyTiles { x: 0.25, rounds: rounds_done, sums: b[0] };
    match precision {
        Precision::Fp32 => given.to([blocks, 1], move |b| MultiplyAdd { a: 0.5, b: 1.25, rounds: rounds_done, sums: b[0] }),
        Precision::Tf32 => given.under(0, [blocks, 1], tiles),
        Precision::Bf16 => given.under(1, [blocks, 1], tiles),
    }
}

/// The yardsticks as kernels to be checked.
pub fn subjects() -> Vec<Subject<'static>> {
    let mut all = vec![copy(1, 1, true), copy(1037, 3, true)];
    all.extend([Precision::Fp32, Precision::Tf32, Precision::Bf16].map(|p| multiply(p, 2, 5, true)));
    all
}

/// Measures the copy bandwidth and the three rates of multiply-adds.
pub fn measure(device: &dyn Device, quick: bool) -> Result<Vec<Yardstick>> {
    let many = device.limits().multiprocessors as usize;
    // Eight times the level 2 cache a direction, so that nothing of it is kept.
    let fours = if quick { 4096 } else { (8 * device.limits().l2_bytes / 16).max(1 << 22) };
    let mut best: Option<(f64, String)> = None;
    for each in if quick { vec![2] } else { vec![4, 8, 16, 32] } {
        let subject = copy(fours, each * many, false);
        let sample = timing::time(device, &subject, quick)?;
        let rate = subject.cost.bytes / sample.seconds();
        let how = format!("{} bytes each way, {} blocks of 256, {}", 16 * fours, each * many, describe(&sample));
        if best.as_ref().is_none_or(|b| rate > b.0) {
            best = Some((rate, how));
        }
    }
    let mut all: Vec<Yardstick> = best.into_iter().map(|(rate, how)| Yardstick { name: "copy", rate, unit: "bytes/s", how }).collect();
    for precision in [Precision::Fp32, Precision::Tf32, Precision::Bf16] {
        let rounds = if quick { 4 } else { 4096 };
        let subject = multiply(precision, 8 * many, rounds, false);
        let sample = timing::time(device, &subject, quick)?;
        let rate = subject.cost.operations / sample.seconds();
        let how = format!("{}, {}", subject.case, describe(&sample));
        all.push(Yardstick { name: name(precision), rate, unit: "operations/s", how });
    }
    Ok(all)
}

fn describe(sample: &Sample) -> String {
    let [low, high] = sample.range;
    format!("median of {} samples of {} launches, {low:.2} to {high:.2} us", sample.samples, sample.launches)
}
