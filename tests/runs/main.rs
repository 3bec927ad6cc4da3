//! Run folders in hard times: several processes at once, signals, kills, damage, a full disk, a folder that may only be read.
#![cfg(unix)]

#[path = "../common/cli.rs"]
mod cli;
mod damage;
mod disk;
mod kills;
mod owner;
#[path = "../common/real.rs"]
mod real;
mod signals;

use cli::Sandbox;
use lumos::base::rng::{Purpose, Stream};
use serde_json::Value;
use std::path::Path;

/// JSON without what depends on the clock, and without the checksum over that.
fn timeless(mut value: Value) -> Value {
    let clock = |key: &str| key == "crc32c" || key == "seconds" || key == "train_seconds" || key.ends_with("_s");
    value.as_object_mut().unwrap().retain(|key, _| !clock(key));
    value
}

/// Everything of a finished run that must not depend on how it came about, by the name of its file.
fn outcome(run: &Path) -> Vec<(&'static str, Vec<u8>)> {
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
fn same_outcome(a: &Path, b: &Path, what: &str) {
    for ((name, a), (_, b)) in outcome(a).into_iter().zip(outcome(b)) {
        assert!(a == b, "{what}: {name} differs");
    }
}

/// Every file under `root` with its bytes, in order.
fn snapshot(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(snapshot(&path));
        } else {
            all.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { assert!(std::fs::copy(&path, &target).is_ok()) }
    }
}

/// A number from the environment: how long the long form of a test is.
fn times(variable: &str, short: u64) -> u64 {
    std::env::var(variable).map_or(short, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Numbers that a test draws, the same every time.
fn draws(seed: u64) -> Stream {
    Stream::new(seed, Purpose::Cohort, 0, 0)
}

/// The words of `lumos train small.toml --out OUT` with `sets` and `more`.
fn train<'a>(out: &'a str, sets: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["train", "small.toml", "--out", out];
    sets.iter().for_each(|set| words.extend(["--set", set]));
    words.extend(more);
    words
}

/// A sandbox whose data set and views are there.
fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.lumos(&["views", "build", "small.toml"]).done();
    sandbox
}
