//! `lumos recommend --all`: the lists of every user, in a file.

use super::args::Which;
use super::output::{say, say_json};
use super::progress::Progress;
use crate::base::{clean, names};
use crate::config::{self, Settings, Validated};
use crate::data::Dataset;
use crate::eval::Lists;
use crate::run::{self, RunFolder, Wanted};
use crate::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Endings of the files that can be written.
const ENDINGS: [&str; 2] = ["csv", "jsonl"];

/// A line of text for a user's list.
fn line(csv: bool, data: &Dataset, user: u32, list: &[(u32, f32)]) -> Result<Vec<u8>> {
    let fail = |e: &dyn std::fmt::Display| Error::Usage(format!("a list cannot be written: {e}"));
    let user = &data.user_tokens[user as usize];
    let score = |score: f32| config::tidy(f64::from(score));
    if !csv {
        let entry = |(item, value): &(u32, f32)| serde_json::json!({ "item": data.item_tokens[*item as usize], "score": score(*value) });
        let items: Vec<_> = list.iter().map(entry).collect();
        return Ok(format!("{}\n", serde_json::json!({ "user": user, "items": items })).into_bytes());
    }
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    for (rank, (item, value)) in (1..).zip(list) {
        let cells = [user.as_str(), &format!("{rank}"), &data.item_tokens[*item as usize], &score(*value).to_string()];
        writer.write_record(cells).map_err(|e| fail(&e))?;
    }
    writer.into_inner().map_err(|e| fail(&e))
}

/// Writes the `k` best items of every user to `out`; nothing is seen there before everything is written.
pub fn main(
    folder: &RunFolder,
    which: Which,
    settings: &Validated<Settings>,
    data: &Arc<Dataset>,
    k: usize,
    out: &Path,
    json: bool,
) -> Result<()> {
    let ending = out.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !ENDINGS.contains(&ending.as_str()) {
        let unknown = names::unknown("ending", &ending, ENDINGS);
        return Err(Error::Usage(format!("--out: {}: {unknown}", clean::path(out))));
    }
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = tempfile::NamedTempFile::new_in(parent).map_err(Error::io(out, "create"))?;
    let mut writer = BufWriter::new(draft);
    let csv = ending == "csv";
    if csv {
        writer.write_all(b"user,rank,item,score\n").map_err(Error::io(out, "write"))?;
    }
    let mut lists = Lists::new(&data.train_counts());
    let progress = Progress::new(true);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let wanted = Wanted { name: which.name(), users: &users, k, split: None };
    run::recommend_all(folder, settings, data, &wanted, &progress, &mut |user, list| {
        lists.add(list.iter().map(|(item, _)| *item));
        writer.write_all(&line(csv, data, user, list)?).map_err(Error::io(out, "write"))
    })?;
    drop(progress);
    let draft = writer.into_inner().map_err(|e| Error::io(out, "write")(e.into_error()))?;
    draft.as_file().sync_all().map_err(Error::io(out, "write"))?;
    draft.persist(out).map_err(|e| Error::io(out, "write")(e.error))?;
    let f = lists.figures();
    if json {
        return say_json(&serde_json::json!({ "out": out, "k": k, "lists": f }));
    }
    say(format!(
        "{} lists of {k} items: {}\ncoverage {:.4}, Gini {:.4}, novelty {:.2} bits, popularity {:.4}",
        f.lists,
        out.display(),
        f.coverage,
        f.gini,
        f.novelty,
        f.popularity
    ))
}
