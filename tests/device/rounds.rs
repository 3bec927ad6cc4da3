//! Rounds whose clients are trained by the kernels: against the CPU backend, and with the same bits however they are cut up.

use crate::foreign;
use crate::resident::h100;
use crate::ring::world;
use crate::simt::device;
use lumos::config::{
    Average, Backbone, ClientWeighting, Clients, Contrast, CounterfactualStates, EpsUnit, Examples, Group, LocalOptimizer, Pool, Positions,
    Precision, RecLoss, Resample, Resident, Residual, ServerOptimizer, Settings, Similarity, UploadRows,
};
use lumos::data::Dataset;
use lumos::engine::cpu::CpuEngine;
use lumos::engine::cuda::CudaEngine;
use lumos::engine::{Engine, NamedTensor, Participants, PrivateStore, TensorData, Work};
use lumos::federation::{Trainer, rules};
use lumos::testing::valid;
use lumos::views::Views;

pub const MEMORY: u64 = 1 << 30;

pub fn settings() -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.heads = 2;
    s.model.max_len = 8;
    s.local.epochs = 2;
    s.federation.fraction = 0.4;
    // Resident clients have tests of their own.
    s.gpu.resident = Resident::Off;
    s
}

/// Terms that learn from views beside the contrast, all of them.
pub fn every_view(s: &mut Settings) {
    (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 5);
    (s.loss.future_targets, s.loss.paraphrase_inputs, s.loss.counterfactual_negatives) = (0.3, 0.2, 2);
}

/// A client's own contrast against random sequences.
fn strangers(s: &mut Settings) {
    (s.loss.contrast, s.loss.lambda) = (Contrast::None, 0.9);
    let own = &mut s.loss.in_batch;
    (own.weight, own.strangers, own.similarity, own.tau) = (0.3, 3, Similarity::Cosine, 0.5);
}

fn kinds() -> Vec<(&'static str, Settings)> {
    let base = settings();
    let with = |f: &dyn Fn(&mut Settings)| {
        let mut s = base.clone();
        f(&mut s);
        s
    };
    vec![
        ("lumos", base.clone()),
        ("dropout", with(&|s| (s.model.dropout, s.model.item_dropout) = (0.2, 0.1))),
        (
            "positions from the last, residuals after the norm",
            with(&|s| (s.model.positions, s.model.residual) = (Positions::Last, Residual::Normed)),
        ),
        ("literal", with(&|s| s.loss.contrast = Contrast::Joint)),
        ("no views", with(&|s| s.loss.contrast = Contrast::None)),
        ("lambda falls to nothing", with(&|s| s.loss.lambda_rounds = 2)),
        ("gru", with(&|s| s.model.backbone = Backbone::GRU4REC)),
        ("bert", with(&|s| (s.model.backbone, s.model.dropout) = (Backbone::BERT4REC, 0.2))),
        (
            "bert, full softmax, no views, positions from the last",
            with(&|s| {
                s.model.backbone = Backbone::BERT4REC;
                s.model.positions = Positions::Last;
                (s.loss.rec, s.loss.contrast) = (RecLoss::Softmax, Contrast::None);
            }),
        ),
        ("clip, adamw", with(&|s| (s.local.clip, s.local.optimizer, s.local.weight_decay) = (0.5, LocalOptimizer::Adamw, 0.01))),
        // Decay shows which position rows a client trains: its own reach, not that of the longest client in the launch.
        ("strong decay", with(&|s| (s.local.optimizer, s.local.weight_decay) = (LocalOptimizer::Adamw, 2.0))),
        ("sgd", with(&|s| s.local.optimizer = LocalOptimizer::Sgd)),
        ("momentum", with(&|s| (s.local.optimizer, s.local.lr) = (LocalOptimizer::Momentum, 0.05))),
        ("adagrad, proximal", with(&|s| (s.local.optimizer, s.local.proximal) = (LocalOptimizer::Adagrad, 5.0))),
        (
            "sgd, proximal, a rate that falls",
            with(&|s| (s.local.optimizer, s.local.proximal, s.local.decay) = (LocalOptimizer::Sgd, 9.0, 1.0)),
        ),
        ("preconditioned", with(&preconditioned)),
        ("sampled softmax", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::SampledSoftmax, 5))),
        ("gbce", with(&|s| (s.loss.rec, s.loss.negatives) = (RecLoss::Gbce, 3))),
        ("shared negatives", with(&|s| (s.loss.rec, s.loss.negatives, s.loss.resample) = (RecLoss::SampledSoftmax, 6, Resample::Shared))),
        ("prefixes", with(&|s| s.loss.examples = Examples::Prefixes)),
        ("by popularity", with(&|s| (s.loss.rec, s.loss.negatives, s.loss.popularity) = (RecLoss::SampledSoftmax, 5, 1.0))),
        (
            "smooth targets, rates that rise and fall",
            with(&|s| {
                (s.loss.rec, s.loss.negatives, s.loss.smoothing) = (RecLoss::SampledSoftmax, 5, 0.2);
                (s.local.optimizer, s.local.decay) = (LocalOptimizer::Sgd, 1.0);
                (s.federation.server_warmup, s.federation.rounds) = (0.5, 4);
            }),
        ),
        ("full softmax", with(&|s| s.loss.rec = RecLoss::Softmax)),
        ("views as targets, inputs and negatives", with(&every_view)),
        ("every state of a counterfactual", with(&|s| s.loss.counterfactual_states = CounterfactualStates::Every)),
        (
            "means up to every item of a counterfactual, contrasted in the first epoch",
            with(&|s| {
                (s.loss.pool, s.loss.counterfactual_states) = (Pool::Mean, CounterfactualStates::Every);
                s.loss.contrast_epochs = 1;
            }),
        ),
        ("means of states", with(&|s| s.loss.pool = Pool::Mean)),
        (
            "views as targets, inputs and negatives, bce",
            with(&|s| {
                every_view(s);
                s.loss.rec = RecLoss::Bce;
            }),
        ),
        ("fedadam", with(&|s| (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01))),
        (
            "fedadagrad, epsilon of a client, cohort mean",
            with(&|s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadagrad, 0.01);
                (s.federation.server_eps_unit, s.federation.average) = (EpsUnit::Client, Average::Cohort);
            }),
        ),
        (
            "fedadam, corrected by the steps of each row",
            with(&|s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
                (s.federation.server_momentum, s.federation.server_correction) = (0.5, true);
            }),
        ),
        (
            "fedyogi, a rate that falls",
            with(&|s| {
                (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedyogi, 0.01);
                (s.federation.server_decay, s.federation.rounds) = (0.7, 3);
            }),
        ),
        (
            "momentum, cohort mean, by examples",
            with(&|s| {
                s.federation.server_momentum = 0.9;
                s.federation.average = Average::Cohort;
                s.federation.weights = ClientWeighting::Examples;
            }),
        ),
        ("backbone and term of another crate", foreign::with_foreign(base.clone())),
        ("contrast with strangers", with(&strangers)),
        ("every touched row", with(&|s| s.federation.upload_rows = UploadRows::Touched)),
    ]
}

/// Clients that begin with the server's second moments.
pub fn preconditioned(s: &mut Settings) {
    (s.federation.server, s.federation.server_lr) = (ServerOptimizer::Fedadam, 0.01);
    (s.local.optimizer, s.local.lr, s.local.eps) = (LocalOptimizer::Preconditioned, 0.01, 0.01);
    (s.model.item_dropout, s.local.clip) = (0.1, 0.5);
}

pub fn floats(tensors: &[NamedTensor]) -> Vec<(String, Vec<f32>)> {
    let values = |t: &NamedTensor| match &t.data {
        TensorData::F32(v) => v.to_vec(),
        _ => Vec::new(),
    };
    tensors.iter().map(|t| (t.name.to_string(), values(t))).collect()
}

pub fn on_device(settings: &Settings, data: &Dataset, views: &Views, rounds: u64, chunk_bytes: Option<u64>) -> Vec<NamedTensor> {
    let mut trainer = Trainer::on_device(valid(settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    if let Some(bytes) = chunk_bytes {
        trainer.limit_chunks(bytes);
    }
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

pub fn on_cpu(settings: &Settings, data: &Dataset, views: &Views, rounds: u64) -> Vec<NamedTensor> {
    let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

/// Largest difference relative to the largest change that training made.
pub fn distance(settings: &Settings, data: &Dataset, views: &Views, a: &[NamedTensor], b: &[NamedTensor]) -> f64 {
    let start = floats(&on_cpu(settings, data, views, 0));
    let (a, b) = (floats(a), floats(b));
    let (mut change, mut worst) = (0f64, 0f64);
    for ((name, x), (other, y)) in a.iter().zip(&b) {
        assert_eq!((name, x.len()), (other, y.len()));
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            assert!(x.is_finite() && y.is_finite(), "{name}");
            worst = worst.max(f64::from((x - y).abs()));
            if let Some((_, s)) = start.iter().find(|(n, s)| n == name && s.len() > i) {
                change = change.max(f64::from((x - s[i]).abs()));
            }
        }
    }
    worst / change
}

#[test]
fn one_round_agrees_with_the_cpu() {
    let (data, views) = world(30, 25, 4);
    for (name, mut settings) in kinds() {
        // Gradient descent shows differences as they are; Adam's first steps turn the sign of a gradient near zero into a
        // whole step. A few steps of it agree where epsilon is not tiny.
        settings.local.eps = 1e-3;
        // Rates that change from round to round show in the second.
        let rounds = if settings.local.decay > 0.0 { 2 } else { 1 };
        let (gpu, cpu) = (on_device(&settings, &data, &views, rounds, None), on_cpu(&settings, &data, &views, rounds));
        let d = distance(&settings, &data, &views, &gpu, &cpu);
        assert!(d < 2e-4, "{name}: {d}");
    }
}

#[test]
fn chunks_and_runs_leave_no_trace() {
    for (name, settings) in kinds()
        .into_iter()
        .filter(|(n, _)| ["dropout", "gru", "bert", "clip, adamw", "full softmax", "smooth targets, rates that rise and fall"].contains(n))
    {
        let settings = Settings { federation: lumos::config::FederationSettings { fraction: 0.5, ..settings.federation }, ..settings };
        // Three pieces for one kind, a whole and a short one for the others.
        let (data, views) = world(if name == "dropout" { 260 } else { 140 }, 40, 5);
        let whole = on_device(&settings, &data, &views, 2, None);
        // Pieces of 64 clients, one chunk each.
        let cut = on_device(&settings, &data, &views, 2, Some(1));
        assert!(whole == cut, "{name}: chunks");
        if name == "dropout" {
            assert!(whole == on_device(&settings, &data, &views, 2, None), "{name}: twice");
        }
    }
}

#[test]
fn reports_agree_with_the_cpu() {
    let (data, views) = world(60, 40, 6);
    let settings = settings();
    let mut cpu = Trainer::new(valid(&settings), data.clone(), views.clone()).unwrap();
    let mut gpu = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    let (a, b) = (cpu.round().unwrap(), gpu.round().unwrap());
    assert_eq!(
        (a.clients, a.dropped, a.client_epochs, a.tokens, a.item_rows),
        (b.clients, b.dropped, b.client_epochs, b.tokens, b.item_rows)
    );
    assert_eq!((a.bytes_down, a.bytes_up), (b.bytes_down, b.bytes_up));
    assert!((a.rec_loss - b.rec_loss).abs() < 1e-5 && (a.contrast_loss - b.contrast_loss).abs() < 1e-4, "{a:?} {b:?}");
    let used = gpu.device_use().unwrap().unwrap();
    assert!(used.replays == 2 && used.replayed > 40 && used.launches < 14, "{used:?}");
    let round = b.device.unwrap();
    assert!(a.device.is_none());
    assert_eq!((round.launches, round.replays, round.replayed, round.chunks), (used.launches, used.replays, used.replayed, 1));
    // The plan holds what is then held, and not much more: allocations are counted in blocks of 512 bytes.
    assert_eq!((round.predicted_bytes, round.peak_bytes), (used.predicted_bytes, used.peak_bytes));
    assert!(round.peak_bytes <= round.predicted_bytes && round.predicted_bytes - round.peak_bytes < 20_000, "{round:?}");
    assert!(round.busy_s > 0.0 && round.busy_share > 0.0 && round.busy_share <= 1.0, "{round:?}");
    // Weights stay where they are: losses, counts, who diverged and the weights of the slots come back, and nothing else.
    let clients = b.clients + b.dropped;
    assert!(round.bytes_from < 24 * clients + 8 * data.item_count() as u64 + 64, "{round:?}");
}

#[test]
fn the_next_cohort_is_on_its_way_when_a_round_ends() {
    let (data, views) = world(60, 40, 6);
    let mut settings = settings();
    (settings.federation.fraction, settings.federation.rounds) = (1.0, 3);
    let mut gpu = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    let mut bytes = || gpu.round().unwrap().device.unwrap().bytes_to;
    let [first, second, last] = [bytes(), bytes(), bytes()];
    // All clients take part in every round: the first uploads two cohorts, the last none.
    assert!(first > second && second > 2 * last, "{first}, {second}, {last}");
    assert!(gpu.tensors().unwrap() == on_device(&settings, &data, &views, 3, None));
}

#[test]
fn tensor_core_paths_stay_near() {
    let (data, views) = world(30, 25, 7);
    for (precision, bound) in [(Precision::Tf32, 2e-2), (Precision::Bf16, 2e-1)] {
        let mut settings = Settings { precision, ..settings() };
        settings.local.optimizer = LocalOptimizer::Sgd;
        let (gpu, cpu) = (on_device(&settings, &data, &views, 1, None), on_cpu(&settings, &data, &views, 1));
        let d = distance(&settings, &data, &views, &gpu, &cpu);
        assert!(d < bound && d > 1e-6, "{precision:?}: {d}");
    }
}

#[test]
fn too_little_memory_splits_the_cohort() {
    let (data, views) = world(150, 40, 8);
    let mut settings = settings();
    settings.federation.fraction = 1.0;
    let plenty = on_device(&settings, &data, &views, 1, None);
    let mut peak = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    peak.round().unwrap();
    let peak = peak.device_use().unwrap().unwrap().peak_bytes;
    // The plan is told of more memory than there is: the allocation fails, and the chunk is split.
    let mut trainer = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(peak * 2 / 3)).unwrap();
    trainer.limit_chunks(u64::MAX);
    trainer.round().unwrap();
    assert!(trainer.tensors().unwrap() == plenty);
    // Where nothing fits, an error says so.
    let (data, views) = world(3, 40, 8);
    let mut none = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(60_000)).unwrap();
    none.limit_chunks(u64::MAX);
    let message = none.round().unwrap_err().to_string();
    assert!(message.contains("memory"), "{message}");
}

#[test]
fn a_client_that_diverges_is_named() {
    let (data, views) = world(30, 25, 9);
    let mut settings = settings();
    settings.local.optimizer = LocalOptimizer::Sgd;
    settings.local.lr = 1e20;
    let message =
        Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap().round().unwrap_err().to_string();
    assert!(message.contains("client") && message.contains("local.lr"), "{message}");
}

/// In the first round the server's second moments are zero; in the second each client begins with those of its weights.
#[test]
fn second_moments_go_down_with_the_model() {
    let (data, views) = world(30, 25, 12);
    for clip in [0.0, 0.5] {
        let mut s = settings();
        preconditioned(&mut s);
        s.local.clip = clip;
        let (gpu, cpu) = (on_device(&s, &data, &views, 3, None), on_cpu(&s, &data, &views, 3));
        let d = distance(&s, &data, &views, &gpu, &cpu);
        assert!(d < 2e-3, "clip {clip}: {d}");
        assert!(gpu == on_device(&s, &data, &views, 3, Some(1)), "clip {clip}: chunks leave no trace");
        let mut without = s.clone();
        (without.local.optimizer, without.local.lr) = (LocalOptimizer::Sgd, s.local.lr / s.local.eps);
        let plain = distance(&s, &data, &views, &on_cpu(&without, &data, &views, 3), &cpu);
        assert!(plain > 20.0 * d, "clip {clip}: the moments make a difference ({plain} against {d})");
    }
}

/// Weights and moments may be copied back at any time, or never, or put onto another device: the bits stay the same.
#[test]
fn weights_stay_on_the_device_until_they_are_wanted() {
    let (data, views) = world(24, 30, 11);
    for (name, settings) in kinds().into_iter().filter(|(n, _)| ["fedadam", "momentum, cohort mean, by examples"].contains(n)) {
        let whole = on_device(&settings, &data, &views, 3, None);
        let mut asked = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        asked.round().unwrap();
        let after_one = asked.tensors().unwrap();
        // A slow machine has kept the round by itself.
        assert!(asked.last_snapshot().unwrap() == (after_one.clone(), 1) || asked.last_snapshot().unwrap().1 == 0, "{name}");
        asked.snapshot().unwrap();
        assert!(asked.last_snapshot().unwrap() == (after_one.clone(), 1), "{name}");
        asked.round().unwrap();
        let (tensors, round) = asked.last_snapshot().unwrap();
        assert!((round == 2) == (tensors != after_one) && asked.tensors().unwrap() != after_one, "{name}: round {round}");
        asked.round().unwrap();
        assert!(asked.tensors().unwrap() == whole, "{name}: asked in between");
        assert_eq!(asked.weights().unwrap().items, floats(&whole)[0].1, "{name}");
        let mut moved = Trainer::on_device(valid(&settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
        moved.round().unwrap();
        moved.restore(&after_one, 1).unwrap();
        moved.round().unwrap();
        moved.round().unwrap();
        assert!(moved.tensors().unwrap() == whole, "{name}: restored");
    }
}

/// A round with clients that diverge has the bits of the round without them, under rules and where a participant has many sequences, too.
#[test]
fn clients_that_diverge_leave_no_trace_in_the_round() {
    let (data, views) = world(16, 30, 1);
    let both = [Group::Encoder, Group::Items];
    for (name, rules, resident, clients, shared) in [
        ("no rule", vec![], Resident::Off, Clients::User, &both[..]),
        ("resident", vec![], Resident::On, Clients::User, &both),
        ("norm bound", vec!["norm-bound bound=1e9".to_string()], Resident::Off, Clients::User, &both),
        ("median", vec!["median".to_string()], Resident::Off, Clients::User, &both),
        ("groups", vec![], Resident::Off, Clients::Groups(5), &both),
        ("private encoder", vec![], Resident::Off, Clients::User, &both[1..]),
        ("private encoder, median", vec!["median".to_string()], Resident::Off, Clients::User, &both[1..]),
        ("private rows", vec![], Resident::Off, Clients::User, &both[..1]),
        ("private rows of groups", vec![], Resident::Off, Clients::Groups(5), &both[..1]),
    ] {
        let mut s = settings();
        (s.local.optimizer, s.local.lr, s.local.epochs) = (LocalOptimizer::Sgd, 24.0, 3);
        (s.gpu.resident, s.federation.clients, s.federation.shared) = (resident, clients, shared.to_vec());
        let rules = rules::build(&rules).unwrap();
        let private = PrivateStore::new(16);
        let trained = |clients: &[u32], on_cpu: bool| {
            let device = if resident == Resident::On { h100() } else { device(MEMORY) };
            let mut engine: Box<dyn Engine> = match on_cpu {
                true => Box::new(CpuEngine::new(valid(&s), data.clone(), views.clone())),
                false => Box::new(CudaEngine::new(valid(&s), data.clone(), views.clone(), device).unwrap()),
            };
            let work = Work { round: 1, clients, next: Some(clients), rules: &rules, private: &private };
            let trained = engine.train(&work, &|_, _| ()).unwrap();
            let rows = engine.touched_rows();
            let mean = if rules.is_empty() { None } else { engine.mean().unwrap() };
            engine.serve(mean).unwrap();
            (trained, rows, engine.global().unwrap().tensors())
        };
        let everyone: Vec<u32> = (0..Participants::new(clients, &data).len() as u32).collect();
        let healthy: Vec<u32> = everyone.iter().copied().filter(|&c| trained(&[c], true).0.totals.counts[6] == 0).collect();
        assert!(!healthy.is_empty() && healthy.len() < everyone.len(), "{name}: {healthy:?} of {} are healthy", everyone.len());
        let (expected, rows, weights) = trained(&healthy, false);
        assert_eq!(expected.totals.counts[..4], trained(&healthy, true).0.totals.counts[..4], "{name}: as on the CPU");
        let (all, all_rows, all_weights) = trained(&everyone, false);
        let (client, message) = all.diverged.unwrap();
        assert!(expected.diverged.is_none() && (0..client).all(|c| healthy.contains(&c)), "{name}: client {client}");
        assert!(!healthy.contains(&client) && message.contains("local.lr"), "{name}: {message}");
        let mut counts = expected.totals.counts;
        counts[6] = (everyone.len() - healthy.len()) as u64;
        assert_eq!((all.totals.counts, all.totals.losses, all_rows), (counts, expected.totals.losses, rows), "{name}");
        assert!(all_weights == weights && all.private == expected.private, "{name}");
    }
}
