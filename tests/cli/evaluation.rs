//! The real binary on what is measured and what is recommended: users who come back, histories as they are given, folders that may only
//! be read.

use crate::sandbox::{Ran, Sandbox, small};
use lumos::base::rng::{Purpose, Stream};
use serde_json::Value;
use std::path::Path;

const USERS: u64 = 200;
/// Items of a user.
const OWN: u64 = 8;

/// Users, eight of a group, who first meet the eight items of their group and then draw uniformly from them, so that no recommender can exceed HR@1 .125 or
/// HR@5 .625, and every target lies in the history.
fn favourites(sandbox: &Sandbox) -> String {
    let mut text = String::from("user_id:token\titem_id:token\ttimestamp:float\n");
    for user in 0..USERS {
        let mut draw = Stream::new(5, Purpose::World, 0, user);
        let mut own: Vec<u64> = (0..OWN).map(|i| user % 25 * OWN + i).collect();
        draw.shuffle(&mut own);
        for at in 0..30 {
            let item = own[if at < OWN { at } else { draw.below(OWN) } as usize];
            text += &format!("u{user}\ti{item}\t{}\n", 1_000_000_000 + at);
        }
    }
    sandbox.write("fav.inter", text.as_bytes());
    let config = "method = \"fed-sasrec\"\ncompare = [\"popularity\"]\n[data]\nname = \"fav\"\nformat = \"recbole\"\ninter = \"fav.inter\"\n\
        [model]\ndim = 16\nmax_len = 30\n[eval]\nk = [1, 5]\nselect = \"HR@5\"\nevery = 5\n\
        [methods.federated]\nmodel.blocks = 1\nlocal.epochs = 3\nfederation.rounds = 40\nfederation.fraction = 0.3\n";
    sandbox.write("fav.toml", config.as_bytes());
    "fav.toml".to_string()
}

fn result(sandbox: &Sandbox, run: &str) -> Value {
    serde_json::from_slice(&sandbox.read(&format!("{run}/result.json"))).unwrap()
}

fn figure(scores: &Value, name: &str) -> f64 {
    scores[name].as_f64().unwrap_or_else(|| panic!("no {name} in {scores}"))
}

/// Three standard errors above `p`.
fn at_most(p: f64) -> f64 {
    p + 3.0 * (p * (1.0 - p) / USERS as f64).sqrt()
}

#[test]
fn no_figure_is_above_what_can_be_known_where_users_come_back() {
    let sandbox = Sandbox::new();
    let config = favourites(&sandbox);
    let train = |mask: &str, method: &str, out: &str| {
        let [mask, method] = [format!("eval.mask={mask}"), format!("method={method}")];
        sandbox.lumos(&["train", &config, "--set", &mask, "--set", &method, "--out", out]).done()
    };
    for method in ["fed-sasrec", "popularity"] {
        // Every target lies in the history: nothing can be found, all users count, and the table says why.
        let told = train("history", method, &format!("{method}-history"));
        assert!(told.lines().any(|l| l.split_whitespace().eq(["masked", "targets", "200", "200"])), "{told}");
        let found = result(&sandbox, &format!("{method}-history"));
        for split in ["validation", "test"] {
            let scores = found[split].as_object().unwrap();
            assert_eq!((&scores["users"], &scores["masked_targets"]), (&USERS.into(), &USERS.into()));
            assert!(scores.iter().filter(|(name, _)| name.contains('@')).all(|(_, v)| v.as_f64() == Some(0.0)), "{scores:?}");
        }
        let told = train("none", method, &format!("{method}-none"));
        assert!(!told.contains("masked"), "{told}");
        let found = result(&sandbox, &format!("{method}-none"));
        for split in ["validation", "test"] {
            let scores = &found[split];
            assert_eq!(scores["masked_targets"], 0);
            let (one, five) = (figure(scores, "HR@1"), figure(scores, "HR@5"));
            assert!(one <= at_most(0.125) && five <= at_most(0.625), "{method}: HR@1 {one}, HR@5 {five}");
        }
    }
    let learned = figure(&result(&sandbox, "fed-sasrec-none")["test"], "HR@5");
    assert!(learned > 0.3, "a model can find what is not masked: {learned}");

    let eval = sandbox.lumos(&["eval", "fed-sasrec-history", "--json"]).json();
    assert_eq!((&eval["masked_targets"], &eval["mask"], &eval["HR@5"]), (&USERS.into(), &"history".into(), &0.0.into()));
    let eval = sandbox.lumos(&["eval", "fed-sasrec-history"]).done();
    assert!(eval.lines().any(|l| l.split_whitespace().eq(["masked", "targets", "200"])), "{eval}");
    let page = String::from_utf8(sandbox.read("fed-sasrec-history/report.html")).unwrap();
    assert!(page.contains("200 validation targets and 200 test targets may not be recommended"), "{page}");

    // What is recommended is what is measured: the user's own items are in the list or in none of it.
    for (method, mask) in [("fed-sasrec", "history"), ("fed-sasrec", "none"), ("popularity", "history"), ("popularity", "none")] {
        let list = sandbox.lumos(&["recommend", &format!("{method}-{mask}"), "--user", "u7", "-k", "200", "--json"]).json();
        let named: Vec<&str> = list["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap()).collect();
        let text = String::from_utf8(sandbox.read("fav.inter")).unwrap();
        let own: std::collections::BTreeSet<&str> =
            text.lines().filter_map(|l| l.strip_prefix("u7\t")).map(|l| l.split('\t').next().unwrap()).collect();
        assert_eq!(own.len(), OWN as usize);
        let listed = own.iter().filter(|item| named.contains(item)).count();
        assert_eq!(listed, if mask == "none" { own.len() } else { 0 }, "{method}, {mask}");
    }
    let ranks = |run: &str| lumos::run::read_ranks(&sandbox.path().join(run).join("ranks-test.safetensors")).unwrap().0;
    assert!(ranks("fed-sasrec-history").iter().all(|r| *r == u32::MAX) && ranks("fed-sasrec-none").iter().all(|r| (1..=200).contains(r)));
    sandbox.lumos(&["compare", "fed-sasrec-none", "popularity-none"]).done();
    sandbox
        .lumos(&["compare", "fed-sasrec-none", "popularity-history"])
        .refused(1, &["popularity-history", "eval.mask", "none", "history"]);
}

#[test]
fn users_who_come_back_are_spoken_of_once_until_something_is_chosen() {
    let sandbox = Sandbox::new();
    let config = favourites(&sandbox);
    let notes = |text: &str| text.matches("repeats=first").count();
    let prepared = sandbox.lumos(&["data", "prepare", "--format", "recbole", "--inter", "fav.inter", "--out", "fav"]).done();
    assert_eq!((notes(&prepared), prepared.contains("100.0 % of the test targets")), (1, true), "{prepared}");
    let short = ["--set", "federation.rounds=1"];
    let train = |out: &str, more: &[&str]| sandbox.lumos(&[&["train", &config, "--out", out], &short[..], more].concat()).done();
    assert_eq!(notes(&train("plain", &[])), 1);
    assert_eq!(notes(&train("popular", &["--set", "method=popularity"])), 1);
    assert_eq!(notes(&train("masked", &["--set", "eval.mask=history"])), 0);
    assert_eq!(notes(&train("open", &["--set", "eval.mask=none"])), 0);
    for (run, expected) in [("plain", 1), ("popular", 1), ("masked", 0), ("open", 0)] {
        assert_eq!(notes(&String::from_utf8(sandbox.read(&format!("{run}/report.html"))).unwrap()), expected, "{run}");
    }
    let run = sandbox.lumos(&[&["run", &config, "--out", "both"], &short[..]].concat()).done();
    assert_eq!((notes(&run), run.contains("masked targets: 200;")), (1, true), "{run}");
    assert_eq!(notes(&sandbox.lumos(&["data", "build", &config]).done()), 1);
    // Where nobody comes back there is nothing to say.
    let quiet = sandbox.lumos(&["train", &small(), "--out", "quiet"]).done();
    assert!(notes(&quiet) == 0 && !quiet.contains("masked"), "{quiet}");
}

/// `eval.mask` moves views only where it changes them.
#[test]
fn views_of_another_mask_lie_in_another_folder_and_those_of_the_default_where_they_always_did() {
    let sandbox = Sandbox::new();
    let folder = |sets: &[&str]| {
        let config = small();
        let mut words = vec!["views", "build", config.as_str()];
        sets.iter().for_each(|set| words.extend(["--set", set]));
        let told = sandbox.lumos(&words).done();
        let line = told.lines().find(|l| l.starts_with("views ")).unwrap().to_string();
        (line.contains("reused"), line.rsplit('/').next().unwrap().trim_end_matches(')').to_string())
    };
    let plain = folder(&[]);
    assert!(plain.1.ends_with("-8eb5d82ac31aecae"), "the digest that default settings have had so far: {}", plain.1);
    assert_eq!(folder(&["eval.mask=history"]), (true, plain.1.clone()));
    let open = folder(&["eval.mask=none"]);
    assert!(!open.0 && open.1 != plain.1);
    assert_eq!(folder(&["eval.mask=none"]), (true, open.1));
}

/// Items whose ids hold commas, brackets and blanks.
fn odd_ids(sandbox: &Sandbox) {
    let ids = ["Salt, Pepper", "Salt", "[x]", "a,b", "50", "181", "172", "tea", "soap", "rope"];
    let mut text = String::from("user_id,item_id,timestamp\n");
    for user in 0..30 {
        for at in 0..6 {
            text += &format!("u{user},\"{}\",{at}\n", ids[(user * 3 + at) % ids.len()]);
        }
    }
    sandbox.write("odd.csv", text.as_bytes());
    let config = "[data]\nname = \"odd\"\nformat = \"csv\"\ninter = \"odd.csv\"\n[eval]\nk = [5]\nselect = \"HR@5\"\n";
    sandbox.write("odd.toml", config.as_bytes());
    sandbox.lumos(&["train", "odd.toml", "--set", "method=popularity", "--out", "popular"]).done();
    let words = "train odd.toml --set method=fed-sasrec --set loss.negatives=4 --set federation.rounds=1 --set model.dim=8 --out model"
        .split(' ')
        .collect::<Vec<_>>();
    sandbox.lumos(&words).done();
}

#[test]
fn a_history_may_hold_any_id() {
    let sandbox = Sandbox::new();
    odd_ids(&sandbox);
    for run in ["popular", "model"] {
        let list = |history: &[&str]| {
            let mut words = vec!["recommend", run, "-k", "10", "--json"];
            history.iter().for_each(|value| words.extend(["--history", value]));
            let json = sandbox.lumos(&words).json();
            let items = json["items"].as_array().unwrap().iter().map(|i| i["item"].as_str().unwrap().to_string()).collect::<Vec<_>>();
            (json["history"].as_u64().unwrap(), items)
        };
        let expected = list(&["50", "181", "172"]);
        assert_eq!((expected.0, expected.1.len()), (3, 7));
        assert_eq!(list(&["50,181, 172"]), expected, "between commas");
        assert_eq!(list(&["[\"50\", 181, \"172\"]"]), expected, "a JSON list");
        assert_eq!(list(&["50,181", "172"]), expected, "both");
        assert_eq!(list(&["Salt, Pepper"]), list(&["[\"Salt, Pepper\"]"]), "an id with a comma");
        assert_eq!(list(&["Salt, Pepper", "a,b", "[x]"]).0, 3);
        let refused = |history: &[&str], parts: &[&str]| sandbox.lumos(&[&["recommend", run], history].concat()).refused(1, parts);
        refused(&["--history", "Salt,Pepper"], &["--history", "`Pepper`"]);
        refused(&["--history", "[1,"], &["--history", "JSON"]);
        // The nearest name is given where it is near.
        refused(&["--history", "Salt Pepper"], &["`Salt Pepper`", "did you mean `Salt, Pepper`"]);
        refused(&["--user", "U1"], &["--user", "`U1`", "did you mean `u1`"]);
        for words in [["--history", "zebra crossing"], ["--user", "zebra crossing"]] {
            let far = sandbox.lumos(&[&["recommend", run], &words[..]].concat());
            far.refused(1, &["`zebra crossing`"]);
            assert!(!far.stderr().contains("did you mean"), "{}", far.stderr());
        }
        // A command line that is not enough names both flags.
        sandbox.lumos(&["recommend", run]).refused(2, &["--user", "--history"]);
        sandbox.lumos(&["recommend", run, "--user", "u1", "--history", "50"]).refused(2, &["--user", "--history"]);
    }
    // Popularity lists items by the number of times that they were met in training.
    let table = sandbox.lumos(&["recommend", "popular", "--user", "u1", "-k", "3"]).done();
    assert!(table.contains("history: 6 items") && table.contains("score"), "{table}");
    let help = sandbox.lumos(&["recommend", "--help"]).done();
    assert!(help.contains("eval.mask") && help.contains("JSON list"), "{help}");
}

#[test]
fn a_comparison_has_one_heading_and_p_as_a_reader_expects() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--out", "a"]).done();
    sandbox.lumos(&["train", &small(), "--out", "b", "--set", "method=popularity"]).done();
    sandbox.lumos(&["eval", "b", "--local-epochs", "1"]).refused(1, &["--local-epochs", "`popularity` trains no model"]);
    let told = sandbox.lumos(&["compare", "b", "a"]).done();
    assert_eq!(told.matches("200 users; difference B - A").count(), 1, "{told}");
    let tests: Vec<&str> = told.lines().filter(|l| l.starts_with("HR@") || l.starts_with("NDCG@")).collect();
    assert_eq!(tests.len(), 4, "{told}");
    for line in tests {
        let p = line.rsplit("  ").next().unwrap();
        let digits = p.strip_prefix("p = ").or(p.strip_prefix("p < ")).unwrap_or_else(|| panic!("{line}"));
        assert!(digits == "1.00" || (digits.starts_with('.') && (3..=4).contains(&digits.len())), "{line}");
    }
    let json = sandbox.lumos(&["compare", "b", "a", "--json"]).json();
    assert!(json["tests"][0]["hr_p"].is_number());
    let run = sandbox.lumos(&["run", &small()]).done();
    let heading = "A = fed-sasrec, B = lumos: 200 users; difference B - A, 95 % bootstrap interval over users\n";
    let tests: Vec<&str> = run.lines().filter(|line| line.contains("  p ")).collect();
    assert!(run.contains(heading) && tests.len() == 2 && tests.iter().all(|line| !line.contains("e-")), "{run}");
}

/// The line of JSON in the README has the keys that are printed, in their order.
#[test]
fn the_readme_shows_json_as_it_is_printed() {
    let readme = include_str!("../../README.md");
    let shown = readme.lines().find(|line| line.starts_with("{\"HR@")).unwrap();
    let sandbox = Sandbox::new();
    let sets = ["--set", "eval.k=5,10,20", "--set", "federation.rounds=1"];
    sandbox.lumos(&[&["train", "small.toml", "--out", "r"], &sets[..]].concat()).done();
    let printed = sandbox.lumos(&["eval", "r", "--split", "test", "--json"]).done();
    let keys = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap();
        // Keys as they stand: none of the values holds a quoted text with a colon behind it.
        line.split('"')
            .zip(line.split('"').skip(1))
            .filter(|(_, next)| next.starts_with(':'))
            .map(|(key, _)| key.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(shown), keys(&printed));
}

/// May everybody read it and nobody write it.
#[cfg(unix)]
fn read_only(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_only(&path);
        } else {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
        }
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o555)).unwrap();
}

#[cfg(unix)]
#[test]
fn a_folder_that_may_only_be_read_gives_its_figures_and_says_that_ranks_were_not_kept() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let sandbox = Sandbox::new();
    let trained = sandbox.lumos(&["train", &small(), "--out", "a", "--json"]).json();
    let open = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(sandbox.path(), 0o755);
    read_only(&sandbox.path().join("a"));
    let before = sandbox.read("a/ranks-test.safetensors");
    // The administrator may write anywhere: where the test runs as one, the program runs as nobody, from a place that nobody may read.
    let program = sandbox.path().join("lumos");
    std::fs::copy(env!("CARGO_BIN_EXE_lumos"), &program).unwrap();
    let root = std::fs::metadata(sandbox.path()).unwrap().uid() == 0;
    let eval = |words: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command.args(words).current_dir(sandbox.path());
        if root {
            command.uid(65_534).gid(65_534);
        }
        Ran::new(command.output().unwrap(), &words.join(" "))
    };
    let table = eval(&["eval", "a"]).done();
    assert!(table.contains("NDCG@10") && table.contains("ranks were not kept: a/"), "{table}");
    let json = eval(&["eval", "a", "--json"]).json();
    assert_eq!((&json["HR@10"], &json["ranks_kept"]), (&trained["test"]["HR@10"], &false.into()));
    assert_eq!(sandbox.lumos(&["eval", "a", "--json", "--checkpoint", "last"]).json()["ranks_kept"], false);
    assert!(before == sandbox.read("a/ranks-test.safetensors"));
    // So that the folder can be removed.
    open(&sandbox.path().join("a"), 0o755);
    open(&sandbox.path().join("a/checkpoints"), 0o755);
    assert_eq!(sandbox.lumos(&["eval", "a", "--json"]).json()["ranks_kept"], true);
}

#[test]
fn views_are_measured_against_what_came_next() {
    let sandbox = Sandbox::new();
    let json = |generator: &str| {
        let set = format!("views.generator={generator}");
        let folder =
            sandbox.lumos(&["views", "build", "small.toml", "--set", &set, "--json"]).json()["folder"].as_str().unwrap().to_string();
        (sandbox.lumos(&["views", "score", &folder, "--json"]).json(), folder)
    };
    let (catalogue, folder) = json("catalogue");
    let (random, _) = json("random");
    let of = |score: &serde_json::Value, key: &str| score[key].as_f64().unwrap_or_else(|| panic!("{key}: {score}"));
    // A synthetic world's tastes are its categories, of which it has few: a random list of four often meets the right one.
    for key in ["next_item_hit", "category_hit", "neighbour_hit"] {
        assert!(of(&catalogue, key) > of(&random, key), "{key}: {catalogue} {random}");
    }
    assert!(of(&catalogue, "next_item_hit") > 2.0 * of(&random, "next_item_hit"), "{catalogue} {random}");
    assert!(of(&catalogue, "likeness_paraphrase") > of(&catalogue, "likeness_random"));
    assert!(of(&catalogue, "likeness_counterfactual") < of(&catalogue, "likeness_random"));
    assert!((of(&random, "likeness_future") - of(&random, "likeness_random")).abs() < 0.02, "{random}");
    assert_eq!((&catalogue["users"], &catalogue["generator"]), (&200.into(), &"catalogue".into()));
    assert!(of(&catalogue["transitions"], "next_item_hit") > of(&catalogue["random"], "next_item_hit"));
    let table = sandbox.lumos(&["views", "score", &folder]).done();
    assert!(table.contains("names the next item") && table.contains("transitions") && table.contains("counterfactual"), "{table}");
    sandbox.lumos(&["views", "score", "data/small"]).refused(1, &["data/small"]);
}
