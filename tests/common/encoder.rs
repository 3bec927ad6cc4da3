//! A tiny sentence encoder whose weights follow a formula that `scripts/llm-fixtures` computes too.
#![allow(dead_code)]

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::Path;

/// `count` numbers in [-1, 1): `numbers` of the script.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    let base = u64::from(crc.sum()) << 20;
    (0..count as u64)
        .map(|i| {
            let mut z = (base + i).wrapping_mul(0x9E37_79B1) as u32;
            z = (z ^ (z >> 15)).wrapping_mul(0x85EB_CA77);
            z = (z ^ (z >> 13)).wrapping_mul(0xC2B2_AE3D);
            z ^= z >> 16;
            (z >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// The weights of `fill` for tensors of these names and shapes.
pub fn sized(shapes: Vec<(String, Vec<usize>)>, norm_offset: bool) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let size = |name: &str, shape: &[usize], x: f32| match name {
        n if n.to_lowercase().ends_with("norm.weight") => x * 0.25 + if norm_offset { 0.0 } else { 1.0 },
        n if n.contains("embed_tokens") || n.contains("_embeddings") => x,
        n if n.ends_with(".bias") => x * 0.5,
        _ => x * (3.0 / (shape[1] as f64).sqrt()) as f32,
    };
    let one = |(name, shape): (String, Vec<usize>)| {
        let values = numbers(&name, shape.iter().product()).into_iter().map(|x| size(&name, &shape, x)).collect();
        (name, shape, values)
    };
    shapes.into_iter().map(one).collect()
}

/// Writes tensors as one safetensors file in f32.
pub fn save(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, v)| v.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views =
        tensors.iter().zip(&bytes).map(|((name, shape, _), b)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), b).unwrap()));
    std::fs::write(path, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
}

/// What the reference library says (`scripts/llm-fixtures --sentences`).
pub fn reference() -> Value {
    serde_json::from_str(include_str!("../fixtures/embed-reference.json")).unwrap()
}

/// Names and shapes of a `BertModel`'s tensors.
pub fn shapes(config: &Value) -> Vec<(String, Vec<usize>)> {
    let n = |key: &str| config[key].as_u64().unwrap() as usize;
    let (w, inner) = (n("hidden_size"), n("intermediate_size"));
    let mut all = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![n("vocab_size"), w]),
        ("embeddings.position_embeddings.weight".into(), vec![n("max_position_embeddings"), w]),
        ("embeddings.token_type_embeddings.weight".into(), vec![n("type_vocab_size"), w]),
    ];
    let mut add = |name: String, shape: Vec<usize>| {
        all.push((format!("{name}.bias"), vec![shape[0]]));
        all.push((format!("{name}.weight"), shape));
    };
    add("embeddings.LayerNorm".into(), vec![w]);
    for i in 0..n("num_hidden_layers") {
        for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
            add(format!("encoder.layer.{i}.{part}"), vec![w, w]);
        }
        add(format!("encoder.layer.{i}.intermediate.dense"), vec![inner, w]);
        add(format!("encoder.layer.{i}.output.dense"), vec![w, inner]);
        add(format!("encoder.layer.{i}.attention.output.LayerNorm"), vec![w]);
        add(format!("encoder.layer.{i}.output.LayerNorm"), vec![w]);
    }
    all
}

/// Writes `value` as `file` in `folder`.
pub fn write(folder: &Path, file: &str, value: &Value) {
    std::fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
    std::fs::write(folder.join(file), value.to_string()).unwrap();
}

/// A `modules.json`.
pub fn modules(normalize: bool) -> Value {
    let module = |i: usize, kind: &str, path: &str| json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let mut all = vec![module(0, "Transformer", ""), module(1, "Pooling", "1_Pooling")];
    all.extend(normalize.then(|| module(2, "Normalize", "2_Normalize")));
    json!(all)
}

/// A pooling's `config.json` with the choice `name`.
pub fn pooling(name: &str) -> Value {
    let mut value = json!({"word_embedding_dimension": 44, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false, "pooling_mode_mean_sqrt_len_tokens": false});
    value[name] = true.into();
    value
}

/// The tiny encoder with one way of pooling.
pub fn folder(pooled: &str, normalize: bool) -> tempfile::TempDir {
    let (folder, reference) = (tempfile::tempdir().unwrap(), reference());
    let path = folder.path();
    write(path, "config.json", &reference["config"]);
    write(path, "tokenizer.json", &reference["tokenizer"]);
    write(path, "modules.json", &modules(normalize));
    write(path, "1_Pooling/config.json", &pooling(pooled));
    write(path, "sentence_bert_config.json", &json!({"max_seq_length": reference["longest"], "do_lower_case": false}));
    save(&path.join("model.safetensors"), &sized(shapes(&reference["config"]), false));
    folder
}
