//! Products of a decoder in three kinds of numbers against f64, and the same bits from every tile.

use super::numbers::Number;
use lumos_simt::check::{Random, close};

/// Rows of a tile, its outputs, threads, shared memory for halves and for f32.
const TILES: [(usize, usize, u32, [usize; 2]); 4] =
    [(16, 32, 128, [27_648, 13_824]), (64, 64, 128, [40_960, 36_864]), (128, 128, 256, [81_920, 73_728]), (256, 128, 256, [197_632, 0])];
/// The last of them, by warpgroups, which takes halves alone.
const WIDE: usize = 3;

struct Case {
    number: Number,
    rows: usize,
    depth: usize,
    outputs: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Option<Vec<f32>>,
    /// What the product is added to.
    before: Option<Vec<f32>>,
}

impl Case {
    fn random(seed: u64, number: Number, rows: usize, depth: usize, outputs: usize) -> Case {
        let mut r = Random::new(seed);
        let (x, w) = (r.normals(1.0, rows * depth), r.normals(0.5, outputs * depth));
        let bias = (seed.is_multiple_of(2)).then(|| r.normals(1.0, outputs));
        let before = (seed.is_multiple_of(3)).then(|| r.normals(1.0, rows * outputs));
        Case { number, rows, depth, outputs, x, w, bias, before }
    }

    fn expected(&self) -> Vec<f64> {
        let at = |i: usize| {
            let (row, output) = (i / self.outputs, i % self.outputs);
            let x = &self.x[row * self.depth..][..self.depth];
            let w = &self.w[output * self.depth..][..self.depth];
            let sum: f64 = x.iter().zip(w).map(|(x, w)| self.number.round(*x) * self.number.round(*w)).sum();
            let more = self.bias.as_ref().map_or(0.0, |b| f64::from(b[output])) + self.before.as_ref().map_or(0.0, |y| f64::from(y[i]));
            sum + more
        };
        (0..self.rows * self.outputs).map(at).collect()
    }

    fn ld(&self) -> usize {
        self.depth.next_multiple_of(32)
    }

    /// By one of the tiles, with the parts of the depth one after another or each by its own threads.
    fn product(&self, tile: usize, side_by_side: bool) -> Vec<f32> {
        let (rows, outputs, threads, shared) = TILES[tile];
        let groups = if side_by_side { self.ld().div_ceil(2048).min(4) } else { 1 };
        let (x, w) = (self.number.rows(&self.x, self.depth, self.ld(), 0.0), self.number.rows(&self.w, self.depth, self.ld(), 0.0));
        let mut y = self.before.clone().unwrap_or_else(|| vec![f32::NAN; self.rows * self.outputs]);
        let suffix = self.number.suffix();
        let name = if tile == WIDE { format!("decoder_wide_{suffix}") } else { format!("decoder_linear_{suffix}_{rows}") };
        let grid = [self.rows.div_ceil(rows) as u32, self.outputs.div_ceil(outputs) as u32, 1];
        let (threads, shared) = (threads * groups as u32, shared[usize::from(self.number == Number::F32)] * groups);
        let bias = self.bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr());
        let (r, o, ld, add) = (self.rows as i32, self.outputs as i32, self.ld() as i32, i32::from(self.before.is_some()));
        launch!(&name, grid, [threads, 1, 1], shared, y.as_mut_ptr(), x.pointer(), w.pointer(), bias, r, o, ld, add).unwrap();
        y
    }
}

/// Rows, depth, outputs. The last three depths have two, three and four parts.
const SHAPES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (1, 64, 33),
    (3, 33, 70),
    (16, 96, 32),
    (17, 100, 129),
    (65, 31, 65),
    (130, 40, 131),
    (200, 160, 7),
    (5, 2049, 3),
    (2, 5000, 5),
    (3, 9000, 2),
];

#[test]
fn products() {
    for number in Number::ALL {
        for (seed, (rows, depth, outputs)) in SHAPES.into_iter().enumerate() {
            let case = Case::random(seed as u64, number, rows, depth, outputs);
            let expected = case.expected();
            let first = case.product(0, false);
            let what = format!("{number:?}, {rows} rows, depth {depth}, {outputs} outputs");
            close(&what, &first, &expected, 1e-5, 2e-5 * (depth as f64).sqrt());
            for (tile, side_by_side) in [(1, false), (0, true), (1, true), (2, false), (WIDE, false)] {
                // The large tiles are slow here: one depth of several parts is enough for them.
                if tile >= 2 && depth > 4096 || tile == WIDE && number == Number::F32 {
                    continue;
                }
                let same = case.product(tile, side_by_side).iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}: tile {tile}, parts side by side: {side_by_side}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone() {
    for number in Number::ALL {
        let whole = Case::random(2, number, 70, 72, 40);
        let all = whole.product(1, false);
        for row in [0, 9, 63, 69] {
            let x = whole.x[row * 72..(row + 1) * 72].to_vec();
            let alone = Case { rows: 1, x, w: whole.w.clone(), bias: whole.bias.clone(), before: None, ..whole };
            let alone = alone.product(0, false);
            assert!(alone.iter().zip(&all[row * 40..]).all(|(a, b)| a.to_bits() == b.to_bits()), "{number:?}, row {row}");
        }
    }
}

/// More than one block along both sides, more pieces of the depth than stages, with all that is added.
#[test]
fn wide_tiles_keep_to_their_edges() {
    for (number, seed) in [(Number::Bf16, 0), (Number::F16, 6), (Number::Bf16, 3)] {
        let case = Case::random(seed, number, 259, 400, 133);
        let (wide, narrow) = (case.product(WIDE, false), case.product(1, false));
        assert!(wide.iter().zip(&narrow).all(|(a, b)| a.to_bits() == b.to_bits()), "{number:?}, {seed}");
        close(&format!("{number:?}, {seed}"), &wide, &case.expected(), 1e-5, 4e-4);
    }
}

#[test]
fn some_outputs() {
    for number in Number::ALL {
        for (seed, (rows, depth, outputs)) in SHAPES.into_iter().enumerate() {
            let case = Case { before: None, ..Case::random(seed as u64, number, rows, depth, outputs) };
            let expected = case.expected();
            let mut r = Random::new(77 + seed as u64);
            let count = [0, 1, 9, 40][seed % 4];
            let pairs: Vec<i32> = (0..count).flat_map(|_| [r.below(rows) as i32, r.below(outputs) as i32]).collect();
            let (x, w) = (number.rows(&case.x, depth, case.ld(), 0.0), number.rows(&case.w, depth, case.ld(), 0.0));
            let mut y = vec![f32::NAN; count];
            let name = format!("decoder_some_{}", number.suffix());
            let grid = [count.div_ceil(8).max(1) as u32, 1, 1];
            let bias = case.bias.as_ref().map_or(std::ptr::null(), |b| b.as_ptr());
            let (p, n, ld) = (pairs.as_ptr(), count as i32, case.ld() as i32);
            launch!(&name, grid, [256, 1, 1], 0, y.as_mut_ptr(), x.pointer(), w.pointer(), bias, p, n, ld).unwrap();
            let wanted: Vec<f64> = pairs.chunks(2).map(|p| expected[p[0] as usize * outputs + p[1] as usize]).collect();
            close(&format!("{number:?}, {depth} deep"), &y, &wanted, 1e-5, 2e-5 * (depth as f64).sqrt());
        }
    }
}
