//! A client's visit: it trains its own model, which never leaves it, and makes up the sequence that it uploads.

use super::constants::Constants;
use super::perturb::{Pool, negatives};
use super::upload::{Labelled, Upload};
use crate::backend::cpu::{Visit, Visited, Worker, dot};
use crate::backend::{Step, TableRow};
use crate::base::rng::{Purpose, Stream};
use crate::config::Settings;
use crate::data::Dataset;
use crate::engine::{PrivateState, cpu, fixed};
use crate::model::{Model, Weights};

/// What clients of a round have in common.
pub struct Round<'r> {
    pub settings: &'r Settings,
    pub constants: &'r Constants,
    pub data: &'r Dataset,
    pub model: &'r Model,
    /// Weights that a client starts its first round with. They follow from the seed, so they are never sent.
    pub initial: &'r Weights,
    pub round: u64,
}

/// What a visit leaves.
pub struct Outcome {
    pub client: u32,
    /// The client's weights. They stay with it; nothing where another process has trained it.
    pub state: Option<PrivateState>,
    pub upload: Upload,
    pub visited: Visited,
    pub examples: u64,
}

/// A client's training data of the round, as rows of its item table.
struct Sequences<'s> {
    /// Items of the table, ascending `[R]`: everything that the client has ever trained on.
    items: Vec<u32>,
    inputs: &'s [u32],
    last: u32,
    /// One negative a position, the same in every round.
    negatives: Vec<u32>,
    received: Option<&'s Labelled>,
}

impl Sequences<'_> {
    fn row(&self, item: u32) -> TableRow {
        TableRow(self.items.binary_search(&item).expect("the table has every item of the round") as u32)
    }

    /// Both sequences as one step; each position has its item and a negative as candidates.
    fn pack(&self, align: u32, step: &mut Step) {
        start(align, step);
        let own = Upload { items: self.inputs.to_vec(), last: self.last, negatives: self.negatives.clone() };
        self.push(&own, |_| [1.0, 0.0], step);
        if let Some(Labelled { upload, labels }) = self.received {
            self.push(upload, |t| [labels[2 * t], labels[2 * t + 1]], step);
        }
        step.end_client();
    }

    fn push(&self, sequence: &Upload, labels: impl Fn(usize) -> [f32; 2], step: &mut Step) {
        let first = step.push_sequence(sequence.items.iter().map(|&item| self.row(item)));
        for position in 0..sequence.items.len() {
            let out = step.push_output(first + position as u32);
            step.example.push(out);
            step.cands.extend([sequence.target(position), sequence.negatives[position]].map(|item| self.row(item)));
            step.labels.extend(labels(position));
        }
    }
}

fn start(align: u32, step: &mut Step) {
    step.clear();
    (step.align, step.width, step.positive_weight) = (align, 2, 1.0);
}

impl Round<'_> {
    /// Trains `client` from its own `state` and lets it upload. Nothing where its history is too short to train on, a message where the
    /// training left the range of numbers.
    pub fn visit(
        &self,
        worker: &mut Worker,
        client: u32,
        state: &PrivateState,
        received: Option<&Labelled>,
    ) -> Result<Option<Outcome>, String> {
        let Some(sequences) = self.sequences(client, state, received) else { return Ok(None) };
        let (settings, d) = (self.settings, self.initial.spec.dim());
        let visit = Visit {
            second: None,
            dense: state.dense.as_deref().unwrap_or(&self.initial.dense),
            steps: settings.local.epochs,
            local: &settings.local,
            dropout: (self.constants.client.dropout > 0.0)
                .then(|| Stream::new(settings.seed, Purpose::Dropout, self.round, u64::from(client))),
        };
        let rows = sequences.items.iter().map(|&item| state.row(item, d).unwrap_or_else(|| self.initial.item(item as usize)));
        let align = self.constants.client.align();
        let pack = |_, step: &mut Step| sequences.pack(align, step);
        let visited = worker.visit(&visit, rows, pack, |worker| self.model.train(worker, &settings.loss));
        let (dense, table) = (worker.dense().to_vec(), worker.rows().to_vec());
        let fine = dense.iter().chain(&table).all(|x| x.abs() <= fixed::LIMIT);
        if !fine || !visited.losses[0].is_finite() {
            return Err(fixed::diverged(visited.losses[0] / visited.steps.max(1) as f64, 0.0));
        }
        let upload = self.upload(worker, client, &sequences, &dense, &table);
        let rows = sequences.items.iter().zip(table.chunks_exact(d)).map(|(&item, row)| (item, row.to_vec())).collect();
        let examples = (sequences.inputs.len() + received.map_or(0, |r| r.upload.items.len())) as u64;
        Ok(Some(Outcome { client, state: Some(PrivateState { dense: Some(dense), rows }), upload, visited, examples }))
    }

    fn sequences<'s>(&'s self, client: u32, state: &PrivateState, received: Option<&'s Labelled>) -> Option<Sequences<'s>> {
        let train = self.data.train(client as usize);
        let (&last, inputs) = train.split_last()?;
        let inputs = &inputs[inputs.len().saturating_sub(self.constants.client.max_len as usize)..];
        if inputs.is_empty() {
            return None;
        }
        // Round 0 is never trained: these draws are the same in each.
        let draws = Stream::new(self.settings.seed, Purpose::Negatives, 0, u64::from(client));
        let negatives = negatives(&draws, &[], self.data.item_count(), inputs.len(), |item| train.contains(&item));
        let mut items: Vec<u32> = state.rows.keys().chain(inputs).chain(&negatives).copied().collect();
        items.push(last);
        items.extend(received.iter().flat_map(|r| r.upload.named()));
        items.sort_unstable();
        items.dedup();
        Some(Sequences { items, inputs, last, negatives, received })
    }

    /// The best of several perturbed sequences: the one after which the true last item scores highest.
    fn upload(&self, worker: &mut Worker, client: u32, sequences: &Sequences, dense: &[f32], table: &[f32]) -> Upload {
        let (constants, seed) = (self.constants, self.settings.seed);
        let (align, max) = (constants.client.align(), constants.client.max_len as usize);
        let Sequences { items, inputs, last, .. } = sequences;
        let (d, rows, n) = (self.initial.spec.dim(), items.len(), inputs.len());
        // Hidden states of all positions but the last, each of which predicts the next one. Ours: the paper leaves open which state scores.
        let fill = |step: &mut Step| {
            start(align, step);
            let first = step.push_sequence(inputs.iter().map(|&item| sequences.row(item)));
            for t in 0..n as u32 {
                step.push_output(first + t);
            }
            step.end_client();
        };
        let hidden = worker.read(dense, table, fill, |worker| {
            let hidden = self.model.encode(worker);
            worker.values(hidden).to_vec()
        });
        let mut scores = vec![0f32; n * rows];
        for (h, out) in hidden.chunks_exact(d).zip(scores.chunks_exact_mut(rows).skip(1)) {
            out.iter_mut().zip(table.chunks_exact(d)).for_each(|(score, row)| *score = dot(h, row));
        }
        let pool = Pool::new(items, constants.eps, scores);
        let draws = Stream::new(seed, Purpose::Noise, self.round, u64::from(client));
        let mut candidates: Vec<Vec<u32>> = (0..constants.candidates).map(|k| pool.perturb(&draws, k, inputs, constants.replace)).collect();
        let fill = |step: &mut Step| {
            start(align, step);
            for candidate in &candidates {
                let candidate: Vec<TableRow> = candidate.iter().map(|&item| sequences.row(item)).collect();
                cpu::pack_input(step, &candidate, max, None);
            }
            step.end_client();
        };
        let hidden = worker.read(dense, table, fill, |worker| {
            let hidden = self.model.encode(worker);
            worker.values(hidden).to_vec()
        });
        let target = &table[sequences.row(*last).index() * d..][..d];
        let scores = hidden.chunks_exact(d).map(|h| dot(h, target));
        // The first of equal ones.
        let best = scores.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(0, |(k, _)| k);
        let chosen = candidates.swap_remove(best);
        // Ours: the client's own items are no negatives either, for half of what it likes would be taught as what it does not.
        let own = self.data.train(client as usize);
        let draws = Stream::new(seed, Purpose::Negatives, self.round, u64::from(client));
        let negatives = negatives(&draws, items, self.data.item_count(), n, |item| chosen.contains(&item) || own.contains(&item));
        Upload { items: chosen, last: *last, negatives }
    }
}
