//! Models of SASRec.pytorch and of RecBole that were imported, against their own forward passes written out in f64: padding, one row after another,
//! no batches.

use crate::check::{normal, stream};
use crate::torch::{Named, port_shapes, saved};
use lumos::run::import::{Asked, Foreign, ItemOrder};
use lumos::run::{self, Claim, Prepared, Silent, Start};
use lumos::settings;
use std::path::Path;
use std::sync::Arc;

const ITEMS: usize = 30;
const LENGTH: usize = 7;
const WIDTH: usize = 12;
const HEADS: usize = 3;

/// `x W^T + b` with a weight `[out, in]`.
fn linear(weights: &Named, name: &str, x: &[f64]) -> Vec<f64> {
    affine(&weights[&format!("{name}.weight")].1, &weights[&format!("{name}.bias")].1, x)
}

fn affine(w: &[f32], b: &[f32], x: &[f64]) -> Vec<f64> {
    let row = |o: usize| w[o * x.len()..][..x.len()].iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
    (0..b.len()).map(|o| row(o) + f64::from(b[o])).collect()
}

fn layer_norm(weights: &Named, name: &str, x: &[f64]) -> Vec<f64> {
    let (gain, bias) = (&weights[&format!("{name}.weight")].1, &weights[&format!("{name}.bias")].1);
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let one = |i: usize| (x[i] - mean) / (variance + 1e-8).sqrt() * f64::from(gain[i]) + f64::from(bias[i]);
    (0..x.len()).map(one).collect()
}

fn added(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// Scores of all items behind `history` (rows from 1), as the port computes them; `sees_padding` says whether tokens attend to the places in
/// front of the history, which they do there.
fn scores(weights: &Named, blocks: usize, history: &[usize], sees_padding: bool) -> Vec<f64> {
    let d = WIDTH;
    let items = &weights["item_emb.weight"].1;
    let mut rows = vec![0; LENGTH.saturating_sub(history.len())];
    rows.extend(&history[history.len().saturating_sub(LENGTH)..]);
    let embedded = |t: usize| {
        let position = &weights["pos_emb.weight"].1[t * d..][..d];
        let item = &items[rows[t] * d..][..d];
        (0..d).map(|i| if rows[t] == 0 { 0.0 } else { f64::from(item[i]) * (d as f64).sqrt() + f64::from(position[i]) }).collect()
    };
    let mut x: Vec<Vec<f64>> = (0..LENGTH).map(embedded).collect();
    for b in 0..blocks {
        let (w, bias) =
            (&weights[&format!("attention_layers.{b}.in_proj_weight")].1, &weights[&format!("attention_layers.{b}.in_proj_bias")].1);
        let part = |part: usize, x: &[f64]| affine(&w[part * d * d..][..d * d], &bias[part * d..][..d], x);
        let normed: Vec<Vec<f64>> = x.iter().map(|x| layer_norm(weights, &format!("attention_layernorms.{b}"), x)).collect();
        let keys: Vec<Vec<f64>> = x.iter().map(|x| part(1, x)).collect();
        let values: Vec<Vec<f64>> = x.iter().map(|x| part(2, x)).collect();
        let next = |t: usize| {
            let q = part(0, &normed[t]);
            let mut mixed = vec![0.0; d];
            let size = d / HEADS;
            for h in 0..HEADS {
                let of = |x: &[f64]| x[h * size..][..size].to_vec();
                let seen: Vec<usize> = (0..=t).filter(|s| sees_padding || rows[*s] != 0).collect();
                let dot = |k: &[f64]| of(&q).iter().zip(of(k)).map(|(a, b)| a * b).sum::<f64>() / (size as f64).sqrt();
                let weights: Vec<f64> = seen.iter().map(|s| dot(&keys[*s]).exp()).collect();
                for (s, weight) in seen.iter().zip(&weights) {
                    let share = weight / weights.iter().sum::<f64>();
                    (0..size).for_each(|i| mixed[h * size + i] += share * values[*s][h * size + i]);
                }
            }
            let mid = added(&normed[t], &linear(weights, &format!("attention_layers.{b}.out_proj"), &mixed));
            let mid = layer_norm(weights, &format!("forward_layernorms.{b}"), &mid);
            let inner = linear(weights, &format!("forward_layers.{b}.conv1"), &mid);
            let inner: Vec<f64> = inner.into_iter().map(|x| x.max(0.0)).collect();
            let out = added(&mid, &linear(weights, &format!("forward_layers.{b}.conv2"), &inner));
            out.into_iter().map(|x| if rows[t] == 0 { 0.0 } else { x }).collect()
        };
        x = (0..LENGTH).map(next).collect();
    }
    let hidden = layer_norm(weights, "last_layernorm", &x[LENGTH - 1]);
    (1..=ITEMS).map(|item| (0..d).map(|i| hidden[i] * f64::from(items[item * d + i])).sum()).collect()
}

/// Random weights of about the size that training leaves.
fn weights(case: u64, blocks: usize) -> Named {
    let mut s = stream(case);
    let one = |(name, shape): (String, Vec<usize>)| {
        let mut values = normal(&mut s, 0.3, shape.iter().product());
        if name.contains("norm") && name.ends_with("weight") {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        (name, (shape, values))
    };
    port_shapes(ITEMS, LENGTH, WIDTH, blocks).into_iter().map(one).collect()
}

/// Makes a run of `model` in `folder` on a world of [`ITEMS`] items; calls `each` with the scores of all items behind histories of several lengths.
fn imported(model: &Foreign, folder: &Path, name: &str, lengths: &[usize], mut each: impl FnMut(usize, &[usize], &[f64])) {
    let data = format!("data.dir={}", folder.join("data").display());
    let own = [
        "eval.mask=none",
        "data.synth_users=60",
        "data.synth_items=30",
        "loss.negatives=4",
        "data.min_length=3",
        "data.synth_mean_length=7",
        "data.k_core=0",
        &data,
    ];
    let method = format!("method={}", model.method());
    let sets = own.map(String::from).into_iter().chain([method]).chain(model.sets()).collect::<Vec<_>>();
    let effective = settings::load(None, &sets).unwrap();
    let (data, data_dir) = run::prepare_data(&effective.settings, false, &Silent).unwrap();
    assert_eq!(data.item_count(), ITEMS, "choose another world");
    let data = Arc::new(data);
    let prepared =
        Prepared { data: data.clone(), views: Arc::default(), data_dir, views_dir: None, views_manifest: None, views_reused: false };
    let out = folder.join(name);
    let claim = Claim::take(&out, Start::New).unwrap();
    let done = model.import(&effective, &prepared, &ItemOrder::DataSet, &claim).unwrap();
    assert_eq!((done.items, done.left_out), (ITEMS, 0));
    drop(claim);
    let run_folder = run::RunFolder::open(&out).unwrap();
    for &length in lengths {
        let history: Vec<u32> = (0..length).map(|i| (i * 11 % ITEMS) as u32).collect();
        let rows: Vec<usize> = history.iter().map(|item| *item as usize + 1).collect();
        let mut ours = vec![f64::NAN; ITEMS];
        for (item, score) in run::recommend(&run_folder, "best", &effective.settings, &data, None, &history, ITEMS).unwrap() {
            ours[item as usize] = f64::from(score);
        }
        each(length, &rows, &ours);
    }
}

/// The largest difference; NaN where there is one.
fn far(ours: &[f64], theirs: &[f64]) -> f64 {
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

#[test]
fn imported_weights_score_as_the_port_does() {
    let folder = tempfile::tempdir().unwrap();
    for blocks in [1, 2, 3] {
        let weights = weights(blocks as u64, blocks);
        let model = Foreign::parse(Path::new("w"), &saved(&weights), &Asked { heads: HEADS as u32, ..Asked::default() }).unwrap();
        let mut differ = 0;
        imported(&model, folder.path(), &format!("run{blocks}"), &[1, 2, 4, LENGTH, LENGTH + 5], |length, rows, ours| {
            let [without, with] = [false, true].map(|padding| far(ours, &scores(&weights, blocks, rows, padding)));
            // The port's norm adds 1e-8 to a variance, LUMOS 1e-5.
            assert!(without < 2e-4, "{blocks} blocks, a history of {length}: off by {without}");
            if length >= LENGTH {
                assert_eq!(with, without);
            } else {
                differ += usize::from(with > 1e-2);
            }
        });
        assert_eq!(differ, 3, "a short history attends to padding there, and docs/runs.md says so");
    }
}

/// Names and shapes of RecBole's GRU4Rec.
fn gru_weights(case: u64, layers: usize) -> Named {
    let d = WIDTH;
    let mut shapes = vec![("item_embedding.weight".to_string(), vec![ITEMS + 1, d])];
    for layer in 0..layers {
        shapes.extend(["ih", "hh"].map(|kind| (format!("gru_layers.weight_{kind}_l{layer}"), vec![3 * d, d])));
    }
    shapes.extend([("dense.weight".into(), vec![d, d]), ("dense.bias".into(), vec![d])]);
    let mut s = stream(case);
    shapes.into_iter().map(|(name, shape)| (name, (shape.clone(), normal(&mut s, 0.4, shape.iter().product())))).collect()
}

/// Scores of all items behind `history` (rows from 1) by RecBole's GRU4Rec, whose padding stands behind the history.
fn gru_scores(weights: &Named, layers: usize, history: &[usize]) -> Vec<f64> {
    let d = WIDTH;
    let items = &weights["item_embedding.weight"].1;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut x: Vec<Vec<f64>> = history[history.len().saturating_sub(LENGTH)..]
        .iter()
        .map(|row| items[row * d..][..d].iter().map(|x| f64::from(*x)).collect())
        .collect();
    for layer in 0..layers {
        let [into, within] = ["ih", "hh"].map(|kind| &weights[&format!("gru_layers.weight_{kind}_l{layer}")].1);
        let mut h = vec![0.0; d];
        for token in &mut x {
            let (a, b) = (affine(into, &vec![0.0; 3 * d], token), affine(within, &vec![0.0; 3 * d], &h));
            let next = |i: usize| {
                let (reset, update) = (sigmoid(a[i] + b[i]), sigmoid(a[d + i] + b[d + i]));
                let new = (a[2 * d + i] + reset * b[2 * d + i]).tanh();
                (1.0 - update) * new + update * h[i]
            };
            h = (0..d).map(next).collect();
            token.clone_from(&h);
        }
    }
    let hidden = linear(weights, "dense", x.last().unwrap());
    (1..=ITEMS).map(|item| (0..d).map(|i| hidden[i] * f64::from(items[item * d + i])).sum()).collect()
}

#[test]
fn imported_weights_score_as_the_gru_of_recbole_does() {
    let folder = tempfile::tempdir().unwrap();
    for layers in [1, 2] {
        let weights = gru_weights(40 + layers as u64, layers);
        let asked = Asked { max_len: Some(LENGTH as u32), ..Asked::default() };
        let model = Foreign::parse(Path::new("w"), &saved(&weights), &asked).unwrap();
        imported(&model, folder.path(), &format!("run{layers}"), &[1, 3, LENGTH, LENGTH + 5], |length, rows, ours| {
            let off = far(ours, &gru_scores(&weights, layers, rows));
            assert!(off < 2e-5, "{layers} layers, a history of {length}: off by {off}");
        });
    }
}
