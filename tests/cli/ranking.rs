//! The real binary on what ranks users: a few local epochs of their own (`eval.local_epochs`), an average of the rounds (`federation.ranking_average`).

use crate::sandbox::{Sandbox, small};
use lumos::engine::TensorData;
use lumos::run::Checkpoint;
use serde_json::Value;

fn test_of(sandbox: &Sandbox, run: &str) -> Value {
    serde_json::from_slice::<Value>(&sandbox.read(&format!("{run}/result.json"))).unwrap()["test"].clone()
}

#[test]
fn a_finished_run_is_evaluated_by_what_ranked_in_it() {
    let sandbox = Sandbox::new();
    let sets = ["--set", "eval.local_epochs=2", "--set", "federation.ranking_average=0.5", "--set", "local.lr=0.05"];
    sandbox.lumos(&[&["train", &small(), "--out", "r"], &sets[..]].concat()).done();
    let metrics = ["HR@10", "NDCG@10", "MRR@10"];
    let eval = |words: &[&str]| sandbox.lumos(&[&["eval", "r", "--json", "--device", "cpu"], words].concat()).json();
    let (told, found) = (test_of(&sandbox, "r"), eval(&[]));
    let known = |name: &&&str| told.get(**name).is_some();
    assert!(metrics.iter().filter(known).count() >= 2, "{told}");
    for name in metrics.iter().filter(known) {
        assert_eq!(told[name], found[name], "{name}");
    }
    assert_eq!(found["ranks_kept"], true);
    // Without local epochs other ranks come out, which the run does not keep.
    let ranks = sandbox.read("r/ranks-test.safetensors");
    let without = eval(&["--local-epochs", "0"]);
    assert!(metrics.iter().filter(known).any(|name| told[name] != without[name]), "{without}");
    assert_eq!((&without["ranks_kept"], sandbox.read("r/ranks-test.safetensors")), (&Value::Bool(false), ranks));
    // What is exported is the average.
    sandbox.lumos(&["export", "r", "--numpy", "arrays"]).done();
    let checkpoint = Checkpoint::load(&sandbox.path().join("r/checkpoints/best.safetensors")).unwrap();
    let averaged: Vec<_> = checkpoint.tensors.iter().filter_map(|t| Some((t.name.strip_prefix("average.")?, &t.data))).collect();
    assert!(averaged.iter().any(|(name, _)| *name == "items") && averaged.len() > 5);
    for (name, values) in averaged {
        let TensorData::F32(values) = values else { panic!("{name}") };
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(sandbox.read(&format!("arrays/{name}.npy")).ends_with(&bytes), "{name}");
    }
    assert!(!sandbox.path().join("arrays/average.items.npy").exists());
    sandbox.lumos(&["recommend", "r", "--user", "u0000001", "-k", "3", "--json"]).json();
    // A client trains on its views as well.
    std::fs::remove_dir_all(sandbox.path().join("data/small-views")).unwrap();
    sandbox.lumos(&["eval", "r"]).refused(1, &["small-views", "eval.local_epochs", "lumos views build"]);
    eval(&["--local-epochs", "0"]);
}

/// An inference looks at what clients upload from the model that goes down to them, which the average is not.
#[test]
fn an_average_that_ranks_changes_no_inference() {
    let sandbox = Sandbox::new();
    let infer = |run: &str, set: &str| {
        sandbox.lumos(&["train", &small(), "--out", run, "--set", "eval.every=4", "--set", set]).done();
        sandbox.lumos(&["privacy", "infer", run, "--checkpoint", "last", "--json"]).json()
    };
    let found = infer("averaged", "federation.ranking_average=0.9");
    assert_eq!(found, infer("plain", "federation.ranking_average=0"));
    assert!(found.as_object().is_some_and(|figures| figures.len() > 2), "{found}");
}
