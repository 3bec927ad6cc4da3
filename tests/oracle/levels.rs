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
