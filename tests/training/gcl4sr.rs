//! GCL4SR through the real binary: it learns, ranks, recommends, and goes on with the same bits.

use super::sandbox::{Ran, Sandbox};
use serde_json::Value;

fn train(sandbox: &Sandbox, out: &str, threads: &str, more: &[&str]) -> Value {
    let sets = ["method=gcl4sr", "federation.rounds=2", "model.dim=16", "model.dropout=0", "local.batch=64", "local.lr=0.01"];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let set = format!("threads={threads}");
    let words = [&["train", "small.toml", "--out", out, "--json", "--set", &set][..], &sets, more].concat();
    let mut command = sandbox.command(&words);
    // What candle computes with.
    let output = command.env("RAYON_NUM_THREADS", threads).output().unwrap();
    Ran::new(output, &words.join(" ")).json()
}

#[test]
fn it_learns_ranks_and_goes_on_with_the_same_bits() {
    let sandbox = Sandbox::new();
    let run = train(&sandbox, "whole", "2", &[]);
    assert_eq!(run["method"], "gcl4sr");
    // Chance finds one target in eleven.
    assert!(run["test"]["HR@10"].as_f64().unwrap() > 0.15 && run["test"]["users"].as_u64() == Some(200), "{run}");
    let [first, second] = &sandbox.rounds("whole")[..] else { panic!("two rounds") };
    let loss = |round: &Value, name: &str| round[name].as_f64().unwrap();
    assert!(loss(second, "rec_loss") < loss(first, "rec_loss") && loss(second, "contrast_loss") > 0.0, "{first} {second}");

    // One thread, and one round after another.
    train(&sandbox, "halves", "1", &["--set", "federation.rounds=1"]);
    train(&sandbox, "halves", "1", &["--resume"]);
    for file in ["ranks-validation.safetensors", "ranks-test.safetensors"] {
        assert!(sandbox.read(&format!("whole/{file}")) == sandbox.read(&format!("halves/{file}")), "{file}");
    }
    assert_eq!(sandbox.rounds("halves")[1]["rec_loss"], second["rec_loss"]);

    let data = lumos::data::load(&sandbox.path().join("data/small")).unwrap();
    let listed = sandbox.lumos(&["recommend", "whole", "--user", &data.user_tokens[3], "-k", "5", "--json"]).json();
    assert!(listed.to_string().contains("item"), "{listed}");
    let history = data.item_tokens[..3].join(",");
    let listed = sandbox.lumos(&["recommend", "whole", "--history", &history, "-k", "5", "--json"]).json();
    assert!(listed.to_string().contains("item"), "{listed}");
}

#[test]
fn settings_that_mean_nothing_to_it_are_refused() {
    let sandbox = Sandbox::new();
    for (set, word) in [
        ("federation.clients=user", "wanted one"),
        ("local.optimizer=sgd", "adam or adamw"),
        ("federation.protocol=gcl4sr hops=0", "whole number from 1 to 4"),
        ("federation.protocol=gcl4sr tau=0", "above 0"),
        ("federation.protocol=gcl4sr hop=2", "hops"),
    ] {
        sandbox
            .lumos(&["train", "small.toml", "--out", "run", "--set", "method=gcl4sr", "--set", "model.dim=16", "--set", set])
            .refused(1, &[word]);
    }
}
