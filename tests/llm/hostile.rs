//! Sizes that no file can mean are refused with the number and the limit, before anything is allocated by them.

use super::common::{Loaded, reference};
use lumos::llm::{Engine, EngineOptions, Gguf, Spec};
use serde_json::{Value, json};
use std::path::Path;

fn config() -> Value {
    reference()["qwen3"]["config"].clone()
}

#[track_caller]
fn refused<T>(outcome: lumos::Result<T>, parts: &[&str]) {
    let message = outcome.err().expect("refused").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(message.len() < 1000, "{message}");
}

#[test]
fn sizes_in_a_configuration_have_limits() {
    for (key, most) in [
        ("num_hidden_layers", 1024_u64),
        ("num_attention_heads", 4096),
        ("num_key_value_heads", 4096),
        ("hidden_size", 131_072),
        ("intermediate_size", 1_048_576),
        ("vocab_size", 4_194_304),
        ("max_position_embeddings", 1 << 30),
    ] {
        for size in [most + 1, 10_u64.pow(15), u64::MAX] {
            let mut config = config();
            config[key] = json!(size);
            refused(Spec::parse(Path::new("config.json"), &config), &[key, &size.to_string(), &format!("from 1 to {most}")]);
        }
        for odd in [json!(0), json!(-1), json!(1e300), json!("9".repeat(5000)), json!([1])] {
            let mut config = config();
            config[key] = odd;
            refused(Spec::parse(Path::new("config.json"), &config), &[key, &format!("from 1 to {most}")]);
        }
    }
    let mut config = config();
    config["num_hidden_layers"] = json!(1024);
    assert!(Spec::parse(Path::new("config.json"), &config).is_ok());
    config["layer_types"] = json!(["x".repeat(5000)]);
    config["num_hidden_layers"] = json!(1);
    refused(Spec::parse(Path::new("config.json"), &config), &["layer type"]);
}

#[test]
fn a_cache_that_the_machine_cannot_hold_is_refused() {
    let loaded = Loaded::random(&config(), 1);
    let engine = |options| Engine::on(&loaded.network, &loaded.ops, &loaded.pool, 512, options);
    refused(engine(EngineOptions { slots: 65_537, ..Default::default() }), &["65537", "65536"]);
    refused(engine(EngineOptions { slots: usize::MAX, ..Default::default() }), &["65536"]);
    refused(engine(EngineOptions { cache_tokens: usize::MAX, ..Default::default() }), &["at most"]);
    refused(engine(EngineOptions { cache_tokens: 1 << 35, ..Default::default() }), &["tokens of keys and values", "GiB", "--batch"]);
    assert!(engine(EngineOptions { slots: 65_536, cache_tokens: 512, ..Default::default() }).is_ok());
}

/// A header of version 3 with these counts, and what follows.
fn header(tensors: u64, entries: u64, rest: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat();
    rest.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

fn text(words: &str) -> Vec<u8> {
    [&(words.len() as u64).to_le_bytes()[..], words.as_bytes()].concat()
}

/// An entry of metadata of type `kind`.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

/// A tensor of f32.
fn tensor(name: &str, dims: &[u64], offset: u64) -> Vec<u8> {
    let mut bytes = [&text(name)[..], &(dims.len() as u32).to_le_bytes()].concat();
    dims.iter().for_each(|d| bytes.extend_from_slice(&d.to_le_bytes()));
    [&bytes[..], &0u32.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn a_gguf_header_cannot_say_more_than_its_file_holds() {
    let spec = Spec::parse(Path::new("config.json"), &config()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let case = |bytes: Vec<u8>, parts: &[&str]| {
        std::fs::write(&path, bytes).unwrap();
        refused(Gguf::open(&path, &spec), &[&["model.gguf", "not a whole GGUF file"], parts].concat());
    };
    let room = vec![0u8; 4096];
    let architecture = entry("general.architecture", 8, &text("qwen3"));
    case(Vec::new(), &["0"]);
    case(b"GGUF".to_vec(), &["where the file has 0"]);
    case([&b"GGUF"[..], &9u32.to_le_bytes()].concat(), &["version 9"]);
    case(header(u64::MAX, 0, &[]), &["18446744073709551615 tensors", "131072 is the most"]);
    case(header(0, 1 << 40, &[]), &["1099511627776 entries of metadata", "16384 is the most"]);
    case(header(0, 1, &[&u64::MAX.to_le_bytes(), &room]), &["bytes in a key", "65536"]);
    case(header(0, 1, &[&entry("a", 8, &(1u64 << 60).to_le_bytes()), &room]), &["1152921504606846976 more bytes"]);
    let list = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    case(header(0, 1, &[&entry("a", 9, &list(0, 1 << 62)), &room]), &["4611686018427387904 elements", "8388608 is the most"]);
    case(header(0, 1, &[&entry("a", 9, &list(10, 1 << 20)), &room]), &["8388608 more bytes where the file has 4096"]);
    case(header(0, 1, &[&entry("a", 9, &list(9, 1).repeat(50)), &room]), &["more than 4 deep"]);
    case(header(0, 1, &[&entry("a", 77, &room)]), &["type 77"]);
    for (kind, value) in [(4, 0u64), (4, 3), (10, 1 << 40)] {
        case(header(0, 1, &[&entry("general.alignment", kind, &value.to_le_bytes()), &room]), &["general.alignment", &value.to_string()]);
    }
    case(header(0, 1, &[&entry("general.alignment", 8, &text("x")), &room]), &["no whole number"]);
    case(header(0, 2, &[&architecture, &architecture, &room]), &["`general.architecture` occurs twice"]);
    let with = |tensors: &[Vec<u8>]| header(tensors.len() as u64, 1, &[&architecture, &tensors.concat(), &room]);
    case(with(&[tensor("a", &[1 << 33, 1 << 33], 0)]), &["`a` of shape [8589934592, 8589934592]", "no tensor can have"].map(|p| &p[..3]));
    case(with(&[tensor("a", &[1 << 40], 0)]), &["`a` of shape [1099511627776] ends behind"]);
    case(with(&[tensor("a", &[4], u64::MAX - 8)]), &["ends behind"]);
    case(with(&[tensor("a", &[4, 0], 0)]), &["[0, 4]", "no tensor can have"]);
    case(with(&[tensor("a", &[], 0)]), &["no tensor can have"]);
    case(with(&[tensor("a", &[1, 1, 1, 1, 1], 0)]), &["5 dimensions, 4 is the most"]);
    case(with(&[tensor("a", &[4], 0), tensor("a", &[4], 32)]), &["a tensor's name occurs twice"]);
    let many: Vec<Vec<u8>> = (0..9).map(|i| tensor(&format!("t{i}"), &[512], 0)).collect();
    case(with(&many), &["lie on one another"]);
}

#[test]
fn safetensors_headers_are_held_against_their_file() {
    let folder = tempfile::tempdir().unwrap();
    for header in [
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}}"#,
    ] {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        refused(lumos::llm::Weights::open(folder.path()), &["model.safetensors", "not a whole safetensors file"]);
    }
    std::fs::write(folder.path().join("model.safetensors"), u64::MAX.to_le_bytes()).unwrap();
    refused(lumos::llm::Weights::open(folder.path()), &["not a whole safetensors file"]);
}
