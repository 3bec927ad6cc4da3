//! `lumos recommend --all`: the lists of every user, in a file.

use super::args::Which;
use super::output::{say, say_json};
use super::progress::Progress;
use crate::Result;
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::eval::Lists;
use crate::run::{self, ListFile, RunFolder, Wanted};
use std::path::Path;
use std::sync::Arc;

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
    let mut file = ListFile::create(out)?;
    let mut lists = Lists::new(&data.train_counts());
    let progress = Progress::new(true);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let wanted = Wanted { name: which.name(), users: &users, k, split: None };
    run::recommend_all(folder, settings, data, &wanted, &progress, &mut |user, list| {
        lists.add(list.iter().map(|(item, _)| *item));
        file.add(data, user, list)
    })?;
    drop(progress);
    file.finish()?;
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
