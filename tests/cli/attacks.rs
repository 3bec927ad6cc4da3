//! Attacks, noise and defences by the binary: what a run writes of them.

use crate::sandbox::Sandbox;
use lumos::federation::attacks;
use serde_json::Value;

/// Trains `small.toml` into `out` with `sets`; the metrics of every round and the result.
#[track_caller]
fn train(sandbox: &Sandbox, out: &str, sets: &[&str]) -> (Vec<Value>, Value) {
    let fixed = ["method=fed-sasrec", "federation.rounds=3", "eval.every=1", "eval.k=[5, 10, 20]", "federation.fraction=0.3"];
    let words: Vec<&str> =
        ["train", "small.toml", "--out", out].into_iter().chain(fixed.iter().chain(sets).flat_map(|s| ["--set", s])).collect();
    sandbox.lumos(&words).done();
    let metrics = String::from_utf8(sandbox.read(&format!("{out}/metrics.jsonl"))).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines, serde_json::from_slice(&sandbox.read(&format!("{out}/result.json"))).unwrap())
}

#[test]
fn exposure_stands_beside_the_hit_rate() {
    let sandbox = Sandbox::new();
    let (lines, result) = train(&sandbox, "clean", &["attack.target=least-popular:2"]);
    let scored = sandbox.lumos(&["eval", "clean", "--json"]).json();
    for key in ["ER@5", "ER@10", "ER@20", "target_rank", "target_pairs"] {
        assert!(lines.iter().all(|line| line["valid"][key].is_number()), "{key}: {lines:?}");
        assert!(result["test"][key].is_number() && result["validation"][key].is_number(), "{key}: {result}");
        assert_eq!(scored[key], result["test"][key], "{key}");
    }
    let [er, rank] = ["ER@20", "target_rank"].map(|key| result["test"][key].as_f64().unwrap());
    assert!((0.0..0.5).contains(&er) && rank > 20.0 && rank < 120.0, "{er} {rank}");
    // Without a target nothing of it is measured, and bits are the same.
    let (_, plain) = train(&sandbox, "plain", &[]);
    assert!(plain["test"].get("ER@5").is_none() && plain["test"]["HR@5"] == result["test"]["HR@5"], "{plain}");
    sandbox.lumos(&["train", "small.toml", "--out", "no", "--set", "attack.target=i12345678"]).refused(1, &["attack.target", "no item"]);
}

#[test]
fn every_attack_with_clients_of_its_own_runs_and_begins_when_it_is_told() {
    let sandbox = Sandbox::new();
    let (_, clean) = train(&sandbox, "clean", &["attack.target=least-popular"]);
    for kind in attacks::KINDS {
        let name = format!("attack.name={}", kind.name);
        let sets = [&name, "attack.share=0.05", "attack.target=least-popular", "attack.from=2"];
        let (lines, result) = train(&sandbox, kind.name, &sets);
        let malicious: Vec<u64> = lines.iter().map(|line| line["malicious"].as_u64().unwrap_or(0)).collect();
        assert!(malicious[0] == 0 && malicious[1] + malicious[2] > 0, "{}: {malicious:?}", kind.name);
        assert_ne!(result["test"]["target_rank"], clean["test"]["target_rank"], "{}", kind.name);
        assert_eq!(result["test"]["users"], clean["test"]["users"], "{}: malicious clients are not ranked for", kind.name);
    }
    // A strong one wins; how much, is the attacker's to say.
    let sets = ["attack.name=dv-fsr limit=10 rate=0.5", "attack.share=0.1", "attack.target=least-popular"];
    let (_, won) = train(&sandbox, "won", &sets);
    let rate = |result: &Value| result["test"]["ER@20"].as_f64().unwrap();
    assert!(rate(&won) > rate(&clean) + 0.3, "{} {}", rate(&won), rate(&clean));
}

#[test]
fn threads_change_no_bit_of_an_attacked_run() {
    let sandbox = Sandbox::new();
    for attack in ["fed-rec-attack", "pip-attack", "psmu"] {
        let name = format!("attack.name={attack}");
        let results = ["1", "3"].map(|threads| {
            let sets = [name.as_str(), "attack.share=0.1", &format!("threads={threads}")];
            let (_, result) = train(&sandbox, &format!("{attack}-{threads}"), &sets);
            (result["test"].clone(), sandbox.read(&format!("{attack}-{threads}/checkpoints/last.safetensors")).len())
        });
        assert_eq!(results[0], results[1], "{attack}");
    }
}

#[test]
fn noise_is_in_histories_and_views_and_not_in_what_is_to_be_found() {
    let sandbox = Sandbox::new();
    let with = |out: &str, sets: &[&str]| {
        let words: Vec<&str> = ["train", "small.toml", "--out", out].into_iter().chain(sets.iter().flat_map(|s| ["--set", s])).collect();
        sandbox.lumos(&words).done();
        let info: Value = serde_json::from_slice(&sandbox.read(&format!("{out}/run.json"))).unwrap();
        (info["fingerprint"].clone(), info["views"].clone())
    };
    let clean = with("clean", &[]);
    let noisy = with("noisy", &["noise.share=0.3"]);
    assert_ne!(clean.0, noisy.0);
    // What is to be found is the same, so that both can be compared.
    let compared = sandbox.lumos(&["compare", "clean", "noisy", "--json"]).json();
    assert!(compared["tests"][0]["users"].as_u64() > Some(0), "{compared}");
    // The run's data set is found again, with its noise.
    let scored = sandbox.lumos(&["eval", "noisy", "--json"]).json();
    let result: Value = serde_json::from_slice(&sandbox.read("noisy/result.json")).unwrap();
    assert_eq!(scored["NDCG@10"], result["test"]["NDCG@10"]);
    assert_eq!(sandbox.path().join("data").read_dir().unwrap().filter(|e| e.as_ref().unwrap().file_name() == "small-views").count(), 1);
    assert_eq!(
        sandbox.path().join("data/small-views").read_dir().unwrap().count(),
        2,
        "views of the noisy histories are made by themselves"
    );
    // Titles that have changed places change the views and nothing of the data set.
    let titles = with("titles", &["noise.titles=0.5"]);
    assert_eq!(titles.0, clean.0);
    assert_eq!(sandbox.path().join("data/small-views").read_dir().unwrap().count(), 3);
    let views = |run: &str| sandbox.read(&format!("{run}/result.json"));
    assert_ne!(views("titles"), views("clean"));
}
