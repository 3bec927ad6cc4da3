//! `lumos views list`: which views lie below a folder.

use super::output::{say, say_json};
use super::table::table_with;
use crate::base::clean;
use crate::views::{self, Manifest};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Folders inside each other that are looked through.
const DEPTH: usize = 4;

/// List the views below a folder: data set, generator, users
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lumos views list\n  lumos views list data --json")]
pub struct List {
    /// Folder that is looked through
    #[arg(default_value = "data")]
    folder: PathBuf,
    /// One JSON list
    #[arg(long)]
    json: bool,
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

pub fn main(args: &List) -> Result<()> {
    if !args.folder.is_dir() {
        return Err(Error::mismatch(&args.folder, "there is no such folder; give the one that your data sets lie in"));
    }
    let mut found = Vec::new();
    walk(&args.folder, DEPTH, &mut found);
    found.sort_by(|a, b| (&a.1.data, &a.1.generator, &a.0).cmp(&(&b.1.data, &b.1.generator, &b.0)));
    let users = |m: &Manifest| m.first.map_or("all".to_string(), |n| format!("first {n}"));
    if args.json {
        let list: Vec<_> = found
            .iter()
            .map(|(folder, m)| serde_json::json!({ "folder": folder, "data": m.data, "generator": m.generator, "first": m.first, "failures": m.failures.len() }))
            .collect();
        return say_json(&list);
    }
    if found.is_empty() {
        return say(format!("no views below {}; `lumos views build CONFIG` makes some", args.folder.display()));
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(folder, m)| {
            vec![clean::id(&m.data), clean::id(&m.generator), users(m), m.failures.len().to_string(), folder.display().to_string()]
        })
        .collect();
    say(table_with(&["data", "generator", "users", "without views", "folder"], &rows, |column| column != 3))
}
