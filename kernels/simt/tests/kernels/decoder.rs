//! The small parts of a decoder against f64: embedding, norm, gate, sum, rotation with storing, picking.

use super::numbers::{Memory, Number};
use lumos::testing::Heads;
use lumos_simt::check::{Random, close};

/// Widths with and without padding, and more than the threads of a block.
const WIDTHS: [usize; 5] = [2, 31, 32, 100, 300];

fn ld(width: usize) -> usize {
    width.next_multiple_of(32)
}

/// Error of one rounding of a result.
fn rounding(number: Number) -> f64 {
    match number {
        Number::F32 => 1e-6,
        Number::Bf16 => 2f64.powi(-8),
        Number::F16 => 2f64.powi(-11),
    }
}

/// Padded rows: their numbers, and a check that what pads them is 0.
fn unpad(number: Number, memory: &Memory, width: usize) -> Vec<f32> {
    let all = number.read(memory);
    all.chunks(ld(width))
        .flat_map(|row| {
            assert!(row[width..].iter().all(|v| *v == 0.0), "padding {:?}", &row[width..]);
            row[..width].to_vec()
        })
        .collect()
}

#[test]
fn halves_are_rounded_by_their_definition() {
    // Every kind of float, ties, subnormal numbers, the ends of the range. The norm of ones gives its weights.
    let mut values =
        vec![0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, -7e4, 6e-8, 2.9e-8, 3e-8, -6.1e-5, 6.103_515_6e-5, 1e38, -3.4e38, 1e-40];
    values.extend((0..4000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B9))).filter(|v| v.is_finite()));
    for number in Number::ALL {
        let n = values.len();
        let x = values.clone();
        let mut y = Memory::new(n.next_multiple_of(32) * number.bytes());
        let ones = vec![1f32; n];
        let (w, l) = (n as i32, n.next_multiple_of(32) as i32);
        let name = format!("decoder_norm_{}", number.suffix());
        launch!(&name, [1, 1, 1], [128, 1, 1], 128, y.pointer_mut(), ones.as_ptr(), x.as_ptr(), w, l, 0f32).unwrap();
        for (got, v) in number.read(&y).iter().zip(&x) {
            let expected = number.round(*v);
            let subnormal_f32 = v.abs() < f32::MIN_POSITIVE;
            assert!(
                f64::from(*got) == expected || subnormal_f32 && got.abs() <= f32::MIN_POSITIVE,
                "{number:?}: {v:e} is {got:e}, not {expected:e}"
            );
        }
    }
}

#[test]
fn embedding() {
    for number in Number::ALL {
        for width in WIDTHS {
            let mut r = Random::new(width as u64);
            let table = r.normals(1.0, 9 * width);
            let tokens = [8, 0, 3, 3];
            let memory = number.rows(&table, width, ld(width), 0.0);
            let mut x = vec![f32::NAN; 4 * width];
            let (w, l) = (width as i32, ld(width) as i32);
            let name = format!("decoder_embed_{}", number.suffix());
            launch!(&name, [4, 1, 1], [128, 1, 1], 0, x.as_mut_ptr(), memory.pointer(), tokens.as_ptr(), w, l, 1.5f32).unwrap();
            let row = |t: &i32| table[*t as usize * width..][..width].iter().map(|v| 1.5 * number.round(*v)).collect::<Vec<_>>();
            close(&format!("{number:?} {width}"), &x, &tokens.iter().flat_map(row).collect::<Vec<f64>>(), 1e-7, 0.0);
        }
    }
}

#[test]
fn norm_and_sum() {
    for number in Number::ALL {
        for width in WIDTHS {
            let mut r = Random::new(width as u64 + 1);
            let (x, weight) = (r.normals(2.0, 3 * width), r.normals(1.0, width));
            let mut y = Memory::new(3 * ld(width) * number.bytes());
            let (w, l) = (width as i32, ld(width) as i32);
            let name = format!("decoder_norm_{}", number.suffix());
            launch!(&name, [3, 1, 1], [128, 1, 1], 128, y.pointer_mut(), x.as_ptr(), weight.as_ptr(), w, l, 1e-5f32).unwrap();
            let expected: Vec<f64> = x
                .chunks(width)
                .flat_map(|row| {
                    let mean = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64;
                    row.iter().zip(&weight).map(move |(v, w)| f64::from(*v) / (mean + 1e-5).sqrt() * f64::from(*w)).collect::<Vec<_>>()
                })
                .collect();
            let ours = unpad(number, &y, width);
            close(&format!("{number:?} {width}"), &ours, &expected, rounding(number) + 1e-6, 1e-6);

            let mut sum = x.clone();
            let name = format!("decoder_add_{}", number.suffix());
            launch!(&name, [3, 1, 1], [128, 1, 1], 0, sum.as_mut_ptr(), y.pointer(), w, l).unwrap();
            let expected: Vec<f64> = x.iter().zip(&ours).map(|(a, b)| f64::from(a + b)).collect();
            close("sum", &sum, &expected, 0.0, 0.0);
        }
    }
}

#[test]
fn gate() {
    for number in Number::ALL {
        for (width, slices) in WIDTHS.into_iter().zip([1, 1, 1, 2, 3]) {
            for gelu in [0, 1] {
                let mut r = Random::new(width as u64 + 2);
                let x = r.normals(2.0, 2 * 2 * width);
                let mut y = Memory::new(2 * ld(width) * number.bytes());
                let (w, l) = (width as i32, ld(width) as i32);
                let name = format!("decoder_gated_{}", number.suffix());
                launch!(&name, [2, slices, 1], [128, 1, 1], 0, y.pointer_mut(), x.as_ptr(), w, l, gelu).unwrap();
                let active = |g: f64| match gelu {
                    0 => g / (1.0 + (-g).exp()),
                    _ => 0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3))).tanh()),
                };
                let row = |row: &[f32]| (0..width).map(|i| active(f64::from(row[i])) * f64::from(row[width + i])).collect::<Vec<_>>();
                let expected: Vec<f64> = x.chunks(2 * width).flat_map(row).collect();
                close(&format!("{number:?} {width} {gelu}"), &unpad(number, &y, width), &expected, rounding(number) + 3e-6, 3e-6);
            }
        }
    }
}

#[test]
fn rotation_and_storing() {
    for number in Number::ALL {
        // Heads, key heads, width, rotated part, norms.
        for (heads, kv, width, rotated, normed) in
            [(1usize, 1usize, 2usize, 2usize, false), (4, 2, 20, 12, true), (3, 1, 64, 64, false), (2, 2, 70, 70, true)]
        {
            let mut r = Random::new(width as u64);
            let (rows, layers, layer, blocks) = (11usize, 3usize, 1usize, 4usize);
            let per = 16 / number.bytes();
            let padded = width.next_multiple_of(per);
            let all = heads + 2 * kv;
            let before = r.normals(1.0, rows * all * width);
            let mut qkv = before.clone();
            let positions: Vec<i32> = (0..rows as i32).map(|i| i * 5 % 23).collect();
            // Scattered, no place twice.
            let places: Vec<i32> = (0..rows as i32).map(|i| (i * 29 + 3) % 64).collect();
            let turns: Vec<f32> = (0..23)
                .flat_map(|p| {
                    let angle = move |i: usize| p as f64 * 0.7f64.powi(i as i32);
                    let half = rotated / 2;
                    (0..half).map(move |i| angle(i).cos() as f32).chain((0..half).map(move |i| angle(i).sin() as f32))
                })
                .collect();
            let (query_norm, key_norm) = (r.normals(1.0, width), r.normals(1.0, width));
            let norm = |w: &Vec<f32>| if normed { w.as_ptr() } else { std::ptr::null() };
            let mut cache = Memory::new(blocks * layers * kv * 32 * padded * number.bytes());
            let shape = Heads {
                heads: heads as i32,
                kv_heads: kv as i32,
                width: width as i32,
                padded: padded as i32,
                rotated: rotated as i32,
                layer: layer as i32,
                layers: layers as i32,
                eps: 1e-6,
            };
            let (n, grid) = (rows as i32, [(rows * all).div_ceil(8) as u32, 1, 1]);
            let name = format!("decoder_store_{}", number.suffix());
            let (ps, pl, t) = (positions.as_ptr(), places.as_ptr(), turns.as_ptr());
            let (qn, kn) = (norm(&query_norm), norm(&key_norm));
            launch!(&name, grid, [256, 1, 1], 0, qkv.as_mut_ptr(), cache.pointer_mut(), ps, pl, qn, kn, t, shape, n).unwrap();

            let turned = |row: usize, head: usize, weight: &[f32]| -> Vec<f64> {
                let x: Vec<f64> = before[(row * all + head) * width..][..width].iter().map(|v| f64::from(*v)).collect();
                let mean = x.iter().map(|v| v * v).sum::<f64>() / width as f64;
                let scale = |i: usize| if normed { x[i] / (mean + 1e-6).sqrt() * f64::from(weight[i]) } else { x[i] };
                let half = rotated / 2;
                let table = &turns[positions[row] as usize * rotated..];
                (0..width)
                    .map(|i| match i {
                        i if i < half => scale(i) * f64::from(table[i]) - scale(i + half) * f64::from(table[half + i]),
                        i if i < rotated => scale(i) * f64::from(table[i - half]) + scale(i - half) * f64::from(table[i]),
                        i => scale(i),
                    })
                    .collect()
            };
            let stored = number.read(&cache);
            let mut written = vec![false; stored.len()];
            let what = format!("{number:?}, {heads} heads of {width}");
            for row in 0..rows {
                for head in 0..heads {
                    close(&what, &qkv[(row * all + head) * width..][..width], &turned(row, head, &query_norm), 1e-5, 1e-5);
                }
                for own in 0..kv {
                    let place = places[row] as usize;
                    let cell = (place / 16 * layers + layer) * kv + own;
                    for value in [0, 1] {
                        let at = (cell * 32 + value * 16 + place % 16) * padded;
                        written[at..at + padded].fill(true);
                        let expected = match value {
                            0 => turned(row, heads + own, &key_norm),
                            _ => {
                                let from = (row * all + heads + kv + own) * width;
                                before[from..from + width].iter().map(|v| f64::from(*v)).collect()
                            }
                        };
                        close(&what, &stored[at..at + width], &expected, rounding(number) + 1e-5, 1e-5);
                        assert!(stored[at + width..at + padded].iter().all(|v| *v == 0.0), "{what}: padding");
                    }
                }
            }
            assert!(stored.iter().zip(written).all(|(v, w)| w || v.is_nan()), "{what}: nothing else is written");
        }
    }
}

#[test]
fn picking() {
    let from: Vec<u32> = (0..7 * 130).collect();
    let rows = [6, 0, 6, 2];
    let mut to = vec![0u32; 4 * 130];
    launch!("decoder_pick", [4, 1, 1], [128, 1, 1], 0, to.as_mut_ptr(), from.as_ptr(), rows.as_ptr(), 130i32).unwrap();
    for (row, got) in rows.iter().zip(to.chunks(130)) {
        assert_eq!(got, &from[*row as usize * 130..][..130]);
    }
}
