//! Rules on a device: factors by its own kernels, values fetched for the rest; and several processes whose sums are reduced.

use crate::ranks::Thread;
use crate::ring::world;
use crate::simt::device;
use lumos::cluster::Reduce;
use lumos::config::{OnDivergence, Resident, Settings};
use lumos::data::Dataset;
use lumos::engine::{NamedTensor, Needs, Occasion, Rule, TensorData, Update};
use lumos::federation::Trainer;
use lumos::federation::protocol::Parts;
use lumos::federation::rules::{Kind, Role, register};
use lumos::testing::valid;
use lumos::views::Views;
use std::sync::Arc;

const MEMORY: u64 = 1 << 30;

fn settings(rules: &[&str]) -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.max_len = 8;
    s.local.epochs = 2;
    s.federation.fraction = 0.4;
    s.gpu.resident = Resident::Off;
    s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
    s
}

fn state(mut trainer: Trainer, rounds: u64) -> Vec<NamedTensor> {
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer.tensors().unwrap()
}

fn on_device(settings: &Settings, data: &Dataset, views: &Views, rounds: u64, chunk_bytes: Option<u64>) -> Vec<NamedTensor> {
    let mut trainer = Trainer::on_device(valid(settings), data.clone(), views.clone(), device(MEMORY)).unwrap();
    if let Some(bytes) = chunk_bytes {
        trainer.limit_chunks(bytes);
    }
    state(trainer, rounds)
}

fn floats(tensors: &[NamedTensor]) -> impl Iterator<Item = f32> + '_ {
    tensors.iter().flat_map(|t| match &t.data {
        TensorData::F32(values) => values.clone(),
        // Which rows a defence has saved up is no matter of degree, and what clients keep of their rounding is in the sums.
        TensorData::U64(_) | TensorData::U8(_) => Vec::new(),
        other => panic!("{other:?}"),
    })
}

/// Largest difference of two states over the largest change that training made.
fn distance(start: &[NamedTensor], a: &[NamedTensor], b: &[NamedTensor]) -> f64 {
    let most = |x: &[NamedTensor], y: &[NamedTensor]| floats(x).zip(floats(y)).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max);
    most(a, b) / most(start, a)
}

#[test]
fn rules_do_on_a_device_what_they_do_on_the_cpu() {
    let (data, views) = world(40, 30, 5);
    let plain = settings(&[]);
    let start = state(Trainer::new(valid(&plain), data.clone(), views.clone()).unwrap(), 0);
    let without = on_device(&plain, &data, &views, 2, None);
    for rules in [
        &["norm-bound bound=1e9"][..],
        &["sign-flip share=0.3 scale=2"],
        &["norm-bound bound=0.1"],
        &["sign-flip share=0.5", "norm-bound bound=0.2"],
        &["quantise bits=16"],
        &["quantise bits=16 feedback=1"],
        &["row-weights other=0.2 power=0.5"],
        &["median"],
        &["sign-flip share=0.2 scale=5", "norm-bound bound=0.4", "median"],
    ] {
        let s = settings(rules);
        // A mean smooths what one client's optimiser makes of a gradient near 0; a median hands it on as it is. One round, because a
        // second one would build on it.
        let bound = if rules.contains(&"median") { 5e-3 } else { 5e-4 };
        let cpu = state(Trainer::new(valid(&s), data.clone(), views.clone()).unwrap(), 1);
        let far = distance(&start, &cpu, &on_device(&s, &data, &views, 1, None));
        println!("{rules:?}: {far:.1e}");
        assert!(far < bound, "{rules:?}: {far}");
        let gpu = on_device(&s, &data, &views, 2, None);
        assert!(gpu == on_device(&s, &data, &views, 2, Some(1)), "{rules:?}: the same bits however a cohort is cut up");
        assert_eq!(gpu == without, rules == ["norm-bound bound=1e9"], "{rules:?}");
    }
}

#[test]
fn a_client_that_diverges_under_rules_is_named() {
    let (data, views) = world(30, 20, 2);
    for rules in [&["sign-flip share=1"][..], &["median"]] {
        let mut s = settings(rules);
        s.local.lr = 1e6;
        let name = |trainer: lumos::Result<Trainer>| trainer.unwrap().round().unwrap_err().to_string();
        let (cpu, gpu) = (
            name(Trainer::new(valid(&s), data.clone(), views.clone())),
            name(Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY))),
        );
        let client = |message: &str| message.split(':').next().unwrap().to_string();
        assert!(cpu.contains("local.lr") && client(&cpu) == client(&gpu), "{cpu} / {gpu}");
    }
}

/// Turns the updates of some clients into something that no sum takes.
struct Spoil;

impl Rule for Spoil {
    fn needs(&self) -> Needs {
        Needs::Each
    }

    fn client(&self, _: &Occasion, update: &mut Update) {
        if update.client.is_multiple_of(7) {
            update.dense.fill(f32::NAN);
        }
    }
}

/// A device trains a round again without the clients that diverged: what rules had counted of the first time is gone, as it is on the CPU.
#[test]
fn a_round_that_is_trained_again_counts_no_client_twice() {
    let spoil = Kind { name: "spoil", role: Role::Other, summary: "", paper: "", options: &[], build: |_| Ok(Box::new(Spoil)) };
    register(spoil).unwrap();
    let (data, views) = world(40, 30, 5);
    let mut s = settings(&["row-weights other=0.2", "spoil"]);
    (s.federation.on_divergence, s.federation.max_diverged) = (OnDivergence::Drop, 0.9);
    let new = || Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
    let mut gpu = Trainer::on_device(valid(&s), data.clone(), views.clone(), device(MEMORY)).unwrap();
    let mut cpu = new();
    let lost = [cpu.round().unwrap().diverged, gpu.round().unwrap().diverged];
    assert!(lost[0] > 0 && lost[0] == lost[1], "{lost:?}");
    let far = distance(&state(new(), 0), &cpu.tensors().unwrap(), &gpu.tensors().unwrap());
    assert!(far < 5e-4, "{far}");
}

#[test]
fn any_number_of_processes_train_the_same_bits() {
    let (data, views) = world(50, 30, 7);
    for rules in [&[][..], &["sign-flip share=0.3", "norm-bound bound=0.3"], &["median"]] {
        for gpu in [false, true] {
            let s = settings(rules);
            let trainer = |reduce: Option<Arc<dyn Reduce>>| {
                let mut parts = Parts::new(valid(&s), data.clone(), views.clone());
                if let Some(reduce) = reduce {
                    parts.reduce = reduce;
                }
                parts.device = gpu.then(|| device(MEMORY));
                Trainer::of(parts).unwrap()
            };
            let alone = |rounds| {
                let mut trainer = trainer(None);
                let reports: Vec<_> = (0..rounds).map(|_| trainer.round().unwrap()).collect();
                let counts: Vec<_> = reports.iter().map(|r| (r.clients, r.tokens, r.item_rows, r.bytes_up, r.rec_loss)).collect();
                (counts, trainer.tensors().unwrap())
            };
            let whole = alone(3);
            for size in [2, 3] {
                let ranks = Thread::run(size, |reduce| {
                    let mut trainer = trainer(Some(reduce));
                    let reports: Vec<_> = (0..3).map(|_| trainer.round().unwrap()).collect();
                    let counts: Vec<_> = reports.iter().map(|r| (r.clients, r.tokens, r.item_rows, r.bytes_up, r.rec_loss)).collect();
                    (counts, trainer.tensors().unwrap())
                });
                for (rank, state) in ranks.into_iter().enumerate() {
                    assert!(state == whole, "rank {rank} of {size}, gpu {gpu}, {rules:?}");
                }
            }
        }
    }
}

/// Malicious clients of an attack's own and the defences that look at all updates, on a device as on the CPU.
#[test]
fn attacks_and_defences_do_on_a_device_what_they_do_on_the_cpu() {
    let (data, views) = world(40, 30, 5);
    let start = state(Trainer::new(valid(&settings(&[])), data.clone(), views.clone()).unwrap(), 0);
    for (attack, defence) in [
        ("random-items items=6", "none"),
        ("a-hum", "none"),
        ("fed-rec-attack known=0.3", "none"),
        ("psmu items=6", "none"),
        ("little-is-enough", "none"),
        ("none", "hics"),
        ("none", "median-norm"),
        ("dv-fsr items=6", "separation"),
    ] {
        let mut s = settings(&[]);
        (s.attack.name, s.attack.share, s.defence.name) = (attack.into(), 0.2, defence.into());
        let cpu = state(Trainer::new(valid(&s), data.clone(), views.clone()).unwrap(), 1);
        let gpu = on_device(&s, &data, &views, 1, None);
        let far = distance(&start, &cpu, &gpu);
        println!("{attack}, {defence}: {far:.1e}");
        assert!(far < 5e-3, "{attack}, {defence}: {far}");
        assert!(gpu == on_device(&s, &data, &views, 1, Some(1)), "{attack}, {defence}: the same bits however a cohort is cut up");
    }
}
