//! Users as the global model sees them: hidden states of histories, and scores of all items.

use crate::backend::cpu::rank::Panels;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::engine::cpu::encode;
use crate::model::{Model, Weights};

/// Histories that are encoded at a time.
const BLOCK: usize = 64;

/// Hidden states `[n, d]` of `histories` under `weights`.
pub(super) fn hidden(weights: &Weights, histories: &[Vec<u32>]) -> Vec<f32> {
    let mut worker = Worker::new(WorkerShape::new(&weights.spec));
    let model = Model::new(&weights.spec);
    let blocks = histories.chunks(BLOCK);
    blocks.flat_map(|block| encode(&mut worker, &model, &weights.spec, block, &weights.dense, &weights.items)).collect()
}

/// Scores of all items `[I]` for each of the hidden states `[n, d]`.
pub(super) fn scores(weights: &Weights, hidden: &[f32]) -> Vec<Vec<f32>> {
    let d = weights.spec.dim();
    let panels = Panels::new(weights.catalogue(), d);
    let of = |h: &[f32]| {
        let mut scores = vec![0f32; panels.items()];
        panels.scores(h, &mut scores);
        scores
    };
    hidden.chunks_exact(d).map(of).collect()
}

/// The `k` items of the highest `scores` without those of `without`, best first.
pub(super) fn top(scores: &[f32], k: usize, without: &[u32]) -> Vec<u32> {
    crate::eval::best_items(scores, without, k).into_iter().map(|(item, _)| item).collect()
}
