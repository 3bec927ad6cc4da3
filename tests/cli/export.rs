//! Checkpoints for PyTorch, ONNX and numpy. `$LUMOS_PYTHON`, else `python3`, runs the exported models where it has torch and safetensors, or
//! onnxruntime.

use crate::real;
use crate::sandbox::{Sandbox, small};
use lumos::{Split, data, run};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

/// Settings of the three backbones that have something of their own.
const MODELS: [(&str, &[&str]); 4] = [
    ("fed-sasrec", &["model.heads=2", "model.blocks=2", "model.ffn=12"]),
    ("lumos-adam", &["model.max_len=6", "model.positions=first", "model.residual=input", "model.scale_items=false"]),
    ("fed-gru4rec", &["model.blocks=2", "model.max_len=5"]),
    ("fed-bert4rec", &["model.heads=2", "model.max_len=7"]),
];

/// A run folder of each model.
fn trained(sandbox: &Sandbox) -> Vec<String> {
    let one = |(method, more): &(&str, &[&str])| {
        let mut words =
            vec!["train".to_string(), small(), "--out".into(), format!("runs/{method}"), "--set".into(), format!("method={method}")];
        words.extend(more.iter().flat_map(|set| ["--set".to_string(), set.to_string()]));
        words.extend(["--set", "loss.negatives=4"].map(String::from));
        sandbox.lumos(&words.iter().map(String::as_str).collect::<Vec<_>>()).done();
        format!("runs/{method}")
    };
    MODELS.iter().map(one).collect()
}

const RANKS: &str = r#"
import json, sys
sys.path.insert(0, sys.argv[1])
import model
asked, m = json.load(open(sys.argv[2])), model.load()
print(json.dumps([model.rank(m, *user) for user in asked]))
"#;

/// Every user's history, target and the items that its rank leaves out, in a file.
fn questions(sandbox: &Sandbox) -> PathBuf {
    let world = data::load(&sandbox.path().join("data/small")).unwrap();
    let asked: Vec<Value> = (0..world.users())
        .map(|user| {
            let (history, target) = world.input_and_target(user, Split::Test).unwrap();
            json!([history, target, history.iter().filter(|item| **item != target).collect::<Vec<_>>()])
        })
        .collect();
    sandbox.write("asked.json", Value::from(asked).to_string().as_bytes())
}

/// Whether `script`, given the folder `out` and the questions, finds the ranks that the run in `folder` kept.
fn same_ranks(sandbox: &Sandbox, folder: &str, python: &str, script: &str, out: &str) {
    let output = Command::new(python).args(["-c", script]).arg(sandbox.path().join(out)).arg(questions(sandbox)).output().unwrap();
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<u32> = serde_json::from_slice(&output.stdout).unwrap();
    let (ours, _) = run::read_ranks(&sandbox.path().join(folder).join("ranks-test.safetensors")).unwrap();
    // A target in the history is a miss for LUMOS, whatever its score.
    let off: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| **a != lumos::MISS && a != b).collect();
    assert!(ours.len() == 200 && off.is_empty(), "{folder}: LUMOS and the other {off:?}");
}

#[test]
fn pytorch_gives_the_same_ranks() {
    let Some(python) = python_with("import torch, safetensors.torch", "torch and safetensors") else { return };
    let sandbox = Sandbox::new();
    for folder in trained(&sandbox) {
        let out = format!("{folder}-torch");
        let said = sandbox.lumos(&["export", &folder, "--torch", &out]).done();
        assert!(said.contains("4 files of round"), "{said}");
        same_ranks(&sandbox, &folder, &python, RANKS, &out);
    }
    // The program of the export itself.
    let first = world_item(&sandbox);
    let run = |item: &str| Command::new(&python).arg(sandbox.path().join("runs/fed-sasrec-torch/model.py")).arg(item).output().unwrap();
    let top = run(&first);
    assert_eq!(String::from_utf8_lossy(&top.stdout).lines().count(), 10, "{}", String::from_utf8_lossy(&top.stderr));
    assert!(!run("no such item").status.success());
}

#[cfg(feature = "onnx")]
const ONNX: &str = r#"
import json, sys
import numpy, onnxruntime
asked, session = json.load(open(sys.argv[2])), onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx")
def rank(history, target, hidden):
    scores, = session.run(["scores"], {"history": numpy.array(history[-LONGEST:], numpy.int64)})
    keep = numpy.ones(len(scores), bool)
    keep[hidden] = False
    return int((scores[keep] >= scores[target]).sum())
print(json.dumps([rank(*user) for user in asked]))
"#;

#[cfg(feature = "onnx")]
#[test]
fn an_onnx_graph_gives_the_same_ranks() {
    let Some(python) = python_with("import onnxruntime", "onnxruntime") else { return };
    let sandbox = Sandbox::new();
    for (folder, longest) in trained(&sandbox).iter().zip(["50", "6"]) {
        let out = format!("{folder}-onnx");
        assert!(sandbox.lumos(&["export", folder, "--onnx", &out]).done().contains("2 files of round"));
        same_ranks(&sandbox, folder, &python, &ONNX.replace("LONGEST", longest), &out);
    }
}

/// Without another program: what is written is a graph whose nodes read only what is there.
#[cfg(feature = "onnx")]
#[test]
fn an_onnx_graph_is_whole() {
    let sandbox = Sandbox::new();
    let more = ["--set", "loss.negatives=4", "--set", "model.heads=2", "--set", "model.scale_items=true"];
    sandbox.lumos(&[&["train", &small(), "--set", "method=fed-sasrec", "--out", "r"], &more[..]].concat()).done();
    sandbox.lumos(&["export", "r", "--onnx", "out"]).done();
    let bytes = sandbox.read("out/model.onnx");
    let graph = onnx_rs::parse(&bytes).unwrap().graph.unwrap();
    let mut known: std::collections::HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name()).chain(["history"]).collect();
    for node in &graph.node {
        assert!(node.input.iter().all(|name| known.contains(name)), "{node:?}");
        known.extend(&node.output);
    }
    assert!(known.contains("scores") && graph.node.len() > 30);
    let world = data::load(&sandbox.path().join("data/small")).unwrap();
    let items = graph.initializer.iter().find(|tensor| tensor.name() == "items").unwrap();
    assert_eq!(items.dims(), [world.item_count() as i64, 8]);
    sandbox.lumos(&["train", &small(), "--set", "method=fed-gru4rec", "--set", "loss.negatives=4", "--out", "gru"]).done();
    sandbox.lumos(&["export", "gru", "--onnx", "no"]).refused(1, &["gru4rec", "--torch"]);
}

fn world_item(sandbox: &Sandbox) -> String {
    data::load(&sandbox.path().join("data/small")).unwrap().item_tokens[0].clone()
}

#[test]
fn arrays_are_the_weights_and_the_catalogue_names_their_rows() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["train", &small(), "--set", "method=fed-sasrec", "--set", "loss.negatives=4", "--out", "r"]).done();
    let said = sandbox.lumos(&["export", "r", "--numpy", "arrays", "--torch", "torch", "--checkpoint", "last"]).done();
    assert_eq!(said.lines().count(), 2, "{said}");
    let checkpoint = run::Checkpoint::load(&sandbox.path().join("r/checkpoints/last.safetensors")).unwrap();
    for tensor in checkpoint.tensors.iter().filter(|t| !t.name.starts_with("server.")) {
        let lumos::engine::TensorData::F32(values) = &tensor.data else { continue };
        let bytes = sandbox.read(&format!("arrays/{}.npy", tensor.name));
        let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(bytes.starts_with(b"\x93NUMPY") && bytes.ends_with(&values), "{}", tensor.name);
    }
    let catalogue = String::from_utf8(sandbox.read("arrays/items.csv")).unwrap();
    let world = data::load(&sandbox.path().join("data/small")).unwrap();
    assert_eq!(catalogue.lines().count(), 1 + world.item_count());
    assert!(catalogue.lines().nth(1).unwrap().starts_with(&format!("0,{},", world.item_tokens[0])), "{catalogue}");
}

/// Who trains alone keeps moments in its checkpoint: they are no weights.
#[test]
fn moments_of_an_optimiser_are_not_exported() {
    let sandbox = Sandbox::new();
    let set = [
        "--set",
        "method=sasrec",
        "--set",
        "model.dim=8",
        "--set",
        "model.heads=1",
        "--set",
        "federation.rounds=1",
        "--set",
        "loss.negatives=4",
    ];
    sandbox.lumos(&[&["train", &small(), "--out", "runs/alone"][..], &set].concat()).done();
    sandbox.lumos(&["export", "runs/alone", "--numpy", "arrays"]).done();
    let names: Vec<String> =
        std::fs::read_dir(sandbox.path().join("arrays")).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name == "items.npy"), "{names:?}");
    assert!(names.iter().all(|name| !name.starts_with("optimizer") && !name.starts_with("server")), "{names:?}");
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["export", "nowhere", "--torch", "out"]).refused(1, &["nowhere"]);
    sandbox.lumos(&["train", &small(), "--set", "method=popularity", "--out", "pop"]).done();
    sandbox.lumos(&["export", "pop", "--torch", "out"]).refused(1, &["popularity", "no weights"]);
    sandbox.lumos(&["export", "pop"]).refused(2, &["--torch"]);
    assert!(!sandbox.path().join("out").exists(), "nothing may be written");
}

/// A Python that can do what `needs` says, called `what`.
fn python_with(needs: &str, what: &str) -> Option<String> {
    let python = std::env::var("LUMOS_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", needs]).output();
    if found.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    real::skip(format!("{python} has no {what}; LUMOS_PYTHON names another Python"))
}
