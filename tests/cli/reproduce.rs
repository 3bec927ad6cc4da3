//! `lumos reproduce`: runs, documents, and that finished runs are reused.

use crate::sandbox::Sandbox;

const TABLE: &str = r#"
title = "A small table"
about = "Two methods and a count."
against = "fed-sasrec"
data = ["small.toml"]
seeds = [1, 2]
metrics = ["HR@10", "NDCG@10"]
[[row]]
name = "counts"
method = "fed-transitions"
once = true
[[row]]
name = "fed-sasrec"
[[row]]
name = "slow"
method = "fed-sasrec"
set = ["local.lr=0.01"]
[[plot]]
across = "local rate"
metrics = ["HR@10"]
[[plot.line]]
name = "fed-sasrec"
rows = ["fed-sasrec", "slow"]
at = [0.1, 0.01]
[[plot]]
across = "gigabytes"
metrics = ["NDCG@10"]
[[plot.line]]
name = "all"
rows = ["counts", "fed-sasrec"]
[[published]]
data = "small"
name = "A paper"
figures = { "HR@10" = 0.5 }
source = "a paper"
trust = "not at all"
"#;

fn modified(sandbox: &Sandbox, name: &str) -> std::time::SystemTime {
    std::fs::metadata(sandbox.path().join(name)).unwrap().modified().unwrap()
}

#[test]
fn a_table_is_trained_once_and_written_in_every_form() {
    let sandbox = Sandbox::new();
    sandbox.write("mine.toml", TABLE.as_bytes());
    let words = ["reproduce", "mine.toml", "--out", "t", "--set", "federation.rounds=2"];
    // A part of it first.
    let part = sandbox.lumos(&[&words[..], &["--rows", "counts", "--seeds", "1"]].concat()).done();
    assert!(part.contains("counts") && part.contains("fed-sasrec") && !part.contains("slow"), "{part}");
    let first = modified(&sandbox, "t/runs/small/fed-sasrec-1/result.json");
    // What is finished can be written without training the rest, and the document names the rest.
    let finished = sandbox.lumos(&[&words[..], &["--no-train"]].concat()).done();
    assert!(
        finished.contains("Not finished on small: fed-sasrec (seed 2), slow (seeds 1, 2).") && !finished.contains("run 1 of"),
        "{finished}"
    );
    assert!(String::from_utf8(sandbox.read("t/mine.md")).unwrap().contains("* Not finished on small: fed-sasrec (seed 2), slow"));
    let longer = ["reproduce", "mine.toml", "--out", "t", "--set", "federation.rounds=3", "--no-train"];
    std::fs::copy(sandbox.path().join("small.toml"), sandbox.path().join("other.toml")).unwrap();
    let both = ["reproduce", "mine.toml", "--out", "t", "--set", "federation.rounds=2", "--data", "small.toml,other.toml", "--no-train"];
    let both = sandbox.lumos(&both).done();
    assert!(both.contains("Not finished on other: counts, fed-sasrec (seeds 1, 2), slow (seeds 1, 2)."), "{both}");
    sandbox.lumos(&longer).refused(1, &["no run of the table is finished in t"]);
    let other = ["reproduce", "mine.toml", "--out", "t", "--set", "local.epochs=1", "--no-train"];
    sandbox.lumos(&other).refused(1, &["t/runs/small/", "other settings", "local.epochs"]);
    sandbox
        .lumos(&["reproduce", "mine.toml", "--out", "nowhere", "--no-train"])
        .refused(1, &["no run of the table is finished in nowhere"]);
    assert!(!sandbox.path().join("nowhere").exists());
    let text = sandbox.lumos(&words).done();
    assert!(text.contains("run 5 of 5: small, slow, seed 2") && !text.contains("Not finished"), "{text}");
    assert!(text.contains("was finished already") && text.contains("written: t/mine.md"), "{text}");
    assert_eq!(modified(&sandbox, "t/runs/small/fed-sasrec-1/result.json"), first, "a finished run is reused");
    let read = |name: &str| String::from_utf8(sandbox.read(name)).unwrap();
    let [md, tex, csv, html] = ["md", "tex", "csv", "html"].map(|ending| read(&format!("t/mine.{ending}")));
    // Seeds of rows, one run where one is enough, spread, tests with their correction, figures of others.
    assert!(md.contains("| counts | any |") && md.contains("| slow | 1, 2 |"), "{md}");
    assert!(md.contains(" ± ") && md.contains("p (Holm)") && md.contains("| A paper (published) | - | - | - | 0.5000 | - | - |"), "{md}");
    assert!(md.contains("lumos reproduce mine.toml --data small.toml --seeds 1,2 --set 'federation.rounds=2'"), "{md}");
    assert!(!sandbox.path().join("t/runs/small/counts-2").exists());
    // The figures are those of the runs.
    let result: serde_json::Value = serde_json::from_str(&read("t/runs/small/counts-1/result.json")).unwrap();
    let figure = format!("{:.4}", result["test"]["HR@10"].as_f64().unwrap());
    assert!(md.lines().any(|line| line.starts_with("| counts | any |") && line.contains(&figure)), "{figure}: {md}");
    assert!(tex.contains("\\toprule") && csv.contains("\"counts\",\"test HR@10\"") && html.contains("<td>counts</td>"));
    // The pictures: a line through two means, and one at what was sent.
    assert!(md.contains("![test HR@10 over local rate](mine-small-1.svg)"), "{md}");
    for (file, axis) in [("t/mine-small-1.svg", "local rate"), ("t/mine-small-2.svg", "gigabytes")] {
        let svg = read(file);
        assert!(svg.starts_with("<svg") && svg.contains(axis) && svg.matches("<circle").count() == 2, "{svg}");
    }
    assert!(html.matches("<svg").count() == 2);
    let again = sandbox.lumos(&words).done();
    assert!(again.contains("was finished already") && read("t/mine.md") == md);
    // Side by side the figures are the same, once the process that trains one of them has let go of it.
    let held = sandbox.path().join("u/runs/small/slow-2");
    std::fs::create_dir_all(&held).unwrap();
    let lock = std::fs::File::create(held.join(".lumos.lock")).unwrap();
    lock.lock().unwrap();
    let beside = ["reproduce", "mine.toml", "--out", "u", "--set", "federation.rounds=2", "--jobs", "3"];
    let without = sandbox.lumos(&beside).done();
    assert!(
        without.contains("slow, seed 2: another process trains it") && without.contains("Not finished on small: slow (seed 2)."),
        "{without}"
    );
    drop(lock);
    sandbox.lumos(&beside).done();
    let figures = |csv: &str| csv.lines().filter(|l| l.contains("HR@") || l.contains("NDCG@")).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(figures(&read("u/mine.csv")), figures(&csv));
    assert!(figures(&csv).len() > 6, "{csv}");
    // Other settings never meet in one folder.
    sandbox.lumos(&["reproduce", "mine.toml", "--out", "t", "--set", "local.epochs=1"]).refused(1, &["local.epochs"]);
}

#[test]
fn tables_are_listed_and_unknown_names_get_the_nearest() {
    let sandbox = Sandbox::new();
    let list = sandbox.lumos(&["reproduce", "--list"]).done();
    for name in ["main", "ablation", "backbones", "sensitivity", "communication", "views", "noise", "attack", "defence", "privacy"] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{list}");
    }
    let json = sandbox.lumos(&["reproduce", "--list", "--json"]).json();
    assert!(json[0]["rows"].as_array().unwrap().iter().any(|row| row == "duorec"), "{json}");
    sandbox.lumos(&["reproduce", "man"]).refused(1, &["unknown table `man`", "did you mean `main`"]);
    sandbox.lumos(&["reproduce", "main", "--data", "ml-100", "--out", "t"]).refused(1, &["did you mean `ml-100k`"]);
    sandbox.lumos(&["reproduce", "main", "--rows", "duorek"]).refused(1, &["did you mean `duorec`"]);
    sandbox.lumos(&["reproduce", "main", "--set", "seed=3"]).refused(1, &["--seeds"]);
    sandbox.lumos(&["reproduce"]).refused(2, &["TABLE"]);
}
