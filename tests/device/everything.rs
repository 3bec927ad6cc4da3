//! Every method and every rule on a device: each trains there what it trains on the CPU. Methods whose work is the CPU's have the same bits.

use crate::ring::world;
use crate::simt::device;
use lumos::ItemText;
use lumos::config::methods::{self, Family};
use lumos::config::{Average, Group, Settings, Validated};
use lumos::data::Split;
use lumos::device::Counters;
use lumos::federation::Trainer;
use lumos::federation::attacks;
use lumos::federation::protocol::{self, Place};
use lumos::federation::rules::{KINDS, Role};
use lumos::testing::valid;

const MEMORY: u64 = 1 << 30;

/// Methods whose work is the CPU's whatever device was asked for: a language model with a device of its own, graph layers, counting, and clients with
/// models of their own.
const ON_THE_CPU: [&str; 5] = ["calrec", "fed-transitions", "gcl4sr", "ptf-fsr", "transitions"];

const SMALL: [&str; 9] = [
    "seed=3",
    "threads=2",
    "model.dim=8",
    "model.max_len=8",
    "local.epochs=1",
    "loss.negatives=3",
    "views.text.history=3",
    "federation.rounds=1",
    "federation.cohort=12",
];

fn of(method: &str) -> Validated<Settings> {
    let method_name = format!("method={method}");
    let family = methods::find(method).unwrap().family;
    let sets = SMALL.iter().filter(|set| family == Family::Federated || !set.starts_with("federation.cohort"));
    let sets: Vec<String> = [method_name.as_str()].into_iter().chain(sets.copied()).map(String::from).collect();
    lumos::load_settings(None, &sets).unwrap_or_else(|e| panic!("{method}: {e}")).settings
}

fn floats(trainer: &Trainer) -> Vec<f64> {
    let weights = trainer.weights().unwrap();
    weights.dense.iter().chain(&weights.items).map(|v| f64::from(*v)).collect()
}

/// The distance between two states over the way that training went.
fn distance(name: &str, start: &[f64], a: &[f64], b: &[f64]) -> f64 {
    let length = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
    assert!(a.len() == b.len() && a.len() == start.len() && a != start, "{name} trains");
    length(a, b) / length(start, a)
}

/// A round on the CPU and one on a device.
fn compare(name: &str, settings: &Validated<Settings>) {
    let (data, views) = world(30, 24, 5);
    let cpu = Trainer::new(settings.clone(), data.clone(), views.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let gpu = Trainer::on_device(settings.clone(), data, views, device(MEMORY)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let start = floats(&cpu);
    let [cpu, gpu] = [cpu, gpu].map(|mut trainer| {
        trainer.round().unwrap_or_else(|e| panic!("{name}: {e}"));
        floats(&trainer)
    });
    let far = distance(name, &start, &cpu, &gpu);
    assert!(far < 5e-3, "{name}: {far:e}");
}

fn ranks(trainer: &mut Trainer, users: u32) -> Vec<u32> {
    trainer.rank(Split::Test, &(0..users).collect::<Vec<_>>(), &|_, _| {}).unwrap()
}

/// Two rounds on a device and the ranks after them, which the CPU gives for the same state but for scores that no sum can tell apart.
fn ranks_agree(name: &str, settings: &Validated<Settings>) {
    let (data, views) = world(30, 24, 5);
    let there = device(MEMORY);
    let mut gpu = Trainer::on_device(settings.clone(), data.clone(), views.clone(), there.clone()).unwrap();
    gpu.round().unwrap();
    gpu.round().unwrap();
    let mut cpu = Trainer::new(settings.clone(), data, views).unwrap();
    cpu.restore(&gpu.tensors().unwrap(), 2).unwrap();
    let (a, b) = (ranks(&mut gpu, 30), ranks(&mut cpu, 30));
    let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert!(equal >= 27 && there.counters().host_calls() > 0, "{name}: {equal} of 30 ranks agree");
}

/// Two rounds with a device at hand that nothing uses, and two without: the same bits.
fn same_bits(name: &str, settings: &Validated<Settings>) {
    let (mut data, views) = world(30, 24, 5);
    let title = |item: usize| ItemText { title: format!("Thing {item}"), ..Default::default() };
    data.catalogue = (0..data.item_count()).map(title).collect();
    let there = device(MEMORY);
    let cpu = Trainer::new(settings.clone(), data.clone(), views.clone()).unwrap();
    let gpu = Trainer::on_device(settings.clone(), data, views, there.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let [cpu, gpu] = [cpu, gpu].map(|mut trainer| {
        let before = trainer.tensors().unwrap();
        trainer.round().unwrap();
        trainer.round().unwrap();
        assert!(before != trainer.tensors().unwrap(), "{name} learns");
        (trainer.tensors().unwrap(), ranks(&mut trainer, 30))
    });
    assert!(cpu == gpu, "{name}");
    assert_eq!(there.counters(), Counters::default(), "{name} leaves the device alone");
}

#[test]
fn every_method_runs_with_a_device() {
    let mut on_the_cpu = Vec::new();
    for method in methods::all().unwrap().iter().filter(|m| m.family != Family::Baseline) {
        let (name, settings) = (method.name.as_str(), of(&method.name));
        let kind = protocol::chosen(&settings).unwrap().0;
        assert_eq!((kind.trains)(&settings), (kind.ranks)(&settings), "{name}");
        match (kind.trains)(&settings) {
            Place::Device => {
                compare(name, &settings);
                ranks_agree(name, &settings);
            }
            Place::Cpu(_) => {
                same_bits(name, &settings);
                on_the_cpu.push(name);
            }
        }
    }
    on_the_cpu.sort_unstable();
    assert_eq!(on_the_cpu, ON_THE_CPU, "a method that has come to devices leaves the list, and none joins it");
}

#[test]
fn every_group_may_be_private_on_a_device() {
    for shared in [Group::Items, Group::Encoder] {
        for method in ["fed-sasrec", "lumos"] {
            let mut settings = (*of(method)).clone();
            settings.federation.shared = vec![shared];
            let name = format!("{method}, {} shared", shared.name());
            compare(&name, &valid(&settings));
            ranks_agree(&name, &valid(&settings));
        }
    }
}

#[test]
fn every_attack_defence_and_clip_runs_on_a_device() {
    for kind in KINDS {
        let mut settings = (*of("fed-sasrec")).clone();
        match kind.role {
            Role::Attack => (settings.attack.name, settings.attack.share) = (kind.name.into(), 0.3),
            Role::Defence => settings.defence.name = kind.name.into(),
            Role::Other => settings.federation.rules = vec![kind.name.into()],
        }
        compare(kind.name, &valid(&settings));
    }
    for kind in attacks::KINDS {
        let mut settings = (*of("fed-sasrec")).clone();
        (settings.attack.name, settings.attack.share) = (kind.name.into(), 0.3);
        compare(kind.name, &valid(&settings));
    }
    for clips in [vec![], vec![0.1, 0.2]] {
        let mut settings = (*of("fed-sasrec")).clone();
        (settings.federation.average, settings.federation.cohort) = (Average::Cohort, 20);
        settings.privacy.noise = 0.01;
        settings.privacy.clip_quantile = if clips.is_empty() { 0.5 } else { 0.0 };
        settings.privacy.clip_groups = clips;
        compare("privacy", &valid(&settings));
    }
}
