//! What a finished run leaves, without what depends on the clock.
#![allow(dead_code)]

use serde_json::Value;
use std::path::Path;

/// JSON without what depends on the clock, and without the checksum over that.
pub fn timeless(mut value: Value) -> Value {
    let clock = |key: &str| key == "crc32c" || key == "seconds" || key == "train_seconds" || key.ends_with("_s");
    let parts = value.as_object_mut().unwrap();
    parts.retain(|key, _| !clock(key));
    for part in parts.values_mut().filter(|part| part.is_object()) {
        *part = timeless(part.take());
    }
    value
}

/// Everything of a finished run that must not depend on how it came about, by the name of its file.
pub fn outcome(run: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let read = |name: &str| std::fs::read(run.join(name)).unwrap_or_else(|e| panic!("{}: {e}", run.join(name).display()));
    let whole = ["checkpoints/last.safetensors", "checkpoints/best.safetensors", "ranks-test.safetensors", "ranks-validation.safetensors"];
    let mut files: Vec<(&str, Vec<u8>)> = whole.map(|name| (name, read(name))).to_vec();
    for name in ["metrics.jsonl", "result.json"] {
        let bytes = read(name);
        let values = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>().map(|v| timeless(v.unwrap()).to_string() + "\n");
        files.push((name, values.collect::<String>().into_bytes()));
    }
    files
}

#[track_caller]
pub fn same_outcome(a: &Path, b: &Path, what: &str) {
    for ((name, a), (_, b)) in outcome(a).into_iter().zip(outcome(b)) {
        assert!(a == b, "{what}: {name} differs");
    }
}
