//! Every method and every rule on a device: each trains there what it trains on the CPU, but for the methods that are listed.

use crate::ring::world;
use crate::simt::device;
use lumos::config::methods::{self, Family};
use lumos::config::{Average, Settings, Validated};
use lumos::federation::attacks;
use lumos::federation::rules::{KINDS, Role};
use lumos::federation::{Trainer, protocol};
use lumos::testing::valid;

const MEMORY: u64 = 1 << 30;

/// What `--device cuda` refuses, and `auto` trains on the CPU.
const ON_THE_CPU: [&str; 5] = ["fed-cl4srec", "fed-transitions", "pfsr", "ptf-fsr", "transitions"];

const SMALL: [&str; 8] = [
    "seed=3",
    "threads=2",
    "model.dim=8",
    "model.max_len=8",
    "local.epochs=1",
    "loss.negatives=3",
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

#[test]
fn every_method_trains_on_a_device_but_those_that_are_listed() {
    let mut refused = Vec::new();
    for method in methods::all().unwrap().iter().filter(|m| m.family != Family::Baseline) {
        let settings = of(&method.name);
        match (protocol::chosen(&settings).unwrap().0.on_device)(&settings) {
            Some(_) => refused.push(method.name.as_str()),
            None => compare(&method.name, &settings),
        }
    }
    refused.sort_unstable();
    assert_eq!(refused, ON_THE_CPU, "a method that has come to devices leaves the list, and none joins it");
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
