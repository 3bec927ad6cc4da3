//! `lumos views list`: which views lie below a folder, and the views that a short name means.

use super::output::{say, say_json};
use super::table::table_with;
use crate::base::{clean, clock, json, names};
use crate::views::{self, Manifest};
use crate::{Error, Result};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders inside each other that are looked through.
const DEPTH: usize = 4;

/// Where data sets and their views lie unless another folder is named.
const ROOT: &str = "data";

/// Digits of a folder's name that its short name has.
const SHORT: usize = 8;

/// Settings that have a column of their own.
const SHOWN: [&str; 5] = ["generator", "seed", "counterfactuals", "llm.model", "served.model"];

/// List the views below a folder: data set, generator, model, seed, users, and the settings in which they differ
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos views list
  lumos views list data --json
`views score` and `views compare` take the name of the first column, or its beginning, in the place of the folder.")]
pub struct List {
    /// Folder that is looked through
    #[arg(default_value = ROOT)]
    folder: PathBuf,
    /// One JSON list
    #[arg(long)]
    json: bool,
}

/// A folder of views, as it is listed.
#[derive(Serialize)]
struct Listed {
    name: String,
    data: String,
    generator: String,
    /// Of a language model.
    model: Option<String>,
    seed: u64,
    counterfactuals: u32,
    /// The first users alone have views; all of them where there is no number.
    first: Option<u64>,
    failures: usize,
    /// When the folder was written, UTC.
    written: Option<String>,
    /// Settings in which views of the same data set and generator differ.
    differs: BTreeMap<String, Value>,
    folder: PathBuf,
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, Manifest)>) {
    if let Ok(manifest) = views::load_manifest(folder) {
        found.push((folder.to_path_buf(), manifest));
        return;
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| walk(&entry.path(), depth - 1, found));
}

/// The views below `root`, by data set, generator and folder.
fn below(root: &Path) -> Vec<(PathBuf, Manifest)> {
    let mut found = Vec::new();
    walk(root, DEPTH, &mut found);
    found.sort_by(|a, b| (&a.1.data, &a.1.generator, &a.0).cmp(&(&b.1.data, &b.1.generator, &b.0)));
    found
}

/// The part of a folder's name that stands for the settings: the digest of the data set before it is the same for all views of one.
fn settings_part(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split_once('-').map_or(name.clone(), |(_, settings)| settings.to_owned())
}

/// The name of each of `found`: the data set and as much of the folder's name as tells it apart.
fn short_names(found: &[(PathBuf, Manifest)]) -> Vec<String> {
    let named = |letters: usize| -> Vec<String> {
        let cut = |folder: &Path| settings_part(folder).chars().take(letters).collect::<String>();
        found.iter().map(|(folder, manifest)| format!("{}/{}", manifest.data, cut(folder))).collect()
    };
    let differ = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    [SHORT, 2 * SHORT].into_iter().map(named).find(differ).unwrap_or_else(|| named(usize::MAX))
}

/// The folder of views that `given` names: itself where there is one, else the views below `data/` whose short name begins like that.
///
/// # Errors
/// [`Error::Mismatch`] where no views or several have that name.
pub(super) fn folder_named(given: &Path) -> Result<PathBuf> {
    if given.exists() {
        return Ok(given.to_path_buf());
    }
    let wanted = given.to_string_lossy();
    let found = below(Path::new(ROOT));
    let all = short_names(&found);
    let fits = |name: &str| name.starts_with(&*wanted) || name.rsplit('/').next().is_some_and(|part| part.starts_with(&*wanted));
    let fitting: Vec<usize> = (0..found.len()).filter(|&at| !wanted.is_empty() && fits(&all[at])).collect();
    match fitting[..] {
        [one] => Ok(found[one].0.clone()),
        [] if all.is_empty() => Err(Error::mismatch(given, "there is no such folder, and no views lie below data/")),
        [] => Err(Error::mismatch(given, names::unknown("views", &wanted, all.iter().map(String::as_str)))),
        ref several => {
            let names: Vec<&str> = several.iter().map(|&at| all[at].as_str()).collect();
            Err(Error::mismatch(given, format!("is the beginning of several names; give more of one: {}", names.join(", "))))
        }
    }
}

/// Settings of `manifest` without a column of their own, under dotted names.
fn others(manifest: &Manifest) -> BTreeMap<String, Value> {
    fn collect(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(inner) => inner.iter().for_each(|(name, value)| {
                let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                collect(&key, value, all);
            }),
            value => drop(all.insert(path.to_owned(), value.clone())),
        }
    }
    let mut all = BTreeMap::new();
    collect("", &json::value(&manifest.settings).unwrap_or_default(), &mut all);
    all.retain(|key, _| !SHOWN.contains(&key.as_str()));
    all
}

fn listed(found: Vec<(PathBuf, Manifest)>) -> Vec<Listed> {
    let settings: Vec<_> = found.iter().map(|(_, manifest)| others(manifest)).collect();
    let differing = |at: usize| {
        let like = |other: &usize| (&found[*other].1.data, &found[*other].1.generator) == (&found[at].1.data, &found[at].1.generator);
        let varies = |key: &str| (0..found.len()).filter(like).any(|other| settings[other].get(key) != settings[at].get(key));
        settings[at].iter().filter(|(key, _)| varies(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let differs: Vec<BTreeMap<String, Value>> = (0..found.len()).map(differing).collect();
    let names = short_names(&found);
    let rows = found.into_iter().zip(names).zip(differs);
    rows.map(|(((folder, m), name), differs)| {
        let made = m.generation.as_ref().map(|made| made.provenance.model.clone());
        let asked = || m.settings.llm.model.as_ref().map(|path| path.display().to_string()).or_else(|| m.settings.served.model.clone());
        Listed {
            name,
            model: made.or_else(asked),
            seed: m.settings.seed,
            counterfactuals: m.settings.counterfactuals,
            first: m.first,
            failures: m.failures.len(),
            written: std::fs::metadata(&folder).and_then(|about| about.modified()).ok().and_then(clock::of),
            differs,
            data: m.data,
            generator: m.generator,
            folder,
        }
    })
    .collect()
}

pub fn main(args: &List) -> Result<()> {
    if !args.folder.is_dir() {
        return Err(Error::mismatch(&args.folder, "there is no such folder; give the one that your data sets lie in"));
    }
    let found = listed(below(&args.folder));
    if args.json {
        return say_json(&found);
    }
    if found.is_empty() {
        return say(format!("no views below {}; `lumos views build CONFIG` makes some", args.folder.display()));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|row| {
            let differs: Vec<String> =
                row.differs.iter().map(|(key, value)| format!("{key}={}", clean::line(&value.to_string(), 40))).collect();
            vec![
                clean::id(&row.name),
                clean::id(&row.generator),
                row.model.as_deref().map_or("-".into(), clean::id),
                row.seed.to_string(),
                row.counterfactuals.to_string(),
                row.first.map_or("all".into(), |n| format!("first {n}")),
                row.failures.to_string(),
                row.written.as_deref().map_or("-".into(), |at| at.get(..16).unwrap_or(at).replace('T', " ")),
                if differs.is_empty() { "-".into() } else { differs.join(" ") },
                row.folder.display().to_string(),
            ]
        })
        .collect();
    let head = ["name", "generator", "model", "seed", "counterfactuals", "users", "without views", "written", "other settings", "folder"];
    say(table_with(&head, &rows, |column| !matches!(column, 3 | 4 | 6)))
}
