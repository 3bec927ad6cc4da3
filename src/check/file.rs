//! The one JSON file of a check: written by the first part, added to by later ones and by tools run beside it.

use super::report::Report;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Lists of a report to which another one's are appended.
const LISTS: [&str; 7] = ["parts", "checks", "unchecked", "yardsticks", "benches", "rounds", "texts"];

/// What a tool that ran beside the check left behind.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Name.
    pub name: String,
    /// Exit code of the tool; nothing where it was not run.
    pub exit: Option<i32>,
    /// Seconds.
    pub seconds: Option<f64>,
    /// What it printed: JSON is kept as such, other text as text.
    pub output: String,
}

/// Adds `report` to the file at `path`, or makes it.
pub fn add_report(path: &Path, report: &Report) -> Result<()> {
    let mut new = serde_json::to_value(report).map_err(|e| Error::mismatch(path, format!("cannot be written as JSON: {e}")))?;
    new["passed"] = report.passed().into();
    let Some(mut old) = read(path)? else { return write(path, &new) };
    if old["device"].is_null() {
        // Only tools have written so far.
        for key in ["attached", "passed"] {
            let passed = old["passed"].as_bool().unwrap_or(true) && new["passed"] == true;
            new[key] = if key == "passed" { passed.into() } else { old[key].take() };
        }
        return write(path, &new);
    }
    if old["device"]["name"] != new["device"]["name"] || old["quick"] != new["quick"] || old["commit"] != new["commit"] {
        let message = "is of another device, another build or another `--quick`; name another file with --out";
        return Err(Error::mismatch(path, message));
    }
    for key in LISTS {
        if let (Some(to), Some(from)) = (old[key].as_array_mut(), new[key].as_array_mut()) {
            to.append(from);
        }
    }
    let passed = old["passed"] == true && new["passed"] == true;
    old["passed"] = passed.into();
    old["seconds"] = (old["seconds"].as_f64().unwrap_or(0.0) + report.seconds).into();
    write(path, &old)
}

/// Adds what a tool left behind to the file at `path`, or makes it. A tool that failed makes the check fail.
pub fn attach(path: &Path, attachment: &Attachment) -> Result<()> {
    let mut file = read(path)?.unwrap_or_else(|| json!({ "passed": true }));
    let output: Value = match serde_json::from_str(attachment.output.trim()) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
        _ => attachment.output.clone().into(),
    };
    let entry = json!({ "exit": attachment.exit, "seconds": attachment.seconds, "output": output });
    if attachment.exit.is_some_and(|code| code != 0) {
        file["passed"] = false.into();
    }
    if !file["attached"].is_object() {
        file["attached"] = Value::Object(Map::new());
    }
    file["attached"][attachment.name.as_str()] = entry;
    write(path, &file)
}

fn read(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, "read")(e)),
    };
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(Some(value)),
        Ok(_) => Err(Error::mismatch(path, "is no result of a GPU check: it holds no JSON object; name another file with --out")),
        Err(e) => Err(Error::mismatch(path, format!("is no result of a GPU check: {e}; name another file with --out"))),
    }
}

fn write(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::mismatch(path, format!("cannot be written as JSON: {e}")))?;
    text.push('\n');
    crate::base::files::write_file(path, text.as_bytes())
}
