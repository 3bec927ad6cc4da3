//! Every method by its agreed name through the real binary.

use super::sandbox::Sandbox;

/// The names that scripts and tables rely on.
const AGREED: [&str; 22] = [
    "transitions",
    "fed-transitions",
    "sasrec",
    "sasrec-ce",
    "gru4rec",
    "bert4rec",
    "cl4srec",
    "duorec",
    "gcl4sr",
    "fed-sasrec",
    "fed-gru4rec",
    "fed-cl4srec",
    "fellas",
    "pfsr",
    "lumos",
    "lumos-gru4rec",
    "lumos-literal",
    "lumos-no-future",
    "lumos-no-paraphrase",
    "lumos-no-counterfactual",
    "lumos-history-counterfactual",
    "lumos-joint",
];

#[test]
fn every_agreed_name_trains_and_is_tested() {
    let sandbox = Sandbox::new();
    for method in AGREED {
        let set = format!("method={method}");
        let short = [
            "--set",
            "federation.rounds=2",
            "--set",
            "eval.every=2",
            "--set",
            "local.batch=64",
            "--set",
            "model.dim=8",
            "--set",
            "loss.negatives=16",
        ];
        let words = ["train", "small.toml", "--out", method, "--set", &set, "--json"];
        let run = sandbox.lumos(&[&words[..], &short].concat()).json();
        assert_eq!(run["method"], method);
        let hit = run["test"]["HR@10"].as_f64().unwrap();
        assert!(hit > 0.0 && run["test"]["users"].as_u64() == Some(200), "{method}: {run}");
    }
}
