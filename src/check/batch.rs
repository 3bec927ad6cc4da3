//! Kernels over batches of users, as subjects: full ranking.

use super::case::Normals;
use super::reference::{self, Ranked};
use super::single::{Given, cost, int, whole, words};
use super::subject::{Array, Subject, Want};
use crate::backend::cuda::kernels::{RankCount, RankMasked, RankTargets};
use crate::base::rng::{Purpose, Stream};
use crate::device::launch::Pointer;

/// The three kernels of full ranking: `users` users against `items` items. Every fifth item is the one before again, so that scores
/// tie; every eleventh user has no target, and every fourth one that is masked. The GPU that is timed has `multiprocessors`.
pub fn rank(normals: &Normals, [users, items, d]: [usize; 3], multiprocessors: u32, judged: bool) -> Vec<Subject<'static>> {
    let mut s = Stream::new(3, Purpose::Bench, 4, users as u64);
    let h = normals.take(43, users * d, 1.0);
    let mut table = normals.take(44, items * d, 1.0);
    for i in (1..items).step_by(5) {
        table.copy_within((i - 1) * d..i * d, i * d);
    }
    let target: Vec<i32> = (0..users).map(|u| if u % 11 == 7 { -1 } else { s.below(items as u64) as i32 }).collect();
    let lengths = [3, 0, 40, 1];
    let masked: Vec<Vec<u32>> = (0..users)
        .map(|u| (0..lengths[u % 4]).map(|i| if i == 2 { target[u].max(0) as u32 } else { s.below(items as u64) as u32 }).collect())
        .collect();
    let mut bounds = vec![0u32];
    masked.iter().for_each(|l| bounds.push(bounds[bounds.len() - 1] + l.len() as u32));
    let masked_items = masked.concat();
    let none = || Ranked { threshold: vec![0.0; users], counts: vec![0; users], ranks: vec![0; users] };
    let Ranked { threshold, counts, ranks } = if judged { reference::rank(&h, &table, d, &target, &masked) } else { none() };
    let arrays = |threshold: &[f32], counts: &[u32]| {
        vec![
            Array::of("hidden states", &h),
            Array::of("item table", &table),
            Array::of("targets", &target),
            Array::of("thresholds", threshold),
            Array::of("counts", counts),
            Array::of("bounds of masked items", &bounds),
            Array::of("masked items", &[masked_items.clone(), vec![0]].concat()),
        ]
    };
    let case = format!("{users} users, {items} items, d {d}");
    let (ud, id) = (users * d, items * d);
    let first = arrays(&normals.take(45, users, 1.0), &vec![9; users]);
    let outs = vec![
        whole("thresholds", &first, 3, judged.then(|| Want::Bits(words(&threshold)))),
        whole("counts", &first, 4, judged.then(|| Want::Bits(vec![0; users]))),
    ];
    let (across, u, i, width) = (users.div_ceil(128), int(users), int(items), int(d));
    let given = Given { case: case.clone(), arrays: first, outputs: outs, cost: cost(2 * ud + 3 * users, 2.0 * ud as f64) };
    let targets = move |b: &[Pointer]| RankTargets { h: b[0], table: b[1], target: b[2], threshold: b[3], count: b[4], users: u, d: width };
    let mut subjects = vec![given.to([across, 1], targets)];
    let second = arrays(&threshold, &vec![0; users]);
    let outs = vec![whole("counts", &second, 4, judged.then(|| Want::Bits(counts.clone())))];
    // Enough blocks for every multiprocessor twice over; any number is right.
    let down = (4 * multiprocessors as usize).div_ceil(across).clamp(1, items.div_ceil(128)).min(65_535);
    let work = cost(ud + id + 3 * users, 2.0 * users as f64 * id as f64);
    let given = Given { case: case.clone(), arrays: second, outputs: outs, cost: work };
    let counted = move |b: &[Pointer]| RankCount { h: b[0], table: b[1], threshold: b[3], count: b[4], users: u, items: i, d: width };
    subjects.push(given.to([across, down], counted));
    let third = arrays(&threshold, &counts);
    let outs = vec![whole("ranks", &third, 4, judged.then_some(Want::Bits(ranks)))];
    let listed = masked_items.len();
    let work = cost(ud + listed * d + listed + 5 * users, 2.0 * (listed * d) as f64);
    subjects.push(Given { case, arrays: third, outputs: outs, cost: work }.to([users.div_ceil(4), 1], move |b| RankMasked {
        h: b[0],
        table: b[1],
        target: b[2],
        threshold: b[3],
        bounds: b[5],
        masked: b[6],
        count: b[4],
        users: u,
        d: width,
    }));
    subjects
}
