//! Kernels that are no operation of the backend, as subjects: copies from the global weights, averaging and the server's step.

use super::case::Normals;
use super::subject::{Array, Cost, Launch, Output, Subject, Want};
use crate::Result;
use crate::backend::cuda::optimiser::ServerStep;
use crate::base::rng::{Purpose, Stream};
use crate::config::Precision;
use crate::device::Geometry;
use crate::device::interface::{Arg, Buffer, Device, Plain, bytes_of};
use crate::engine::fixed;
use std::rc::Rc;

/// Launches a kernel on buffers that hold what it asks for.
pub(super) fn go(device: &dyn Device, name: &'static str, grid: [usize; 2], block: u32, shared: usize, args: &[Arg]) -> Result<()> {
    let kernel = device.kernel(name)?;
    let geometry = Geometry { grid: [grid[0] as u32, grid[1] as u32, 1], block: [block, 1, 1], shared };
    // SAFETY: the arrays of a subject are as long as its kernel asks for.
    Ok(unsafe { device.launch(kernel, geometry, args) }?)
}

pub(super) fn int(n: usize) -> Arg<'static> {
    Arg::Int(n as i32)
}

pub(super) fn at(buffer: &Buffer) -> Arg<'static> {
    Arg::Pointer(buffer.address())
}

pub(super) fn cost(floats: usize, operations: f64) -> Cost {
    Cost { bytes: 4.0 * floats as f64, operations, precision: Precision::Fp32 }
}

/// The words of values.
pub(super) fn words<T: Plain>(values: &[T]) -> Vec<u32> {
    Array::of("", values).words
}

pub(super) fn whole(what: &'static str, arrays: &[Array], array: usize, want: Option<Want>) -> Output {
    Output { what, array, words: 0..arrays[array].words.len(), want: want.unwrap_or(Want::Any) }
}

pub(super) fn subject<'a>(
    kernel: &'static str,
    case: String,
    arrays: Vec<Array>,
    outputs: Vec<Output>,
    cost: Cost,
    launch: Launch<'a>,
) -> Subject<'a> {
    Subject { kernel, with: Vec::new(), case, arrays, launch: Rc::new(launch), outputs, cost }
}

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
    let launch: Launch = Box::new(move |device, b| {
        let args = [at(&b[0]), at(&b[1]), int(clients), Arg::Long(stride as i64), int(length)];
        go(device, "broadcast", [clients, length.div_ceil(2048)], 256, 0, &args)
    });
    subject("broadcast", format!("{clients} clients, {length} weights"), arrays, outputs, cost((clients + 1) * length, 0.0), launch)
}

/// `gather_rows`: `rows` rows out of `items`.
pub fn gather(n: &Normals, rows: usize, items: usize, d: usize, judged: bool) -> Subject<'static> {
    let mut s = Stream::new(1, Purpose::Bench, 4, rows as u64);
    let list: Vec<u32> = (0..rows).map(|_| s.below(items as u64) as u32).collect();
    let table = n.take(22, items * d, 1.0);
    let arrays = vec![Array::of("items", &list), Array::of("item table", &table), Array::of("rows", &n.take(23, rows * d, 1.0))];
    let want = judged.then(|| Want::Bits(list.iter().flat_map(|&i| words(&table[i as usize * d..][..d])).collect()));
    let outputs = vec![whole("rows", &arrays, 2, want)];
    let launch: Launch = Box::new(move |device, b| {
        let args = [at(&b[0]), at(&b[1]), at(&b[2]), int(rows), int(d)];
        go(device, "gather_rows", [rows.div_ceil(8).max(1), 1], 256, 0, &args)
    });
    subject("gather_rows", format!("{rows} rows of {items}, d {d}"), arrays, outputs, cost(2 * rows * d + rows, 0.0), launch)
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
                *sum += w * fixed::from_f64(f64::from((slab[c * stride + i] - global[i]) * factor[c]));
            }
        }
        Want::Bits(words(&sums))
    });
    let outputs = vec![whole("sums", &arrays, 3, want)];
    let launch: Launch = Box::new(move |device, b| {
        let head = [at(&b[0]), at(&b[1]), at(&b[2]), at(&b[5]), int(clients), int(EACH), Arg::Long(stride as i64), int(length)];
        let args = [&head[..], &[at(&b[3]), at(&b[4])]].concat();
        go(device, "average_dense", [length.div_ceil(256), clients.div_ceil(EACH)], 256, 0, &args)
    });
    let work = cost(clients * length + 5 * length, 3.0 * (clients * length) as f64);
    subject("average_dense", format!("{clients} clients, {length} weights"), arrays, outputs, work, launch)
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
                sums[i * d + k] += weight[c] * fixed::from_f64(f64::from(new[k] - old[k]));
            }
            slot_weight[i] += weight[c];
            uploaded[c] += 1;
        }
        [words(&sums), words(&slot_weight), words(&uploaded)].map(Want::Bits)
    });
    let [a, b, c] = wants.map_or([None, None, None], |w| w.map(Some));
    let outputs = vec![whole("sums", &arrays, 6, a), whole("weights of slots", &arrays, 7, b), whole("uploaded rows", &arrays, 8, c)];
    let launch: Launch = Box::new(move |device, b| {
        let head =
            [&[at(&b[0]), at(&b[1]), at(&b[2]), at(&b[2]), at(&b[3]), at(&b[4]), at(&b[5]), Arg::Pointer(0)][..], &[int(clients), int(d)]]
                .concat();
        let args = [&head[..], &[at(&b[6]), at(&b[7]), at(&b[8]), at(&b[9])]].concat();
        go(device, "average_rows", [clients, each.div_ceil(16).max(1)], 128, 0, &args)
    });
    let work = cost(2 * rows * d + 4 * items * d, 3.0 * (rows * d) as f64);
    subject("average_rows", format!("{clients} clients of {each} rows, d {d}"), arrays, outputs, work, launch)
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
            let dense = (0..length).map(|i| slab[c * stride + i] - global[i]);
            let uploaded = (c * each..(c + 1) * each).filter(|&r| uploads[r] != 0);
            let rows = uploaded.flat_map(|r| (0..d).map(move |k| (r, k))).map(|(r, k)| after[r * d + k] - table[item[r] as usize * d + k]);
            let sum: f64 = dense.chain(rows).map(|x| f64::from(x).powi(2)).sum();
            if weight[c] == 0 { 0.0 } else { sum.sqrt() }
        };
        Want::Doubles((0..clients).map(norm).collect())
    });
    let outputs = vec![whole("norms", &arrays, 8, want)];
    let launch: Launch = Box::new(move |device, b| {
        let dense = [at(&b[0]), at(&b[1]), Arg::Long(stride as i64), int(length)];
        let rows = [at(&b[2]), at(&b[3]), at(&b[4]), at(&b[5]), at(&b[6]), at(&b[7]), int(clients), int(d), at(&b[8])];
        go(device, "update_norms", [clients, 1], 256, 256, &[&dense[..], &rows].concat())
    });
    let work = cost(clients * length + 2 * rows * d, 3.0 * (clients * length + rows * d) as f64);
    subject("update_norms", format!("{clients} clients, {length} weights, {each} rows of {d}"), arrays, outputs, work, launch)
}

impl ServerStep {
    /// Every optimiser.
    fn kinds() -> [(&'static str, ServerStep); 5] {
        let sgd = ServerStep { lr: 0.7, beta1: 0.0, beta2: 0.99, eps: 1e-3, second: 0, momentum: 0 };
        let momentum = ServerStep { beta1: 0.9, momentum: 1, ..sgd };
        let adaptive = |second| ServerStep { beta1: 0.9, second, ..sgd };
        [("sgd", sgd), ("momentum", momentum), ("fedadam", adaptive(1)), ("fedadagrad", adaptive(2)), ("fedyogi", adaptive(3))]
    }

    fn one(&self, sum: i64, weight: i64, first: &mut f32, second: &mut f32, w: &mut f32) {
        let change = (fixed::to_f64(sum) * (1.0 / weight as f64)) as f32;
        let (square, part) = (change * change, (1.0 - self.beta2) * change * change);
        *w += match (self.second, self.momentum) {
            (kind @ 1..=3, _) => {
                *first = self.beta1 * *first + (1.0 - self.beta1) * change;
                *second = match kind {
                    1 => self.beta2 * *second + part,
                    2 => *second + square,
                    _ if *second > square => *second - part,
                    _ if *second < square => *second + part,
                    _ => *second,
                };
                self.lr * *first / (second.sqrt() + self.eps)
            }
            (_, 1) => {
                *first = self.beta1 * *first + change;
                self.lr * *first
            }
            _ => self.lr * change,
        };
    }
}

/// `server_dense` and `server_rows` with every optimiser: `length` weights, `slots` rows of `items`.
pub fn server(n: &Normals, length: usize, slots: usize, items: usize, d: usize, judged: bool) -> Vec<Subject<'static>> {
    let sums = |array: usize, count: usize| -> Vec<i64> { (0..count).map(|i| fixed::from_f64(f64::from(n.at(array, i)))).collect() };
    let squares = |array: usize, count: usize| -> Vec<f32> { (0..count).map(|i| n.at(array, i).powi(2)).collect() };
    let mut subjects = Vec::new();
    for (name, step) in ServerStep::kinds() {
        let plain = step.second == 0 && step.momentum == 0;
        let pointer = move |b: &Buffer| if plain { Arg::Pointer(0) } else { at(b) };
        let moved = |w: &[f32], first: &[f32], second: &[f32]| [w.to_vec(), first.to_vec(), second.to_vec()];
        let (total, sum) = (37i64, sums(28, length));
        let (w, first, second) = (n.take(29, length, 1.0), n.take(30, length, 0.1), squares(31, length));
        let arrays =
            vec![Array::of("sums", &sum), Array::of("weights", &w), Array::of("momentum", &first), Array::of("second moments", &second)];
        let wants = judged.then(|| {
            let [mut w, mut first, mut second] = moved(&w, &first, &second);
            (0..length).for_each(|i| step.one(sum[i], total, &mut first[i], &mut second[i], &mut w[i]));
            [w, first, second].map(|v| Want::Bits(words(&v)))
        });
        let outputs = |arrays: &[Array], at: usize, wants: Option<[Want; 3]>| -> Vec<Output> {
            let wants = wants.map_or([None, None, None], |w| w.map(Some));
            let names = ["weights", "momentum", "second moments"];
            names.into_iter().zip(wants).enumerate().map(|(i, (what, want))| whole(what, arrays, at + i, want)).collect()
        };
        let outs = outputs(&arrays, 1, wants);
        let launch: Launch = Box::new(move |device, b| {
            let args = [Arg::value(&step), at(&b[0]), Arg::Long(total), at(&b[1]), pointer(&b[2]), pointer(&b[3]), int(length)];
            go(device, "server_dense", [length.div_ceil(256), 1], 256, 0, &args)
        });
        let floats = if plain { 4 } else { 8 };
        let work = |count: usize| cost(floats * count, 12.0 * count as f64);
        subjects.push(subject("server_dense", format!("{name}, {length} weights"), arrays, outs, work(length), launch));

        // Slots in an order of their own, over some of the items; every ninth was uploaded by no client.
        let item: Vec<u32> = (0..slots).map(|s| ((s * 5 + 2) % items) as u32).collect();
        let own: Vec<i64> = (0..slots as i64).map(|s| if s % 9 == 4 { 0 } else { 1 + s % 6 }).collect();
        let sum = sums(32, slots * d);
        let (table, first, second) = (n.take(33, items * d, 1.0), n.take(34, items * d, 0.1), squares(35, items * d));
        for per_item in [true, false] {
            let arrays = vec![
                Array::of("sums", &sum),
                Array::of("weights of slots", &own),
                Array::of("items", &item),
                Array::of("item table", &table),
                Array::of("momentum", &first),
                Array::of("second moments", &second),
            ];
            let wants = judged.then(|| {
                let [mut table, mut first, mut second] = moved(&table, &first, &second);
                for s in (0..slots).filter(|&s| own[s] != 0) {
                    for k in 0..d {
                        let i = item[s] as usize * d + k;
                        let weight = if per_item { own[s] } else { total };
                        step.one(sum[s * d + k], weight, &mut first[i], &mut second[i], &mut table[i]);
                    }
                }
                [table, first, second].map(|v| Want::Bits(words(&v)))
            });
            let outs = outputs(&arrays, 3, wants);
            let launch: Launch = Box::new(move |device, b| {
                let weight = Arg::Long(if per_item { 0 } else { total });
                let head = [Arg::value(&step), at(&b[0]), at(&b[1]), at(&b[2]), weight, at(&b[3]), pointer(&b[4]), pointer(&b[5])];
                let args = [&head[..], &[int(slots), int(d)]].concat();
                go(device, "server_rows", [(slots * d).div_ceil(256), 1], 256, 0, &args)
            });
            let by = if per_item { "per item" } else { "cohort" };
            subjects.push(subject("server_rows", format!("{name}, {by}, {slots} rows, d {d}"), arrays, outs, work(slots * d), launch));
        }
    }
    subjects
}

/// The bytes of a value as an array of its own.
pub(super) fn value<T: Plain>(name: &'static str, value: &T) -> Array {
    let bytes = bytes_of(std::slice::from_ref(value));
    Array::of(name, bytes)
}
