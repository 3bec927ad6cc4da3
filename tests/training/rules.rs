//! Rules in real rounds: a rule that changes nothing leaves no trace, and attack and defence do what they say.

use crate::ring::world;
use lumos::config::{Average, ClientWeighting, Contrast, EpsUnit, Group, OnDivergence, ServerOptimizer, Settings};
use lumos::data::{Dataset, Split};
use lumos::engine::{NamedTensor, Needs, Occasion, Rule, TensorData, Update};
use lumos::eval::metrics;
use lumos::federation::Trainer;
use lumos::federation::rules::{KINDS, Kind, Role, register};
use lumos::testing::valid;
use lumos::views::Views;

fn settings(rules: &[&str]) -> Settings {
    let mut s = Settings { seed: 3, threads: 2, ..Default::default() };
    s.model.dim = 12;
    s.model.max_len = 8;
    s.local.epochs = 3;
    s.loss.contrast = Contrast::None;
    s.federation.fraction = 0.4;
    s.federation.rules = rules.iter().map(|r| r.to_string()).collect();
    s
}

fn trained(settings: &Settings, data: &Dataset, views: &Views, rounds: u64) -> Trainer {
    let mut trainer = Trainer::new(valid(settings), data.clone(), views.clone()).unwrap();
    for _ in 0..rounds {
        trainer.round().unwrap();
    }
    trainer
}

/// Changes settings.
type Change = fn(&mut Settings);

#[test]
fn a_rule_that_changes_nothing_leaves_no_trace() {
    let (data, views) = world(60, 40, 1);
    let variants: [(&str, Change); 8] = [
        ("plain", |_| ()),
        ("cohort mean", |s| s.federation.average = Average::Cohort),
        ("examples", |s| s.federation.weights = ClientWeighting::Examples),
        ("fedadam", |s| s.federation.server = ServerOptimizer::Fedadam),
        ("epsilon of a client", |s| {
            (s.federation.server, s.federation.server_eps_unit) = (ServerOptimizer::Fedadam, EpsUnit::Client);
        }),
        ("corrected moments", |s| (s.federation.server, s.federation.server_correction) = (ServerOptimizer::Fedadam, true)),
        ("private encoder", |s| s.federation.shared = vec![Group::Items]),
        ("private items", |s| s.federation.shared = vec![Group::Encoder]),
    ];
    for (name, change) in variants {
        let state = |rules: &[&str]| {
            let mut s = settings(rules);
            change(&mut s);
            let mut trainer = trained(&s, &data, &views, 2);
            let report = trainer.round().unwrap();
            (trainer.tensors().unwrap(), report.bytes_up, report.item_rows)
        };
        let without = state(&[]);
        assert!(without == state(&["norm-bound bound=1e9"]), "{name}");
        // Weights of 1 leave every bit, and take their bytes.
        let (tensors, bytes, rows) = state(&["row-weights other=1"]);
        assert!((&tensors, rows) == (&without.0, without.2), "{name}");
        assert_eq!(bytes > without.1, rows > 0, "{name}");
        assert!(without != state(&["norm-bound bound=1e-3"]), "{name}: a bound that holds does change the model");
    }
}

/// Values of the tensor `name`.
fn floats<'t>(tensors: &'t [NamedTensor], name: &str) -> &'t [f32] {
    match &tensors.iter().find(|t| t.name == name).unwrap().data {
        TensorData::F32(values) => values,
        other => panic!("{other:?}"),
    }
}

#[test]
fn everyone_flipping_goes_the_other_way() {
    let (data, views) = world(40, 30, 2);
    let (plain, flipped) = (settings(&[]), settings(&["sign-flip share=1 scale=2"]));
    let before = Trainer::new(valid(&plain), data.clone(), views.clone()).unwrap().tensors().unwrap();
    let honest = trained(&plain, &data, &views, 1).tensors().unwrap();
    let attacked = trained(&flipped, &data, &views, 1).tensors().unwrap();
    let (w, a, b) = (floats(&before, "items"), floats(&honest, "items"), floats(&attacked, "items"));
    let mut moved = 0;
    for ((w, a), b) in w.iter().zip(a).zip(b) {
        let (there, back) = (f64::from(a - w), f64::from(b - w));
        assert!((back + 2.0 * there).abs() < 1e-6, "{there} {back}");
        moved += usize::from(there != 0.0);
    }
    assert!(moved > 100, "{moved}");
}

#[test]
fn the_median_withstands_what_the_mean_does_not() {
    let (data, views) = world(300, 30, 4);
    let users: Vec<u32> = (0..300).collect();
    let hit = |rules: &[&str]| {
        let s = settings(rules);
        let mut trainer = trained(&s, &data, &views, 12);
        let ranks = trainer.rank(Split::Validation, &users, &|_, _| ()).unwrap();
        metrics(&ranks, &[5]).get("HR@5").unwrap()
    };
    let attack = "sign-flip share=0.25 scale=4";
    let (clean, attacked, defended, bounded) = (hit(&[]), hit(&[attack]), hit(&[attack, "median"]), hit(&[attack, "norm-bound bound=0.3"]));
    println!("HR@5 clean {clean:.3}, attacked {attacked:.3}, median {defended:.3}, bound {bounded:.3}");
    assert!(clean > 0.5 && attacked < 0.6 * clean, "clean {clean}, attacked {attacked}");
    assert!(defended > 1.3 * attacked, "attacked {attacked}, median {defended}");
}

/// Eight bits a number are a quarter of the bytes and a model that is hardly another; two bits are fewer bytes and a coarser one.
#[test]
fn quantised_uploads_take_the_bytes_that_they_say() {
    let (data, views) = world(60, 40, 1);
    let state = |rules: &[&str], threads: u32| {
        let mut trainer = trained(&Settings { threads, ..settings(rules) }, &data, &views, 1);
        let report = trainer.round().unwrap();
        (trainer.tensors().unwrap(), report.bytes_up, report.bytes_down)
    };
    let distance = |a: &[NamedTensor], b: &[NamedTensor]| {
        let square = |(a, b): (&NamedTensor, &NamedTensor)| match (&a.data, &b.data) {
            (TensorData::F32(a), TensorData::F32(b)) => a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>(),
            _ => 0.0,
        };
        a.iter().zip(b).map(square).sum::<f64>().sqrt()
    };
    let (plain, eight, two) = (state(&[], 2), state(&["quantise"], 1), state(&["quantise bits=2"], 2));
    assert!(eight == state(&["quantise"], 3), "threads leave every bit");
    assert!(3 * eight.1 < plain.1 && 9 * two.1 < plain.1 && two.1 < eight.1, "{} {} {}", plain.1, eight.1, two.1);
    assert!(plain.2 == eight.2, "what goes down is as it was");
    let (fine, coarse) = (distance(&plain.0, &eight.0), distance(&plain.0, &two.0));
    assert!(fine > 0.0 && 10.0 * fine < coarse, "{fine} {coarse}");
}

/// Threads, a rule that changes nothing and the masks of a secure sum leave the bits of weighted rows as they are.
#[test]
fn weighted_rows_do_not_depend_on_who_adds_them() {
    let (data, views) = world(60, 40, 1);
    for rule in ["row-weights other=0.1", "row-weights other=0.5 power=1"] {
        let with = |change: Change| {
            let mut s = settings(&[rule]);
            change(&mut s);
            trained(&s, &data, &views, 2).tensors().unwrap()
        };
        let one = with(|s| s.threads = 1);
        assert!(one != trained(&settings(&[]), &data, &views, 2).tensors().unwrap(), "{rule}");
        assert!(one == with(|s| s.threads = 3), "{rule}");
        assert!(one == with(|s| s.federation.rules.insert(0, "norm-bound bound=1e9".into())), "{rule}");
        assert!(one != with(|s| s.federation.average = Average::Cohort), "{rule}: the cohort's mean is another");
        if cfg!(feature = "secure") {
            assert!(one == with(|s| s.privacy.secure_sum = true), "{rule}");
        }
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

/// Rows are divided by the weights of the clients in the sums alone, whether others are spoilt behind the rule that weighs or before it.
#[test]
fn clients_that_diverge_leave_no_weight() {
    let spoil = Kind { name: "spoil", role: Role::Other, summary: "", paper: "", options: &[], build: |_| Ok(Box::new(Spoil)) };
    register(spoil).unwrap();
    let (data, views) = world(60, 40, 1);
    let mean = |rules: &[&str], threads: u32| {
        let mut s = Settings { threads, ..settings(rules) };
        (s.federation.on_divergence, s.federation.max_diverged) = (OnDivergence::Drop, 0.9);
        let mut trainer = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        let report = trainer.round().unwrap();
        (trainer.tensors().unwrap(), report.diverged)
    };
    let (behind, lost) = mean(&["row-weights", "spoil"], 1);
    assert!(lost > 0 && behind == mean(&["row-weights", "spoil"], 3).0);
    // What is spoilt before it is weighed is refused as it comes.
    assert!(behind == mean(&["spoil", "row-weights"], 1).0);
    let plain = mean(&["spoil"], 1).0;
    assert!(behind != plain && mean(&["row-weights other=1", "spoil"], 2).0 == plain);
}

/// Each attack and each defence by its own setting, alone and together: it changes the model, and threads do not.
#[test]
fn every_attack_and_defence_trains() {
    let (data, views) = world(60, 40, 1);
    let state = |attack: &str, defence: &str, threads: u32| {
        let mut s = Settings { threads, ..settings(&[]) };
        (s.attack.name, s.attack.share, s.defence.name) = (attack.into(), 0.3, defence.into());
        trained(&s, &data, &views, 2).tensors().unwrap()
    };
    let plain = state("none", "none", 2);
    let of = |role: Role| KINDS.iter().filter(move |kind| kind.role == role).map(|kind| kind.name);
    assert!(of(Role::Attack).count() >= 2 && of(Role::Defence).count() >= 7);
    for attack in of(Role::Attack) {
        let attacked = state(attack, "none", 1);
        assert!(attacked != plain && attacked == state(attack, "none", 3), "{attack}");
        for defence in of(Role::Defence) {
            assert!(state(attack, defence, 1) == state(attack, defence, 3), "{attack} {defence}");
        }
    }
    // Bounds that hold nothing back change nothing; every other defence is another mean.
    for defence in of(Role::Defence).filter(|name| !["norm-bound", "row-clip"].contains(name)) {
        assert!(state("none", defence, 2) != plain, "{defence}");
    }
    assert!(state("none", "row-clip bound=0.001", 2) != plain && state("none", "row-clip bound=1e6", 2) == plain);
}

#[test]
fn attacks_and_defences_are_named_where_they_belong() {
    for (set, parts) in [
        ("attack.name=sign-flop", &["attack.name", "did you mean `sign-flip`"][..]),
        ("attack.name=median", &["attack.name", "median"]),
        ("defence.name=sign-flip", &["defence.name", "sign-flip"]),
        ("defence.name=trimmed-mean trim=0.6", &["defence.name", "below 0.5"]),
    ] {
        let message = lumos::load_settings(None, &[set.to_string()]).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let other = ["method=ptf-fsr", "attack.name=sign-flip"].map(String::from);
    let message = lumos::load_settings(None, &other).unwrap_err().to_string();
    assert!(message.contains("attack.name") && message.contains("ptf-fsr"), "{message}");
}

/// A run that is cut in two has the bits of one that is not: what a defence has saved up is in the checkpoint, and attackers remember nothing.
#[test]
fn attacks_and_defences_leave_no_trace_of_an_interruption() {
    let (data, views) = world(60, 40, 1);
    for (attack, defence) in [("psmu items=6", "hics"), ("fed-rec-attack", "flame"), ("pip-attack epochs=2", "none"), ("none", "hics")] {
        let mut s = settings(&[]);
        (s.attack.name, s.attack.share, s.defence.name) = (attack.into(), 0.1, defence.into());
        let whole = trained(&s, &data, &views, 4).tensors().unwrap();
        let half = trained(&s, &data, &views, 2).tensors().unwrap();
        let mut rest = Trainer::new(valid(&s), data.clone(), views.clone()).unwrap();
        rest.restore(&half, 2).unwrap();
        rest.round().unwrap();
        rest.round().unwrap();
        assert!(rest.tensors().unwrap() == whole, "{attack}, {defence}");
    }
}
