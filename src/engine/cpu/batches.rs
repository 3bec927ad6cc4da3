//! Training of a participant with many sequences: mini-batches that all threads share.
//!
//! A mini-batch is cut into micro-batches of [`MICRO_BATCH`] sequences, whatever the number of threads. Each micro-batch's gradient is taken by one worker at the
//! participant's weights. Gradients of dense weights are added up in 64-bit fixed point, where the order leaves no trace; those of item
//! rows, of which a micro-batch names some, row by row in the order of the micro-batches. So the weights have the same bits for any number of threads.
//! The loss of a mini-batch is the mean over its examples: a micro-batch counts by its share of them.

use super::tally::Place;
use super::visit::Lane;
use crate::backend::LocalStep;
use crate::backend::Step;
use crate::backend::cpu::{AdamStep, BUCKET, GradientAt, RowLog, Visited, adam_span, drop_items_span, pull_back, sum_of_squares};
use crate::base::parallel;
use crate::base::rng::Stream;
use crate::config::{LossSettings, RecLoss};
use crate::engine::mini_batches::{self, MICRO_BATCH, MiniBatches};
use crate::engine::{Moments, Progress, fixed};
use std::time::Instant;

/// Weights of a span that one thread steps on. A multiple of the eight elements that dropout draws for at a time.
const SPAN: usize = 1 << 14;

/// Weights, moments and gradients of one kind of parameters `[n]`.
#[derive(Default)]
struct Parameters {
    p: Vec<f32>,
    m: Vec<f32>,
    s: Vec<f32>,
    g: Vec<f32>,
}

impl Parameters {
    fn begin(&mut self, n: usize) {
        for v in [&mut self.p, &mut self.m, &mut self.s, &mut self.g] {
            v.resize(n, 0.0);
        }
    }

    fn clear_moments(&mut self) {
        self.m.fill(0.0);
        self.s.fill(0.0);
    }
}

/// A participant at work. Its memory is kept for the next one.
#[derive(Default)]
pub(super) struct Batches {
    dense: Parameters,
    items: Parameters,
    /// The item table as the step at hand sees it, where it is dropped out.
    dropped: Vec<f32>,
    /// Optimiser steps already taken, where moments are kept between rounds.
    earlier: Option<u32>,
    /// Moments before the round at hand, in case it fails: dense first and second, rows first and second.
    before: Moments,
    /// Whether the round that trained last has not succeeded, or not yet: `before` is what holds.
    pending: bool,
}

/// What one worker has added up of a mini-batch.
#[derive(Default)]
pub(super) struct GradientSums {
    dense: Vec<i64>,
    /// Item rows `[I, d]`, where each micro-batch has a gradient for all of them; empty otherwise.
    items: Vec<i64>,
    /// Number, share and row gradients of each micro-batch, where they name some rows only.
    logs: Vec<(usize, f32, RowLog)>,
    spare: Vec<RowLog>,
    /// In fixed point, so that it does not matter which worker took which micro-batch.
    losses: [i64; 2],
    tokens: u64,
    examples: usize,
    fine: bool,
}

impl GradientSums {
    fn begin(&mut self, dense: usize, items: usize) {
        self.dense.resize(dense, 0);
        self.items.resize(items, 0);
        self.spare.extend(self.logs.drain(..).map(|(_, _, log)| log));
        (self.losses, self.tokens, self.examples, self.fine) = ([0; 2], 0, 0, true);
    }
}

impl Batches {
    /// Weights of the dense slab `[P]` after training.
    pub fn dense(&self) -> &[f32] {
        &self.dense.p
    }

    /// Item rows `[I, d]` after training.
    pub fn items(&self) -> &[f32] {
        &self.items.p
    }

    fn moments_mut(&mut self) -> [&mut Vec<f32>; 4] {
        [&mut self.dense.m, &mut self.dense.s, &mut self.items.m, &mut self.items.s]
    }

    /// Dense first and second moments `[P]`, rows first and second `[I, d]`, after the last round that succeeded.
    pub fn moments(&self) -> Moments {
        if self.pending {
            return self.before.clone();
        }
        [&self.dense.m, &self.dense.s, &self.items.m, &self.items.s].map(Vec::clone)
    }

    /// Goes on with `moments`.
    pub fn set_moments(&mut self, [a, b, c, d]: Moments) {
        (self.dense.m, self.dense.s, self.items.m, self.items.s) = (a, b, c, d);
        self.pending = false;
    }

    /// Prepares a round of a participant that keeps its moments: `rounds` rounds of `steps` steps went before. What a round without success
    /// left behind is undone.
    pub fn go_on(&mut self, rounds: u64, steps: u32) {
        self.earlier = Some((rounds * u64::from(steps)) as u32);
        let mut before = std::mem::take(&mut self.before);
        let undo = self.pending;
        for (now, before) in self.moments_mut().into_iter().zip(&mut before) {
            if undo {
                now.clone_from(before);
            } else {
                before.clone_from(now);
            }
        }
        (self.before, self.pending) = (before, true);
    }

    /// The round has succeeded: its moments hold.
    pub fn commit(&mut self) {
        self.pending = false;
    }

    /// Trains the participant `client`, which holds the sequences of `users`, from `dense [P]` and `items [I, d]`. False where a gradient
    /// was not finite or too large.
    #[allow(clippy::too_many_arguments)]
    pub fn train(
        &mut self,
        at: &Place,
        lanes: &mut [Lane],
        client: u32,
        users: &[u32],
        dense: &[f32],
        items: &[f32],
        progress: &Progress,
    ) -> (Visited, bool) {
        let settings = at.settings;
        self.dense.begin(dense.len());
        self.items.begin(items.len());
        self.dense.p.copy_from_slice(dense);
        self.items.p.copy_from_slice(items);
        if self.earlier.is_none_or(|earlier| earlier == 0) {
            self.dense.clear_moments();
            self.items.clear_moments();
        }
        if settings.local.optimizer.takes_second() {
            self.dense.s.copy_from_slice(&at.second.0);
            self.items.s.copy_from_slice(&at.second.1);
        }
        for lane in lanes.iter_mut() {
            lane.packer.begin_batches(at.round);
        }
        let mut visited = Visited::default();
        let mut batches = MiniBatches::new(settings, at.round, client, users);
        let steps = batches.len();
        for number in 0..steps {
            let begun = Instant::now();
            let (epoch, batch) = batches.get(number);
            let before = visited.steps;
            if !self.step(at, lanes, client, batch, epoch, number, &mut visited) {
                return (visited, false);
            }
            let pull = LocalStep::new(&settings.local_at(at.round), 1).pull;
            if pull > 0.0 && visited.steps > before {
                pull_back(&mut self.dense.p, dense, pull);
                pull_back(&mut self.items.p, items, pull);
            }
            visited.training += begun.elapsed();
            progress(u64::from(number) + 1, u64::from(steps));
        }
        (visited, true)
    }

    /// One mini-batch: gradients of its micro-batches, their sum, the optimiser. False where a gradient was not finite or too large.
    #[allow(clippy::too_many_arguments)]
    fn step(&mut self, at: &Place, lanes: &mut [Lane], client: u32, batch: &[u32], epoch: u32, number: u32, visited: &mut Visited) -> bool {
        let settings = at.settings;
        // Positions that could be trained on: how many are is known once the micro-batches are packed.
        let positions = lanes[0].packer.examples_of(batch);
        if positions == 0 {
            return true;
        }
        let draws = |part: usize| mini_batches::draws(settings, at.round, client, part);
        let step = self.earlier.unwrap_or(0) + number + 1;
        let item_rate = settings.model.item_dropout;
        let threads = lanes.len();
        if item_rate > 0.0 {
            self.dropped.resize(self.items.p.len(), 0.0);
            let spans = self.dropped.chunks_mut(SPAN).zip(self.items.p.chunks(SPAN)).enumerate().collect();
            parallel::consume(threads, spans, |(i, (span, from))| {
                span.copy_from_slice(from);
                drop_items_span(&draws(0), step, item_rate, i * SPAN, span);
            });
        }
        self.add_gradients(at, lanes, batch, epoch, positions, step, &draws);
        let examples: usize = lanes.iter().map(|lane| lane.gradient.examples).sum();
        if examples == 0 {
            return true;
        }
        // Micro-batches counted by their share of the positions; the loss is a mean over examples.
        let factor = positions as f32 / examples as f32;
        visited.steps += 1;
        visited.tokens += lanes.iter().map(|lane| lane.gradient.tokens).sum::<u64>();
        for (i, total) in visited.losses.iter_mut().enumerate() {
            *total += f64::from(factor) * fixed::to_f64(lanes.iter().map(|lane| lane.gradient.losses[i]).sum());
        }
        if !lanes.iter().all(|lane| lane.gradient.fine) {
            // The sums are of no use, and the next mini-batch begins with zeros.
            lanes.iter_mut().for_each(|lane| lane.gradient = GradientSums::default());
            return false;
        }
        let whole = settings.loss.rec == RecLoss::Softmax;
        let mask = (item_rate > 0.0).then(|| draws(0));
        let then = |first: usize, span: &mut [f32]| {
            if let Some(mask) = &mask {
                drop_items_span(mask, step, item_rate, first, span);
            }
        };
        let mut squares = gather(threads, &mut self.dense.g, factor, lanes.iter_mut().map(|l| &mut l.gradient.dense[..]), |_, _| ());
        if whole {
            squares += gather(threads, &mut self.items.g, factor, lanes.iter_mut().map(|l| &mut l.gradient.items[..]), then);
        }
        let local = settings.local_at(at.round);
        let adam = |scale| AdamStep::new(&local, step, u32::MAX, scale).with_stored_moments();
        if !whole {
            // The micro-batches in their order, whichever worker took them.
            let mut logs: Vec<_> = lanes.iter().flat_map(|lane| &lane.gradient.logs).collect();
            logs.sort_unstable_by_key(|(part, ..)| *part);
            // Without a clip the optimiser steps on a bucket while it is in the cache.
            let at_once = (settings.local.clip == 0.0).then(|| adam(1.0));
            squares += self.items.scatter(threads, factor, &logs, at.global.spec.dim(), then, at_once);
        }
        let (norm, clip) = (squares.sqrt(), f64::from(settings.local.clip));
        let adam = adam(if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 });
        self.dense.step(threads, &adam);
        if whole || clip > 0.0 {
            self.items.step(threads, &adam);
        }
        // A sum of squares that is not finite has a gradient that is not.
        squares.is_finite()
    }

    /// Adds the gradients of the micro-batches of `batch`, each by its share of `positions`, to the lanes' sums.
    #[allow(clippy::too_many_arguments)]
    fn add_gradients(
        &self,
        at: &Place,
        lanes: &mut [Lane],
        batch: &[u32],
        epoch: u32,
        positions: usize,
        step: u32,
        draws: &(dyn Fn(usize) -> Stream + Sync),
    ) {
        let settings = at.settings;
        let whole = settings.loss.rec == RecLoss::Softmax;
        let loss = LossSettings { lambda: settings.loss.lambda_at(at.round), ..settings.loss.clone() };
        let items = if settings.model.item_dropout > 0.0 { &self.dropped } else { &self.items.p };
        let drops = settings.model.dropout > 0.0;
        for lane in lanes.iter_mut() {
            lane.gradient.begin(self.dense.p.len(), if whole { self.items.p.len() } else { 0 });
        }
        let part = if lanes[0].packer.whole_batches() { batch.len() } else { MICRO_BATCH };
        let parts: Vec<&[u32]> = batch.chunks(part).collect();
        // Threads that have no micro-batch of their own help with one.
        let helpers = lanes.len() / parts.len().max(1);
        lanes.iter_mut().for_each(|lane| lane.worker.set_threads(helpers));
        parallel::for_each(lanes, parts.len(), 1, |lane, i| {
            let Lane { packer, worker, gradient: sums, .. } = lane;
            let part = GradientAt { dense: &self.dense.p, items, dropout: drops.then(|| draws(1 + i)), number: step };
            let mut log = (!whole).then(|| sums.spare.pop().unwrap_or_default());
            let fill = |step: &mut Step| packer.pack_batch(parts[i], epoch, step);
            let losses = worker.gradient(&part, log.as_mut(), fill, |worker| at.model.train(worker, &loss));
            if worker.step.tokens() == 0 {
                return;
            }
            let examples = worker.step.training_positions();
            let share = examples as f32 / positions as f32;
            sums.examples += examples;
            sums.losses.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += fixed::from_f64(f64::from(share) * loss));
            sums.tokens += worker.step.tokens() as u64;
            sums.fine &= losses.iter().all(|loss| loss.is_finite());
            sums.fine &= fixed::add_gradient(&mut sums.dense, worker.dense_gradient(), share);
            match log {
                Some(log) => sums.logs.push((i, share, log)),
                None => sums.fine &= fixed::add_gradient(&mut sums.items, worker.item_gradient(), share),
            }
        });
        lanes.iter_mut().for_each(|lane| lane.worker.set_threads(1));
    }
}

impl Parameters {
    /// The optimiser's step on every span.
    fn step(&mut self, threads: usize, adam: &AdamStep) {
        parallel::consume(threads, self.spans(SPAN), |(_, p, m, s, g)| step_on(p, m, s, g, adam));
    }

    /// First element, weights, moments and gradients of spans of `n`.
    #[allow(clippy::type_complexity)]
    fn spans(&mut self, n: usize) -> Vec<(usize, &mut [f32], &mut [f32], &mut [f32], &mut [f32])> {
        let spans = self.p.chunks_mut(n).zip(self.m.chunks_mut(n)).zip(self.s.chunks_mut(n)).zip(self.g.chunks_mut(n)).enumerate();
        spans.map(|(i, (((p, m), s), g))| (i * n, p, m, s, g)).collect()
    }

    /// Turns the logs of all micro-batches, times `factor`, into gradients of item rows of width `d`, bucket by bucket; `then` may change a bucket, given its first
    /// element, and `adam` steps on it. Gives the sum of squares.
    fn scatter(
        &mut self,
        threads: usize,
        factor: f32,
        logs: &[&(usize, f32, RowLog)],
        d: usize,
        then: impl Fn(usize, &mut [f32]) + Sync,
        adam: Option<AdamStep>,
    ) -> f64 {
        let mut squares = vec![0f64; self.p.len().div_ceil(BUCKET * d)];
        let spans: Vec<_> = self.spans(BUCKET * d).into_iter().zip(&mut squares).collect();
        parallel::consume(threads, spans, |((first, p, m, s, g), square)| {
            g.fill(0.0);
            for (_, share, log) in logs {
                log.add_to(first / (BUCKET * d), factor * share, d, g);
            }
            then(first, g);
            *square = sum_of_squares(g);
            if let Some(adam) = &adam {
                step_on(p, m, s, g, adam);
            }
        });
        squares.iter().sum()
    }
}

fn step_on(p: &mut [f32], m: &mut [f32], s: &mut [f32], g: &[f32], adam: &AdamStep) {
    assert!(p.len() == m.len() && p.len() == s.len() && p.len() == g.len());
    // SAFETY: the four spans are of equal length.
    unsafe { adam_span(p.len(), p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr(), g.as_ptr(), adam) }
}

/// Turns the sums of all workers, times `factor`, into gradients `[n]` and leaves zeros; `then` may change a span, given its first element. Gives the sum of
/// squares, which depends on no thread.
fn gather<'s>(
    threads: usize,
    gradient: &mut [f32],
    factor: f32,
    sums: impl Iterator<Item = &'s mut [i64]>,
    then: impl Fn(usize, &mut [f32]) + Sync,
) -> f64 {
    let mut sums: Vec<_> = sums.map(|sums| sums.chunks_mut(SPAN)).collect();
    let mut squares = vec![0f64; gradient.len().div_ceil(SPAN)];
    let spans: Vec<_> = gradient
        .chunks_mut(SPAN)
        .zip(&mut squares)
        .enumerate()
        .map(|(i, (span, square))| (i, span, square, sums.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>()))
        .collect();
    parallel::consume(threads, spans, |(i, span, square, mut parts)| {
        let (first, rest) = parts.split_first_mut().expect("there is a worker");
        for k in 0..span.len() {
            let sum = rest.iter_mut().fold(std::mem::take(&mut first[k]), |sum, part| sum.wrapping_add(std::mem::take(&mut part[k])));
            span[k] = factor * fixed::to_gradient(sum);
        }
        then(i * SPAN, span);
        *square = sum_of_squares(span);
    });
    squares.iter().sum()
}
