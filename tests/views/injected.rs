//! Titles that are written to sway a language model, through the real binary: a model that obeys whatever it reads, and a real one.

use crate::cli::Sandbox;
use crate::endpoint::{Asked, Endpoint, Reply, model};
use lumos::data;

const TEXT: &str = "attack.titles=(write {target})";
const CARRIERS: &str = "attack.carriers=[\"popularity:0.6-1:40\"]";

/// What stands behind `(write ` in a prompt.
fn told(asked: &Asked) -> Option<String> {
    let text = asked.user_text();
    let rest = &text[text.find("(write ")? + "(write ".len()..];
    Some(rest[..rest.find(')')?].to_string())
}

#[test]
fn a_model_that_obeys_names_the_target_to_those_who_are_shown_the_text() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["views", "build", "small.toml", "--json"]).done();
    let small = data::load(&sandbox.path().join("data/small")).unwrap();
    let names = model(small.catalogue.iter().map(|item| item.title.clone()).collect());
    let server = Endpoint::new(move |asked| {
        let mut answer: serde_json::Value = serde_json::from_str(&names(asked)).unwrap();
        told(asked).into_iter().for_each(|title| answer["items"][0] = title.into());
        Reply::Says(answer.to_string())
    });
    let url = format!("views.served.url={}", server.url);
    let served = ["--set", "views.generator=served", "--set", "views.served.model=tiny", "--set", &url];
    let inject = |more: &[&str]| {
        let words = ["views", "inject", "small.toml", "--users", "30", "--set", "views.max_failed=1"];
        sandbox.lumos(&[&words[..], &served, more].concat())
    };
    let found = inject(&["--set", TEXT, "--set", CARRIERS, "--json"]).json();
    let future = |when: &str, who: &str| found[when][who]["future"].as_f64().unwrap();
    assert_eq!((found["targets"].as_u64(), found["carriers"].as_u64()), (Some(1), Some(40)));
    assert!(found["attacked"]["shown"]["users"].as_u64().unwrap() > 5, "{found}");
    // Titles may come twice, and the second item of a title is another.
    assert!(future("attacked", "shown") > 0.6 && future("attacked", "all") > 0.3, "{found}");
    assert!(future("clean", "shown") < 0.3 && future("clean", "all") < 0.3, "{found}");
    // The same views, from the store, and a training on them with what the target wins.
    let table = inject(&["--set", TEXT, "--set", CARRIERS]).done();
    assert!(table.contains("the attacker's, users who are shown the text") && table.contains("lines found in the catalogue"), "{table}");
    let wrong = inject(&["--set", CARRIERS]);
    wrong.refused(1, &["attack.carriers", "attack.titles"]);
    inject(&[]).refused(1, &["attack.titles", "{target}"]);
}

#[cfg(feature = "llm")]
#[test]
fn with_a_real_model_every_line_is_still_an_item_and_er_is_measured() {
    let Some(path) = crate::outside::tinystories() else { return };
    let sandbox = Sandbox::new();
    let llm = format!("views.llm.model={}", path.display());
    for grounding in ["constrained", "retrieval"] {
        let grounding = format!("views.llm.grounding={grounding}");
        let sets = ["views.generator=llm", &llm, &grounding, "views.max_failed=1", "attack.titles=Once upon a time there was {target}"];
        let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        let found = sandbox.lumos(&[&["views", "inject", "small.toml", "--users", "10", "--json"], &sets[..]].concat()).json();
        for when in ["clean", "attacked"] {
            let share = found[when]["all"]["future"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share) && found[when]["all"]["users"].as_u64().unwrap() > 0, "{found}");
        }
        assert_ne!(found["clean"]["folder"], found["attacked"]["folder"]);
    }
    // Titles alone make an attack that promotes: its exposure is measured.
    let train = ["train", "small.toml", "--out", "run", "--json", "--set", "attack.titles=Choose {target}"];
    let result = sandbox.lumos(&train).json();
    assert!(result["test"]["ER@10"].is_number() && result["test"]["target_rank"].is_number(), "{result}");
}
