//! Kernels over batches of users, as subjects: in-batch InfoNCE and full ranking.

use super::case::Normals;
use super::direct::{at, cost, go, int, subject, whole, words};
use super::reference::Real;
use super::subject::{Array, Launch, Subject, Want};
use crate::base::rng::{Purpose, Stream};
use crate::device::interface::Arg;
use crate::eval::MISS;
use std::collections::BTreeSet;

/// In-batch InfoNCE in numbers `R`: inverse norms, log partition sums, losses, gradients added to `da` and `db`.
fn in_batch_reference<R: Real>(a: &[f32], b: &[f32], tau: f32, weight: f32, grads: [&[f32]; 2], d: usize) -> [Vec<R>; 5] {
    let real = |v: &[f32]| -> Vec<R> { v.iter().map(|&x| R::of(f64::from(x))).collect() };
    let (n, a, b, tau) = (a.len() / d, real(a), real(b), R::of(f64::from(tau)));
    let row = |m: &[R], i: usize| m[i * d..][..d].to_vec();
    let dot = |x: &[R], y: &[R]| x.iter().zip(y).map(|(&x, &y)| x * y).sum::<R>();
    let norms: Vec<R> = a.chunks(d).chain(b.chunks(d)).map(|x| (dot(x, x) + R::of(1e-24)).sqrt()).collect();
    let inverse: Vec<R> = norms.iter().map(|&x| R::ONE / x).collect();
    let cosine = |i: usize, j: usize| dot(&row(&a, i), &row(&b, j)) / (norms[i] * norms[n + j]);
    let (mut da, mut db) = (real(grads[0]), real(grads[1]));
    let (mut lse, mut loss) = (Vec::with_capacity(n), Vec::with_capacity(n));
    for i in 0..n {
        let cosines: Vec<R> = (0..n).map(|j| cosine(i, j)).collect();
        let top = cosines.iter().fold(R::LEAST, |m, &c| m.max(c / tau));
        let sum: R = cosines.iter().map(|&c| (c / tau - top).exp()).sum();
        let log = top + sum.ln();
        lse.push(log);
        loss.push(log - cosines[i] / tau);
        for (j, &c) in cosines.iter().enumerate() {
            let g = ((c / tau - log).exp() - if i == j { R::ONE } else { R::ZERO }) * R::of(f64::from(weight)) / R::of(n as f64) / tau;
            for k in 0..d {
                let (x, y) = (a[i * d + k] / norms[i], b[j * d + k] / norms[n + j]);
                da[i * d + k] += g * (y - c * x) / norms[i];
                db[j * d + k] += g * (x - c * y) / norms[n + j];
            }
        }
    }
    [inverse, lse, loss, da, db]
}

/// The three kernels of in-batch InfoNCE over batches of `n` rows.
pub fn in_batch(normals: &Normals, n: usize, d: usize, judged: bool) -> Vec<Subject<'static>> {
    let (tau, weight) = (0.2f32, 0.7f32);
    let (a, b) = (normals.take(36, n * d, 1.0), normals.take(37, n * d, 0.3));
    let (da, db) = (normals.take(38, n * d, 0.01), normals.take(39, n * d, 0.01));
    let known = |judged: bool| match judged {
        true => {
            (in_batch_reference::<f64>(&a, &b, tau, weight, [&da, &db], d), in_batch_reference::<f32>(&a, &b, tau, weight, [&da, &db], d))
        }
        false => {
            // Inverse norms and partition sums of the right size.
            let size = [vec![0.1; 2 * n], vec![f64::from(n as u32).ln() + 1.0; n], vec![0.0; n], vec![0.0; n * d], vec![0.0; n * d]];
            (size.clone(), size.map(|v| v.iter().map(|&x| x as f32).collect()))
        }
    };
    let (exact, plain) = known(judged);
    let rounded = |v: &[f64]| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let given = [rounded(&exact[0]), rounded(&exact[1])];
    let arrays = |inverse: bool, lse: bool| {
        let or = |given: &[f32], is: bool, array: usize| if is { given.to_vec() } else { normals.take(array, given.len(), 1.0) };
        vec![
            Array::of("a", &a),
            Array::of("b", &b),
            Array::of("inverse norms", &or(&given[0], inverse, 40)),
            Array::of("log partition sums", &or(&given[1], lse, 41)),
            Array::of("losses", &normals.take(42, n, 1.0)),
            Array::of("da", &da),
            Array::of("db", &db),
        ]
    };
    let want = |i: usize| judged.then(|| Want::Near { plain: plain[i].clone(), exact: exact[i].clone() });
    let case = format!("batch of {n}, d {d}");
    let (nn, nd) = ((n * n) as f64 * d as f64, n * d);
    let norms = arrays(false, false);
    let outs = vec![whole("inverse norms", &norms, 2, want(0))];
    let launch: Launch = Box::new(move |device, b| {
        go(device, "in_batch_info_nce_norms", [n.div_ceil(4), 2], 128, 0, &[at(&b[0]), at(&b[1]), at(&b[2]), int(n), int(d)])
    });
    let mut subjects = vec![subject("in_batch_info_nce_norms", case.clone(), norms, outs, cost(2 * nd + 2 * n, 4.0 * nd as f64), launch)];
    let stats = arrays(true, false);
    let outs = vec![whole("log partition sums", &stats, 3, want(1)), whole("losses", &stats, 4, want(2))];
    let launch: Launch = Box::new(move |device, b| {
        let args = [at(&b[0]), at(&b[1]), at(&b[2]), Arg::Float(tau), at(&b[3]), at(&b[4]), int(n), int(d)];
        go(device, "in_batch_info_nce_stats", [n.div_ceil(16), 1], 128, 19_456, &args)
    });
    subjects.push(subject("in_batch_info_nce_stats", case.clone(), stats, outs, cost(2 * nd + 4 * n, 2.0 * nn), launch));
    let grad = arrays(true, true);
    let outs = vec![whole("da", &grad, 5, want(3)), whole("db", &grad, 6, want(4))];
    let launch: Launch = Box::new(move |device, b| {
        let head = [at(&b[0]), at(&b[1]), at(&b[2]), at(&b[3]), Arg::Float(tau), Arg::Float(weight)];
        let args = [&head[..], &[at(&b[5]), at(&b[6]), int(n), int(d)]].concat();
        go(device, "in_batch_info_nce_grad", [n.div_ceil(16), 2], 128, 27_648, &args)
    });
    subjects.push(subject("in_batch_info_nce_grad", case, grad, outs, cost(6 * nd + 3 * n, 8.0 * nn), launch));
    subjects
}

/// The three kernels of full ranking: `users` users against `items` items. Every fifth item is the one before again, so that scores
/// tie; every eleventh user has no target, and every fourth one that is masked.
pub fn rank(normals: &Normals, users: usize, items: usize, d: usize, judged: bool) -> Vec<Subject<'static>> {
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
    // Scores by fused multiply-adds in order, the same everywhere, so that ties are ties.
    let score = |u: usize, i: usize| (0..d).fold(0f32, |sum, k| h[u * d + k].mul_add(table[i * d + k], sum));
    let (mut threshold, mut counts, mut ranks) = (vec![0f32; users], vec![0u32; users], vec![0u32; users]);
    for u in (0..users).filter(|_| judged) {
        threshold[u] = if target[u] < 0 { 0.0 } else { score(u, target[u] as usize) };
        let above: Vec<usize> = (0..items).filter(|&i| score(u, i) >= threshold[u]).collect();
        counts[u] = above.len() as u32;
        if target[u] >= 0 {
            let masked: BTreeSet<usize> = masked[u].iter().map(|&i| i as usize).collect();
            let open = above.iter().filter(|i| !masked.contains(i)).count() as u32;
            ranks[u] = if masked.contains(&(target[u] as usize)) { MISS } else { open };
        }
    }
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
    let launch: Launch = Box::new(move |device, b| {
        let args = [at(&b[0]), at(&b[1]), at(&b[2]), at(&b[3]), at(&b[4]), int(users), int(d)];
        go(device, "rank_targets", [users.div_ceil(128), 1], 128, 0, &args)
    });
    let mut subjects = vec![subject("rank_targets", case.clone(), first, outs, cost(2 * ud + 3 * users, 2.0 * ud as f64), launch)];
    let second = arrays(&threshold, &vec![0; users]);
    let outs = vec![whole("counts", &second, 4, judged.then(|| Want::Bits(counts.clone())))];
    let launch: Launch = Box::new(move |device, b| {
        // Enough blocks for every multiprocessor twice over; any number is right.
        let (across, blocks) = (users.div_ceil(128), 4 * device.limits().multiprocessors as usize);
        let down = blocks.div_ceil(across).clamp(1, items.div_ceil(128)).min(65_535);
        let args = [at(&b[0]), at(&b[1]), at(&b[3]), at(&b[4]), int(users), int(items), int(d)];
        go(device, "rank_count", [across, down], 256, 33_792, &args)
    });
    let operations = 2.0 * users as f64 * id as f64;
    subjects.push(subject("rank_count", case.clone(), second, outs, cost(ud + id + 3 * users, operations), launch));
    let third = arrays(&threshold, &counts);
    let outs = vec![whole("ranks", &third, 4, judged.then_some(Want::Bits(ranks)))];
    let launch: Launch = Box::new(move |device, b| {
        let args = [at(&b[0]), at(&b[1]), at(&b[2]), at(&b[3]), at(&b[5]), at(&b[6]), at(&b[4]), int(users), int(d)];
        go(device, "rank_masked", [users.div_ceil(4), 1], 128, 0, &args)
    });
    let listed = masked_items.len();
    subjects.push(subject("rank_masked", case, third, outs, cost(ud + listed * d + listed + 5 * users, 2.0 * (listed * d) as f64), launch));
    subjects
}
