//! The page about a run, where there is no terminal; and what a synthetic world says of itself.

use crate::sandbox::{Sandbox, small};
use serde_json::Value;

#[test]
fn a_run_is_summed_up_where_there_is_no_terminal() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["watch", "nowhere"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["train", &small(), "--out", "run"]).done();
    let page = sandbox.lumos(&["watch", "run"]).done();
    let result: Value = serde_json::from_slice(&sandbox.read("run/result.json")).unwrap();
    let test = format!("test NDCG@10 {:.4}", result["test"]["NDCG@10"].as_f64().unwrap());
    for part in [
        "lumos on small, seed",
        ": finished",
        "round 4 of 4, 100 %",
        "client-epochs/s",
        "up ",
        "loss ",
        "validation NDCG@10",
        test.as_str(),
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains('\u{1b}') && !page.contains('█'), "nothing for a terminal: {page}");
    std::fs::remove_file(sandbox.path().join("run/result.json")).unwrap();
    let page = sandbox.lumos(&["watch", "run"]).done();
    assert!(page.contains(": stopped") && !page.contains(" left "), "{page}");
    std::fs::write(sandbox.path().join("run/metrics.jsonl"), "").unwrap();
    let page = sandbox.lumos(&["watch", "run"]).done();
    assert!(page.contains("up 0.0 B, down 0.0 B"), "before the first round: {page}");
    sandbox.lumos(&["watch", "run", "--every", "0"]).refused(2, &["--every"]);
}

#[test]
fn one_participant_takes_steps_and_sends_nothing() {
    let sandbox = Sandbox::new();
    let text = sandbox
        .lumos(&["train", &small(), "--set", "method=sasrec-ce", "--set", "model.dim=8", "--set", "federation.rounds=2", "--out", "run"])
        .done();
    assert!(text.contains(" steps/s") && !text.contains("client-epochs"), "{text}");
    let page = sandbox.lumos(&["watch", "run"]).done();
    assert!(page.contains(" steps/s,") && page.contains("up 0.0 B, down 0.0 B"), "{page}");
}

/// A world of one settled taste: what can be known is known exactly.
#[test]
fn a_model_lies_between_popularity_and_what_can_be_known() {
    let sandbox = Sandbox::new();
    let synth =
        ["data", "synth", "--users", "800", "--items", "150", "--mean-length", "12", "--noise", "0.1", "--skew", "3", "--out", "world"];
    let said = sandbox.lumos(&synth).done();
    assert!(said.contains("a ranker that knows the world comes to HR@10"), "{said}");
    let truth: Value = serde_json::from_slice(&sandbox.read("world/truth.json")).unwrap();
    assert_eq!((truth["users"].as_object().unwrap().len(), truth["items"].as_object().unwrap().len()), (800, 150));
    assert_eq!(truth["users"]["u0000007"][0].as_array().unwrap().len(), 3);
    let oracle = &truth["oracle"];
    let figure = |kind: &str, name: &str| oracle[kind][name].as_f64().unwrap();
    let users = oracle["users"].as_f64().unwrap();
    for name in ["HR@5", "HR@10", "NDCG@10"] {
        let (expected, measured) = (figure("expected", name), figure("measured", name));
        let error = (expected * (1.0 - expected) / users).sqrt();
        assert!((expected - measured).abs() < 4.0 * error, "{name}: {expected} and {measured}");
    }
    let hr = |method: &str, sets: &[&str]| {
        let method = format!("method={method}");
        let base = ["train", "small.toml", "--data", "world", "--set", &method, "--set", "eval.k=[5,10,20]", "--json"];
        let out = format!("out-{}", &method[7..]);
        let result = sandbox.lumos(&[&base[..], sets, &["--out", &out]].concat()).json();
        result["test"]["HR@10"].as_f64().unwrap()
    };
    let (popular, trained) = (
        hr("popularity", &[]),
        hr("sasrec", &["--set", "model.dim=32", "--set", "loss.negatives=32", "--set", "federation.rounds=40", "--set", "eval.every=10"]),
    );
    let best = figure("expected", "HR@10");
    let chance = 3.0 * (best * (1.0 - best) / users).sqrt();
    assert!(popular + chance < trained && trained < best + chance, "popularity {popular}, trained {trained}, oracle {best}");
}

#[test]
fn habits_out_of_range_are_refused_by_their_flags() {
    let sandbox = Sandbox::new();
    for (flag, value) in [("--tastes", "0"), ("--drift", "1.5"), ("--skew", "9"), ("--noise", "-0.1")] {
        sandbox.lumos(&["data", "synth", "--out", "w", flag, value]).refused(1, &[flag]);
    }
    let first = |words: &[&str]| {
        sandbox.lumos(&[&["data", "synth", "--users", "50", "--items", "60", "--overwrite", "--out", "w"], words].concat()).done();
        sandbox.read("w/truth.json")
    };
    assert!(first(&[]) == first(&["--tastes", "3", "--skew", "2", "--noise", "0"]), "defaults by their values");
    assert!(first(&[]) != first(&["--drift", "0"]));
}
