//! Real data sets and the real tiny model, which lie outside the repository; and what a test does where they are absent.
//!
//! A skipped test prints a line and is counted in the file that `LUMOS_SKIPPED` names. With `LUMOS_REQUIRE_DATA=1` absent data or an
//! absent model is a failure.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of a real data set, under `$LUMOS_DATA` or `../shared/data`.
#[track_caller]
pub fn data(set: &str) -> Option<PathBuf> {
    under("LUMOS_DATA", "data", set)
}

/// The folder of the real tiny model, under `$LUMOS_MODELS` or `../shared/models`.
#[track_caller]
pub fn tinystories() -> Option<PathBuf> {
    under("LUMOS_MODELS", "models", "tinystories-656k")
}

/// The file of SmolLM2-135M-Instruct in GGUF, which `LUMOS_SMOLLM2` names.
pub fn smollm2() -> Option<PathBuf> {
    match std::env::var_os("LUMOS_SMOLLM2").map(PathBuf::from) {
        Some(file) => Some(file.canonicalize().unwrap_or_else(|e| panic!("LUMOS_SMOLLM2: {}: {e}", file.display()))),
        None => skip("LUMOS_SMOLLM2 names no SmolLM2-135M-Instruct.gguf"),
    }
}

#[track_caller]
fn under(variable: &str, kind: &str, name: &str) -> Option<PathBuf> {
    let root = std::env::var_os(variable).map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(kind), PathBuf::from);
    let folder = root.join(name);
    if folder.is_dir() {
        return folder.canonicalize().ok();
    }
    let why = format!("no {name} under {}", root.display());
    assert!(!required(std::env::var_os("LUMOS_REQUIRE_DATA").as_deref()), "{why}, and LUMOS_REQUIRE_DATA asks for it");
    skip(why)
}

/// Whether a value of `LUMOS_REQUIRE_DATA` asks for the data.
pub fn required(value: Option<&OsStr>) -> bool {
    value.is_some_and(|v| !v.is_empty() && v != "0")
}

/// Says and counts that a test does nothing here. Data and models are found through [`data`] and [`tinystories`]; this is for what a
/// machine cannot do.
pub fn skip<T>(why: impl Display) -> Option<T> {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    // Past the harness, which shows what a passing test prints to nobody.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("LUMOS_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        file.and_then(|mut f| f.write_all(line.as_bytes())).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    None
}
