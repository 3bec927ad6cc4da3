//! Run folders in hard times: several processes at once, signals, kills, damage, a full disk, a folder that may only be read.
#![cfg(unix)]

#[path = "../common/cli.rs"]
mod cli;
mod damage;
mod disk;
mod kills;
#[path = "../common/outcome.rs"]
mod outcome;
mod owner;
#[path = "../common/real.rs"]
mod real;
mod signals;

use cli::Sandbox;
use lumos::base::rng::{Purpose, Stream};
use outcome::{outcome, same_outcome};
use std::path::Path;

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
