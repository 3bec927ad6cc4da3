//! Attention to cached keys and values against f64, and the same bits however a prompt is cut.

use super::numbers::{Memory, Number};
use lumos::testing::AttentionShape;
use lumos_simt::check::{Random, close};

/// Sequences with their keys in scattered blocks; `queries` of each are its last ones.
struct Case {
    number: Number,
    heads: usize,
    kv: usize,
    width: usize,
    window: usize,
    cap: f32,
    /// Positions and queries of each sequence.
    sequences: Vec<(usize, usize)>,
    /// Per sequence, key head and position: a key and a value.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    /// `[T, heads, width]`.
    queries: Vec<f32>,
}

const LAYERS: usize = 2;
const LAYER: usize = 1;

impl Case {
    fn random(number: Number, heads: usize, kv: usize, width: usize, window: usize, cap: f32, sequences: &[(usize, usize)]) -> Case {
        let mut r = Random::new((heads * 131 + width) as u64);
        let mut cells = |std: f32| sequences.iter().map(|s| r.normals(std, kv * s.0 * width)).collect::<Vec<_>>();
        let (keys, values) = (cells(1.5), cells(1.0));
        let rows: usize = sequences.iter().map(|s| s.1).sum();
        let queries = r.normals(1.0, rows * heads * width);
        Case { number, heads, kv, width, window, cap, sequences: sequences.to_vec(), keys, values, queries }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    fn expected(&self) -> Vec<f64> {
        let mut out = Vec::new();
        let mut row = 0;
        for (s, (positions, queries)) in self.sequences.iter().enumerate() {
            for at in positions - queries..*positions {
                for head in 0..self.heads {
                    let q = &self.queries[(row * self.heads + head) * self.width..][..self.width];
                    let own = head / (self.heads / self.kv);
                    let cell = |of: &[Vec<f32>], key: usize, i: usize| self.number.round(of[s][(own * positions + key) * self.width + i]);
                    let from = if self.window == 0 { 0 } else { (at + 1).saturating_sub(self.window) };
                    let score = |key: usize| {
                        let dot: f64 = (0..self.width).map(|i| f64::from(q[i]) * cell(&self.keys, key, i)).sum();
                        let (x, cap) = (dot * f64::from(self.scale()), f64::from(self.cap));
                        if cap == 0.0 { x } else { cap * (x / cap).tanh() }
                    };
                    let scores: Vec<f64> = (from..=at).map(score).collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                    out.extend((0..self.width).map(|i| {
                        let sum: f64 = scores.iter().zip(from..).map(|(x, key)| (x - top).exp() * cell(&self.values, key, i)).sum();
                        sum / total
                    }));
                }
                row += 1;
            }
        }
        out
    }

    /// Tiles of at most `most` rows. Positions behind the queries' own are in the cache and must not be seen.
    fn attend(&self, most: usize) -> Vec<f32> {
        let number = self.number;
        let per = 16 / number.bytes();
        let padded = self.width.next_multiple_of(per);
        let blocks: usize = self.sequences.iter().map(|s| s.0.div_ceil(16)).sum();
        let mut cache = Memory::new(blocks * LAYERS * self.kv * 32 * padded * number.bytes());
        let (mut tables, mut tiles, mut row) = (Vec::new(), Vec::new(), 0);
        for (s, (positions, queries)) in self.sequences.iter().enumerate() {
            let start = tables.len();
            // From the last block down, so that no sequence has neighbours in order.
            tables.extend((0..positions.div_ceil(16)).map(|i| (blocks - 1 - start - i) as i32));
            for (own, key) in (0..self.kv).flat_map(|own| (0..*positions).map(move |key| (own, key))) {
                let cell = (tables[start + key / 16] as usize * LAYERS + LAYER) * self.kv + own;
                for (value, of) in [(0, &self.keys), (1, &self.values)] {
                    let line = number.rows(&of[s][(own * positions + key) * self.width..][..self.width], self.width, padded, 0.0);
                    let at = (cell * 32 + value * 16 + key % 16) * padded * number.bytes();
                    cache.bytes_mut()[at..at + line.bytes().len()].copy_from_slice(line.bytes());
                }
            }
            let mut from = 0;
            while from < *queries {
                let rows = most.min(queries - from);
                tiles.extend([row + from as i32, rows as i32, (positions - queries + from) as i32, start as i32]);
                from += rows;
            }
            row += *queries as i32;
        }
        let rows = row as usize;
        let all = self.heads + 2 * self.kv;
        let mut qkv = vec![f32::NAN; rows * all * self.width];
        for (to, from) in qkv.chunks_mut(all * self.width).zip(self.queries.chunks(self.heads * self.width)) {
            to[..from.len()].copy_from_slice(from);
        }
        let used = self.heads * self.width;
        let ld = used.next_multiple_of(32);
        let mut out = Memory::new(rows * ld * number.bytes());
        let shape = AttentionShape {
            heads: self.heads as i32,
            kv_heads: self.kv as i32,
            width: self.width as i32,
            padded: padded as i32,
            layer: LAYER as i32,
            layers: LAYERS as i32,
            window: self.window as i32,
            scale: self.scale(),
            cap: self.cap,
            ld: ld as i32,
        };
        let lanes = [2, 4, 8].into_iter().find(|j| padded <= 32 * j).unwrap();
        let name = format!("decoder_attend_{}_{lanes}", number.suffix());
        let group = self.heads / self.kv;
        let grid = [tiles.len() as u32 / 4, self.kv as u32, group.div_ceil(16) as u32];
        let pieces = if padded > 128 && number.bytes() == 4 { 1 } else { 2 };
        let shared = 64 * padded + 2048 + pieces * 32 * number.bytes() * (2 * padded + per);
        let (q, c, t, b) = (qkv.as_ptr(), cache.pointer(), tiles.as_ptr(), tables.as_ptr());
        launch!(&name, grid, [128, 1, 1], shared, out.pointer_mut(), q, c, t, b, shape).unwrap();
        let all = number.read(&out);
        all.chunks(ld)
            .flat_map(|row| {
                assert!(row[used..].iter().all(|v| *v == 0.0), "padding {:?}", &row[used..]);
                row[..used].to_vec()
            })
            .collect()
    }
}

/// Whole prompts, single tokens after long ones, a prompt's rest.
const SEQUENCES: [(usize, usize); 5] = [(1, 1), (5, 5), (77, 1), (40, 9), (33, 33)];

#[test]
fn attention() {
    for number in Number::ALL {
        // Heads, key heads, width, window, cap.
        let shapes =
            [(1, 1, 2, 0, 0.0), (4, 2, 20, 0, 0.0), (3, 3, 33, 7, 0.0), (7, 1, 64, 0, 2.5), (20, 1, 96, 33, 0.0), (2, 1, 256, 64, 5.0)];
        for (heads, kv, width, window, cap) in shapes {
            let case = Case::random(number, heads, kv, width, window, cap, &SEQUENCES);
            let most = (16 / heads.div_euclid(kv).min(16)).max(1);
            let first = case.attend(most);
            let rounding = match number {
                Number::F32 => 0.0,
                Number::Bf16 => 2f64.powi(-8),
                Number::F16 => 2f64.powi(-11),
            };
            let what = format!("{number:?}, {heads} heads of {width}, window {window}, cap {cap}");
            close(&what, &first, &case.expected(), rounding + 1e-5, 1e-5);
            let alone = case.attend(1);
            assert!(first.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: rows one by one");
        }
    }
}

/// A query does not see the keys behind it, whatever they hold.
#[test]
fn a_key_that_is_not_seen_leaves_no_trace() {
    for number in Number::ALL {
        let width = 8;
        let mut case = Case::random(number, 1, 1, width, 0, 0.0, &[(20, 20)]);
        let before = case.attend(16);
        let key = 5 * width..6 * width;
        case.values[0][key.clone()].fill(f32::INFINITY);
        case.keys[0][key.clone()].fill(f32::NAN);
        let after = case.attend(16);
        let bits = |of: &[f32]| of[..key.start].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&after), bits(&before), "{number:?}");
        assert!(after[key.clone()].iter().all(|v| !v.is_finite()), "{number:?}: the query at it sees it");
    }
}
