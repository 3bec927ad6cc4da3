//! Numbers of the bench commands have ranges, and what a machine cannot hold is refused before it is allocated.

use crate::sandbox::Sandbox;

#[test]
fn numbers_out_of_range_are_refused_with_flag_and_range() {
    let sandbox = Sandbox::new();
    let ground = ["bench", "ground", "--data", "data/small"];
    let round = ["bench", "round"];
    #[cfg(feature = "llm")]
    let generate = ["bench", "generate", "--shape", "smollm2-135m"];
    let mut cases: Vec<(&[&str], &str, &str, &str)> = vec![
        (&ground, "--words", "nan", "0 and 1"),
        (&ground, "--words", "0.5,inf", "0 and 1"),
        (&ground, "--words", "0.5,-0.1", "0 and 1"),
        (&ground, "--words", "0.5,", "0 and 1"),
        (&ground, "--meaning", "NaN", "-1 and 1"),
        (&ground, "--meaning", "1.1", "-1 and 1"),
        (&ground, "--titles", "0", "1 and 1000000"),
        (&ground, "--titles", "4000000000", "1 and 1000000"),
        (&ground, "--threads", "99999", "0 and 4096"),
        (&round, "--clients", "4000000000", "1 and 10000000"),
        (&round, "--clients", "0", "1 and 10000000"),
        (&round, "--population", "99999999999", "0 and 100000000"),
        (&round, "--items", "4000000000", "2 and 100000000"),
        (&round, "--items", "1", "2 and 100000000"),
        (&round, "--dim", "99999", "1 and 4096"),
        (&round, "--blocks", "0", "1 and 64"),
        (&round, "--heads", "-1", "1 and 4096"),
        (&round, "--max-len", "70000", "1 and 65536"),
        (&round, "--epochs", "1e9", "1 and 1000"),
        (&round, "--rounds", "0", "1 and 1000000"),
        (&round, "--threads", "99999", "0 and 4096"),
    ];
    #[cfg(feature = "llm")]
    cases.extend([
        (&generate[..], "--prefix", "18446744073709551615", "0 and 1000000"),
        (&generate, "--suffix", "0", "1 and 1000000"),
        (&generate, "--output", "18446744073709551616", "1 and 1000000"),
        (&generate, "--prompts", "4000000000", "1 and 1000000"),
        (&generate, "--batch", "65537", "1 and 65536"),
        (&generate, "--repeats", "0", "1 and 100000"),
        (&generate, "--temperature", "nan", "0 and 10"),
        (&generate, "--temperature", "-1", "0 and 10"),
        (&generate, "--titles", "99999999", "0 and 10000000"),
        (&generate, "--threads", "99999", "0 and 4096"),
    ]);
    for (command, flag, value, range) in cases {
        let given = format!("{flag}={value}");
        sandbox.lumos(&[command, &[given.as_str()]].concat()).refused(2, &[flag, &format!("must be between {range}")]);
    }
}

#[test]
fn what_does_not_fit_the_machine_is_refused() {
    let sandbox = Sandbox::new();
    let parts = ["GiB needed", "of memory there", "lower"];
    sandbox.lumos(&["bench", "round", "--items", "100000000", "--dim", "4096"]).refused(1, &parts);
    #[cfg(feature = "llm")]
    {
        let words = ["bench", "generate", "--shape", "smollm2-135m", "--prompts", "1000000", "--prefix", "1000000"];
        sandbox.lumos(&words).refused(1, &parts);
    }
}

#[test]
fn data_and_epochs_are_timed() {
    let sandbox = Sandbox::new();
    let figures = sandbox.lumos(&["bench", "prepare", "--rows", "20000", "--items", "500", "--json"]).json();
    assert_eq!((&figures["rows"], &figures["items"]), (&20_000.into(), &500.into()));
    assert!(figures["users"].as_u64().unwrap() > 900 && figures["file_bytes"].as_u64().unwrap() > 300_000, "{figures}");
    sandbox.lumos(&["bench", "prepare", "--folder", "nowhere"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["data", "synth", "--users", "100", "--items", "300", "--out", "world"]).done();
    let sets = ["--set", "model.dim=8", "--set", "loss.negatives=8", "--rounds", "1"];
    let rows = sandbox.lumos(&[&["bench", "epoch", "world", "--methods", "sasrec,fed-sasrec", "--json"], &sets[..]].concat()).json();
    let of = |key: &str| rows.as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!((of("method"), of("data")), (vec!["sasrec".into(), "fed-sasrec".into()], vec!["world".into(), "world".into()]));
    assert_eq!(of("clients")[0], 1);
    let one = sandbox.lumos(&[&["bench", "epoch", "world", "--methods", "sasrec", "--threads", "1", "--json"], &sets[..]].concat()).json();
    assert_eq!(one[0]["threads"], 1);
    sandbox.lumos(&["bench", "epoch", "world", "--methods", "sasrek"]).refused(1, &["did you mean `sasrec`"]);
    // What others publish stands by itself, with its source.
    let others = sandbox.lumos(&["bench", "epoch", "--published", "--json"]).json();
    let row = others.as_array().unwrap().iter().find(|row| row["data"] == "ml-1m" && row["method"] == "SASRec").unwrap();
    assert_eq!((&row["epoch_seconds"], &row["hardware"]), (&17.78.into(), &"TITAN RTX".into()));
    assert!(row["from"].as_str().unwrap().contains("RecBole"), "{row}");
    assert!(sandbox.lumos(&["bench", "epoch", "--published"]).done().contains("not measured here"));
    sandbox.lumos(&["bench", "epoch", "world", "--published"]).refused(2, &["cannot be used with"]);
}

#[test]
fn every_defence_is_measured_or_those_that_are_named() {
    let sandbox = Sandbox::new();
    let small = ["bench", "defence", "--clients", "6", "--items", "40", "--dim", "8", "--rounds", "1"];
    let found = sandbox.lumos(&[&small[..], &["--json"]].concat()).json();
    let names: Vec<&str> = found["defences"].as_array().unwrap().iter().map(|d| d["defence"].as_str().unwrap()).collect();
    assert!(names.contains(&"multi-krum") && names.contains(&"norm-bound") && !names.contains(&"sign-flip"), "{names:?}");
    let table = sandbox.lumos(&[&small[..], &["--defence", "trimmed-mean trim=0.2"]].concat()).done();
    assert!(table.contains("trimmed-mean trim=0.2") && table.contains("all updates") && !table.contains("krum"), "{table}");
    sandbox.lumos(&[&small[..], &["--defence", "multi-crum"]].concat()).refused(1, &["defence.name", "did you mean `multi-krum`"]);
}

#[test]
fn more_threads_than_cores_change_nothing() {
    let sandbox = Sandbox::new();
    let words =
        ["bench", "round", "--clients", "5", "--items", "50", "--dim", "8", "--rounds", "1", "--device", "cpu", "--json", "--threads"];
    let figures = sandbox.lumos(&[&words[..], &["64"]].concat()).json();
    assert_eq!((&figures["threads"], &figures["clients"]), (&64.into(), &5.into()));
    sandbox.lumos(&["train", "small.toml", "--threads", "99999"]).refused(2, &["threads", "99999", "4096"]);
}
