//! What is around a run: lists of runs and views, sweeps, recommendations for all.

use crate::sandbox::{Sandbox, small};
use serde_json::Value;

fn text(sandbox: &Sandbox, name: &str) -> String {
    String::from_utf8(sandbox.read(name)).unwrap()
}

#[test]
fn runs_and_views_are_listed_by_name() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["runs"]).refused(1, &["runs", "no such folder"]);
    sandbox.lumos(&["train", &small(), "--out", "runs/one"]).done();
    sandbox.lumos(&["train", &small(), "--out", "runs/deep/two", "--set", "method=fed-sasrec", "--seed", "7"]).done();
    std::fs::remove_file(sandbox.path().join("runs/one/result.json")).unwrap();
    let all = sandbox.lumos(&["runs", "--json"]).json();
    let of = |key: &str| all.as_array().unwrap().iter().map(|run| run[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("method"), ["fed-sasrec", "lumos"]);
    assert_eq!(of("state"), ["finished", "stopped"]);
    assert_eq!((of("seed")[0].clone(), of("rounds")), (7.into(), vec![4.into(), 4.into()]));
    let table = sandbox.lumos(&["runs", "--sort", "HR@10"]).done();
    assert!(table.contains("HR@10") && table.contains("runs/deep/two") && !table.contains("runs/one/"), "{table}");
    sandbox.lumos(&["runs", "--method", "lumso"]).refused(1, &["--method", "did you mean `lumos`"]);
    sandbox.lumos(&["runs", "--sort", "HR@11"]).refused(1, &["--sort", "HR@10"]);
    std::fs::write(sandbox.path().join("runs/deep/two/result.json"), "{").unwrap();
    let rest = sandbox.lumos(&["runs"]);
    assert!(rest.stderr().contains("left out:") && rest.stdout().contains("runs/one"), "{}", rest.stderr());
    let views = sandbox.lumos(&["views", "list", "--json"]).json();
    assert_eq!((views[0]["data"].as_str(), views[0]["generator"].as_str()), (Some("small"), Some("catalogue")));
    assert!(sandbox.lumos(&["views", "list"]).done().contains("catalogue"));
}

#[test]
fn listed_views_are_told_apart_and_taken_by_name() {
    let sandbox = Sandbox::new();
    for set in ["views.seed=1", "views.seed=2", "views.substitute=0.7"] {
        sandbox.lumos(&["views", "build", &small(), "--set", set]).done();
    }
    let list = sandbox.lumos(&["views", "list", "--json"]).json();
    let of = |key: &str| list.as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    let mut seeds: Vec<u64> = of("seed").iter().map(|seed| seed.as_u64().unwrap()).collect();
    seeds.sort_unstable();
    assert_eq!(seeds, [1, 1, 2]);
    let mut substitutes: Vec<f64> = of("differs").iter().map(|differs| differs["substitute"].as_f64().unwrap()).collect();
    substitutes.sort_by(f64::total_cmp);
    assert!(substitutes[..2] == [0.5, 0.5] && (substitutes[2] - 0.7).abs() < 1e-6, "{list}");
    assert!(of("differs").iter().all(|differs| differs.as_object().unwrap().len() == 1), "what is the same is no difference: {list}");
    let table = sandbox.lumos(&["views", "list"]).done();
    let head = table.lines().next().unwrap();
    assert!(["name", "model", "seed", "counterfactuals", "written"].iter().all(|column| head.contains(column)), "{table}");
    assert!(table.contains("substitute=0.7"), "{table}");

    let (names, folders) = (of("name"), of("folder"));
    let [a, b] = [0, 1].map(|at: usize| names[at].as_str().unwrap());
    let by_folder = sandbox.lumos(&["views", "score", folders[0].as_str().unwrap()]).done();
    assert_eq!(sandbox.lumos(&["views", "score", a]).done(), by_folder);
    assert_eq!(sandbox.lumos(&["views", "score", a.strip_prefix("small/").unwrap()]).done(), by_folder);
    sandbox.lumos(&["views", "compare", a, b]).done();
    sandbox.lumos(&["views", "score", "small/"]).refused(1, &["several names", a, b]);
    sandbox.lumos(&["views", "score", "smal/zzzz"]).refused(1, &["unknown views", a, b]);
}

#[test]
fn every_user_gets_the_list_that_it_gets_alone() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "run"]).done();
    let said = sandbox.lumos(&["recommend", "run", "--all", "--out", "lists.jsonl", "-k", "3"]).done();
    assert!(said.contains("200 lists of 3 items") && said.contains("coverage"), "{said}");
    let lines: Vec<Value> = text(&sandbox, "lists.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 200);
    for line in [&lines[0], &lines[117]] {
        let alone = sandbox.lumos(&["recommend", "run", "--user", line["user"].as_str().unwrap(), "-k", "3", "--json"]).json();
        let names = |list: &Value| list.as_array().unwrap().iter().map(|e| (e["item"].clone(), e["score"].clone())).collect::<Vec<_>>();
        assert_eq!(names(&line["items"]), names(&alone["items"]));
    }
    sandbox.lumos(&["recommend", "run", "--all", "--out", "lists.csv", "-k", "2"]).done();
    let csv = text(&sandbox, "lists.csv");
    assert_eq!((csv.lines().count(), csv.lines().next()), (401, Some("user,rank,item,score")));
    sandbox.lumos(&["recommend", "run", "--all", "--out", "lists.cvs"]).refused(1, &["--out", "did you mean `csv`"]);
    sandbox.lumos(&["recommend", "run", "--all"]).refused(2, &["--out"]);
    sandbox.lumos(&["train", &small(), "--out", "pop", "--set", "method=popularity"]).done();
    sandbox.lumos(&["recommend", "pop", "--all", "--out", "pop.csv", "-k", "2"]).done();
    assert_eq!(text(&sandbox, "pop.csv").lines().count(), 401);
}

#[test]
fn a_sweep_goes_on_and_chooses_by_validation() {
    let sandbox = Sandbox::new();
    let sweep = |more: &[&str]| sandbox.lumos(&[&["sweep", "small.toml", "--set", "method=fed-sasrec"], more].concat());
    let grid = ["--grid", "local.lr=0.01,0.03", "--seeds", "1,2", "--out", "grid"];
    let trials = sweep(&[&grid[..], &["--json", "--jobs", "2"]].concat()).json();
    let trials = trials.as_array().unwrap();
    assert_eq!(trials.len(), 2);
    let score = |trial: &Value| trial["score"].as_f64().unwrap();
    assert!(score(&trials[0]) >= score(&trials[1]));
    let mean = |trial: &Value| {
        let each = trial["results"].as_array().unwrap().iter().map(|r| r["validation"]["NDCG@10"].as_f64().unwrap());
        each.sum::<f64>() / 2.0
    };
    assert!((score(&trials[0]) - mean(&trials[0])).abs() < 1e-12);
    assert!(sandbox.path().join("grid/001-lr-0.01-seed-1/result.json").exists());
    let before = sandbox.read("grid/001-lr-0.01-seed-1/metrics.jsonl");
    std::fs::remove_dir_all(sandbox.path().join("grid/002-lr-0.03-seed-2")).unwrap();
    let again = sweep(&[&grid[..], &["--json"]].concat()).json();
    assert_eq!(again.as_array().unwrap().iter().map(score).collect::<Vec<_>>(), trials.iter().map(score).collect::<Vec<_>>());
    assert_eq!(sandbox.read("grid/001-lr-0.01-seed-1/metrics.jsonl"), before, "what was finished is not trained again");
    let table = sweep(&grid).done();
    assert!(table.contains("local.lr=0.0") && table.contains("±") && table.contains("best:"), "{table}");
    sweep(&["--grid", "local.lr=0.02", "--out", "grid"]).refused(1, &["sweep.json", "other values"]);

    let halving = ["--random", "4", "--range", "local.lr=log:1e-3..1e-1", "--halving", "2", "--out", "half", "--json"];
    let trials = sweep(&halving).json();
    let rounds: Vec<u64> = trials.as_array().unwrap().iter().map(|t| t["rounds"].as_u64().unwrap()).collect();
    assert_eq!(rounds, [4, 2, 1, 1]);
    assert_eq!(sweep(&halving).json(), trials, "the same command comes to the same");
    for (words, part) in [
        (&["--grid", "local.lrr=1"][..], "local.lr"),
        (&["--grid", "local.lr"], "--grid"),
        (&["--range", "local.lr=log:0..1", "--random", "2"], "log:0..1"),
        (&["--range", "local.lr=lin:0.1..1"], "--random"),
        (&["--grid", "seed=1,2"], "--seeds"),
        (&[], "nothing to try"),
    ] {
        sweep(&[words, &["--out", "no"]].concat()).refused(1, &[part]);
    }
}
