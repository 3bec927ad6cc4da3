//! The same bits for any number of processes: checkpoints, metrics, ranks.

use crate::cli::Sandbox;
use crate::mpirun::{ended, lumos, prepared, there};
use crate::outcome::same_outcome;
use crate::real;
use std::path::Path;
use std::process::Command;

/// The words of `lumos train CONFIG --out OUT` with `sets`.
fn train<'a>(config: &'a str, out: &'a str, sets: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["train", config, "--out", out];
    sets.iter().for_each(|set| words.extend(["--set", set]));
    words
}

#[test]
fn quickstart_by_one_to_four_processes() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml").display().to_string();
    let sets = ["federation.rounds=3", "eval.every=2"];
    sandbox.lumos(&train(&config, "alone", &sets)).done();
    for n in 1..=4 {
        let out = format!("by-{n}");
        let said = lumos(&sandbox, n, &train(&config, &out, &sets)).done();
        assert_eq!(said.matches("run folder").count(), 1, "rank 0 alone speaks: {said}");
        for rank in 0..4 {
            let log = std::fs::read_to_string(sandbox.path().join(&out).join(format!("rank-{rank}.log"))).ok();
            assert_eq!(log.is_some(), (1..n).contains(&rank), "rank {rank} of {n} has a log of its own where it is not 0");
            let whole = |text: String| {
                [format!("rank {rank} on "), "device: ".into(), "after round 3".into()].iter().all(|part| text.contains(part))
            };
            assert!(log.is_none_or(whole), "{out}: rank-{rank}.log");
        }
        same_outcome(&sandbox.path().join("alone"), &sandbox.path().join(&out), &out);
    }
}

#[test]
fn a_round_of_amazon_beauty() {
    let (true, Some(_)) = (there(), real::data("amazon-beauty")) else { return };
    let sandbox = Sandbox::new();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/amazon-beauty.toml").display().to_string();
    let sets = ["federation.rounds=1", "federation.cohort=600", "federation.fraction=0.03", "eval.every=1"];
    let root = real::data("amazon-beauty").unwrap();
    let data = root.parent().unwrap();
    let alone = sandbox.command(&train(&config, "alone", &sets)).env("LUMOS_DATA", data).output().unwrap();
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    let mut command = crate::mpirun::command(&sandbox, 3, &train(&config, "by-3", &sets));
    ended(command.env("LUMOS_DATA", data).spawn().unwrap(), "amazon-beauty").done();
    same_outcome(&sandbox.path().join("alone"), &sandbox.path().join("by-3"), "amazon-beauty");
}

/// What leaves the beaten path: state that stays with clients, rules that see all updates, participants with many sequences, a protocol that sends
/// no weights. Begun by four, gone on with by one, ended by three.
#[test]
fn every_kind_of_state_moves_between_numbers_of_processes() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let kinds: [(&str, &[&str]); 6] = [
        ("private encoder", &["federation.shared=[\"items\"]"]),
        ("private items", &["federation.shared=[\"encoder\"]", "federation.private_memory_mb=0"]),
        ("median", &["federation.rules=[\"sign-flip share=0.2\", \"median\"]"]),
        ("silos", &["federation.clients=groups:5", "federation.fraction=0.6"]),
        ("fedadam", &["federation.server=fedadam", "federation.server_lr=0.01", "federation.server_correction=true"]),
        ("ptf-fsr", &["method=ptf-fsr", "federation.protocol=ptf-fsr server-dim=16 client-dim=8"]),
    ];
    for (name, sets) in kinds {
        let rounds = |n: &'static str| [sets, &[n, "eval.every=1"]].concat();
        let (alone, moved) = (format!("{name} alone"), format!("{name} moved"));
        sandbox.lumos(&train("small.toml", &alone, &rounds("federation.rounds=3"))).done();
        lumos(&sandbox, 4, &train("small.toml", &moved, &rounds("federation.rounds=1"))).done();
        let resumed = |n: &'static str| [train("small.toml", &moved, &rounds(n)), vec!["--resume"]].concat();
        sandbox.lumos(&resumed("federation.rounds=2")).done();
        lumos(&sandbox, 3, &resumed("federation.rounds=3")).done();
        same_outcome(&sandbox.path().join(&alone), &sandbox.path().join(&moved), name);
    }
}

#[test]
fn one_participant_is_trained_where_the_checkpoints_are_written() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let sets = ["method=sasrec", "model.dim=8", "loss.negatives=20", "federation.rounds=2", "eval.every=1"];
    sandbox.lumos(&train("small.toml", "alone", &sets)).done();
    lumos(&sandbox, 2, &train("small.toml", "by-2", &sets)).done();
    same_outcome(&sandbox.path().join("alone"), &sandbox.path().join("by-2"), "centralised");
}

#[test]
fn every_command_takes_part_or_is_rank_0s_own() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let table = lumos(&sandbox, 2, &["run", "small.toml", "--out", "both"]).done();
    assert!(table.contains("fed-sasrec") && table.contains("popularity"), "{table}");
    let alone = sandbox.lumos(&["eval", "both/lumos", "--json"]).json();
    assert_eq!(lumos(&sandbox, 3, &["eval", "both/lumos", "--json"]).json(), alone);
    let sweep = ["sweep", "small.toml", "--grid", "local.lr=0.1,0.2", "--set", "method=fed-sasrec", "--set", "loss.negatives=4", "--json"];
    let trials = |list: serde_json::Value| -> Vec<serde_json::Value> {
        list.as_array().unwrap().iter().map(|trial| serde_json::json!([trial["sets"], trial["results"][0]["test"]])).collect()
    };
    let alone = trials(sandbox.lumos(&[&sweep[..], &["--out", "swept"]].concat()).json());
    assert_eq!(alone.len(), 2);
    assert_eq!(trials(lumos(&sandbox, 3, &[&sweep[..], &["--out", "swept-by-three"]].concat()).json()), alone);
    let refused = lumos(&sandbox, 2, &[&sweep[..], &["--jobs", "2", "--out", "x"]].concat()).stderr();
    assert!(refused.contains("--jobs: is 2, must be 1 with several processes"), "{refused}");
    let doctor = lumos(&sandbox, 2, &["doctor"]).done();
    assert!(doctor.contains("2 processes by Open MPI"), "{doctor}");
    let bench = ["bench", "round", "--clients", "20", "--rounds", "1", "--dim", "8", "--items", "50", "--json"];
    assert_eq!(lumos(&sandbox, 2, &bench).json()["clients"], 20);
}

#[test]
fn views_are_written_by_all_and_stored_by_one() {
    if !there() {
        return;
    }
    let (alone, sandbox) = (Sandbox::new(), Sandbox::new());
    let words = ["views", "build", "small.toml", "--json"];
    let folder = alone.lumos(&words).json()["folder"].as_str().unwrap().to_string();
    assert_eq!(lumos(&sandbox, 3, &words).json()["folder"], folder.as_str());
    let file = format!("{folder}/views.safetensors");
    assert!(alone.read(&file) == sandbox.read(&file), "the same views");
    let names = |sandbox: &Sandbox| std::fs::read_dir(sandbox.path().join("data/small-views")).unwrap().count();
    assert_eq!(names(&sandbox), names(&alone), "one store, and nothing beside it");
}

#[test]
fn processes_with_other_settings_or_words_are_refused_by_name() {
    if !there() {
        return;
    }
    let sandbox = Sandbox::new();
    let two = |first: &[&str], second: &[&str]| {
        let program = env!("CARGO_BIN_EXE_lumos");
        let mut command = Command::new("mpirun");
        command.args(["--oversubscribe", "-np", "1", program]).args(first).args([":", "-np", "1", program]).args(second);
        ended(prepared(command, &sandbox).spawn().unwrap(), "two").stderr()
    };
    let words = ["train", "small.toml", "--out", "run"];
    let said = two(&words, &[&words[..], &["--seed", "5"]].concat());
    assert!(said.contains("rank 1 on ") && said.contains("seed is 1 at rank 0 and 5 there"), "{said}");
    let said = two(&words, &["train", "small.toml", "--out", "other"]);
    assert!(said.contains("rank 1 on ") && said.contains("--out other") && said.contains("--out run"), "{said}");
    assert!(!sandbox.path().join("run").exists() && !sandbox.path().join("data").exists(), "nothing was begun");
}
