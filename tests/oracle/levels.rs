//! The portable instruction level: this binary runs itself again with `LUMOS_SIMD=portable`.

use std::path::Path;
use std::process::Command;

use lumos::backend::cpu::simd::{LANES, Level, Portable, Simd};
use lumos::config::{Backbone, LocalSettings, LossSettings, ModelSettings, RecLoss};
use lumos::model::{Model, ModelSpec};

use crate::check::{ClientShape, client_step, normal, stream};
use crate::model::{new_worker, random_dense};

const FILE: &str = "LUMOS_ORACLE_LEVEL_FILE";

fn again(filters: &[&str], file: Option<&Path>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(filters).env("LUMOS_SIMD", "portable");
    if let Some(f) = file {
        command.arg("--exact").env(FILE, f);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(!String::from_utf8_lossy(&out.stdout).contains(" 0 passed"), "no test ran for {filters:?}");
}

/// Gradients of one step of each model.
fn gradients() -> Vec<f32> {
    let mut out = Vec::new();
    for (i, backbone) in [Backbone::Sasrec, Backbone::Gru4rec].into_iter().enumerate() {
        for d in [20, 33] {
            let spec = ModelSpec::new(&ModelSettings { backbone, dim: d, ffn: 11, ..ModelSettings::default() });
            let mut s = stream(11_000 + i as u64);
            let shape = ClientShape {
                histories: vec![11, 1],
                rows: 19,
                positives: 2,
                counterfactuals: 1,
                negatives: 3,
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
fn child_writes_portable_gradients() {
    if let Some(path) = std::env::var_os(FILE) {
        assert_eq!(Level::detect(), Level::Portable);
        let bytes: Vec<u8> = gradients().iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn portable_level_agrees_with_this_processors_best() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gradients");
    again(&["levels::child_writes_portable_gradients"], Some(&file));
    let bytes = std::fs::read(&file).unwrap();
    let portable: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let ours = gradients();
    assert_eq!(ours.len(), portable.len());
    for (i, (a, b)) in ours.iter().zip(&portable).enumerate() {
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
    again(&["ops::", "losses::", "attention::ragged", "gru::ragged", "model::sasrec", "packing::", "rank::"], None);
}

#[test]
fn portable_exponential() {
    for i in -87_299..88_000 {
        let x = i as f32 / 1000.0;
        // Safety: the portable level needs nothing of the processor.
        let y = unsafe { Portable::exp([x; LANES]) };
        let exact = f64::from(x).exp();
        assert!(y.iter().all(|&y| (f64::from(y) - exact).abs() < 3e-7 * exact), "e^{x}: {} instead of {exact}", y[0]);
    }
    for (x, bound) in [(-1e30, 1.3e-38), (f32::NEG_INFINITY, 1.3e-38)] {
        assert!(unsafe { Portable::exp([x; LANES]) }[7] <= bound);
    }
}
