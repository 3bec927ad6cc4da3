//! Validation curves of several runs in one picture: over rounds, visits of clients, bytes or seconds.

use super::chart::{Across, ROUNDS, Series, document, line_chart};
use super::folder::RunFolder;
use super::metrics::read_lines;
use crate::base::names;
use crate::{Error, Result};
use serde_json::Value;
use std::path::PathBuf;

/// What a quality is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Rounds.
    Rounds,
    /// Visits of clients, over all rounds so far.
    Visits,
    /// Gigabytes (10^9 bytes) that clients downloaded and uploaded so far.
    Gigabytes,
    /// Seconds of training so far.
    Seconds,
}

impl Cost {
    /// What a round adds.
    fn of(self, line: &Value) -> Option<f64> {
        let number = |key: &str| line.get(key)?.as_f64();
        Some(match self {
            Cost::Rounds => 1.0,
            Cost::Visits => number("clients")?,
            Cost::Gigabytes => (number("bytes_down")? + number("bytes_up")?) * 1e-9,
            Cost::Seconds => number("seconds")?,
        })
    }

    fn axis(self, log: bool) -> Across<'static> {
        let name = match self {
            Cost::Rounds => ROUNDS.name,
            Cost::Visits => "visits of clients",
            Cost::Gigabytes => "gigabytes down and up",
            Cost::Seconds => "seconds of training",
        };
        Across { name, log }
    }
}

/// An SVG of `metric` on validation, such as `NDCG@20`, of each of `runs`, over `cost`; with `log` powers of ten of it are at equal distances.
///
/// # Errors
/// [`Error::Usage`] where a run has no validation, or none of that metric; and where a folder is no run.
pub fn plot(runs: &[PathBuf], metric: &str, cost: Cost, log: bool) -> Result<String> {
    let mut all = Vec::new();
    for path in runs {
        let metrics = RunFolder::open(path)?.metrics();
        // A baseline that trains nothing writes none.
        let lines = if metrics.exists() { read_lines(&metrics)? } else { Vec::new() };
        let mut spent = 0.0;
        let mut points = Vec::new();
        for line in &lines {
            spent += cost.of(line).ok_or_else(|| Error::mismatch(path, "a line of its metrics.jsonl lacks what the plot adds up"))?;
            let Some(valid) = line.get("valid").and_then(Value::as_object) else { continue };
            let unknown = || {
                let known = valid.keys().map(String::as_str).filter(|name| name.contains('@'));
                Error::mismatch(path, names::unknown("metric", metric, known))
            };
            points.push((spent, valid.get(metric).and_then(Value::as_f64).ok_or_else(unknown)?));
        }
        if points.is_empty() {
            return Err(Error::mismatch(
                path,
                "has no validation to draw: a run has its first after `eval.every` rounds, and a baseline that trains nothing has none",
            ));
        }
        let name = path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        all.push(Series { name, points });
    }
    Ok(document(&line_chart(&format!("{metric} on validation"), cost.axis(log), &all)))
}
