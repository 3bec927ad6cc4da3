//! Folders that are not a whole model are refused with what is wrong, before anything is computed.

use super::common::{Loaded, greedy, reference, save, texts, tinystories, weights};
use lumos::llm::{EngineOptions, Model, Options, Spec, Weights};
use serde_json::{Value, json};
use std::path::Path;

/// A copy of the real folder that may be damaged.
fn copy() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tinystories()?).unwrap() {
        let entry = entry.unwrap();
        // Written anew: the original is read-only.
        std::fs::write(folder.path().join(entry.file_name()), std::fs::read(entry.path()).unwrap()).unwrap();
    }
    Some(folder)
}

#[track_caller]
fn refused(folder: &Path, parts: &[&str]) {
    let message = Model::load(folder, &Options::default()).err().expect("refused").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn edit(folder: &Path, file: &str, change: impl FnOnce(&mut Value)) {
    let path = folder.join(file);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

#[test]
fn damaged_folders_are_named() {
    let Some(intact) = copy() else { return };
    let model = Model::load(intact.path(), &Options::default()).unwrap();
    assert_eq!((model.dtype(), model.parameters(), model.spec().layers), ("bf16", 656_000, 2));
    assert_eq!(model.hash().unwrap().len(), 64);
    assert_eq!(model.defaults.eos, [2]);
    let case = |change: &dyn Fn(&Path), parts: &[&str]| {
        let folder = copy().unwrap();
        change(folder.path());
        refused(folder.path(), parts);
    };
    let set = |key: &'static str, value: Value| move |f: &Path| edit(f, "config.json", |v| v[key] = value.clone());
    case(&|f| std::fs::remove_file(f.join("config.json")).unwrap(), &["config.json", "cannot read"]);
    case(&|f| std::fs::write(f.join("config.json"), "{\n\n oops").unwrap(), &["config.json:3:", "not JSON"]);
    case(&set("architectures", json!(["LamaForCausalLM"])), &["unknown architecture `LamaForCausalLM`", "`LlamaForCausalLM`"]);
    case(&set("architectures", json!(null)), &["`architectures` is missing"]);
    case(&set("hidden_size", json!("wide")), &["`hidden_size` is \"wide\""]);
    case(&set("num_hidden_layers", json!(3)), &["`model.layers.2.", "missing", "nearest"]);
    case(&set("intermediate_size", json!(385)), &["shape [384, 128]", "[385, 128]"]);
    case(&set("num_key_value_heads", json!(3)), &["3 key heads do not divide 8"]);
    case(&set("hidden_act", json!("silo")), &["unknown activation `silo`", "`silu`"]);
    case(&set("rope_scaling", json!({"rope_type": "yarn", "factor": 4})), &["unknown rotary scaling `yarn`"]);
    case(&set("rope_scaling", json!({"rope_type": "llama3"})), &["needs `original_max_position_embeddings`"]);
    case(&set("rms_norm_eps", json!(-1)), &["`rms_norm_eps`", "above 0"]);
    case(&set("vocab_size", json!(2000)), &["tokenizer.json", "token 2047", "different models"]);
    case(&set("vocab_size", json!(50_000)), &["tokenizer.json", "2048 tokens", "different models"]);
    case(&|f| std::fs::remove_file(f.join("tokenizer.json")).unwrap(), &["tokenizer.json", "cannot read"]);
    case(&|f| std::fs::write(f.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json", "not a tokenizer"]);
    case(&|f| std::fs::remove_file(f.join("model.safetensors")).unwrap(), &["neither model.safetensors nor"]);
    case(
        &|f| {
            let bytes = std::fs::read(f.join("model.safetensors")).unwrap();
            std::fs::write(f.join("model.safetensors"), &bytes[..bytes.len() - 1000]).unwrap();
        },
        &["model.safetensors", "cut off or damaged"],
    );
    case(&|f| std::fs::write(f.join("model.safetensors"), [255; 40]).unwrap(), &["model.safetensors", "cut off or damaged"]);
    case(&|f| edit(f, "generation_config.json", |v| v["eos_token_id"] = json!([2, 9999])), &["`eos_token_id` 9999"]);
    refused(&intact.path().join("nowhere"), &["nowhere"]);
    refused(&intact.path().join("config.json"), &["name the folder"]);
}

#[test]
fn shards_are_one_model_and_a_missing_one_is_named() {
    let config = &reference()["qwen2"]["config"];
    let whole = Loaded::random(config, 2);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let all = weights(&Spec::read(folder.path()).unwrap());
    let (first, second) = all.split_at(all.len() / 2);
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let mut map = serde_json::Map::new();
    for (name, part) in names.iter().zip([first, second]) {
        save(&folder.path().join(name), part);
        part.iter().for_each(|(tensor, _, _)| drop(map.insert(tensor.clone(), json!(name))));
    }
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    let sharded = Loaded::open(folder.path(), 2);
    let write = |loaded: &Loaded| texts(&mut loaded.engine(EngineOptions::default()), vec![greedy(vec![1, 2, 3], 20)]);
    assert_eq!(write(&sharded), write(&whole));

    let refused = |parts: &[&str]| {
        let message = Weights::open(folder.path()).err().expect("refused").to_string();
        parts.iter().for_each(|p| assert!(message.contains(p), "`{p}` is not in: {message}"));
    };
    let mut wrong = map.clone();
    wrong.insert("model.layers.9.mlp.up_proj.weight".into(), json!(names[0]));
    std::fs::write(&index, json!({ "weight_map": wrong }).to_string()).unwrap();
    refused(&["`model.layers.9.mlp.up_proj.weight` is not in"]);
    wrong.insert("x".into(), json!("../../etc/passwd"));
    std::fs::write(&index, json!({ "weight_map": wrong }).to_string()).unwrap();
    refused(&["not a file name inside the folder"]);
    std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    std::fs::remove_file(folder.path().join(names[1])).unwrap();
    refused(&["1 of 2 shards missing", names[1]]);
    std::fs::write(&index, "{}").unwrap();
    refused(&["`weight_map` is missing"]);
}
