//! Kernels that are no operation of the backend, as subjects: copies from the global weights, averaging and the server's step.

use super::case::Normals;
use super::reference::{self, server_step};
use super::single::{Given, cost, int, whole, words};
use super::subject::{Array, Output, Subject, Want};
use crate::backend::cuda::kernels::{AverageDense, AverageRows, Broadcast, GatherRows, ServerDense, ServerRows, UpdateNorms};
use crate::backend::cuda::optimiser::ServerStep;
use crate::base::rng::{Purpose, Stream};
use crate::device::launch::Pointer;
use crate::engine::fixed;

/// `broadcast`: `clients` slabs of `length` weights, `stride` apart.
pub fn broadcast(n: &Normals, clients: usize, length: usize, stride: usize, judged: bool) -> Subject<'static> {
    let (global, slab) = (n.take(20, length, 1.0), n.take(21, clients * stride, 1.0));
    let arrays = vec![Array::of("global weights", &global), Array::of("dense weights", &slab)];
    let want = judged.then(|| {
        let mut slab = slab;
        slab.chunks_mut(stride).for_each(|s| s[..length].copy_from_slice(&global));
        Want::Bits(words(&slab))
    });
    let outputs = vec![whole("slab", &arrays, 1, want)];
    let case = format!("{clients} clients, {length} weights");
    Given { case, arrays, outputs, cost: cost((clients + 1) * length, 0.0) }.to([clients, length.div_ceil(2048)], move |b| Broadcast {
        global: b[0],
        slab: b[1],
        clients: int(clients),
        stride: stride as i64,
        length: int(length),
    })
}

/// `gather_rows`: `rows` rows out of `items`.
pub fn gather(n: &Normals, rows: usize, items: usize, d: usize, judged: bool) -> Subject<'static> {
    let mut s = Stream::new(1, Purpose::Bench, 4, rows as u64);
    let list: Vec<u32> = (0..rows).map(|_| s.below(items as u64) as u32).collect();
    let table = n.take(22, items * d, 1.0);
    let arrays = vec![Array::of("items", &list), Array::of("item table", &table), Array::of("rows", &n.take(23, rows * d, 1.0))];
    let want = judged.then(|| Want::Bits(list.iter().flat_map(|&i| words(&table[i as usize * d..][..d])).collect()));
    let outputs = vec![whole("rows", &arrays, 2, want)];
    let given = Given { case: format!("{rows} rows of {items}, d {d}"), arrays, outputs, cost: cost(2 * rows * d + rows, 0.0) };
    given.to([rows.div_ceil(8).max(1), 1], move |b| GatherRows { items: b[0], table: b[1], rows: b[2], count: int(rows), d: int(d) })
}

/// A change in fixed point; those of this file are small.
fn change(before: f32, after: f32, factor: f32) -> i64 {
    reference::fixed_change(before, after, factor).expect("a small change")
}

/// Clients that one thread of `average_dense` adds up, as in the engine.
const EACH: usize = 64;

/// `average_dense`: the sums of what `clients` clients changed in `length` weights. Every seventh did not train.
pub fn average_dense(n: &Normals, clients: usize, length: usize, judged: bool) -> Subject<'static> {
    let stride = length + 3;
    let global = n.take(24, length, 1.0);
    let slab = n.take(25, clients * stride, 0.5);
    let weight: Vec<i64> = (0..clients as i64).map(|c| if c % 7 == 3 { 0 } else { 1 + c % 5 }).collect();
    let factor: Vec<f32> = (0..clients).map(|c| [1.0, -2.0, 0.3][c % 3]).collect();
    let mut sums: Vec<i64> = (0..length as i64).map(|i| i - 9).collect();
    let arrays = vec![
        Array::of("dense weights", &slab),
        Array::of("global weights", &global),
        Array::of("weights of clients", &weight),
        Array::of("sums", &sums),
        Array::of("failing", &vec![0u32; clients]),
        Array::of("factors", &factor),
    ];
    let want = judged.then(|| {
        for (c, &w) in weight.iter().enumerate() {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum += w * change(global[i], slab[c * stride + i], factor[c]);
            }
        }
        Want::Bits(words(&sums))
    });
    let outputs = vec![whole("sums", &arrays, 3, want)];
    let work = cost(clients * length + 5 * length, 3.0 * (clients * length) as f64);
    let given = Given { case: format!("{clients} clients, {length} weights"), arrays, outputs, cost: work };
    given.to([length.div_ceil(256), clients.div_ceil(EACH)], move |b| AverageDense {
        p: b[0],
        global: b[1],
        weight: b[2],
        factor: b[5],
        clients: int(clients),
        each: int(EACH),
        stride: stride as i64,
        length: int(length),
        sums: b[3],
        failing: b[4],
    })
}

/// `average_rows`: `clients` clients of `each` item rows.
pub fn average_rows(n: &Normals, clients: usize, each: usize, items: usize, d: usize, judged: bool) -> Subject<'static> {
    let mut s = Stream::new(2, Purpose::Bench, 4, clients as u64);
    let rows = clients * each;
    let item: Vec<u32> = (0..rows).map(|_| s.below(items as u64) as u32).collect();
    let uploads: Vec<u8> = (0..rows).map(|r| u8::from(r % 5 != 4)).collect();
    let bounds: Vec<u32> = (0..=clients).map(|c| (c * each) as u32).collect();
    let weight: Vec<i64> = (0..clients as i64).map(|c| if c % 7 == 3 { 0 } else { 1 + c % 5 }).collect();
    let table = n.take(26, items * d, 1.0);
    let mut after: Vec<f32> = item.iter().flat_map(|&i| table[i as usize * d..][..d].to_vec()).collect();
    // Every third row came back as it went.
    after.chunks_mut(d).enumerate().filter(|(r, _)| r % 3 != 1).for_each(|(r, row)| {
        row.iter_mut().enumerate().for_each(|(k, x)| *x += 0.3 * n.at(27, r * d + k));
    });
    // A slot for each item: what lies in no row stays as it is.
    let (mut sums, mut slot_weight, mut uploaded) = (vec![0i64; items * d], vec![0i64; items], vec![0u32; clients]);
    let arrays = vec![
        Array::of("rows", &after),
        Array::of("item table", &table),
        Array::of("items", &item),
        Array::of("uploads", &uploads),
        Array::of("bounds of rows", &bounds),
        Array::of("weights of clients", &weight),
        Array::of("sums", &sums),
        Array::of("weights of slots", &slot_weight),
        Array::of("uploaded rows", &uploaded),
        Array::of("failing", &vec![0u32; clients]),
    ];
    let wants = judged.then(|| {
        for r in (0..rows).filter(|&r| uploads[r] != 0) {
            let (c, i) = (r / each, item[r] as usize);
            let (new, old) = (&after[r * d..][..d], &table[i * d..][..d]);
            if weight[c] == 0 || new == old {
                continue;
            }
            for k in 0..d {
                sums[i * d + k] += weight[c] * change(old[k], new[k], 1.0);
            }
            slot_weight[i] += weight[c];
            uploaded[c] += 1;
        }
        [words(&sums), words(&slot_weight), words(&uploaded)].map(Want::Bits)
    });
    let [a, b, c] = wants.map_or([None, None, None], |w| w.map(Some));
    let outputs = vec![whole("sums", &arrays, 6, a), whole("weights of slots", &arrays, 7, b), whole("uploaded rows", &arrays, 8, c)];
    let work = cost(2 * rows * d + 4 * items * d, 3.0 * (rows * d) as f64);
    let given = Given { case: format!("{clients} clients of {each} rows, d {d}"), arrays, outputs, cost: work };
    given.to([clients, each.div_ceil(16).max(1)], move |b| AverageRows {
        rows: b[0],
        table: b[1],
        item: b[2],
        slot: b[2],
        uploads: b[3],
        client_rows: b[4],
        weight: b[5],
        factor: Pointer::NULL,
        clients: int(clients),
        d: int(d),
        sums: b[6],
        slot_weight: b[7],
        uploaded: b[8],
        failing: b[9],
    })
}

/// `update_norms`: `clients` clients of `length` dense weights and `each` item rows.
pub fn update_norms(n: &Normals, clients: usize, length: usize, each: usize, d: usize, judged: bool) -> Subject<'static> {
    let (items, stride, rows) = (each + 2, length + 3, clients * each);
    let (global, slab) = (n.take(24, length, 1.0), n.take(25, clients * stride, 0.5));
    let (table, after) = (n.take(26, items * d, 1.0), n.take(27, rows * d, 0.7));
    let item: Vec<u32> = (0..rows).map(|r| ((r * 7) % items) as u32).collect();
    let uploads: Vec<u8> = (0..rows).map(|r| u8::from(r % 5 != 4)).collect();
    let bounds: Vec<u32> = (0..=clients).map(|c| (c * each) as u32).collect();
    let weight: Vec<i64> = (0..clients as i64).map(|c| if c % 7 == 3 { 0 } else { 1 }).collect();
    let arrays = vec![
        Array::of("dense weights", &slab),
        Array::of("global weights", &global),
        Array::of("rows", &after),
        Array::of("item table", &table),
        Array::of("items", &item),
        Array::of("uploads", &uploads),
        Array::of("bounds of rows", &bounds),
        Array::of("weights of clients", &weight),
        Array::of("norms", &vec![0f64; clients]),
    ];
    let want = judged.then(|| {
        let norm = |c: usize| {
            let dense = (0..length).map(|i| (global[i], slab[c * stride + i]));
            let uploaded = (c * each..(c + 1) * each).filter(|&r| uploads[r] != 0);
            let rows = uploaded.flat_map(|r| (0..d).map(move |k| (r, k))).map(|(r, k)| (table[item[r] as usize * d + k], after[r * d + k]));
            if weight[c] == 0 { 0.0 } else { reference::update_norm(dense.chain(rows)) }
        };
        Want::Doubles((0..clients).map(norm).collect())
    });
    let outputs = vec![whole("norms", &arrays, 8, want)];
    let work = cost(clients * length + 2 * rows * d, 3.0 * (clients * length + rows * d) as f64);
    let given = Given { case: format!("{clients} clients, {length} weights, {each} rows of {d}"), arrays, outputs, cost: work };
    given.to([clients, 1], move |b| UpdateNorms {
        p: b[0],
        global: b[1],
        stride: stride as i64,
        length: int(length),
        rows: b[2],
        table: b[3],
        item: b[4],
        uploads: b[5],
        client_rows: b[6],
        weight: b[7],
        clients: int(clients),
        d: int(d),
        norms: b[8],
    })
}

impl ServerStep {
    /// Every optimiser.
    fn kinds() -> [(&'static str, ServerStep); 5] {
        let sgd = ServerStep { lr: 0.7, beta1: 0.0, beta2: 0.99, eps: 1e-3, second: 0, momentum: 0, first_scale: 1.0, second_scale: 1.0 };
        let momentum = ServerStep { beta1: 0.9, momentum: 1, ..sgd };
        let adaptive = |second| ServerStep { beta1: 0.9, second, first_scale: 1.5, second_scale: 4.0, ..sgd };
        [("sgd", sgd), ("momentum", momentum), ("fedadam", adaptive(1)), ("fedadagrad", adaptive(2)), ("fedyogi", adaptive(3))]
    }
}

/// `server_dense` and `server_rows` with every optimiser: `length` weights, `slots` rows of `items`.
pub fn server(n: &Normals, length: usize, slots: usize, items: usize, d: usize, judged: bool) -> Vec<Subject<'static>> {
    let sums = |array: usize, count: usize| -> Vec<i64> { (0..count).map(|i| fixed::from_f64(f64::from(n.at(array, i)))).collect() };
    let squares = |array: usize, count: usize| -> Vec<f32> { (0..count).map(|i| n.at(array, i).powi(2)).collect() };
    let mut subjects = Vec::new();
    for (name, step) in ServerStep::kinds() {
        let plain = step.second == 0 && step.momentum == 0;
        let pointer = move |at: Pointer| if plain { Pointer::NULL } else { at };
        let moved = |w: &[f32], first: &[f32], second: &[f32]| [w.to_vec(), first.to_vec(), second.to_vec()];
        let (total, sum) = (37i64, sums(28, length));
        let (w, first, second) = (n.take(29, length, 1.0), n.take(30, length, 0.1), squares(31, length));
        let arrays =
            vec![Array::of("sums", &sum), Array::of("weights", &w), Array::of("momentum", &first), Array::of("second moments", &second)];
        let wants = judged.then(|| {
            let [mut w, mut first, mut second] = moved(&w, &first, &second);
            (0..length).for_each(|i| server_step(&step, sum[i], total, [&mut w[i], &mut first[i], &mut second[i]]));
            [w, first, second].map(|v| Want::Bits(words(&v)))
        });
        let outputs = |arrays: &[Array], at: usize, wants: Option<[Want; 3]>| -> Vec<Output> {
            let wants = wants.map_or([None, None, None], |w| w.map(Some));
            let names = ["weights", "momentum", "second moments"];
            names.into_iter().zip(wants).enumerate().map(|(i, (what, want))| whole(what, arrays, at + i, want)).collect()
        };
        let outs = outputs(&arrays, 1, wants);
        let floats = if plain { 4 } else { 8 };
        let work = |count: usize| cost(floats * count, 12.0 * count as f64);
        let given = Given { case: format!("{name}, {length} weights"), arrays, outputs: outs, cost: work(length) };
        subjects.push(given.to([length.div_ceil(256), 1], move |b| ServerDense {
            step,
            sums: b[0],
            weight: total,
            w: b[1],
            first: pointer(b[2]),
            second: pointer(b[3]),
            length: int(length),
        }));

        // Slots in an order of their own, over some of the items; every ninth was uploaded by no client.
        let item: Vec<u32> = (0..slots).map(|s| ((s * 5 + 2) % items) as u32).collect();
        let own: Vec<i64> = (0..slots as i64).map(|s| if s % 9 == 4 { 0 } else { 1 + s % 6 }).collect();
        let sum = sums(32, slots * d);
        let (table, first, second) = (n.take(33, items * d, 1.0), n.take(34, items * d, 0.1), squares(35, items * d));
        // Corrections of a slot's own, which stand in for those of the step.
        let scales: Vec<f32> = (0..2 * slots).map(|i| 1.0 + 0.25 * (i % 7) as f32).collect();
        for (per_item, own_scales) in [(true, false), (false, true)] {
            let arrays = vec![
                Array::of("sums", &sum),
                Array::of("weights of slots", &own),
                Array::of("items", &item),
                Array::of("item table", &table),
                Array::of("momentum", &first),
                Array::of("second moments", &second),
                Array::of("corrections", &scales),
            ];
            let wants = judged.then(|| {
                let [mut table, mut first, mut second] = moved(&table, &first, &second);
                for s in (0..slots).filter(|&s| own[s] != 0) {
                    let mut step = step;
                    if own_scales {
                        (step.first_scale, step.second_scale) = (scales[2 * s], scales[2 * s + 1]);
                    }
                    for k in 0..d {
                        let i = item[s] as usize * d + k;
                        let weight = if per_item { own[s] } else { total };
                        server_step(&step, sum[s * d + k], weight, [&mut table[i], &mut first[i], &mut second[i]]);
                    }
                }
                [table, first, second].map(|v| Want::Bits(words(&v)))
            });
            let outs = outputs(&arrays, 3, wants);
            let by = if per_item { "per item" } else { "cohort" };
            let case = format!("{name}, {by}, {slots} rows, d {d}");
            let given = Given { case, arrays, outputs: outs, cost: work(slots * d) };
            subjects.push(given.to([(slots * d).div_ceil(256), 1], move |b| ServerRows {
                step,
                sums: b[0],
                slot_weight: b[1],
                item: b[2],
                weight: if per_item { 0 } else { total },
                table: b[3],
                first: pointer(b[4]),
                second: pointer(b[5]),
                scales: if own_scales { b[6] } else { Pointer::NULL },
                slots: int(slots),
                d: int(d),
            }));
        }
    }
    subjects
}
