//! The server's model: trained on what clients uploaded, and asked for its opinion of it.
//!
//! A mini-batch is cut into parts of [`MICRO_BATCH`] uploads whatever the number of threads, and their gradients are added up in fixed point, so
//! that the weights have the same bits for any number of threads. Both contrasts look at a whole mini-batch: where one of them is on, a
//! forward pass over all parts comes first, and its gradients join those of the parts in a second pass with the same dropout.

use super::constants::Constants;
use super::contrast::{Batch, pulls};
use super::upload::{Labelled, Upload};
use crate::backend::cpu::{AdamStep, GradientAt, Worker, WorkerShape, adam_span, dot, sigmoid, sum_of_squares};
use crate::backend::{Step, TableRow};
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::LossSettings;
use crate::engine::{Moments, fixed};
use crate::model::{Model, ModelSpec, Weights};
use crate::{Error, Result};

/// Uploads of a part.
const MICRO_BATCH: usize = 32;

/// Weights of a span that one thread steps on.
const SPAN: usize = 1 << 14;

/// In draws the server stands beyond all clients.
const SERVER: u64 = 1 << 32;

/// The server's model and its optimiser.
#[derive(Clone)]
pub struct Server {
    pub weights: Weights,
    pub moments: Moments,
    /// Optimiser steps so far.
    pub steps: u32,
}

/// A client's upload of the round and the one before it.
#[derive(Clone, Copy)]
pub struct Pair<'u> {
    pub now: &'u Upload,
    pub before: Option<&'u Upload>,
}

/// One thread's share.
pub struct Lane {
    worker: Worker,
    dense: Vec<i64>,
    items: Vec<i64>,
    /// Next-item loss of its parts in fixed point.
    loss: i64,
    fine: bool,
    /// Parts and what came of them.
    found: Vec<(usize, Vec<f32>)>,
}

impl Lane {
    pub fn new(spec: &ModelSpec) -> Lane {
        let worker = Worker::new(WorkerShape::new(spec));
        Lane { worker, dense: Vec::new(), items: Vec::new(), loss: 0, fine: true, found: Vec::new() }
    }
}

/// Where a round of the server is.
pub struct Training<'t> {
    pub constants: &'t Constants,
    pub model: &'t Model,
    pub loss: &'t LossSettings,
    pub seed: u64,
    pub round: u64,
}

/// Packs the uploads of `part`, every position an example, then those before them, of which the last hidden state alone is used.
/// Outputs of the last items of both.
fn pack(part: &[Pair], align: u32, step: &mut Step) -> Vec<u32> {
    step.clear();
    (step.align, step.width, step.positive_weight) = (align, 2, 1.0);
    let mut last = Vec::new();
    for Pair { now, .. } in part {
        let first = step.push_sequence(now.items.iter().map(|&item| TableRow::of_item(item)));
        for position in 0..now.items.len() {
            let out = step.push_output(first + position as u32);
            step.example.push(out);
            step.cands.extend([now.target(position), now.negatives[position]].map(TableRow::of_item));
        }
        last.push(step.outputs() as u32 - 1);
    }
    for before in part.iter().filter_map(|pair| pair.before) {
        let first = step.push_sequence(before.items.iter().map(|&item| TableRow::of_item(item)));
        last.push(step.push_output(first + before.items.len() as u32 - 1));
    }
    step.end_client();
    last
}

impl Server {
    /// A server with the weights of the seed.
    pub fn new(spec: &ModelSpec, items: usize, seed: u64) -> Server {
        let weights = Weights::init(spec, items, seed);
        let (p, rows) = (weights.dense.len(), weights.items.len());
        Server { weights, moments: [p, p, rows, rows].map(|n| vec![0.0; n]), steps: 0 }
    }

    /// Trains on the uploads of a round; gives the means over its steps of the next-item loss and of the contrasts without weights.
    ///
    /// # Errors
    /// [`Error::Usage`] where the training leaves the range of numbers; the server is then of no use.
    pub fn train(&mut self, at: &Training, lanes: &mut [Lane], pairs: &[Pair]) -> Result<[f64; 2]> {
        let (mut losses, before) = ([0f64; 2], self.steps);
        for epoch in 0..at.constants.server_epochs {
            let mut order: Vec<Pair> = pairs.to_vec();
            Stream::new(at.seed, Purpose::Shuffle, at.round, SERVER | u64::from(epoch)).shuffle(&mut order);
            for batch in order.chunks(at.constants.server_batch) {
                let step = self.step(at, lanes, batch)?;
                losses.iter_mut().zip(step).for_each(|(sum, loss)| *sum += loss);
            }
        }
        Ok(losses.map(|sum| sum / f64::from(self.steps - before).max(1.0)))
    }

    fn step(&mut self, at: &Training, lanes: &mut [Lane], batch: &[Pair]) -> Result<[f64; 2]> {
        self.steps += 1;
        let (contrast, pulls) = self.contrast(at, lanes, batch);
        self.add_gradients(at, lanes, batch, &pulls);
        let loss = fixed::to_f64(lanes.iter().map(|lane| lane.loss).sum());
        if !lanes.iter().all(|lane| lane.fine) || !(loss + contrast).is_finite() {
            let message = "a gradient of the server's model is not finite or too large; lower server-lr in federation.protocol";
            return Err(Error::Usage(format!("round {}: {message} (mean next-item loss {loss:.4}, contrast {contrast:.4})", at.round)));
        }
        let adam = AdamStep::new(&at.constants.server_local, self.steps, u32::MAX, 1.0).with_stored_moments();
        let [dm, ds, im, is] = &mut self.moments;
        step_on(&mut self.weights.dense, dm, ds, lanes, |lane| &mut lane.dense, &adam);
        step_on(&mut self.weights.items, im, is, lanes, |lane| &mut lane.items, &adam);
        Ok([loss, contrast])
    }

    fn part(&self, at: &Training, number: usize) -> GradientAt<'_> {
        let draws = || Stream::new(at.seed, Purpose::Dropout, at.round, SERVER * (1 + number as u64));
        let dropout = (at.constants.server.dropout > 0.0).then(draws);
        GradientAt { dense: &self.weights.dense, items: &self.weights.items, dropout, number: self.steps }
    }

    /// The contrasts of a mini-batch without weights, and for each part gradients of its last hidden states, in the order of [`pack`];
    /// no gradients where no contrast is on.
    fn contrast(&self, at: &Training, lanes: &mut [Lane], batch: &[Pair]) -> (f64, Vec<Vec<f32>>) {
        let constants = at.constants;
        let peers = constants.peer.0 > 0.0 && at.round > constants.peer_after;
        if !peers && (constants.past.0 == 0.0 || batch.iter().all(|pair| pair.before.is_none())) {
            return (0.0, Vec::new());
        }
        let (d, align) = (self.weights.spec.dim(), constants.server.align());
        let parts: Vec<&[Pair]> = batch.chunks(MICRO_BATCH).collect();
        parallel::for_each(lanes, parts.len(), 1, |Lane { worker, found, .. }, i| {
            let (mut last, mut hidden) = (Vec::new(), Vec::new());
            let encode = |worker: &mut Worker| {
                let h = at.model.encode(worker);
                hidden.extend_from_slice(worker.values(h));
            };
            worker.gradient(&self.part(at, i), None, |step| last = pack(parts[i], align, step), encode);
            found.push((i, last.iter().flat_map(|&q| &hidden[q as usize * d..][..d]).copied().collect()));
        });
        let found = gathered(lanes);
        // Uploads of the round first, then those before.
        let split = |part: usize| parts[part].len() * d;
        let mut hidden: Vec<f32> = found.iter().enumerate().flat_map(|(i, h)| &h[..split(i)]).copied().collect();
        hidden.extend(found.iter().enumerate().flat_map(|(i, h)| &h[split(i)..]));
        let before: Vec<usize> = (0..batch.len()).filter(|&i| batch[i].before.is_some()).collect();
        let last = peers.then(|| batch.iter().map(|pair| self.weights.item(pair.now.last as usize)).collect());
        let (loss, pulls) = pulls(&Batch { hidden: &hidden, d, before: &before, last }, constants);
        let (mut now, mut before) = pulls.split_at(batch.len() * d);
        let per_part = found.iter().enumerate().map(|(i, h)| {
            let (a, b) = (now.split_at(split(i)), before.split_at(h.len() - split(i)));
            (now, before) = (a.1, b.1);
            [a.0, b.0].concat()
        });
        (loss, per_part.collect())
    }

    fn add_gradients(&self, at: &Training, lanes: &mut [Lane], batch: &[Pair], pulls: &[Vec<f32>]) {
        let (d, align) = (self.weights.spec.dim(), at.constants.server.align());
        for lane in lanes.iter_mut() {
            lane.dense.resize(self.weights.dense.len(), 0);
            lane.items.resize(self.weights.items.len(), 0);
            (lane.loss, lane.fine) = (0, true);
        }
        let examples = |pairs: &[Pair]| pairs.iter().map(|pair| pair.now.items.len()).sum::<usize>() as f32;
        let all = examples(batch);
        let parts: Vec<&[Pair]> = batch.chunks(MICRO_BATCH).collect();
        parallel::for_each(lanes, parts.len(), 1, |lane, i| {
            // A part's loss is a mean over its examples; that of the mini-batch over all of them.
            let share = examples(parts[i]) / all;
            let fill = |step: &mut Step| {
                let last = pack(parts[i], align, step);
                if let Some(pulls) = pulls.get(i) {
                    step.pull.resize(step.outputs() * d, 0.0);
                    for (&q, pull) in last.iter().zip(pulls.chunks_exact(d)) {
                        step.pull[q as usize * d..][..d].iter_mut().zip(pull).for_each(|(x, g)| *x = g / share);
                    }
                }
            };
            let worker = &mut lane.worker;
            let [loss, _] = worker.gradient(&self.part(at, i), None, fill, |worker| at.model.train(worker, at.loss));
            lane.loss += fixed::from_f64(f64::from(share) * loss);
            lane.fine &= loss.is_finite() && fixed::add_gradient(&mut lane.dense, worker.dense_gradient(), share);
            let mut touched: Vec<TableRow> = worker.step.row.iter().chain(&worker.step.cands).copied().collect();
            touched.sort_unstable();
            touched.dedup();
            for row in touched.iter().map(|row| row.index() * d) {
                lane.fine &= fixed::add_gradient(&mut lane.items[row..][..d], &worker.item_gradient()[row..][..d], share);
            }
        });
    }

    /// For each of the `uploads` what is sent to the client that uploaded it: the one of another client whose last hidden state has the
    /// highest cosine with its own (the first of equal ones), with the model's probabilities. Nothing for a client that is alone.
    pub fn replies(&self, at: &Training, lanes: &mut [Lane], uploads: &[&Upload]) -> Vec<Option<Labelled>> {
        let (d, align) = (self.weights.spec.dim(), at.constants.server.align());
        let pairs: Vec<Pair> = uploads.iter().map(|&now| Pair { now, before: None }).collect();
        let parts: Vec<&[Pair]> = pairs.chunks(MICRO_BATCH).collect();
        let threads = lanes.len();
        parallel::for_each(lanes, parts.len(), 1, |Lane { worker, found, .. }, i| {
            let fill = |step: &mut Step| drop(pack(parts[i], align, step));
            let hidden = worker.read(&self.weights.dense, &self.weights.items, fill, |worker| {
                let h = at.model.encode(worker);
                worker.values(h).to_vec()
            });
            found.push((i, hidden));
        });
        let hidden = gathered(lanes).concat();
        let mut rows = hidden.chunks_exact(d);
        let (mut labels, mut directions) = (Vec::new(), Vec::new());
        for upload in uploads {
            let mut of = Vec::with_capacity(2 * upload.items.len());
            let mut last: &[f32] = &[];
            for (position, h) in rows.by_ref().take(upload.items.len()).enumerate() {
                let likely = |item: u32| sigmoid(dot(h, self.weights.item(item as usize)));
                of.extend([likely(upload.target(position)), likely(upload.negatives[position])]);
                last = h;
            }
            let norm = (sum_of_squares(last) + 1e-24).sqrt() as f32;
            directions.push(last.iter().map(|x| x / norm).collect::<Vec<f32>>());
            labels.push(of);
        }
        parallel::map(threads, uploads.len(), 16, |i| {
            let others = (0..uploads.len()).filter(|&j| j != i).map(|j| (j, dot(&directions[i], &directions[j])));
            let (nearest, _) = others.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
            Some(Labelled { upload: uploads[nearest].clone(), labels: labels[nearest].clone() })
        })
    }
}

/// What the lanes found, in the order of parts.
fn gathered(lanes: &mut [Lane]) -> Vec<Vec<f32>> {
    let mut found: Vec<_> = lanes.iter_mut().flat_map(|lane| lane.found.drain(..)).collect();
    found.sort_unstable_by_key(|(i, _)| *i);
    found.into_iter().map(|(_, values)| values).collect()
}

/// The optimiser's step of weights `p [n]` on the sums of all lanes, which are then zero again.
fn step_on(p: &mut [f32], m: &mut [f32], s: &mut [f32], lanes: &mut [Lane], sums: fn(&mut Lane) -> &mut Vec<i64>, adam: &AdamStep) {
    let threads = lanes.len();
    let mut sums: Vec<_> = lanes.iter_mut().map(|lane| sums(lane).chunks_mut(SPAN)).collect();
    let spans = p.chunks_mut(SPAN).zip(m.chunks_mut(SPAN)).zip(s.chunks_mut(SPAN));
    let spans = spans.map(|((p, m), s)| (p, m, s, sums.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>()));
    parallel::consume(threads, spans.collect(), |(p, m, s, mut parts)| {
        let sum = |k: usize| parts.iter_mut().fold(0i64, |sum, part| sum.wrapping_add(std::mem::take(&mut part[k])));
        let g: Vec<f32> = (0..p.len()).map(sum).map(fixed::to_gradient).collect();
        // SAFETY: the four spans are of equal length.
        unsafe { adam_span(p.len(), p.as_mut_ptr(), m.as_mut_ptr(), s.as_mut_ptr(), g.as_ptr(), adam) };
    });
}
