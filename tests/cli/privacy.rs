//! `lumos privacy account`, and epsilon in the files of a run.

use crate::sandbox::{Sandbox, small};

#[test]
fn epsilon_on_paper() {
    let sandbox = Sandbox::new();
    let account = |words: &str| {
        let words: Vec<&str> = ["privacy", "account"].into_iter().chain(words.split(' ')).collect();
        sandbox.lumos(&words)
    };
    let paper = "--rate 0.1 --rounds 100 --delta 1e-5";
    let text = account(&format!("--noise 1 {paper}")).done();
    assert!(text.contains("7.903850"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&account(&format!("--epsilon 2.5805709505 {paper} --json")).done()).unwrap();
    assert!((json["noise"].as_f64().unwrap() - 2.0).abs() < 1e-3 && json["epsilon"].as_f64().unwrap() <= 2.5805709505, "{json}");
    // Two clips are what replacing a user can move.
    let fixed: serde_json::Value =
        serde_json::from_str(&account("--noise 2 --rate 0.01 --rounds 100 --delta 1e-5 --sampling fixed --json").done()).unwrap();
    assert!((fixed["epsilon"].as_f64().unwrap() - 1.482_525_669).abs() < 1e-6, "{fixed}");
    for (words, parts) in [
        ("--noise 1 --rate 1.5 --rounds 1 --delta 1e-5", &["--rate", "1.5", "at most 1"][..]),
        ("--noise 1 --rate 0.1 --rounds 0 --delta 1e-5", &["--rounds", "at least 1"]),
        ("--noise 1 --rate 0.1 --rounds 1 --delta 1", &["--delta", "below 1"]),
        ("--noise nan --rate 0.1 --rounds 1 --delta 0.1", &["--noise", "above 0"]),
        ("--epsilon 1e-12 --rate 0.1 --rounds 1 --delta 1e-5", &["no noise"]),
    ] {
        account(words).refused(1, parts);
    }
    account("--rate 0.1 --rounds 1 --delta 1e-5").refused(2, &["--noise"]);
}

#[test]
fn every_round_says_what_it_has_cost() {
    let sandbox = Sandbox::new();
    let set = ["privacy.epsilon=4", "privacy.clip=0.5", "federation.average=cohort", "federation.fraction=0.5"];
    let words: Vec<&str> = ["train", "small.toml", "--out", "run"].into_iter().chain(set.iter().flat_map(|s| ["--set", s])).collect();
    sandbox.lumos(&words).done();
    let metrics = String::from_utf8(sandbox.read("run/metrics.jsonl")).unwrap();
    let spent: Vec<f64> =
        metrics.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["epsilon"].as_f64().unwrap()).collect();
    assert!(spent.len() == 4 && spent.is_sorted() && spent[3] <= 4.0 && spent[3] > 3.99, "{spent:?}");
    // A method that divides a row by its contributors, and a cohort that is too small.
    let by_item = ["train", &small(), "--out", "no", "--set", "privacy.noise=1", "--set", "federation.average=per-item"];
    sandbox.lumos(&by_item).refused(1, &["federation.average", "cohort"]);
    let few = [&words[..3], &["few"], &words[4..], &["--set", "federation.cohort=5"]].concat();
    sandbox.lumos(&few).refused(1, &["at least 16", "5.0 users a round"]);
}

/// What a method takes from users besides updates is inside the promise, outside of it and said so, or not taken.
#[test]
fn counts_of_items_are_accounted_for() {
    let sandbox = Sandbox::new();
    let train = |out: &str, sets: &[&str]| {
        let all = ["privacy.epsilon=4", "federation.average=cohort", "federation.fraction=0.5", "federation.rounds=2"];
        let words = ["train", "small.toml", "--out", out].into_iter().chain(all.iter().chain(sets).flat_map(|s| ["--set", s]));
        sandbox.lumos(&words.collect::<Vec<_>>())
    };
    let result = |out: &str| serde_json::from_slice::<serde_json::Value>(&sandbox.read(&format!("{out}/result.json"))).unwrap();
    let spent = |out: &str| {
        let lines = String::from_utf8(sandbox.read(&format!("{out}/metrics.jsonl"))).unwrap();
        let line: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        line["epsilon"].as_f64().unwrap()
    };
    let text = train("exact", &[]).done();
    assert!(text.contains("outside the promise of privacy") && text.contains("privacy.counts"), "{text}");
    assert!(result("exact")["outside_promise"].as_str().unwrap().contains("the generator of views"));
    let text = train("noisy", &["privacy.counts=noisy"]).done();
    assert!(!text.contains("outside the promise") && result("noisy")["outside_promise"].is_null(), "{text}");
    // Counts are a part of the epsilon that was asked for.
    assert!(spent("noisy") <= 4.0 && spent("noisy") > 3.9, "{}", spent("noisy"));
    train("none", &["privacy.counts=none"]).done();
    assert!(result("none")["outside_promise"].is_null());
    // Each knows other counts, so that each has views of its own.
    let views = |out: &str| {
        let run: serde_json::Value = serde_json::from_slice(&sandbox.read(&format!("{out}/run.json"))).unwrap();
        run["views"]["data_fingerprint"].as_str().unwrap().to_string()
    };
    assert!(views("exact") != views("noisy") && views("noisy") != views("none"));
    // A method that reads no counts has nothing outside.
    train("plain", &["method=fed-sasrec"]).done();
    assert!(result("plain")["outside_promise"].is_null());
    for (set, parts) in [
        (&["privacy.counts=noisy", "privacy.counts_epsilon=4"][..], &["privacy.counts_epsilon", "less than privacy.epsilon"][..]),
        (&["privacy.counts=noise"], &["privacy.counts", "did you mean `noisy`"]),
        (&["privacy.clip_groups=[0.1]"], &["privacy.clip_groups", "two finite numbers"]),
        (&["privacy.clip_quantile=1"], &["privacy.clip_quantile", "below 1"]),
        (&["privacy.clip_quantile=0.5", "privacy.clip_groups=[0.1,0.2]"], &["privacy.clip_groups", "privacy.clip_quantile"]),
    ] {
        train("no", set).refused(1, parts);
    }
}

/// A run by secure aggregation has the bits of one without it, drop-outs included, and says what it cost.
#[cfg(feature = "secure")]
#[test]
fn secure_sums_change_no_bit() {
    let sandbox = Sandbox::new();
    let train = |out: &str, sets: &[&str]| {
        let fixed = ["method=fed-sasrec", "federation.rounds=2", "federation.dropout_rate=0.2"];
        let words: Vec<&str> =
            ["train", "small.toml", "--out", out].into_iter().chain(fixed.iter().chain(sets).flat_map(|s| ["--set", s])).collect();
        sandbox.lumos(&words).done();
        let lines: Vec<serde_json::Value> = String::from_utf8(sandbox.read(&format!("{out}/metrics.jsonl")))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (sandbox.read(&format!("{out}/ranks-test.safetensors")), lines)
    };
    let (plain, _) = train("plain", &[]);
    let (secure, lines) = train("secure", &["privacy.secure_sum=true"]);
    assert!(plain == secure);
    for line in &lines {
        let cost = &line["secure_sum"];
        assert!(cost["parties"].as_u64().unwrap() == line["clients"].as_u64().unwrap() + line["dropped"].as_u64().unwrap(), "{line}");
        assert!(cost["bytes_up"].as_u64().unwrap() > 0 && cost["client_s"].as_f64().unwrap() > 0.0, "{cost}");
    }
    // Noise by the clients, which no server can leave out.
    let noisy = ["privacy.noise=1", "privacy.clip=0.5", "privacy.secure_sum=true", "privacy.noise_by=clients", "federation.average=cohort"];
    let (by_clients, lines) = train("noisy", &[&noisy[..], &["federation.dropout_rate=0"]].concat());
    assert!(by_clients != plain && lines[1]["epsilon"].as_f64().unwrap() > 0.0);
    for (set, parts) in [
        (&["privacy.secure_sum=true", "defence.name=median"][..], &["defence.name", "privacy.secure_sum"][..]),
        (&["privacy.neighbours=4"], &["privacy.neighbours", "privacy.secure_sum"]),
        (&["privacy.noise_by=client"], &["privacy.noise_by", "did you mean `clients`"]),
        (&["privacy.noise_by=clients"], &["privacy.noise_by", "privacy.secure_sum"]),
        (&["privacy.secure_sum=true", "federation.cohort=1"], &["needs two"]),
    ] {
        let words: Vec<&str> = ["train", "small.toml", "--set", "method=fed-sasrec", "--out", "no"]
            .into_iter()
            .chain(set.iter().flat_map(|s| ["--set", s]))
            .collect();
        sandbox.lumos(&words).refused(1, parts);
    }
}

/// What rows give away: the more, the fewer negatives hide the history.
#[test]
fn a_curious_server_is_measured() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", "small.toml", "--out", "run"]).done();
    let found = |more: &[&str]| sandbox.lumos(&[&["privacy", "infer", "run", "--json"], more].concat()).json();
    let kept = found(&[]);
    assert_eq!(kept["clients"], 200);
    let of = |found: &serde_json::Value, name: &str, key: &str| {
        found["guesses"].as_array().unwrap().iter().find(|g| g["name"] == name).unwrap()[key].as_f64().unwrap()
    };
    assert!(of(&kept, "touched rows", "recall") > 0.9 && of(&kept, "touched rows", "auc") == 0.5, "{kept}");
    // A row of the history moves further than a negative's.
    assert!(of(&kept, "size of change", "auc") > 0.8, "{kept}");
    let rows = |found: &serde_json::Value| found["rows"].as_f64().unwrap();
    assert!(rows(&found(&["--upload-rows", "touched"])) >= rows(&kept));
    let few = found(&["--negatives", "1"]);
    assert!(rows(&few) < rows(&kept) && of(&few, "touched rows", "precision") > of(&kept, "touched rows", "precision"), "{few} {kept}");
    // Noise on rows hides their lengths; a clip on the whole update does not.
    let noisy = found(&["--rule", "dx-noise epsilon=0.1"]);
    assert!(of(&noisy, "size of change", "auc") < 0.7 && of(&noisy, "touched rows", "recall") > 0.9, "{noisy}");
    sandbox.lumos(&["privacy", "infer", "run", "--rule", "dx-nois"]).refused(1, &["federation.rules", "did you mean `dx-noise`"]);
    let text = sandbox.lumos(&["privacy", "infer", "run", "--clients", "20"]).done();
    assert!(text.contains("20 clients") && text.contains("IMIA"), "{text}");
}
