//! Averaging in fixed point and the server's step against the same operations written in Rust, exactly.

use lumos::check::reference::{fixed_change, server_step, update_norm};
use lumos::testing::ServerStep;
use lumos_simt::check::Random;

struct Cohort {
    d: usize,
    items: usize,
    length: usize,
    stride: usize,
    global: Vec<f32>,
    table: Vec<f32>,
    p: Vec<f32>,
    weight: Vec<i64>,
    /// What a client's change is multiplied by, where rules say so.
    factor: Option<Vec<f32>>,
    client_rows: Vec<i32>,
    rows: Vec<f32>,
    item: Vec<i32>,
    uploads: Vec<u8>,
    /// Slot of each item and item of each slot.
    slot_of: Vec<i32>,
    touched: Vec<i32>,
}

fn cohort(seed: u64, clients: usize, d: usize) -> Cohort {
    let mut r = Random::new(seed);
    let (items, length) = (23, 131);
    let stride = length + 5;
    let (global, table) = (r.normals(1.0, length), r.normals(1.0, items * d));
    let weight = (0..clients).map(|c| if c % 4 == 3 { 0 } else { 1 + r.below(9) as i64 }).collect();
    let (mut client_rows, mut item, mut uploads, mut rows) = (vec![0], Vec::new(), Vec::new(), Vec::new());
    for _ in 0..clients {
        let first = r.below(items);
        for k in 0..r.below(6) {
            let i = (first + 3 * k) % items;
            item.push(i as i32);
            uploads.push(u8::from(r.below(4) > 0));
            let same = r.below(4) == 0;
            for x in 0..d {
                rows.push(table[i * d + x] + if same { 0.0 } else { r.normal() });
            }
        }
        client_rows.push(item.len() as i32);
    }
    let (mut slot_of, mut touched) = (vec![-1; items], Vec::new());
    for &i in item.iter().rev() {
        if slot_of[i as usize] < 0 {
            slot_of[i as usize] = touched.len() as i32;
            touched.push(i);
        }
    }
    let p = (0..clients * stride).map(|i| global.get(i % stride).copied().unwrap_or(0.0) + 0.3 * r.normal()).collect();
    Cohort { d, items, length, stride, global, table, p, weight, factor: None, client_rows, rows, item, uploads, slot_of, touched }
}

#[derive(Clone, Debug, PartialEq)]
struct Sums {
    dense: Vec<i64>,
    rows: Vec<i64>,
    row_weight: Vec<i64>,
    uploaded: Vec<i32>,
    failing: Vec<u32>,
}

impl Cohort {
    fn clients(&self) -> usize {
        self.weight.len()
    }

    fn factor(&self, client: usize) -> f32 {
        self.factor.as_ref().map_or(1.0, |f| f[client])
    }

    fn empty(&self) -> Sums {
        let slots = self.touched.len();
        Sums {
            dense: vec![0; self.length],
            rows: vec![0; slots * self.d],
            row_weight: vec![0; slots],
            uploaded: vec![0; self.clients()],
            failing: vec![0; self.clients()],
        }
    }

    /// On the device's rendition, in chunks that end at `cuts`.
    fn launched(&self, cuts: &[usize], each: i32, slices: u32) -> Sums {
        let mut sums = self.empty();
        let slot: Vec<i32> = self.item.iter().map(|&i| self.slot_of[i as usize]).collect();
        let mut from = 0;
        for &to in cuts {
            let n = (to - from) as i32;
            let (p, w) = (self.p[from * self.stride..].as_ptr(), self.weight[from..].as_ptr());
            let factor = self.factor.as_ref().map_or(std::ptr::null(), |f| f[from..].as_ptr());
            let blocks = self.length.div_ceil(64) as u32;
            launch!(
                "average_dense",
                [blocks, slices, 1],
                [64, 1, 1],
                0,
                p,
                self.global.as_ptr(),
                w,
                factor,
                n,
                each,
                self.stride as i64,
                self.length as i32,
                sums.dense.as_mut_ptr(),
                sums.failing[from..].as_mut_ptr()
            )
            .unwrap();
            launch!(
                "average_rows",
                [n as u32 + 1, 2, 1],
                [64, 1, 1],
                0,
                self.rows.as_ptr(),
                self.table.as_ptr(),
                self.item.as_ptr(),
                slot.as_ptr(),
                self.uploads.as_ptr(),
                self.client_rows[from..].as_ptr(),
                w,
                factor,
                n,
                self.d as i32,
                sums.rows.as_mut_ptr(),
                sums.row_weight.as_mut_ptr(),
                sums.uploaded[from..].as_mut_ptr(),
                sums.failing[from..].as_mut_ptr()
            )
            .unwrap();
            from = to;
        }
        sums
    }

    fn reference(&self) -> Sums {
        let mut sums = self.empty();
        let d = self.d;
        for c in (0..self.clients()).filter(|&c| self.weight[c] > 0) {
            let w = self.weight[c];
            let mut fine = true;
            for i in 0..self.length {
                match fixed_change(self.global[i], self.p[c * self.stride + i], self.factor(c)) {
                    Some(x) => sums.dense[i] += w * x,
                    None => fine = false,
                }
            }
            for r in self.client_rows[c] as usize..self.client_rows[c + 1] as usize {
                let (after, before) = (&self.rows[r * d..][..d], &self.table[self.item[r] as usize * d..][..d]);
                if self.uploads[r] == 0 || after == before {
                    continue;
                }
                let slot = self.slot_of[self.item[r] as usize] as usize;
                sums.uploaded[c] += 1;
                sums.row_weight[slot] += w;
                for k in 0..d {
                    match fixed_change(before[k], after[k], self.factor(c)) {
                        Some(x) => sums.rows[slot * d + k] += w * x,
                        None => fine = false,
                    }
                }
            }
            if !fine {
                sums.failing[c] = 1;
            }
        }
        sums
    }
}

#[test]
fn sums_are_exact_for_any_chunks() {
    for (seed, clients, d) in [(1, 1, 3), (2, 13, 8), (3, 37, 33), (4, 64, 64)] {
        let cohort = cohort(seed, clients, d);
        let expected = cohort.reference();
        assert!(clients == 1 || expected.uploaded.iter().sum::<i32>() > 0);
        for (cuts, each, slices) in
            [(vec![clients], clients as i32, 1), (vec![clients / 3, clients / 2, clients], 2, clients as u32), (vec![clients], 5, 13)]
        {
            let cuts: Vec<usize> = cuts.into_iter().filter(|&c| c > 0).collect();
            assert_eq!(cohort.launched(&cuts, each, slices), expected, "{clients} clients in {cuts:?}, {each} a thread");
        }
    }
}

#[test]
fn factors_multiply_whole_updates() {
    for (seed, clients, d) in [(11, 5, 3), (12, 37, 33)] {
        let mut cohort = cohort(seed, clients, d);
        cohort.factor = Some((0..clients).map(|c| [1.0, -3.0, 0.37, 0.0][c % 4]).collect());
        assert_eq!(cohort.launched(&[clients / 3, clients], 4, 11), cohort.reference());
    }
}

#[test]
fn norms_are_those_of_dense_weights_and_uploaded_rows() {
    for (seed, clients, d, threads) in [(21, 1, 1, 32), (22, 13, 8, 256), (23, 40, 33, 256)] {
        let cohort = cohort(seed, clients, d);
        let mut norms = vec![-1.0f64; clients];
        launch!(
            "update_norms",
            [clients as u32 + 1, 1, 1],
            [threads, 1, 1],
            256,
            cohort.p.as_ptr(),
            cohort.global.as_ptr(),
            cohort.stride as i64,
            cohort.length as i32,
            cohort.rows.as_ptr(),
            cohort.table.as_ptr(),
            cohort.item.as_ptr(),
            cohort.uploads.as_ptr(),
            cohort.client_rows.as_ptr(),
            cohort.weight.as_ptr(),
            clients as i32,
            d as i32,
            norms.as_mut_ptr()
        )
        .unwrap();
        for (c, &norm) in norms.iter().enumerate() {
            let dense = (0..cohort.length).map(|i| (cohort.global[i], cohort.p[c * cohort.stride + i]));
            let own = (cohort.client_rows[c] as usize..cohort.client_rows[c + 1] as usize).filter(|&row| cohort.uploads[row] != 0);
            let pairs = own.flat_map(|row| (0..d).map(move |k| (row, k)));
            let rows = pairs.map(|(row, k)| (cohort.table[cohort.item[row] as usize * d + k], cohort.rows[row * d + k]));
            let want = if cohort.weight[c] == 0 { 0.0 } else { update_norm(dense.chain(rows)) };
            assert!((norm - want).abs() <= 1e-12 * want, "client {c} of {clients}: {norm} for {want}");
        }
    }
}

#[test]
fn clients_whose_changes_are_not_finite_or_too_large_are_marked() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -300.0] {
        let mut cohort = cohort(5, 21, 9);
        let stride = cohort.stride;
        cohort.p[17 * stride + 3] = bad;
        cohort.p[10 * stride + 130] = bad;
        (cohort.weight[10], cohort.weight[17]) = (1, 2);
        let marked = |cohort: &Cohort, cuts: &[usize], each, slices| -> Vec<usize> {
            let failing = cohort.launched(cuts, each, slices).failing;
            (0..failing.len()).filter(|&c| failing[c] == 1).collect()
        };
        assert_eq!(marked(&cohort, &[8, 21], 3, 7), [10, 17], "{bad}");
        // A client that did not train is not looked at.
        cohort.weight[10] = 0;
        assert_eq!(marked(&cohort, &[8, 21], 3, 7), [17]);
        let row = cohort.client_rows[..].windows(2).position(|b| b[0] < b[1]).unwrap();
        let at = cohort.client_rows[row] as usize;
        (cohort.uploads[at], cohort.weight[row]) = (1, 1);
        cohort.rows[at * cohort.d + 8] = bad;
        let expected: Vec<usize> = if row < 17 { vec![row, 17] } else { vec![17, row] };
        assert_eq!(marked(&cohort, &[21], 30, 1), expected, "{bad} in an item row");
    }
}

#[test]
fn small_changes_and_subnormal_numbers_are_kept_or_rounded() {
    let mut cohort = cohort(6, 5, 4);
    let stride = cohort.stride;
    for c in 0..5 {
        for i in 0..cohort.length {
            let ulp = f32::from_bits(1 + (i as u32) * 7);
            cohort.global[i] = 0.0;
            cohort.p[c * stride + i] = if i % 2 == 0 { ulp } else { 1.0 / 8_589_934_592.0 * (1 + i) as f32 };
        }
    }
    assert_eq!(cohort.launched(&[5], 5, 1), cohort.reference());
}

#[test]
fn the_server_takes_the_steps_of_the_cpu() {
    let cohort = cohort(7, 30, 5);
    let sums = cohort.reference();
    let weight: i64 = cohort.weight.iter().sum();
    let sgd = ServerStep { lr: 0.7, beta1: 0.0, beta2: 0.99, eps: 1e-3, second: 0, momentum: 0, first_scale: 1.0, second_scale: 1.0 };
    let adaptive = [1, 2, 3].map(|second| ServerStep { beta1: 0.9, second, first_scale: 1.25, second_scale: 3.0, ..sgd });
    let scales: Vec<f32> = (0..2 * cohort.touched.len()).map(|i| 1.0 + 0.5 * (i % 5) as f32).collect();
    for o in [sgd, ServerStep { beta1: 0.9, momentum: 1, ..sgd }].into_iter().chain(adaptive) {
        for (per_item, own_scales) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut r = Random::new(8);
            let plain = o.second == 0 && o.momentum == 0;
            let (mut w, mut table) = (cohort.global.clone(), cohort.table.clone());
            let moments = |r: &mut Random, n: usize| r.normals(0.1, n).iter().map(|x| x.abs()).collect::<Vec<f32>>();
            let (mut f, mut s) = (moments(&mut r, w.len()), moments(&mut r, w.len()));
            let (mut tf, mut ts) = (moments(&mut r, table.len()), moments(&mut r, table.len()));
            let (mut w2, mut f2, mut s2) = (w.clone(), f.clone(), s.clone());
            let (mut table2, mut tf2, mut ts2) = (table.clone(), tf.clone(), ts.clone());
            for i in 0..w2.len() {
                server_step(&o, sums.dense[i], weight, [&mut w2[i], &mut f2[i], &mut s2[i]]);
            }
            for (slot, &item) in cohort.touched.iter().enumerate().filter(|(slot, _)| sums.row_weight[*slot] > 0) {
                let weight = if per_item { sums.row_weight[slot] } else { weight };
                let mut own = o;
                if own_scales {
                    (own.first_scale, own.second_scale) = (scales[2 * slot], scales[2 * slot + 1]);
                }
                for k in 0..cohort.d {
                    let i = item as usize * cohort.d + k;
                    server_step(&own, sums.rows[slot * cohort.d + k], weight, [&mut table2[i], &mut tf2[i], &mut ts2[i]]);
                }
            }
            let pointer = |v: &mut Vec<f32>| if plain { std::ptr::null_mut() } else { v.as_mut_ptr() };
            let n = w.len();
            let (fp, sp, tfp, tsp) = (pointer(&mut f), pointer(&mut s), pointer(&mut tf), pointer(&mut ts));
            launch!(
                "server_dense",
                [n.div_ceil(32) as u32, 1, 1],
                [32, 1, 1],
                0,
                o,
                sums.dense.as_ptr(),
                weight,
                w.as_mut_ptr(),
                fp,
                sp,
                n as i32
            )
            .unwrap();
            let slots = cohort.touched.len();
            let blocks = (slots * cohort.d).div_ceil(64) as u32;
            launch!(
                "server_rows",
                [blocks, 1, 1],
                [64, 1, 1],
                0,
                o,
                sums.rows.as_ptr(),
                sums.row_weight.as_ptr(),
                cohort.touched.as_ptr(),
                if per_item { 0 } else { weight },
                table.as_mut_ptr(),
                tfp,
                tsp,
                if own_scales { scales.as_ptr() } else { std::ptr::null() },
                slots as i32,
                cohort.d as i32
            )
            .unwrap();
            assert_eq!((w, table), (w2, table2), "{o:?} per item {per_item} own scales {own_scales}");
            if !plain {
                assert_eq!((f, tf), (f2, tf2));
                assert!(o.second == 0 || (s, ts) == (s2, ts2));
            }
            assert!(cohort.items > cohort.touched.len() || sums.row_weight.contains(&0), "some row is nobody's");
        }
    }
}
