//! A method of one's own, from a file to a run that is evaluated and resumed without that file.

use crate::sandbox::Sandbox;

const MINE: &str =
    "summary = \"a harder contrast\"\npaper = \"none yet\"\nfamily = \"federated\"\nbase = \"lumos\"\n\n[set.ours]\nloss.lambda = 0.2\n";

#[test]
fn a_run_knows_the_method_it_was_trained_with() {
    let sandbox = Sandbox::new();
    let file = sandbox.write("mine.toml", MINE.as_bytes());
    let text = sandbox.lumos(&["methods", "--method-file", "mine.toml", "mine"]).done();
    assert!(text.contains("a harder contrast") && text.contains("loss.lambda") && text.contains("decoupled"), "{text}");
    let run = sandbox.lumos(&["train", "small.toml", "--method-file", "mine.toml", "--out", "a", "--json"]).json();
    assert_eq!(run["method"], "mine");
    // The same settings one by one give the same bits.
    sandbox.lumos(&["train", "small.toml", "--set", "loss.lambda=0.2", "--out", "b"]).done();
    assert!(sandbox.read("a/ranks-test.safetensors") == sandbox.read("b/ranks-test.safetensors"));
    std::fs::remove_file(file).unwrap();
    assert_eq!(sandbox.lumos(&["eval", "a", "--json"]).json()["method"], "mine");
    let more = ["train", "small.toml", "--method-file", "a/methods/mine.toml", "--set", "federation.rounds=6", "--out", "a", "--resume"];
    sandbox.lumos(&more).done();
    let text = sandbox.lumos(&["compare", "b", "a"]).done();
    assert!(text.contains("mine (a)"), "{text}");
}

#[test]
fn a_method_may_stand_in_a_comparison_and_errors_name_the_file() {
    let sandbox = Sandbox::new();
    sandbox.write("mine.toml", MINE.as_bytes());
    let text = sandbox.lumos(&["run", "small.toml", "--method-file", "mine.toml", "--out", "all"]).done();
    assert!(text.contains("mine ") && text.contains("fed-sasrec"), "{text}");
    // Under [methods.mine] a configuration may change it, once it is known.
    sandbox.write("bad.toml", MINE.replace("lambda", "lamda").as_bytes());
    sandbox
        .lumos(&["train", "small.toml", "--method-file", "bad.toml"])
        .refused(1, &["bad.toml, [set.ours]", "did you mean `loss.lambda`"]);
    sandbox.lumos(&["train", "small.toml", "--method-file", "none.toml"]).refused(1, &["none.toml", "check the path"]);
    sandbox.lumos(&["train", "small.toml", "--set", "method=mine"]).refused(1, &["unknown method `mine`"]);
}
