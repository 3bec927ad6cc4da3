//! Kernels of `info_nce.cu` against the reference.

use super::packed::{Builder, PackedStep, same_bits};
use super::reference::{Plain, Real, case, numbers};
use super::steps::{accept, alone, largest, part, steps};
use lumos::backend::{Backend, RowKind};
use lumos::check::reference::Field;
use lumos::config::{Contrast, InBatchSettings, LossSettings, Similarity};
use lumos_simt::check::{Random, close};

const NONE: i32 = 0;
const JOINT: i32 = 1;
const DECOUPLED: i32 = 2;

/// Losses of the groups, and `dh` with what is added to it.
fn plain_tri_view<R: Real>(s: &PackedStep, contrast: i32, tau: f32, h: &[R], dh: &[f32], d: usize) -> (Vec<R>, Vec<R>) {
    let case = case(s, d);
    let mut plain = Plain::new(&case, 0);
    let (h, dh) = (plain.load(RowKind::Outputs, d, h), plain.load(RowKind::Outputs, d, &numbers::<R>(dh)));
    let contrast = [Contrast::None, Contrast::Joint, Contrast::Decoupled][contrast as usize];
    plain.0.info_nce(&LossSettings { contrast, tau, ..LossSettings::default() }, h, dh);
    (plain.field(Field::Contrast), plain.values(dh))
}

/// Losses of the pairs of every client, and the gradients added to `dh`.
fn plain_in_batch<R: Real>(s: &PackedStep, cosines: bool, tau: f32, weight: f32, h: &[R], dh: &[f32], d: usize) -> (Vec<R>, Vec<R>) {
    let case = case(s, d);
    let mut plain = Plain::new(&case, 0);
    let (h, dh) = (plain.load(RowKind::Outputs, d, h), plain.load(RowKind::Outputs, d, &numbers::<R>(dh)));
    let scratch = [d, 1, 1].map(|width| plain.0.act(RowKind::Outputs, width));
    let similarity = if cosines { Similarity::Cosine } else { Similarity::Dot };
    plain.0.in_batch_info_nce(&InBatchSettings { weight, tau, similarity, ..InBatchSettings::default() }, h, scratch, dh);
    (plain.field(Field::Paired), plain.values(dh))
}

fn most_views(s: &PackedStep) -> i32 {
    s.group_bounds.windows(2).map(|b| b[1] - b[0] - 1).max().unwrap_or(0)
}

fn tri_view(s: &mut PackedStep, contrast: i32, tau: f32, h: &[f32], dh: &[f32], views: i32, blocks: u32, d: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut dh, mut loss) = (dh.to_vec(), vec![f32::NAN; s.positives.len()]);
    let shared = 48 * views as usize;
    let (hp, dhp, lp) = (h.as_ptr(), dh.as_mut_ptr(), loss.as_mut_ptr());
    launch!("info_nce", [blocks, 1, 1], [128, 1, 1], shared, s.ptr(), contrast, tau, hp, dhp, lp, views, d as i32).unwrap();
    (loss, dh)
}

/// One client with a group of `views` views, and one with a view and with none at all.
fn crowd(views: usize) -> PackedStep {
    let mut b = Builder::new(views as u64, 1);
    let mut lengths = vec![2; views + 1];
    lengths[0] = 3;
    b.user(&lengths);
    b.end_client();
    b.user(&[2, 1]);
    b.user(&[1]);
    b.end_client();
    b.finish()
}

#[test]
fn groups() {
    let mut cases = steps(1);
    cases.extend([crowd(31), crowd(32), crowd(33), crowd(70)]);
    for (i, mut s) in cases.into_iter().enumerate() {
        // A group may have counterfactuals only, or positives only.
        if let Some(p) = s.positives.last_mut() {
            *p = if i % 2 == 0 { 0 } else { s.group_bounds[s.group_bounds.len() - 1] - s.group_bounds[s.group_bounds.len() - 2] - 1 };
        }
        for (j, d) in [64, 1, 5, 33, 130].into_iter().enumerate() {
            for contrast in [NONE, JOINT, DECOUPLED] {
                let mut r = Random::new((10 * i + j) as u64);
                let tau = [0.5, 0.07, 1.0][j % 3];
                let (h, dh) = (r.normals(1.0, s.outputs() * d), r.normals(0.1, s.outputs() * d));
                let (views, groups) = (most_views(&s) + j as i32 % 2, s.positives.len() as u32);
                let (loss, got) = tri_view(&mut s, contrast, tau, &h, &dh, views, if j % 2 == 0 { 1 } else { groups + 1 }, d);
                let plain = plain_tri_view::<f32>(&s, contrast, tau, &h, &dh, d);
                let exact = plain_tri_view::<f64>(&s, contrast, tau, &numbers(&h), &dh, d);
                let name = format!("step {i}, contrast {contrast}, d {d}");
                accept(&format!("loss of {name}"), &loss, &plain.0, &exact.0);
                accept(&format!("dh of {name}"), &got, &plain.1, &exact.1);
            }
        }
    }
}

#[test]
fn a_zero_row_has_finite_gradients() {
    let (mut s, d) = (PackedStep::random(1, 1, &[&[2, 1, 1, 1]]), 6);
    let h = vec![0f32; s.outputs() * d];
    let (loss, dh) = tri_view(&mut s, JOINT, 0.1, &h, &h, 3, 1, d);
    // Every score is zero: each of the two positives against three views.
    close("loss", &loss, &[2.0 * 3f64.ln()], 1e-6, 0.0);
    assert!(dh.iter().all(|x| x.is_finite()));
}

#[test]
fn a_group_larger_than_said_is_not_a_number() {
    let (mut s, d) = (PackedStep::random(1, 1, &[&[2, 1, 1, 1], &[2, 3]]), 4);
    let h = Random::new(1).normals(1.0, s.outputs() * d);
    let (loss, dh) = tri_view(&mut s, JOINT, 0.1, &h, &h, 2, 1, d);
    assert!(loss[0].is_nan() && loss[1] == 0.0);
    assert!(same_bits(part(&dh, &s.client_outs, 0, d), part(&h, &s.client_outs, 0, d)));
}

#[test]
fn a_client_depends_on_itself_alone() {
    let d = 33;
    for mut s in steps(1) {
        let mut r = Random::new(3);
        let (h, dh) = (r.normals(1.0, s.outputs() * d), r.normals(1.0, s.outputs() * d));
        let views = most_views(&s);
        let (loss, got) = tri_view(&mut s, DECOUPLED, 0.2, &h, &dh, views, 1, d);
        for c in 0..s.clients() {
            let mut one = alone(&s, c);
            let outs = |v| part(v, &s.client_outs, c, d);
            let (own_loss, own) = tri_view(&mut one, DECOUPLED, 0.2, outs(&h), outs(&dh), views + 3, 7, d);
            assert!(same_bits(&own_loss, part(&loss, &s.client_groups, c, 1)) && same_bits(&own, outs(&got)));
        }
    }
}

#[test]
fn reference_gradients_are_differences() {
    let (d, tau, step) = (4, 0.3, 1e-5);
    let s = PackedStep::random(4, 1, &[&[4, 2, 3, 1], &[3, 2]]);
    let mut h = numbers(&Random::new(1).normals(1.0, s.outputs() * d));
    for contrast in [JOINT, DECOUPLED] {
        let dh = vec![0f32; h.len()];
        // One group a client, so lambda weighs each loss.
        let total = |h: &[f64]| plain_tri_view::<f64>(&s, contrast, tau, h, &dh, d).0.iter().sum::<f64>() * f64::from(s.lambda);
        let (_, gradient) = plain_tri_view::<f64>(&s, contrast, tau, &h, &dh, d);
        for (i, &g) in gradient.iter().enumerate() {
            close("dh", &[slope(&total, &mut h, i, step)], &[g], 1e-5, 1e-6);
        }
    }
    let s = batch(5);
    let mut h = numbers(&Random::new(2).normals(1.0, s.outputs() * d));
    let zeros = vec![0f32; h.len()];
    for cosines in [true, false] {
        // The mean over each client's paired outputs.
        let total = |h: &[f64]| {
            let (losses, _) = plain_in_batch::<f64>(&s, cosines, tau, 1.5, h, &zeros, d);
            let mean = |c: usize| {
                let own = &losses[2 * s.client_pairs[c] as usize..2 * s.client_pairs[c + 1] as usize];
                own.iter().sum::<f64>() / own.len().max(1) as f64
            };
            1.5 * (0..s.clients()).map(mean).sum::<f64>()
        };
        let (_, gradient) = plain_in_batch::<f64>(&s, cosines, tau, 1.5, &h, &zeros, d);
        for (i, &g) in gradient.iter().enumerate() {
            close("dh", &[slope(&total, &mut h, i, step)], &[g], 1e-5, 1e-6);
        }
    }
}

fn slope(f: &dyn Fn(&[f64]) -> f64, x: &mut [f64], i: usize, step: f64) -> f32 {
    let old = x[i];
    x[i] = old + step;
    let up = f(x);
    x[i] = old - step;
    let down = f(x);
    x[i] = old;
    ((up - down) / (2.0 * step)) as f32
}

/// A client with `pairs` pairs, among one with a history alone, one without tokens and one with a pair.
fn batch(pairs: usize) -> PackedStep {
    let mut b = Builder::new(pairs as u64, 1);
    b.user(&[3, 1]);
    b.end_client();
    for i in 0..pairs {
        b.user(&[2]);
        b.pair([1 + i % 4, 2]);
    }
    b.end_client();
    b.end_client();
    b.pair([2, 1]);
    b.end_client();
    b.finish()
}

fn in_batch(
    s: &mut PackedStep,
    cosines: bool,
    tau: f32,
    weight: f32,
    h: &[f32],
    dh: &[f32],
    d: usize,
    blocks: u32,
) -> (Vec<f32>, Vec<f32>) {
    let n = s.pair.len();
    let (clients, most) = (s.clients() as u32, 2 * largest(&s.client_pairs));
    let (mut dh, mut z) = (dh.to_vec(), vec![f32::NAN; n * d]);
    let (mut inverse, mut lse, mut loss) = (vec![f32::NAN; n], vec![f32::NAN; n], vec![f32::NAN; n]);
    let (step, cosine, dim, block) = (s.ptr(), i32::from(cosines), d as i32, [128, 1, 1]);
    let grid = [clients, (most.div_ceil(16) as u32).min(blocks).max(1), 1];
    let rows = [(n.div_ceil(4) as u32).min(blocks).max(1), 1, 1];
    launch!("in_batch_gather", rows, block, 0, step, cosine, h.as_ptr(), z.as_mut_ptr(), inverse.as_mut_ptr(), dim).unwrap();
    let (zp, ip) = (z.as_ptr(), inverse.as_ptr());
    launch!("in_batch_info_nce_stats", grid, block, 19456, step, zp, ip, tau, lse.as_mut_ptr(), loss.as_mut_ptr(), dim).unwrap();
    let (lp, dhp) = (lse.as_ptr(), dh.as_mut_ptr());
    launch!("in_batch_info_nce_grad", grid, block, 27648, step, cosine, zp, ip, lp, tau, weight, dhp, dim).unwrap();
    (loss, dh)
}

#[test]
fn batches() {
    for (j, (pairs, d)) in [(1, 1), (2, 3), (13, 64), (8, 33), (9, 4), (70, 5), (64, 17), (31, 130)].into_iter().enumerate() {
        for cosines in [true, false] {
            let mut r = Random::new(j as u64);
            let mut s = batch(pairs);
            // Inner products grow with the width.
            let (tau, weight) = (if cosines { [0.5, 0.1][j % 2] } else { 2.0 * (d as f32).sqrt() }, 0.7);
            let (h, dh) = (r.normals(1.0, s.outputs() * d), r.normals(0.01, s.outputs() * d));
            let got = in_batch(&mut s, cosines, tau, weight, &h, &dh, d, u32::MAX);
            let plain = plain_in_batch::<f32>(&s, cosines, tau, weight, &h, &dh, d);
            let exact = plain_in_batch::<f64>(&s, cosines, tau, weight, &numbers(&h), &dh, d);
            accept(&format!("loss of {pairs} x {d}"), &got.0, &plain.0, &exact.0);
            accept(&format!("dh of {pairs} x {d}"), &got.1, &plain.1, &exact.1);
            for blocks in [u32::MAX, 1] {
                let again = in_batch(&mut s, cosines, tau, weight, &h, &dh, d, blocks);
                assert!(same_bits(&got.0, &again.0) && same_bits(&got.1, &again.1), "{blocks} blocks");
            }
            // A client with one pair has nothing to be told apart from.
            assert_eq!(got.0[got.0.len() - 2..], [0.0, 0.0]);
            for c in 0..s.clients() {
                let outs = |v: &[f32]| part(v, &s.client_outs, c, d).to_vec();
                let (own_h, own_dh, mut one) = (outs(&h), outs(&dh), alone(&s, c));
                let own = in_batch(&mut one, cosines, tau, weight, &own_h, &own_dh, d, u32::MAX);
                assert!(same_bits(&own.1, &outs(&got.1)), "client {c} alone");
            }
        }
    }
}
