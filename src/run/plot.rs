//! Validation curves of several runs in one picture: over rounds, visits of clients, bytes or seconds.

use super::chart::{Across, ROUNDS, Series, document, line_chart};
use super::folder::RunFolder;
use super::metrics::read_lines;
use crate::base::names;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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

/// Curves of runs in one picture.
#[derive(Clone, Debug)]
pub struct Plot {
    /// The picture.
    pub svg: String,
    /// Runs that have no curve, in words.
    pub left_out: Vec<String>,
}

/// A picture of `metric` on validation, such as `NDCG@20`, of each of `runs`, over `cost`; with `log` powers of ten of it are at equal distances. A run
/// without validation, such as a baseline that trains nothing, is left out where others have one.
///
/// # Errors
/// [`Error::Mismatch`] where no run has a validation, or one lacks that metric; and where a folder is no run.
pub fn plot(runs: &[PathBuf], metric: &str, cost: Cost, log: bool) -> Result<Plot> {
    let silent = "sends nothing: it is trained where its data are";
    let why = "has no validation to draw: a run has its first after `eval.every` rounds, and a baseline that trains nothing has none";
    let (mut all, mut without) = (Vec::new(), Vec::new());
    for (path, name) in runs.iter().zip(short_names(runs)) {
        let points = curve(path, metric, cost)?;
        if points.is_empty() {
            without.push((path, why));
        } else if cost == Cost::Gigabytes && points.iter().all(|point| point.0 == 0.0) {
            without.push((path, silent));
        } else {
            all.push(Series { name, points });
        }
    }
    let title = format!("{metric} on validation");
    match without.first() {
        Some((path, why)) if all.is_empty() => Err(Error::mismatch(path, *why)),
        _ => Ok(Plot {
            svg: document(&line_chart(&title, &title, cost.axis(log), &all)),
            left_out: without.into_iter().map(|(path, why)| format!("{} {why}", path.display())).collect(),
        }),
    }
}

/// What was spent up to each validation of the run in `path`, and what the metric was then.
fn curve(path: &Path, metric: &str, cost: Cost) -> Result<Vec<(f64, f64)>> {
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
    Ok(points)
}

/// The last parts of each path, as few as tell the paths apart.
fn short_names(paths: &[PathBuf]) -> Vec<String> {
    let last = |path: &PathBuf, parts: usize| {
        let all: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        all[all.len().saturating_sub(parts)..].join("/")
    };
    let most = paths.iter().map(|path| path.components().count()).max().unwrap_or(1).max(1);
    let tells_apart = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let named = |parts: usize| paths.iter().map(|path| last(path, parts)).collect::<Vec<_>>();
    (1..most).map(named).find(tells_apart).unwrap_or_else(|| named(most))
}

#[cfg(test)]
mod tests {
    use super::short_names;
    use std::path::PathBuf;

    #[test]
    fn names_are_as_short_as_they_can_be() {
        let names = |paths: &[&str]| short_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["runs/a", "runs/b"]), ["a", "b"]);
        assert_eq!(names(&["runs/a/seed-1", "runs/b/seed-1"]), ["a/seed-1", "b/seed-1"]);
        assert_eq!(names(&["a", "a", "x/y"]), ["a", "a", "x/y"]);
        assert_eq!(names(&["."]), ["."]);
    }
}
