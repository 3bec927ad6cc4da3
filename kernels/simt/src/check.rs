//! Random inputs for kernel tests and the rule by which results are accepted.

use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

/// Adds the test's name and a hash of the bits of `actual` to the file that `LUMOS_SIMT_BITS` names, if any: scripts/race-check compares the
/// files of runs under several orders of threads.
fn note_bits(actual: &[f32]) {
    let Some(path) = std::env::var_os("LUMOS_SIMT_BITS") else { return };
    let mut hash = DefaultHasher::new();
    actual.iter().for_each(|v| v.to_bits().hash(&mut hash));
    let thread = std::thread::current();
    let line = format!("{} {:016x}\n", thread.name().unwrap_or("?"), hash.finish());
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("LUMOS_SIMT_BITS can be written");
    file.write_all(line.as_bytes()).expect("LUMOS_SIMT_BITS can be written");
}

/// A small generator of reproducible numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    /// The next 64 bits (splitmix).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Uniform in `(0, 1)`.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Normal with deviation 1.
    pub fn normal(&mut self) -> f32 {
        ((-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()) as f32
    }

    /// `n` normal numbers of deviation `std`.
    pub fn normals(&mut self, std: f32, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal() * std).collect()
    }
}

/// Panics where `actual` is farther from `expected` than `atol + rtol * |expected|`; NaN never passes.
#[track_caller]
pub fn close(what: &str, actual: &[f32], expected: &[f64], rtol: f64, atol: f64) {
    note_bits(actual);
    assert_eq!(actual.len(), expected.len(), "{what}: lengths");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let fine = (f64::from(a) - e).abs() <= atol + rtol * e.abs();
        assert!(fine, "{what}: element {i} of {} is {a} and should be {e}", actual.len());
    }
}

/// How many times the worst error of a plain f32 computation the worst error of `actual` is. A floor of a few units in the last
/// place of the largest value keeps exact plain results from dividing by zero.
#[track_caller]
pub fn error_ratio(actual: &[f32], plain: &[f32], exact: &[f64]) -> f64 {
    note_bits(actual);
    assert!(actual.len() == exact.len() && plain.len() == exact.len(), "lengths differ");
    let worst = |v: &[f32]| v.iter().zip(exact).map(|(&a, &e)| (f64::from(a) - e).abs()).fold(0.0, |m, e| if e <= m { m } else { e });
    let largest = exact.iter().fold(0f64, |m, e| m.max(e.abs()));
    worst(actual) / worst(plain).max(4.0 * f64::from(f32::EPSILON) * largest).max(f64::MIN_POSITIVE)
}

/// Lengths that are one, prime, powers of two and their neighbours.
pub const LENGTHS: [usize; 12] = [1, 2, 3, 5, 7, 13, 16, 17, 31, 33, 50, 67];
/// Widths that are multiples of 4, 8, 32 and 64, and not.
pub const WIDTHS: [usize; 10] = [1, 3, 4, 7, 8, 17, 32, 33, 64, 65];
