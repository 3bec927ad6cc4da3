//! Full ranking of users' targets, and the scores of all items for one history, private groups included.

use super::CpuEngine;
use crate::backend::cpu::rank::Panels;
use crate::backend::cpu::{Worker, WorkerShape};
use crate::backend::{Step, TableRow};
use crate::base::parallel;
use crate::config::{Group, Mask, Settings};
use crate::data::Sought;
use crate::engine::personal::merged;
use crate::engine::{Participants, PrivateState, PrivateStore, Progress};
use crate::eval::{rank_from_count, rank_of};
use crate::model::{Model, ModelSpec, Weights};
use crate::{Error, Result};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};

/// Users encoded and ranked together: their hidden states and counts stay in the first cache.
const BLOCK: usize = 96;

/// One thread's share of a ranking.
struct RankLane {
    worker: Worker,
    /// Block number and its ranks.
    blocks: Vec<(usize, Vec<u32>)>,
    failure: Option<Error>,
}

/// Packs the last items of a history as one sequence of at most `max` rows, whose last hidden state is used: that of the last item,
/// or of the special row `asked` behind it.
pub(crate) fn pack_input(step: &mut Step, input: &[TableRow], max: usize, asked: Option<TableRow>) {
    let input = &input[input.len().saturating_sub(max - usize::from(asked.is_some()))..];
    step.push_sequence(input.iter().copied().chain(asked));
    step.push_output(step.tokens() as u32 - 1);
}

/// Hidden states `[n, d]` of `inputs` under dense weights and an item table.
pub(crate) fn encode(
    worker: &mut Worker,
    model: &Model,
    spec: &ModelSpec,
    inputs: &[impl AsRef<[u32]>],
    dense: &[f32],
    items: &[f32],
) -> Vec<f32> {
    let settings = &spec.settings;
    let asked = spec.asked_row(items.len() / spec.dim() - spec.special.len());
    let fill = |step: &mut Step| {
        step.clear();
        step.align = settings.align();
        for input in inputs {
            pack_input(step, TableRow::of_items(input.as_ref()), settings.max_len as usize, asked.map(TableRow::of_item));
        }
        step.end_client();
    };
    worker.read(dense, items, fill, |worker| {
        let hidden = model.encode(worker);
        worker.values(hidden).to_vec()
    })
}

/// Ranks of `users`, block by block on `threads` threads: `rank` gives those of one block, on a worker for models of `spec`.
pub(crate) fn in_blocks(
    threads: usize,
    spec: &ModelSpec,
    users: &[u32],
    progress: &Progress,
    rank: impl Fn(&mut Worker, &[u32]) -> Result<Vec<u32>> + Sync,
) -> Result<Vec<u32>> {
    let shape = WorkerShape::new(spec);
    let done = AtomicU64::new(0);
    let mut lanes: Vec<RankLane> =
        (0..threads).map(|_| RankLane { worker: Worker::new(shape.clone()), blocks: Vec::new(), failure: None }).collect();
    parallel::for_each(&mut lanes, users.len().div_ceil(BLOCK), 1, |RankLane { worker, blocks, failure }, b| {
        let block = &users[b * BLOCK..users.len().min((b + 1) * BLOCK)];
        match rank(worker, block) {
            Ok(ranks) => blocks.push((b, ranks)),
            Err(e) => *failure = Some(e),
        }
        progress(done.fetch_add(block.len() as u64, Ordering::Relaxed) + block.len() as u64, users.len() as u64);
    });
    let mut blocks = Vec::new();
    for lane in lanes {
        if let Some(e) = lane.failure {
            return Err(e);
        }
        blocks.extend(lane.blocks);
    }
    blocks.sort_by_key(|(b, _)| *b);
    Ok(blocks.into_iter().flat_map(|(_, r)| r).collect())
}

/// Ranks from the hidden states `[n, d]` of the users that have a target: `asked` holds input and target of each user, the input being
/// what `mask` looks at; 0 for a user without a target.
pub(crate) fn ranks_of(panels: &Panels, hidden: &[f32], d: usize, mask: Mask, asked: &[Option<(&[u32], u32)>]) -> Vec<u32> {
    let known: Vec<_> = asked.iter().flatten().zip(hidden.chunks_exact(d)).collect();
    let thresholds: Vec<f32> = known.iter().map(|((_, target), h)| panels.score(h, *target)).collect();
    let mut counts = vec![0u32; known.len()];
    panels.count(hidden, &thresholds, &mut counts);
    let mut ranks = known.iter().zip(counts.iter().zip(&thresholds)).map(|(((input, target), h), (&count, &threshold))| {
        rank_from_count(count, *target, mask.masked(input), |item| not_less(panels.score(h, item), threshold))
    });
    asked.iter().map(|a| a.map_or(0, |_| ranks.next().unwrap_or(0))).collect()
}

pub(super) fn rank(engine: &CpuEngine, sought: Sought, users: &[u32], private: &PrivateStore, progress: &Progress) -> Result<Vec<u32>> {
    let (weights, mask) = (&engine.global.weights, engine.settings.eval.mask);
    let panels = Panels::new(weights.catalogue(), weights.spec.dim());
    in_blocks(engine.threads, &weights.spec, users, progress, |worker, users| {
        if !private.is_empty() && engine.settings.federation.personal > 0.0 {
            return rank_by_own_encoders(engine, &panels, worker, sought, users, private);
        }
        if !private.is_empty() {
            return rank_personal(engine, worker, sought, users, private);
        }
        let asked: Vec<_> = users.iter().map(|&u| engine.data.sought(u as usize, sought)).collect();
        let inputs: Vec<&[u32]> = asked.iter().flatten().map(|(input, _)| *input).collect();
        let hidden = encode(worker, &engine.model, &weights.spec, &inputs, &weights.dense, &weights.items);
        Ok(ranks_of(&panels, &hidden, weights.spec.dim(), mask, &asked))
    })
}

/// Ranks under each user's own weights; a user costs a table of its own, so this is the slow path.
fn rank_personal(engine: &CpuEngine, worker: &mut Worker, sought: Sought, users: &[u32], private: &PrivateStore) -> Result<Vec<u32>> {
    let rank = |&user: &u32| {
        let Some((input, target)) = engine.data.sought(user as usize, sought) else { return Ok(0) };
        let state = own_state(&engine.participants, Some(user), private)?;
        let scores = personal_scores(worker, &engine.model, &engine.settings, &engine.global.weights, &state, input);
        Ok(rank_of(&scores, target, engine.settings.eval.mask.masked(input)))
    };
    users.iter().map(rank).collect()
}

/// Ranks under each user's own dense weights and the item rows that all share.
fn rank_by_own_encoders(
    engine: &CpuEngine,
    panels: &Panels,
    worker: &mut Worker,
    sought: Sought,
    users: &[u32],
    private: &PrivateStore,
) -> Result<Vec<u32>> {
    let weights = &engine.global.weights;
    let asked: Vec<_> = users.iter().map(|&u| engine.data.sought(u as usize, sought)).collect();
    let mut hidden = Vec::new();
    for (&user, asked) in users.iter().zip(&asked) {
        let Some((input, _)) = asked else { continue };
        let state = own_state(&engine.participants, Some(user), private)?;
        let dense = own_dense(&engine.settings, weights, &state);
        hidden.extend(encode(worker, &engine.model, &weights.spec, &[input], &dense, &weights.items));
    }
    Ok(ranks_of(panels, &hidden, weights.spec.dim(), engine.settings.eval.mask, &asked))
}

/// What the participant of `user` keeps to itself; with one participant, whoever asks belongs to it.
pub(crate) fn own_state(participants: &Participants, user: Option<u32>, private: &PrivateStore) -> Result<PrivateState> {
    let client = if participants.len() == 1 { Some(0) } else { user.map(|user| participants.of(user)) };
    Ok(client.map(|c| private.get(c)).transpose()?.flatten().unwrap_or_default())
}

/// Scores of all items `[I]` for an input, under `weights` and the private groups of `state`.
pub(crate) fn personal_scores(
    worker: &mut Worker,
    model: &Model,
    settings: &Settings,
    weights: &Weights,
    state: &PrivateState,
    input: &[u32],
) -> Vec<f32> {
    let d = weights.spec.dim();
    let dense = own_dense(settings, weights, state);
    let mut items = weights.items.clone();
    for (&item, row) in &state.rows {
        items[item as usize * d..][..d].copy_from_slice(row);
    }
    let hidden = encode(worker, model, &weights.spec, &[input], &dense, &items);
    let panels = Panels::new(&items[..items.len() - weights.spec.special.len() * d], d);
    let mut scores = vec![0f32; panels.items()];
    panels.scores(&hidden, &mut scores);
    scores
}

/// The dense weights `[P]` under which the participant with `state` is ranked.
fn own_dense<'w>(settings: &Settings, weights: &'w Weights, state: &'w PrivateState) -> Cow<'w, [f32]> {
    match state.dense.as_deref() {
        Some(own) if !settings.federation.shared.contains(&Group::Encoder) => Cow::Borrowed(own),
        own => merged(&weights.dense, own.filter(|_| settings.federation.personal > 0.0)),
    }
}

/// Whether `a` is not below `b`; a NaN on either side counts.
fn not_less(a: f32, b: f32) -> bool {
    a.partial_cmp(&b).is_none_or(|o| o.is_ge())
}
