//! The local optimiser against the same operations written in Rust, bit for bit.

use super::packed::PackedStep;
use lumos::check::reference::{LocalStep, clip_factor};
use lumos::testing::OptimiserStep;
use lumos_simt::check::Random;

fn kinds() -> Vec<OptimiserStep> {
    let adam = OptimiserStep {
        beta1: 0.9,
        beta2: 0.98,
        rate: 0.02,
        correction: 3.0,
        eps: 1e-8,
        l2: 0.01,
        shrink: 1.0,
        pull: 0.0,
        first: 0,
        sgd: 0,
    };
    vec![
        adam,
        OptimiserStep { first: 1, ..adam },
        OptimiserStep { l2: 0.0, shrink: 0.97, ..adam },
        OptimiserStep { sgd: 1, ..adam },
        OptimiserStep { pull: 0.3, ..adam },
        OptimiserStep { pull: 0.2, sgd: 1, ..adam },
    ]
}

const CLIENTS: [&[usize]; 6] = [&[3, 2], &[], &[1], &[7, 7, 2], &[], &[5]];

/// A random step whose positions end at `align`, or begin at 0 where that is 0.
fn aligned(seed: u64, align: usize) -> PackedStep {
    let mut step = PackedStep::random(seed, 2, &CLIENTS);
    for s in 0..step.bounds.len() - 1 {
        let tokens = step.bounds[s] as usize..step.bounds[s + 1] as usize;
        let first = align.saturating_sub(tokens.len());
        for (i, p) in step.position[tokens].iter_mut().enumerate() {
            *p = (first + i) as i32;
        }
    }
    step
}

/// Rows of the position table that client `c` meets.
fn reach(step: &PackedStep, c: usize) -> std::ops::Range<usize> {
    let own = &step.position[step.client_tokens[c] as usize..step.client_tokens[c + 1] as usize];
    own.iter().min().map_or(0..0, |&low| low as usize..*own.iter().max().unwrap() as usize + 1)
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn dense_weights_and_positions() {
    for (case, (d, align)) in [(4, 0), (5, 0), (3, 9)].into_iter().enumerate() {
        let step = aligned(40 + case as u64, align);
        for table_at in [None, Some(0usize), Some(11)] {
            let table_rows = 10;
            let length = 30 + table_rows * d;
            let stride = length + 3;
            for (k, o) in kinds().into_iter().enumerate() {
                let mut r = Random::new(900 + k as u64);
                let n = stride * step.clients();
                let scale = r.normals(1.0, step.clients());
                let (mut p, g) = (r.normals(1.0, n), r.normals(1.0, n));
                let global = r.normals(1.0, length);
                // Some weights were stepped on before.
                let places = (k % 2 == 1).then(|| (0..length as i32).filter(|i| i % 7 != 2).collect::<Vec<i32>>());
                let mut m = r.normals(0.1, n);
                let mut s: Vec<f32> = r.normals(0.1, n).iter().map(|x| x * x).collect();
                let (mut p2, mut m2, mut s2) = (p.clone(), m.clone(), s.clone());
                for (c, &scale) in scale.iter().enumerate() {
                    let trains = step.client_tokens[c] < step.client_tokens[c + 1];
                    let reach = reach(&step, c);
                    for (i, &start) in global.iter().enumerate() {
                        let at = c * stride + i;
                        let place = table_at.and_then(|t| i.checked_sub(t)).map(|x| x / d).filter(|&row| row < table_rows);
                        let reached = place.is_none_or(|row| reach.contains(&row));
                        if places.as_ref().is_some_and(|list| !list.contains(&(i as i32))) {
                            continue;
                        }
                        let first = o.first != 0;
                        if trains && reached {
                            let rule = LocalStep::of(&o);
                            rule.one(scale, [&mut p2[at], &mut m2[at], &mut s2[at]], g[at]);
                            rule.back(&mut p2[at], start);
                        } else if first && o.sgd == 0 {
                            (m2[at], s2[at]) = (0.0, 0.0);
                        }
                    }
                }
                let packed = step.header();
                let at = table_at.map_or(-1, |t| t as i32);
                let (pp, mp, sp, gp) = (p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr(), g.as_ptr());
                launch!(
                    "adam_dense",
                    [9, 2, 1],
                    [64, 1, 1],
                    0,
                    &raw const packed,
                    &raw const o,
                    scale.as_ptr(),
                    pp,
                    mp,
                    sp,
                    gp,
                    global.as_ptr(),
                    places.as_ref().map_or(std::ptr::null(), |list| list.as_ptr()),
                    places.as_ref().map_or(length, Vec::len) as i32,
                    stride as i64,
                    length as i32,
                    at,
                    table_rows as i32,
                    d as i32
                )
                .unwrap();
                assert_eq!(bits(&p), bits(&p2), "weights, kind {k}, table {table_at:?}");
                assert_eq!((bits(&m), bits(&s)), (bits(&m2), bits(&s2)), "moments, kind {k}, table {table_at:?}");
            }
        }
    }
}

#[test]
fn item_rows() {
    let step = PackedStep::random(50, 2, &CLIENTS);
    let d = 7;
    for (k, o) in kinds().into_iter().enumerate() {
        let mut r = Random::new(60 + k as u64);
        let n = step.rows() * d;
        let (mut p, g, mut m) = (r.normals(1.0, n), r.normals(1.0, n), r.normals(0.1, n));
        let mut s: Vec<f32> = r.normals(0.1, n).iter().map(|x| x * x).collect();
        let table = r.normals(1.0, n);
        let (mut p2, mut m2, mut s2) = (p.clone(), m.clone(), s.clone());
        for c in 0..step.clients() {
            let trains = step.client_tokens[c] < step.client_tokens[c + 1];
            for i in step.client_rows[c] as usize * d..step.client_rows[c + 1] as usize * d {
                if trains {
                    let rule = LocalStep::of(&o);
                    rule.one(1.0, [&mut p2[i], &mut m2[i], &mut s2[i]], g[i]);
                    rule.back(&mut p2[i], table[step.row_item[i / d] as usize * d + i % d]);
                } else if o.first != 0 && o.sgd == 0 {
                    (m2[i], s2[i]) = (0.0, 0.0);
                }
            }
        }
        let packed = step.header();
        let none: *const f32 = std::ptr::null();
        let (pp, mp, sp) = (p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr());
        let (gp, tp) = (g.as_ptr(), table.as_ptr());
        launch!("adam_rows", [8, 3, 1], [32, 1, 1], 0, &raw const packed, &raw const o, none, pp, mp, sp, gp, tp, d as i32).unwrap();
        assert_eq!((bits(&p), bits(&m), bits(&s)), (bits(&p2), bits(&m2), bits(&s2)), "kind {k}");
    }
}

#[test]
fn gradients_are_clipped_by_their_norm() {
    let step = aligned(70, 8);
    let (d, table_at, table_rows, length, stride) = (6usize, 5usize, 8usize, 700usize, 701usize);
    let mut r = Random::new(71);
    let (g, rows) = (r.normals(1.0, stride * step.clients()), r.normals(1.0, step.rows() * d));
    for clip in [0.5f32, 26.0, 1e9] {
        let mut scale = vec![f32::NAN; step.clients()];
        let packed = step.header();
        launch!(
            "clip_norm",
            [step.clients() as u32 + 2, 1, 1],
            [256, 1, 1],
            256,
            &raw const packed,
            g.as_ptr(),
            rows.as_ptr(),
            stride as i64,
            length as i32,
            table_at as i32,
            table_rows as i32,
            d as i32,
            clip,
            scale.as_mut_ptr()
        )
        .unwrap();
        for c in 0..step.clients() {
            let outside = |i: usize| {
                let row = i.wrapping_sub(table_at) / d;
                i >= table_at && row < table_rows && !reach(&step, c).contains(&row)
            };
            let dense = (0..length).filter(|&i| !outside(i)).map(|i| g[c * stride + i]);
            let own = step.client_rows[c] as usize * d..step.client_rows[c + 1] as usize * d;
            let expected = clip_factor(dense.chain(rows[own].iter().copied()), clip);
            assert!((f64::from(scale[c]) - expected).abs() <= 1e-7 * expected, "client {c}: {} and {expected}", scale[c]);
        }
    }
}

#[test]
fn every_client_starts_from_the_global_weights() {
    let (clients, length, stride) = (5usize, 301usize, 304usize);
    let global = Random::new(80).normals(1.0, length);
    let mut slab = vec![f32::NAN; clients * stride];
    launch!("broadcast", [7, 2, 1], [128, 1, 1], 0, global.as_ptr(), slab.as_mut_ptr(), clients as i32, stride as i64, length as i32)
        .unwrap();
    for client in slab.chunks(stride) {
        assert_eq!(client[..length], global[..]);
        assert!(client[length..].iter().all(|x| x.is_nan()), "written past the end");
    }
}

/// A number of any size and sign: an end of the range, or a random exponent and mantissa.
fn any(r: &mut Random) -> f32 {
    const ENDS: [f32; 12] =
        [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1e-45, -3e-42, f32::MAX, f32::MIN, 1.0, 1e-8];
    let bits = r.bits();
    match bits % 32 {
        at @ 0..12 => ENDS[at as usize],
        12..20 => f32::from_bits((bits >> 32) as u32),
        // Near one, as weights and gradients are.
        _ => f32::from_bits(((bits >> 32) as u32 & 0x81ff_ffff) | 0x3a00_0000),
    }
}

#[test]
fn four_weights_at_a_time_have_the_bits_of_one_at_a_time() {
    let adam = OptimiserStep {
        beta1: 0.9,
        beta2: 0.98,
        rate: 0.02,
        correction: 3.0,
        eps: 1e-8,
        l2: 0.0,
        shrink: 1.0,
        pull: 0.0,
        first: 0,
        sgd: 0,
    };
    let steps = [
        adam,
        OptimiserStep { l2: 0.01, ..adam },
        OptimiserStep { shrink: 0.97, rate: 1e-3, beta2: 0.999, correction: 31.6, ..adam },
        OptimiserStep { eps: 0.0, ..adam },
        OptimiserStep { eps: 1e30, correction: 1e20, ..adam },
        OptimiserStep { beta1: 0.0, beta2: 0.0, correction: 1.0, ..adam },
        OptimiserStep { correction: 0.0, eps: 1.0, ..adam },
        OptimiserStep { beta1: 0.0, beta2: 1.0, correction: 1.0, eps: 0.01, ..adam },
    ];
    let n = 4 * 64 * 500;
    for (k, step) in steps.into_iter().enumerate() {
        for plain in [false, true] {
            let mut r = Random::new(70 + k as u64);
            let (mut p, mut m, mut s, g): (Vec<f32>, Vec<f32>, Vec<f32>, Vec<f32>) = if plain {
                // What training has, so that the short way is taken by most.
                let squares = r.normals(0.1, n).iter().map(|x| x * x).collect();
                (r.normals(1.0, n), r.normals(0.1, n), squares, r.normals(0.3, n))
            } else {
                let mut draw = |f: fn(f32) -> f32| (0..n).map(|_| f(any(&mut r))).collect();
                (draw(|x| x), draw(|x| x), draw(f32::abs), draw(|x| x))
            };
            let (mut p2, mut m2, mut s2) = (p.clone(), m.clone(), s.clone());
            launch!(
                "selftest_adam",
                [500, 1, 1],
                [64, 1, 1],
                0,
                &raw const step,
                0.7f32,
                p.as_mut_ptr(),
                m.as_mut_ptr(),
                s.as_mut_ptr(),
                g.as_ptr(),
                p2.as_mut_ptr(),
                m2.as_mut_ptr(),
                s2.as_mut_ptr()
            )
            .unwrap();
            for (name, one, other) in [("weight", &p, &p2), ("first moment", &m, &m2), ("second moment", &s, &s2)] {
                for i in 0..n {
                    let same = one[i].to_bits() == other[i].to_bits() || one[i].is_nan() && other[i].is_nan();
                    assert!(same, "{name} {i} of step {k}: {:e}, {:e} one at a time", one[i], other[i]);
                }
            }
        }
    }
}
