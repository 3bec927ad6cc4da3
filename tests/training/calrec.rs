//! CALRec through the real binary: a small model of bytes, trained from nothing, its ranking and its checkpoints.

use super::sandbox::Sandbox;
use serde_json::Value;

const SHORT: [&str; 14] = [
    "--set",
    "method=calrec",
    "--set",
    "federation.protocol=calrec samples=2 tokens=16",
    "--set",
    "federation.rounds=2",
    "--set",
    "views.text.history=2",
    "--set",
    "local.lr=0.003",
    "--set",
    "eval.users=40",
    "--set",
    "eval.every=1",
];

fn train(sandbox: &Sandbox, out: &str, threads: &str, more: &[&str]) -> Value {
    let set = format!("threads={threads}");
    let words = [&["train", "small.toml", "--out", out, "--json", "--set", &set][..], &SHORT, more].concat();
    let mut command = sandbox.command(&words);
    // What candle computes with.
    let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
    super::sandbox::Ran::new(output, &words.join(" ")).json()
}

#[test]
fn it_learns_ranks_and_goes_on_with_the_same_bits() {
    let sandbox = Sandbox::new();
    let run = train(&sandbox, "whole", "2", &[]);
    assert_eq!(run["method"], "calrec");
    let hit = run["test"]["HR@10"].as_f64().unwrap();
    assert!(hit > 0.0 && run["test"]["users"].as_u64() == Some(200), "{run}");
    let [first, second] = &sandbox.rounds("whole")[..] else { panic!("two rounds") };
    // The second round is the second stage: a contrast, and a text that has become likelier.
    let loss = |round: &Value, name: &str| round[name].as_f64().unwrap();
    assert!(loss(second, "rec_loss") < loss(first, "rec_loss") - 0.3, "{first} {second}");
    assert!(loss(first, "contrast_loss") == 0.0 && loss(second, "contrast_loss") > 0.0, "{first} {second}");

    // One thread, and one round after another.
    train(&sandbox, "halves", "1", &["--set", "federation.rounds=1"]);
    train(&sandbox, "halves", "1", &["--resume"]);
    for file in ["ranks-validation.safetensors", "ranks-test.safetensors"] {
        assert_eq!(sandbox.read(&format!("whole/{file}")), sandbox.read(&format!("halves/{file}")), "{file}");
    }
    let again = sandbox.rounds("halves");
    assert_eq!((&again[0]["rec_loss"], &again[1]["rec_loss"]), (&first["rec_loss"], &second["rec_loss"]));

    let user = lumos::data::load(&sandbox.path().join("data/small")).unwrap().user_tokens[3].clone();
    let listed = sandbox.lumos(&["recommend", "whole", "--user", &user, "-k", "5", "--json"]).json();
    assert!(listed.to_string().contains("item"), "{listed}");
}
