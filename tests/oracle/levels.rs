//! The lower instruction levels: this binary runs itself again with `LUMOS_SIMD=portable` and `avx2`.

use std::path::Path;
use std::process::Command;

use lumos::backend::cpu::simd::{LANES, Level, Portable, Simd};
use lumos::config::{Backbone, LocalSettings, LossSettings, ModelSettings, RecLoss};
use lumos::model::{Model, ModelSpec};

use crate::check::{ClientShape, client_step, normal, stream};
use crate::model::{new_worker, random_dense};

const FILE: &str = "LUMOS_ORACLE_LEVEL_FILE";

fn again(level: &str, filters: &[&str], file: Option<&Path>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(filters).env("LUMOS_SIMD", level);
    if let Some(f) = file {
        command.arg("--exact").env(FILE, f);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!String::from_utf8_lossy(&out.stdout).contains(" 0 passed"), "no test ran for {filters:?}");
}

const NARROW: [u32; 2] = [20, 33];
/// With tiles of one, two and four vectors of sixteen, and with parts of one.
const WIDE: [u32; 2] = [64, 116];

/// Gradients of one step of each model.
fn gradients(dims: &[u32]) -> Vec<f32> {
    let mut out = Vec::new();
    for (i, backbone) in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC].into_iter().enumerate() {
        for &d in dims {
            let spec = ModelSpec::new(&ModelSettings { backbone, dim: d, ffn: 11, ..ModelSettings::default() });
            let mut s = stream(11_000 + i as u64);
            let shape = ClientShape {
                histories: vec![11, 1],
                rows: 19,
                positives: 2,
                counterfactuals: 1,
                negatives: 3,
                states: false,
                rec: RecLoss::SampledSoftmax,
            };
            let step = client_step(&mut s, &shape);
            let (dense, rows) = (random_dense(&mut s, &spec), normal(&mut s, 0.3, 19 * d as usize));
            let mut w = new_worker(&spec, &dense, &rows);
            w.step = step;
            w.begin_step(&LocalSettings::default(), 1, 1, false, None);
            Model::new(&spec).train(&mut w, &LossSettings::default());
            out.extend_from_slice(w.row_gradient());
            out.extend_from_slice(w.dense_gradient());
        }
    }
    out
}

/// Run by the test below in a process of its own; in a plain test run it has nothing to do.
#[test]
fn child_writes_gradients() {
    if let Some(path) = std::env::var_os(FILE) {
        assert!(std::env::var("LUMOS_SIMD").is_ok_and(|l| Level::detect().name().starts_with(&l)));
        let bytes: Vec<u8> = [gradients(&NARROW), gradients(&WIDE)].concat().iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(path, bytes).unwrap();
    }
}

fn gradients_at(level: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gradients");
    again(level, &["levels::child_writes_gradients"], Some(&file));
    let bytes = std::fs::read(&file).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

#[test]
fn wider_vectors_give_the_same_bits() {
    if Level::detect() == Level::Avx512 {
        assert!([gradients(&NARROW), gradients(&WIDE)].concat() == gradients_at("avx2"));
    }
}

#[test]
fn portable_level_agrees_with_this_processors_best() {
    let (portable, ours) = (gradients_at("portable"), gradients(&NARROW));
    let portable = &portable[..ours.len()];
    for (i, (a, b)) in ours.iter().zip(portable).enumerate() {
        assert!((a - b).abs() <= 2e-5 * a.abs().max(0.05), "element {i}: {a} and {b}");
    }
    if Level::detect() == Level::Portable {
        assert_eq!(ours, portable);
    }
}

/// The oracle itself at the portable level: operations, losses, whole models, ranking.
#[test]
fn portable_level_passes_the_oracle() {
    if Level::detect() == Level::Portable {
        return;
    }
    again("portable", &["ops::", "losses::", "attention::ragged", "gru::ragged", "model::sasrec", "packing::", "rank::"], None);
}

#[test]
fn portable_exponential() {
    for i in -87_299..88_000 {
        let x = i as f32 / 1000.0;
        // SAFETY: the portable level needs nothing of the processor.
        let y = unsafe { Portable::exp([x; LANES]) };
        let exact = f64::from(x).exp();
        assert!(y.iter().all(|&y| (f64::from(y) - exact).abs() < 3e-7 * exact), "e^{x}: {} instead of {exact}", y[0]);
    }
    for (x, bound) in [(-1e30, 1.3e-38), (f32::NEG_INFINITY, 1.3e-38)] {
        // SAFETY: as above.
        let y = unsafe { Portable::exp([x; LANES]) };
        assert!(y[7] <= bound);
    }
}

/// Distance of `y` from `exact` in units in the last place of the latter.
fn units_off(y: f32, exact: f64) -> f64 {
    let nearest = (exact.abs() as f32).max(f32::MIN_POSITIVE);
    (f64::from(y) - exact).abs() / (f64::from(nearest.next_up()) - f64::from(nearest))
}

fn eight(x: f32) -> [f32; LANES] {
    std::array::from_fn(|i| if i % 2 == 0 { x } else { -x })
}

/// Magnitudes from the least number to the largest, closer than one in a thousand.
fn magnitudes() -> impl Iterator<Item = f32> {
    (0..f32::MAX.to_bits()).step_by(4093).map(f32::from_bits)
}

/// Sigmoid and tanh of eight numbers.
type Gates = fn([f32; LANES]) -> [[f32; LANES]; 2];

fn plain_gates(x: [f32; LANES]) -> [[f32; LANES]; 2] {
    // SAFETY: the portable level needs nothing of the processor.
    unsafe { [Portable::sigmoid(x), Portable::tanh(x)] }
}

/// Those of vectors, which wider ones agree with, where the processor has them.
fn levels_of_gates() -> Vec<Gates> {
    #[cfg(target_arch = "x86_64")]
    if Level::detect() >= Level::Avx2 {
        use lumos::backend::cpu::simd::{Avx2, Vector};
        #[target_feature(enable = "avx2,fma")]
        fn gates(x: [f32; LANES]) -> [[f32; LANES]; 2] {
            let mut out = [[0.0; LANES]; 2];
            // SAFETY: arrays of eight numbers; the instructions are this function's.
            unsafe {
                let x = Avx2::load(x.as_ptr());
                Avx2::store(out[0].as_mut_ptr(), Avx2::sigmoid(x));
                Avx2::store(out[1].as_mut_ptr(), Avx2::tanh(x));
            }
            out
        }
        // SAFETY: the processor has the instructions.
        return vec![plain_gates, |x| unsafe { gates(x) }];
    }
    vec![plain_gates]
}

#[test]
fn gates_are_two_units_off_at_most() {
    for gates in levels_of_gates() {
        for x in magnitudes() {
            let [shares, bent] = gates(eight(x));
            for ((x, y), z) in eight(x).into_iter().map(f64::from).zip(shares).zip(bent) {
                let exact = 1.0 / (1.0 + (-x).exp());
                assert!(if x > -87.3 { units_off(y, exact) <= 2.0 } else { (0.0..1.3e-38).contains(&y) }, "sigmoid {x}: {y} and {exact}");
                assert!(units_off(z, x.tanh()) <= 2.0, "tanh {x}: {z} and {}", x.tanh());
            }
        }
    }
}

#[test]
fn gates_of_what_is_no_number() {
    for gates in levels_of_gates() {
        let [shares, bent] = gates(eight(f32::INFINITY));
        assert!(shares[0] == 1.0 && (0.0..1.3e-38).contains(&shares[1]) && bent[..2] == [1.0, -1.0]);
        assert!(gates(eight(f32::NAN)).as_flattened().iter().all(|x| x.is_nan()));
    }
}
