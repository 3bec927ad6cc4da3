//! The real binary where a user has several items to be found: recall, precision and MAP against a plain implementation, and what lists are like.

use crate::sandbox::Sandbox;
use lumos::Split;
use lumos::data::Dataset;
use serde_json::Value;
use std::collections::BTreeSet;

/// A world whose users have several items behind both cuts.
const CONFIG: &str = "method = \"fed-sasrec\"\n[data]\nname = \"several\"\nformat = \"synthetic\"\nsynth_users = 150\nsynth_items = 90\n\
    synth_mean_length = 20.0\ndir = \"several\"\nsplit = \"ratio\"\nvalidation_share = 0.2\ntest_share = 0.2\n[model]\ndim = 8\n[eval]\nk = [5, 10]\n\
    select = \"NDCG@10\"\n[methods.federated]\nmodel.blocks = 1\nlocal.epochs = 2\nfederation.rounds = 4\neval.every = 2\n";

/// Recall, precision and average precision at `k` of all users under popularity, by their definitions, an item behind all that tie with it.
fn plain(data: &Dataset, split: Split, k: usize) -> [f64; 3] {
    let counts = data.train_counts();
    let (mut sums, mut users) = ([0.0; 3], 0.0);
    for user in 0..data.users() {
        let Some((input, _)) = data.input_and_target(user, split) else { continue };
        let whole = data.sequence(user);
        let share = |share: f64| ((whole.len() as f64 * share).round() as usize).max(1);
        let end = if split == Split::Test { whole.len() } else { whole.len() - share(0.2) };
        let wanted: BTreeSet<u32> = whole[input.len()..end].iter().copied().collect();
        let open: Vec<u32> = (0..data.item_count() as u32).filter(|item| !input.contains(item)).collect();
        let place =
            |target: u32| open.iter().filter(|&&item| item != target && counts[item as usize] >= counts[target as usize]).count() + 1;
        let mut places: Vec<usize> = wanted.iter().filter(|item| open.contains(item)).map(|&item| place(item)).collect();
        places.sort_unstable();
        let found: Vec<usize> = places.into_iter().filter(|&place| place <= k).collect();
        let precisions: f64 = (1..).zip(&found).map(|(n, &place)| f64::from(n) / place as f64).sum();
        let one = [found.len() as f64 / wanted.len() as f64, found.len() as f64 / k as f64, precisions / wanted.len().min(k) as f64];
        sums.iter_mut().zip(one).for_each(|(sum, value)| *sum += value);
        users += 1.0;
    }
    sums.map(|sum| sum / users)
}

fn get(scores: &Value, name: &str) -> f64 {
    scores[name].as_f64().unwrap_or_else(|| panic!("no {name} in {scores}"))
}

fn result(sandbox: &Sandbox, run: &str) -> Value {
    serde_json::from_slice(&sandbox.read(&format!("{run}/result.json"))).unwrap()
}

#[test]
fn all_items_behind_a_cut_are_looked_for() {
    let sandbox = Sandbox::new();
    sandbox.write("several.toml", CONFIG.as_bytes());
    sandbox.lumos(&["train", "several.toml", "--set", "method=popularity", "--out", "popular"]).done();
    let data = lumos::data::load(&sandbox.path().join("several")).unwrap();
    let found = result(&sandbox, "popular");
    for (split, name) in [(Split::Validation, "validation"), (Split::Test, "test")] {
        for k in [5, 10] {
            let wanted = plain(&data, split, k);
            for (metric, wanted) in ["Recall", "Precision", "MAP"].iter().zip(wanted) {
                let found = get(&found[name], &format!("{metric}@{k}"));
                assert!((found - wanted).abs() < 1e-12 && wanted > 0.0, "{name} {metric}@{k}: {found} and {wanted}");
            }
        }
        assert!(get(&found[name], "targets") > 2.0 * get(&found[name], "users"), "{found}");
    }
    let eval = sandbox.lumos(&["eval", "popular", "--json"]).json();
    assert!(["Recall@5", "Precision@10", "MAP@10", "targets"].iter().all(|name| eval[name] == found["test"][name]), "{eval}");
}

#[test]
fn a_trained_model_reports_several_targets_everywhere_and_one_target_nowhere() {
    let sandbox = Sandbox::new();
    sandbox.write("several.toml", CONFIG.as_bytes());
    let told = sandbox.lumos(&["train", "several.toml", "--out", "trained"]).done();
    let found = result(&sandbox, "trained");
    let shown = format!("{:.4}", get(&found["test"], "MAP@10"));
    assert!(told.lines().any(|line| line.starts_with("MAP@10") && line.ends_with(&shown)), "{told}");
    let eval = sandbox.lumos(&["eval", "trained", "--json"]).json();
    assert_eq!(eval["Recall@10"], found["test"]["Recall@10"]);
    let lines = String::from_utf8(sandbox.read("trained/metrics.jsonl")).unwrap();
    let best = lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|l| l["round"] == found["best_round"]).unwrap();
    assert_eq!(best["valid"]["Precision@5"], found["validation"]["Precision@5"]);
    // The ranks that are kept are those of the first targets, as ever.
    let (hr, ranks) = (get(&eval, "HR@10"), lumos::run::read_ranks(&sandbox.path().join("trained/ranks-test.safetensors")).unwrap().0);
    assert_eq!(hr, ranks.iter().filter(|rank| (1..=10).contains(*rank)).count() as f64 / get(&eval, "users"));
    let one = ["train", "several.toml", "--set", "data.split=leave-one-out", "--set", "data.dir=single", "--out", "one"];
    sandbox.lumos(&one).done();
    assert!(
        sandbox
            .lumos(&["eval", "one", "--json"])
            .json()
            .as_object()
            .unwrap()
            .keys()
            .all(|name| !name.contains("Recall") && name != "targets")
    );
}

#[test]
fn lists_are_described_where_that_is_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.write("several.toml", CONFIG.as_bytes());
    sandbox.lumos(&["train", "several.toml", "--set", "method=popularity", "--set", "eval.mask=none", "--out", "popular"]).done();
    let eval = sandbox.lumos(&["eval", "popular", "--lists", "--json"]).json();
    // Without a mask everyone is shown the same five items.
    assert!((get(&eval, "coverage@5") - 5.0 / 90.0).abs() < 1e-12, "{eval}");
    let data = lumos::data::load(&sandbox.path().join("several")).unwrap();
    let counts = data.train_counts();
    let total = f64::from(counts.iter().sum::<u32>());
    let mut most = counts.clone();
    most.sort_unstable_by(|a, b| b.cmp(a));
    let novelty = most[..5].iter().map(|&count| -(f64::from(count) / total).log2()).sum::<f64>() / 5.0;
    assert!((get(&eval, "novelty@5") - novelty).abs() < 1e-9, "{novelty}: {eval}");
    let told = sandbox.lumos(&["eval", "popular", "--lists"]).done();
    assert!(told.contains("novelty@10") && told.contains("Recall@5"), "{told}");
    assert!(sandbox.lumos(&["eval", "popular", "--json"]).json().get("coverage@5").is_none());
}
