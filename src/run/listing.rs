//! Which runs lie below a folder, with what one wants to know of each at a glance.

use super::folder::{RunFolder, read_json};
use super::metrics::read_lines;
use super::result::RunResult;
use crate::base::lock::Lock;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Folders inside each other that are looked through.
const DEPTH: usize = 6;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its folder.
    pub folder: PathBuf,
    /// Method.
    pub method: String,
    /// Data set.
    pub data: String,
    /// Seed.
    pub seed: u64,
    /// Start, UTC.
    pub started: String,
    /// `finished`, `training` or `stopped`.
    pub state: &'static str,
    /// Rounds trained.
    pub rounds: u64,
    /// What came out of it, where it is finished.
    pub result: Option<RunResult>,
}

/// The runs below `root`, by data set, method, seed and folder; and why a folder that looks like a run cannot be read.
///
/// # Errors
/// Where `root` is no folder.
pub fn list_runs(root: &Path) -> Result<(Vec<Listed>, Vec<String>)> {
    if !root.is_dir() {
        return Err(Error::mismatch(root, "there is no such folder; give the folder that your runs lie in"));
    }
    let (mut runs, mut problems) = (Vec::new(), Vec::new());
    walk(root, DEPTH, &mut |folder| match listed(folder) {
        Ok(run) => runs.push(run),
        Err(error) => problems.push(error.to_string()),
    });
    runs.sort_by(|a, b| (&a.data, &a.method, a.seed, &a.folder).cmp(&(&b.data, &b.method, b.seed, &b.folder)));
    problems.sort();
    Ok((runs, problems))
}

/// The run folders that `paths` name, each once: a folder that is no run stands for all runs below it. Files that lie beside run folders, such as
/// those that a pattern of the shell takes in, are left out; the second list says so in words.
///
/// # Errors
/// Where a folder holds no run, or nothing but files is named.
pub fn runs_among(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let (mut runs, mut left_out) = (Vec::new(), Vec::new());
    for path in paths {
        if path.is_file() && paths.iter().any(|other| other.is_dir()) {
            left_out.push(format!("{} is a file, and runs are folders", path.display()));
            continue;
        }
        let before = runs.len();
        walk(path, DEPTH, &mut |folder| runs.push(folder.root().to_path_buf()));
        if runs.len() == before {
            // Says what is wrong with it.
            RunFolder::open(path)?;
        }
        // The order of a folder's entries is not the same everywhere.
        runs[before..].sort();
    }
    let mut seen = BTreeSet::new();
    runs.retain(|run| seen.insert(run.clone()));
    Ok((runs, left_out))
}

/// Calls `each` for every run below `folder`. Links are not followed.
fn walk(folder: &Path, depth: usize, each: &mut dyn FnMut(&RunFolder)) {
    let run = RunFolder::at(folder);
    if run.is_begun() {
        return each(&run);
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| walk(&entry.path(), depth - 1, each));
}

fn listed(folder: &RunFolder) -> Result<Listed> {
    let info = folder.info()?;
    let result: Option<RunResult> = if folder.result().exists() { Some(read_json(&folder.result())?) } else { None };
    let finished = result.is_some() && info.ended.is_some();
    let rounds = match &result {
        Some(result) if finished => result.rounds,
        _ if folder.metrics().exists() => read_lines(&folder.metrics())?.len() as u64,
        _ => 0,
    };
    let state = match finished {
        true => "finished",
        false if Lock::is_held(&folder.lock()) => "training",
        false => "stopped",
    };
    Ok(Listed {
        folder: folder.root().to_path_buf(),
        method: info.method,
        data: info.data,
        seed: info.seed,
        started: info.started,
        state,
        rounds,
        result: result.filter(|_| finished),
    })
}
