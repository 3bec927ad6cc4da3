//! The real binary through whole runs: train, evaluate, compare, recommend, resume, refuse.

use crate::sandbox::{Sandbox, small};
use serde_json::Value;

/// The metrics without what depends on the clock.
fn metrics(sandbox: &Sandbox, run: &str) -> Vec<Value> {
    let text = String::from_utf8(sandbox.read(&format!("{run}/metrics.jsonl"))).unwrap();
    text.lines()
        .map(|line| {
            let mut value: Value = serde_json::from_str(line).unwrap();
            value.as_object_mut().unwrap().retain(|k, _| k != "crc32c" && k != "seconds" && !k.ends_with("_s"));
            value
        })
        .collect()
}

fn same_outcome(sandbox: &Sandbox, a: &str, b: &str) {
    for file in ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "ranks-test.safetensors", "ranks-validation.safetensors"] {
        assert!(sandbox.read(&format!("{a}/{file}")) == sandbox.read(&format!("{b}/{file}")), "{file} differs");
    }
    assert_eq!(metrics(sandbox, a), metrics(sandbox, b));
}

#[test]
fn a_run_from_start_to_comparison() {
    let sandbox = Sandbox::new();
    let json = sandbox.lumos(&["train", &small(), "--out", "a", "--json"]).json();
    assert_eq!((&json["method"], &json["rounds"]), (&"lumos".into(), &4.into()));
    for file in ["config.toml", "run.json", "metrics.jsonl", "result.json", "report.html", "checkpoints/best.safetensors"] {
        assert!(!sandbox.read(&format!("a/{file}")).is_empty());
    }
    let lines = metrics(&sandbox, "a");
    assert_eq!(lines.iter().map(|l| l["round"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(lines.iter().map(|l| l.get("valid").is_some()).collect::<Vec<_>>(), [false, true, false, true]);
    let info: Value = serde_json::from_slice(&sandbox.read("a/run.json")).unwrap();
    assert!(info["machine"]["cores"].as_u64().unwrap() > 0 && info["ended"].is_string() && info["views"].is_object(), "{info}");
    let html = String::from_utf8(sandbox.read("a/report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("NDCG@10") && !html.contains("http"), "self-contained, with curves");

    let eval = sandbox.lumos(&["eval", "a", "--split", "test", "--json"]).json();
    assert_eq!(eval["HR@10"], json["test"]["HR@10"]);
    assert_eq!(eval["NDCG@5"], json["test"]["NDCG@5"]);
    let last = sandbox.lumos(&["eval", "a", "--checkpoint", "last", "--split", "validation", "--json"]).json();
    assert_eq!(last["round"], 4);
    assert_eq!(last["HR@5"], lines[3]["valid"]["HR@5"]);

    sandbox.lumos(&["train", &small(), "--out", "b", "--set", "method=popularity"]).done();
    let test = sandbox.lumos(&["compare", "b", "a", "--json"]).json();
    assert_eq!((&test["a"], &test["b"]), (&"popularity".into(), &"lumos".into()));
    let difference = test["tests"][1]["hr_difference"].as_f64().unwrap();
    let result: Value = serde_json::from_slice(&sandbox.read("b/result.json")).unwrap();
    let expected = json["test"]["HR@10"].as_f64().unwrap() - result["test"]["HR@10"].as_f64().unwrap();
    assert!((difference - expected).abs() < 1e-9, "{difference} {expected}");

    // A second seed: each user counts once, with the mean over the pairs.
    let other = sandbox.lumos(&["train", &small(), "--out", "a2", "--seed", "2", "--json"]).json();
    let both = sandbox.lumos(&["compare", "b", "a", "b", "a2", "--json"]).json();
    assert_eq!(both["tests"][1]["seeds"], 2);
    let second = other["test"]["HR@10"].as_f64().unwrap() - result["test"]["HR@10"].as_f64().unwrap();
    assert!(second != expected, "two seeds differ");
    let mean = both["tests"][1]["hr_difference"].as_f64().unwrap();
    assert!((mean - (expected + second) / 2.0).abs() < 1e-9, "{mean} {expected} {second}");
    sandbox.lumos(&["compare", "b", "a", "a2"]).refused(1, &["a2", "pairs"]);
    sandbox.lumos(&["compare", "b", "a", "a2", "a"]).refused(1, &["a2", "popularity"]);

    // What a user has met is not recommended; an ad-hoc history works as well; unknown names get the nearest.
    let users = String::from_utf8(std::fs::read(sandbox.path().join("data/small/users.csv")).unwrap()).unwrap();
    let user = users.lines().nth(1).unwrap().split(',').next_back().unwrap().to_string();
    let list = sandbox.lumos(&["recommend", "a", "--user", &user, "-k", "7", "--json"]).json();
    let items: Vec<String> = list["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap().to_string()).collect();
    assert_eq!(items.len(), 7);
    let history = items[..2].join(",");
    let next = sandbox.lumos(&["recommend", "a", "--history", &history, "-k", "100", "--json"]).json();
    assert!(next["items"].as_array().unwrap().iter().all(|i| !items[..2].contains(&i["item"].as_str().unwrap().to_string())));
    sandbox.lumos(&["recommend", "a", "--user", "nobody!"]).refused(1, &["no user `nobody!`"]);
    sandbox.lumos(&["recommend", "a", "--history", &items[0], "-k", "1000"]).refused(1, &["-k", "120"]);
}

#[test]
fn an_existing_run_is_not_overwritten() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "a", "--set", "federation.rounds=1"]).done();
    let before = sandbox.read("a/checkpoints/last.safetensors");
    sandbox.lumos(&["train", &small(), "--out", "a"]).refused(1, &["holds a run already", "--resume", "--out"]);
    sandbox.lumos(&["train", &small(), "--out", "a", "--resume", "--set", "local.lr=0.5"]).refused(1, &["local.lr was 0.1, is 0.5"]);
    // A rate that rises from the first round or falls towards the last makes every round depend on how many there are.
    let config = small();
    for (out, share) in [("b", "federation.server_decay=0.5"), ("c", "federation.server_warmup=0.5"), ("d", "local.decay=0.5")] {
        let with = |rounds: &'static str| ["--set", share, "--set", rounds];
        sandbox.lumos(&[&["train", &config, "--out", out][..], &with("federation.rounds=2")].concat()).done();
        let more = [&["train", &config, "--out", out, "--resume"][..], &with("federation.rounds=4")].concat();
        sandbox.lumos(&more).refused(1, &["federation.rounds was 2, is 4"]);
    }
    sandbox.lumos(&["train", &small(), "--out", "none", "--resume"]).refused(1, &["none", "no run to resume"]);
    std::fs::create_dir(sandbox.path().join("full")).unwrap();
    sandbox.write("full/thesis.txt", b"precious");
    sandbox.lumos(&["train", &small(), "--out", "full"]).refused(1, &["not empty"]);
    assert_eq!(sandbox.read("full/thesis.txt"), b"precious");
    assert!(before == sandbox.read("a/checkpoints/last.safetensors"));
    // Finished: resuming changes nothing and says the same.
    let again = sandbox.lumos(&["train", &small(), "--out", "a", "--resume", "--set", "federation.rounds=1"]).done();
    assert!(again.contains("finished already"), "{again}");
}

#[test]
fn more_rounds_after_the_end_equal_one_long_run() {
    // As it is; with item rows that stay on the client, kept on disk; with a server that has moments of its own.
    let private = "federation.shared=encoder,federation.private_memory_mb=0";
    for (i, sets) in ["seed=3", private, "federation.server=fedadam,federation.server_momentum=0.9"].into_iter().enumerate() {
        let sandbox = Sandbox::new();
        let train = |out: &str, more: &[&str]| {
            let config = small();
            let mut words = vec!["train", config.as_str(), "--out", out];
            words.extend(sets.split(',').flat_map(|set| ["--set", set]));
            words.extend(more);
            sandbox.lumos(&words).done();
        };
        train("short", &["--set", "federation.rounds=2"]);
        train("short", &["--resume", "--threads", "1"]);
        train("long", &["--threads", "3"]);
        same_outcome(&sandbox, "short", "long");
        assert!(!sandbox.path().join("long/private").exists(), "setting {i}: what was spilled is in the checkpoint");
    }
}

#[test]
fn a_checkpoint_of_another_run_or_a_damaged_one_is_refused() {
    let sandbox = Sandbox::new();
    let one = ["--set", "federation.rounds=1"];
    let train = |out: &str, more: &[&str]| {
        let config = small();
        let mut words = vec!["train", config.as_str(), "--out", out];
        words.extend(one);
        words.extend(more);
        sandbox.lumos(&words)
    };
    train("a", &[]).done();
    train("wide", &["--set", "model.dim=16"]).done();
    train("gru", &["--set", "method=lumos-gru4rec"]).done();
    train("world", &["--set", "data.synth_seed=2", "--set", "data.name=other"]).done();
    let good = sandbox.read("a/checkpoints/best.safetensors");
    for (from, parts) in [
        ("wide", &["model.dim is 16 there and 8 here"][..]),
        ("gru", &["method is lumos-gru4rec there", "model.backbone is gru4rec"]),
        ("world", &["data set is `other`"]),
    ] {
        sandbox.write("a/checkpoints/best.safetensors", &sandbox.read(&format!("{from}/checkpoints/best.safetensors")));
        sandbox.lumos(&["eval", "a"]).refused(1, &[&["best.safetensors", "belongs to another run"], parts].concat());
        sandbox.write("a/checkpoints/last.safetensors", &sandbox.read(&format!("{from}/checkpoints/last.safetensors")));
        sandbox.lumos(&["train", &small(), "--out", "a", "--resume"]).refused(1, parts);
    }
    let mut bytes = good.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    for damaged in [&bytes[..], &good[..good.len() - 5], b"", b"not a checkpoint at all"] {
        sandbox.write("a/checkpoints/best.safetensors", damaged);
        sandbox.lumos(&["eval", "a"]).refused(1, &["best.safetensors", "damaged"]);
    }
    std::fs::remove_file(sandbox.path().join("a/checkpoints/best.safetensors")).unwrap();
    sandbox.lumos(&["eval", "a"]).refused(1, &["best.safetensors", "not there yet"]);
    sandbox.write("a/checkpoints/best.safetensors", &good);
    sandbox.lumos(&["eval", "a"]).done();
}

#[test]
fn patience_ends_a_run() {
    let sandbox = Sandbox::new();
    // Steps so small that no validation can be better than the first.
    let words = ["--set", "local.lr=1e-12", "--set", "eval.patience=2", "--set", "eval.every=1", "--set", "federation.rounds=50"];
    let config = small();
    let mut all = vec!["train", config.as_str(), "--out", "a", "--json"];
    all.extend(words);
    let json = sandbox.lumos(&all).json();
    assert_eq!((&json["ended_by"], &json["best_round"], &json["rounds"]), (&"patience".into(), &1.into(), &3.into()), "{json}");
}

#[test]
fn run_trains_all_and_reuses_what_is_there() {
    let sandbox = Sandbox::new();
    let first = sandbox.lumos(&["run", &small()]).done();
    for part in ["popularity", "lumos", "fed-sasrec", "HR@10", "NDCG@5", "prepared", "made"] {
        assert!(first.contains(part), "`{part}` is not in\n{first}");
    }
    let again = sandbox.lumos(&["run", &small()]).done();
    assert!(again.contains("up to date, reused") && again.matches("finished already").count() == 2, "{again}");
    let table = |text: &str| text.lines().skip_while(|l| !l.starts_with("---")).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(table(&first), table(&again));
    let json = sandbox.lumos(&["run", &small(), "--json"]).json();
    assert_eq!(json["methods"].as_array().unwrap().len(), 2);
    assert!(json["popularity"]["HR@10"].as_f64().unwrap() > 0.0);
}

#[test]
fn data_and_views_commands_answer() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["data", "synth", "--users", "50", "--items", "40", "--mean-length", "8", "--out", "world"]).done();
    let stats = sandbox.lumos(&["data", "stats", "world", "--json"]).json();
    assert_eq!(stats["users"], 50);
    assert!(stats["items"].as_u64().unwrap() <= 40 && stats["interactions"].as_u64().unwrap() >= 250, "{stats}");
    sandbox.lumos(&["data", "synth", "--out", "world"]).refused(1, &["world"]);
    sandbox.write("log.csv", b"who,what,when\na,x,1\na,y,2\na,z,3\nb,x,1\nb,y,2\nb,z,3\n");
    let columns = ["--user-column", "who", "--item-column", "what", "--time-column", "when", "--min-length", "3"];
    let mut words = vec!["data", "prepare", "--format", "csv", "--inter", "log.csv", "--out", "log"];
    words.extend(columns);
    assert!(sandbox.lumos(&words).done().contains("prepared in log"));
    words[7] = "log2";
    words[9] = "nobody";
    sandbox.lumos(&words).refused(1, &["log.csv", "nobody"]);
    assert!(!sandbox.path().join("log2").exists());
    let views = sandbox.lumos(&["views", "build", &small()]).done();
    assert!(views.contains("made"), "{views}");
    assert!(sandbox.lumos(&["views", "inspect", &small()]).done().contains("reused"));
    sandbox.lumos(&["views", "inspect", &small(), "--user", "nobody!"]).refused(1, &["nobody!"]);
    sandbox.lumos(&["views", "build", &small(), "--set", "method=fed-sasrec"]).refused(1, &["uses no views"]);
}
