//! The contrast within a mini-batch: its gradient, what is packed for it, and that data stay what they are.

use super::ring::world;
use lumos::backend::cpu::{Worker, WorkerShape};
use lumos::backend::{Act, Backend, RowKind, Step, TableRow};
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{Backbone, Clients, Contrast, Copies, InBatchSettings, RecLoss, Settings, Similarity};
use lumos::data::Dataset;
use lumos::engine::Packer;
use lumos::federation::Trainer;
use lumos::settings::validate;
use lumos::testing::valid;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Mean loss of `pair` over hidden states `h [Q, d]`.
fn value(pair: &[u32], s: &InBatchSettings, h: &[f64], d: usize) -> f64 {
    let row = |i: usize| &h[pair[i] as usize * d..][..d];
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
    let length = |x: &[f64]| if s.similarity == Similarity::Cosine { (dot(x, x) + 1e-24).sqrt() } else { 1.0 };
    let score = |i: usize, j: usize| dot(row(i), row(j)) / (length(row(i)) * length(row(j))) / f64::from(s.tau);
    let n = pair.len();
    let one = |i: usize| {
        let all: Vec<f64> = (0..n).filter(|&j| j != i).map(|j| score(i, j)).collect();
        let top = all.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        top + all.iter().map(|x| (x - top).exp()).sum::<f64>().ln() - score(i, i ^ 1)
    };
    (0..n).map(one).sum::<f64>() / n as f64
}

/// A step with `outputs` outputs, of which the odd ones are paired in this order, so that others lie between.
fn paired(pairs: usize) -> Step {
    let mut step = Step::default();
    step.clear();
    step.width = 1;
    step.push_sequence((0..4 * pairs as u32 + 1).map(|_| TableRow(0)));
    (0..4 * pairs as u32 + 1).for_each(|t| {
        step.push_output(t);
    });
    step.pair = (0..2 * pairs as u32).map(|i| 2 * i + 1).collect();
    step.end_client();
    step
}

/// Loss and gradient added to `dh`.
fn ours(step: &Step, s: &InBatchSettings, h: &[f32], dh: &[f32], d: usize) -> (f64, Vec<f32>) {
    let mut w = Worker::new(WorkerShape { dim: d, dense_len: 0, fused: vec![], plain: vec![], positions: None });
    w.begin_visit(&[], 1);
    w.step = step.clone();
    w.begin_step(&Settings::default().local, 1, 1, false, None);
    let load = |w: &mut Worker, values: &[f32]| -> Act {
        let act = w.act(RowKind::Outputs, d);
        w.values_mut(act).copy_from_slice(values);
        act
    };
    let (h, dh) = (load(&mut w, h), load(&mut w, dh));
    let scratch = [d, 1, 1].map(|width| w.act(RowKind::Outputs, width));
    w.in_batch_info_nce(s, h, scratch, dh);
    (w.losses().1, w.values(dh).to_vec())
}

#[test]
fn loss_and_gradient_are_those_of_finite_differences() {
    for (case, (pairs, d)) in [(1, 1), (1, 5), (2, 3), (5, 7), (9, 16), (17, 33), (4, 65)].into_iter().enumerate() {
        for similarity in [Similarity::Dot, Similarity::Cosine] {
            let mut stream = Stream::new(case as u64, Purpose::Bench, 0, 0);
            let mut normal = |n: usize| (0..n).map(|_| stream.normal()).collect::<Vec<f32>>();
            let step = paired(pairs);
            let (h, before) = (normal(step.outputs() * d), normal(step.outputs() * d));
            let tau = if similarity == Similarity::Dot { (d as f32).sqrt() } else { 0.3 };
            let s = InBatchSettings { weight: 0.7, tau, similarity, ..InBatchSettings::default() };
            let (loss, after) = ours(&step, &s, &h, &before, d);
            let wide: Vec<f64> = h.iter().map(|&x| f64::from(x)).collect();
            let exact = value(&step.pair, &s, &wide, d);
            assert!((loss - exact).abs() < 1e-5 * (1.0 + exact), "{pairs} pairs, d {d}: {loss} and {exact}");
            for i in 0..h.len() {
                let at = |by: f64| {
                    let mut moved = wide.clone();
                    moved[i] += by;
                    value(&step.pair, &s, &moved, d)
                };
                let slope = 0.7 * (at(1e-5) - at(-1e-5)) / 2e-5;
                let got = f64::from(after[i]) - f64::from(before[i]);
                assert!((got - slope).abs() < 2e-6, "{similarity:?} {pairs} pairs, d {d}, element {i}: {got} and {slope}");
            }
            if pairs == 1 {
                assert!(loss == 0.0 && after == before, "one pair has no negatives");
            }
        }
    }
}

fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 1, ..Default::default() };
    (s.model.dim, s.model.heads, s.model.max_len) = (12, 2, 8);
    (s.local.epochs, s.local.batch) = (3, 7);
    s.loss.contrast = Contrast::None;
    s.loss.rec = RecLoss::Softmax;
    s.loss.in_batch.weight = 0.1;
    s.federation.clients = Clients::One;
    s
}

fn hash(data: &Dataset) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&data.items, &data.offsets).hash(&mut hasher);
    hasher.finish()
}

#[test]
fn copies_are_made_anew_and_data_stay_as_they_are() {
    let (data, views) = world(30, 40, 2);
    let settings = settings();
    let before = hash(&data);
    let users: Vec<u32> = (0..30).collect();
    let mut packer = Packer::new(valid(&settings), data.clone(), views.clone());
    let plan = packer.begin(&users, 1);
    let (mut step, mut copies) = (Step::default(), std::collections::BTreeSet::new());
    let (mut masked, mut sequences) = (0, 0);
    for number in 0..plan.steps {
        packer.pack(number, &mut step);
        assert_eq!(step.client_pairs, [0, step.pair.len() as u32 / 2]);
        assert_eq!(step.bounds.len() - 1, 3 * step.pair.len() / 2, "a history and two copies each");
        for pair in step.pair.chunks(2) {
            for &output in pair {
                let (last, first) = (step.out_token[output as usize] as usize, step.out_start[output as usize] as usize);
                let copy = step.row[first..=last].to_vec();
                masked += usize::from(copy.contains(&TableRow::of_item(40)));
                assert!(step.bounds.contains(&(last as u32 + 1)), "a copy stands for itself by its last item");
                copies.insert(copy);
                sequences += 1;
            }
        }
    }
    assert_eq!(sequences, 2 * 3 * 30);
    assert!(masked > 0 && masked < sequences && copies.len() > 60, "{masked} masked, {} different", copies.len());
    let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    let report = trainer.round().unwrap();
    assert!(report.contrast_loss > 0.5, "{report:?}");
    assert_eq!(hash(&data), before, "an epoch changes no stored sequence");
    // The same round again, from the same data, has the same bits.
    let mut again = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    again.round().unwrap();
    assert!(trainer.tensors().unwrap() == again.tensors().unwrap());
    let last = |t: &Trainer| t.tensors().unwrap()[0].shape.clone();
    assert_eq!(last(&trainer), [41, 12], "the mask row lies behind the catalogue");
}

#[test]
fn either_kind_of_backbone_is_trained_by_it_and_it_is_off_by_default() {
    let (data, views) = world(20, 30, 3);
    for backbone in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC] {
        let mut settings = settings();
        settings.model.backbone = backbone;
        let train = |settings: &Settings| {
            let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
            let first = trainer.round().unwrap().contrast_loss;
            for _ in 0..8 {
                trainer.round().unwrap();
            }
            (first, trainer.round().unwrap().contrast_loss, trainer.weights().unwrap().dense.clone())
        };
        settings.loss.in_batch.weight = 1.0;
        let with = train(&settings);
        assert!(with.1 < with.0, "{backbone:?}: the contrast falls, from {} to {}", with.0, with.1);
        settings.loss.in_batch.weight = 0.0;
        let without = train(&settings);
        assert!(without.0 == 0.0 && without.2 != with.2, "{backbone:?}");
    }
}

/// A mini-batch that is packed as one is worked by all threads, operation by operation; it is large enough here to be cut.
#[test]
fn the_number_of_threads_leaves_no_trace() {
    let (data, views) = world(60, 400, 4);
    for backbone in [Backbone::SASREC, Backbone::GRU4REC, Backbone::BERT4REC] {
        let mut settings = settings();
        settings.model.backbone = backbone;
        (settings.model.dim, settings.model.dropout, settings.local.batch, settings.local.epochs) = (32, 0.2, 60, 1);
        let train = |threads: u32| {
            let mut trainer = Trainer::new(valid(&Settings { threads, ..settings.clone() }), data.clone(), views.clone()).unwrap();
            trainer.round().unwrap();
            trainer.tensors().unwrap()
        };
        let one = train(1);
        for threads in [2, 5] {
            assert!(train(threads) == one, "{backbone:?} with {threads} threads");
        }
    }
}

#[test]
fn a_client_of_one_sequence_is_refused() {
    let refused = |change: &dyn Fn(&mut Settings), parts: &[&str]| {
        let mut settings = settings();
        change(&mut settings);
        let message = validate(&settings).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    validate(&settings()).unwrap();
    refused(&|s| s.federation.clients = Clients::User, &["loss.in_batch.weight", "federation.clients = \"one\""]);
    refused(&|s| s.local.batch = 1, &["local.batch", "at least 2"]);
    refused(&|s| s.loss.in_batch.weight = f32::NAN, &["loss.in_batch.weight", "finite"]);
    refused(&|s| s.loss.in_batch.tau = 0.0, &["loss.in_batch.tau", "above 0"]);
    refused(&|s| s.loss.in_batch.crop = 1.5, &["loss.in_batch.crop", "between 0 and 1"]);
    refused(&|s| s.loss.masked.rho = 0.0, &["loss.masked.rho", "above 0"]);
    refused(&|s| s.loss.masked.last = -0.1, &["loss.masked.last", "between 0 and 1"]);
}

/// DuoRec: the first of a pair is the user's own input, the second what came before the same target somewhere else.
#[test]
fn a_same_target_pair_is_a_sequence_and_another_that_leads_to_its_target() {
    let (data, views) = world(60, 25, 2);
    let mut settings = settings();
    settings.loss.in_batch.copies = Copies::SameTarget;
    let users: Vec<u32> = (0..60).collect();
    let mut packer = Packer::new(valid(&settings), data.clone(), views.clone());
    let plan = packer.begin(&users, 1);
    let last = |items: &[u32]| items[items.len().saturating_sub(8)..].to_vec();
    let (mut step, mut own, mut others) = (Step::default(), 0, std::collections::BTreeSet::new());
    for number in 0..plan.steps {
        packer.pack(number, &mut step);
        for pair in step.pair.chunks(2) {
            let [one, two] = [pair[0], pair[1]].map(|output| {
                let (last, first) = (step.out_token[output as usize] as usize, step.out_start[output as usize] as usize);
                step.row[first..=last].iter().map(|row| row.0).collect::<Vec<u32>>()
            });
            let mut found = users.iter().map(|&user| data.train(user as usize)).filter(|train| last(&train[..train.len() - 1]) == one);
            let fits = found.any(|train| {
                let target = train[train.len() - 1];
                let mut places = users.iter().flat_map(|&user| {
                    let train = data.train(user as usize);
                    (1..train.len()).filter(move |&at| train[at] == target).map(move |at| last(&train[..at]))
                });
                places.any(|prefix| prefix == two)
            });
            assert!(fits, "{one:?} and {two:?} lead to no common target");
            own += usize::from(one == two);
            others.insert(two);
        }
    }
    assert!(own < 90 && others.len() > 60, "{own} with themselves, {} different", others.len());
    let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    let first = trainer.round().unwrap().contrast_loss;
    (0..8).for_each(|_| _ = trainer.round().unwrap());
    assert!(trainer.round().unwrap().contrast_loss < first);
    settings.model.backbone = Backbone::BERT4REC;
    assert!(validate(&settings).unwrap_err().to_string().contains("loss.in_batch.copies"));
}

fn lone() -> Settings {
    let mut s = settings();
    s.federation.clients = Clients::User;
    s.loss.rec = RecLoss::Bce;
    (s.loss.in_batch.similarity, s.loss.in_batch.strangers, s.loss.in_batch.tau) = (Similarity::Cosine, 3, 0.5);
    s
}

/// The contrast of a client of one sequence: two copies of its history, and as many strangers as are asked for, none of its items in them.
#[test]
fn a_client_of_one_sequence_has_strangers_for_negatives() {
    let (data, views) = world(30, 40, 2);
    let settings = lone();
    let mut packer = Packer::new(valid(&settings), data.clone(), views.clone());
    let mut step = Step::default();
    for user in 0..30 {
        let train = data.train(user as usize);
        let plan = packer.begin(&[user], 1);
        let items = packer.items().to_vec();
        for number in 0..plan.steps {
            packer.pack(number, &mut step);
            if train.len() < 2 {
                assert!(step.group.is_empty());
                continue;
            }
            assert_eq!((step.positives.as_slice(), step.group.len(), step.pair.len()), (&[1][..], 2 + 3, 0));
            for (k, &output) in step.group.iter().enumerate() {
                let (last, first) = (step.out_token[output as usize] as usize, step.out_start[output as usize] as usize);
                let copy: Vec<u32> = step.row[first..=last].iter().map(|row| items[row.0 as usize]).collect();
                let own = |item: &u32| train.contains(item) || *item == 40;
                assert!(if k < 2 { copy.iter().all(own) } else { copy.iter().all(|item| *item == 40 || !own(item)) }, "{copy:?}");
            }
        }
    }
    let mut trainer = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    let first = trainer.round().unwrap().contrast_loss;
    (0..30).for_each(|_| _ = trainer.round().unwrap());
    let then = trainer.round().unwrap().contrast_loss;
    assert!(then < first, "the contrast falls, from {first} to {then}");
    for (key, change) in [
        ("federation.clients", (|s| s.federation.clients = Clients::One) as fn(&mut Settings)),
        ("loss.contrast", |s| s.loss.contrast = Contrast::Decoupled),
        ("loss.in_batch.similarity", |s| s.loss.in_batch.similarity = Similarity::Dot),
        ("loss.in_batch.copies", |s| s.loss.in_batch.copies = Copies::SameTarget),
        ("loss.in_batch.strangers", |s| s.loss.in_batch.strangers = 65),
    ] {
        let mut bad = lone();
        change(&mut bad);
        assert!(validate(&bad).unwrap_err().to_string().contains(key), "{key}");
    }
}
