//! Interaction-level membership inference (Yuan et al., WWW 2023): the server guesses labels of the uploaded rows, trains a shadow of the client with them,
//! keeps the guesses whose shadow rows come nearest to the uploaded ones, and guesses the others again.
//!
//! As in the paper the shadow is a user vector and item rows under binary cross-entropy: the order of a history is not known to the server.

use crate::base::rng::{Purpose, Stream};
use crate::config::Settings;
use crate::model::Weights;

/// Share of the rows that are guessed to be the history's: with one negative a position half of them are (the paper takes a fifth, with four negatives).
const GUESSED: f64 = 0.5;
/// Share of the rows, those that come nearest, whose labels are kept.
const KEPT: f64 = 0.9;
/// Times that labels are guessed.
const TURNS: u64 = 10;

/// Share of the turns in which each of `rows`, an item and its change, was taken for one of the history of `client`.
pub fn labels(settings: &Settings, weights: &Weights, client: u32, rows: &[(u32, &[f32])]) -> Vec<f64> {
    let n = rows.len();
    let mut stream = Stream::new(settings.seed, Purpose::Attack, u64::from(u32::MAX), client.into());
    let mut order: Vec<usize> = (0..n).collect();
    stream.shuffle(&mut order);
    let mut guess = vec![false; n];
    order[..(GUESSED * n as f64).round() as usize].iter().for_each(|&i| guess[i] = true);
    let mut taken = vec![0.0; n];
    for _ in 0..TURNS {
        let far = distances(settings, weights, rows, &guess, &mut stream);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| far[a].total_cmp(&far[b]).then(a.cmp(&b)));
        let rest = &order[(KEPT * n as f64).round() as usize..];
        let mut labels: Vec<bool> = rest.iter().map(|&i| guess[i]).collect();
        stream.shuffle(&mut labels);
        rest.iter().zip(labels).for_each(|(&i, label)| guess[i] = label);
        taken.iter_mut().zip(&guess).for_each(|(t, g)| *t += f64::from(u8::from(*g)) / TURNS as f64);
    }
    taken
}

/// Distances of the shadow's rows, trained with `guess` from a fresh user vector, from the uploaded ones.
fn distances(settings: &Settings, weights: &Weights, rows: &[(u32, &[f32])], guess: &[bool], stream: &mut Stream) -> Vec<f64> {
    let (d, local) = (weights.spec.dim(), &settings.local);
    let xavier = (2.0 / (1 + d) as f32).sqrt();
    // One slab: the user, then the rows `[1 + n, d]`.
    let mut p: Vec<f32> = (0..d).map(|_| xavier * stream.normal()).collect();
    p.extend(rows.iter().flat_map(|(item, _)| weights.item(*item as usize)));
    let (mut m, mut s) = (vec![0f32; p.len()], vec![0f32; p.len()]);
    for step in 1..=local.epochs as i32 {
        let mut g = vec![0f32; p.len()];
        for (i, &label) in guess.iter().enumerate() {
            let row = (1 + i) * d;
            let score: f32 = (0..d).map(|k| p[k] * p[row + k]).sum();
            let slope = (1.0 / (1.0 + (-score).exp()) - f32::from(u8::from(label))) / rows.len() as f32;
            for k in 0..d {
                g[k] += slope * p[row + k];
                g[row + k] += slope * p[k];
            }
        }
        let (a, b) = (1.0 - local.beta1.powi(step), 1.0 - local.beta2.powi(step));
        for i in 0..p.len() {
            m[i] = local.beta1 * m[i] + (1.0 - local.beta1) * g[i];
            s[i] = local.beta2 * s[i] + (1.0 - local.beta2) * g[i] * g[i];
            p[i] -= local.lr * (m[i] / a) / ((s[i] / b).sqrt() + local.eps);
        }
    }
    let far = |(i, (item, change)): (usize, &(u32, &[f32]))| {
        let uploaded = weights.item(*item as usize).iter().zip(*change).map(|(w, c)| w + c);
        p[(1 + i) * d..][..d].iter().zip(uploaded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    rows.iter().enumerate().map(far).collect()
}
