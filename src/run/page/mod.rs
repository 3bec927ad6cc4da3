//! `lumos report`: one self-contained page about one run or many. Everything that comes from data is escaped.

mod curves;
mod figures;
mod groups;
mod lists;
mod style;
mod table;

use super::chart::escape;
use super::folder::RunFolder;
use super::result::{RunResult, diverged, masked_targets};
use crate::config::flat;
use crate::data::{self, Dataset};
use crate::{Result, run::Observer};
use groups::{Group, Run, grouped};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use table::Table;

/// The page about `runs`: methods in the order of their first run, of which the first is held against the others.
///
/// # Errors
/// Where a folder is no run, or what it holds is damaged.
pub fn page(runs: &[PathBuf], observer: &dyn Observer) -> Result<String> {
    let runs = runs.iter().map(|path| Run::open(&RunFolder::open(path)?)).collect::<Result<Vec<_>>>()?;
    let groups = grouped(runs)?;
    let data = dataset(&groups);
    let recommended = match &data {
        Some(data) => lists::section(&groups, data, observer)?,
        None => String::new(),
    };
    html(&groups, data.as_deref(), &warnings(&groups, data.is_some()), &recommended)
}

/// The page about the run in `folder` at its end, whose `result` is not written yet; `notice` is what a reader should know before the figures. Without what
/// it recommends, which would take a ranking of its own.
pub(super) fn of_run(folder: &RunFolder, result: &RunResult, data: &Dataset, notice: Option<&str>) -> Result<String> {
    let groups = grouped(vec![Run { result: Some(result.clone()), ..Run::open(folder)? }])?;
    let mut notes = warnings(&groups, true);
    notes.extend(notice.map(|text| format!("{text}.")));
    html(&groups, Some(data), &notes, "")
}

fn html(groups: &[Group], data: Option<&Dataset>, notes: &[String], recommended: &str) -> Result<String> {
    let sets: BTreeSet<&str> = groups.iter().map(|g| g.first().info.data.as_str()).collect();
    let names: Vec<&str> = groups.iter().map(|g| g.name.as_str()).collect();
    let title = format!("{} on {}", shortened(&names), sets.into_iter().collect::<Vec<_>>().join(", "));
    let mut body = format!("<h1>{}</h1>\n<p class=\"soft\">{}</p>\n", escape(&title), escape(&summary(groups)));
    for note in notes {
        body += &format!("<p><strong>Note.</strong> {}</p>\n", escape(note));
    }
    body += &figures::methods(groups, data)?;
    body += &figures::tests(groups)?;
    body += &figures::curves(groups, data);
    if let Some(data) = data {
        body += &figures::slices(groups, data)?;
    }
    body += recommended;
    body += &figures::costs(groups);
    body += &settings(groups)?;
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{}</style></head>\n<body><a class=\"skip\" href=\"#main\">To the figures</a><main id=\"main\">\n{body}</main></body></html>\n",
        escape(&title),
        style::STYLE
    ))
}

fn shortened(names: &[&str]) -> String {
    match names {
        [first @ .., last] if names.len() <= 4 && !first.is_empty() => format!("{} and {last}", first.join(", ")),
        [one] => (*one).to_string(),
        [a, b, ..] => format!("{a}, {b} and {} more", names.len() - 2),
        [] => String::new(),
    }
}

fn summary(groups: &[Group]) -> String {
    let runs: usize = groups.iter().map(|g| g.runs.len()).sum();
    let first = groups[0].first();
    let machines: BTreeSet<String> =
        groups.iter().flat_map(|g| &g.runs).map(|r| r.info.machine.cpu.clone()).filter(|cpu| !cpu.is_empty()).collect();
    let plural = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let machine =
        if machines.is_empty() { first.info.machine.platform.clone() } else { machines.into_iter().collect::<Vec<_>>().join(", ") };
    let commit = first.info.machine.commit.as_deref().map_or(String::new(), |c| format!(", commit {c}"));
    // What runs may differ in is said of a lone one.
    let (seed, threads, ended) = match runs {
        1 => {
            let ended = first.info.ended.as_deref().map_or("not finished".into(), |when| format!("ended {when}"));
            (format!("seed {}; ", first.info.seed), format!(", {}", plural(first.info.threads as usize, "thread")), format!(", {ended}"))
        }
        _ => Default::default(),
    };
    format!(
        "{} of {}; {seed}full ranking over the whole catalogue; {machine}{threads}; lumos {}{commit}; started {}{ended}",
        plural(runs, "run"),
        plural(groups.len(), "method"),
        first.info.machine.version,
        first.info.started
    )
}

/// What a reader should know before the figures.
fn warnings(groups: &[Group], has_data: bool) -> Vec<String> {
    let mut all = Vec::new();
    for run in groups.iter().flat_map(|g| &g.runs).filter(|r| r.result.is_none()) {
        all.push(format!("{} is not finished: it is drawn as far as it has come and has no test.", run.folder.root().display()));
    }
    for run in groups.iter().flat_map(|g| &g.runs) {
        let Some(result) = &run.result else { continue };
        let name = run.folder.root().display();
        all.extend(diverged(result).map(|text| format!("{name}: {text}.")));
        if let Some([validation, test]) = masked_targets(result) {
            let why = "may not be recommended and count as misses (eval.mask)";
            all.push(format!("{name}: {validation} validation targets and {test} test targets {why}."));
        }
    }
    let sums: BTreeSet<&str> = groups.iter().flat_map(|g| &g.runs).map(|r| r.data.as_str()).collect();
    if sums.len() > 1 {
        all.push("The runs are of different data sets or states of one: their figures do not compare.".into());
    } else if !has_data {
        let text = "The prepared data set is not where the runs were trained on it, so that figures by user and item, recommendations and \
                    examples are left out.";
        all.push(text.into());
    }
    all
}

/// The data set of all groups, where they share one and it still lies where it was.
fn dataset(groups: &[Group]) -> Option<Arc<Dataset>> {
    let info = &groups.first()?.first().info;
    if groups.iter().flat_map(|g| &g.runs).any(|r| r.info.fingerprint != info.fingerprint) {
        return None;
    }
    let manifest = data::load_manifest(&info.data_dir).ok().filter(|m| m.fingerprint == info.fingerprint)?;
    data::load(&info.data_dir).ok().filter(|data| data.fingerprint == manifest.fingerprint).map(Arc::new)
}

/// The settings that differ between methods with their origins, and all of them, folded away.
fn settings(groups: &[Group]) -> Result<String> {
    let all = groups.iter().map(|g| flat(&g.first().settings)).collect::<Result<Vec<BTreeMap<String, toml::Value>>>>()?;
    let keys: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let text = |group: usize, key: &str| {
        let value = all[group].get(key).map_or("not set".to_string(), ToString::to_string);
        let origin = groups[group].first().origins.get(key).map_or(String::new(), |origin| format!(" ({origin})"));
        (value, origin)
    };
    let head = || std::iter::once("setting".to_string()).chain(groups.iter().map(|g| g.name.clone()));
    let rows = |differing: bool| {
        let mut table = Table::new(head());
        for key in &keys {
            let cells: Vec<_> = (0..groups.len()).map(|g| text(g, key)).collect();
            let differs = cells.iter().any(|cell| cell.0 != cells[0].0) && key.as_str() != "compare";
            if !differing || differs {
                table.texts(std::iter::once(key.to_string()).chain(cells.into_iter().map(|(value, origin)| value + &origin)));
            }
        }
        table
    };
    let mut html = String::from("<h2>Settings</h2>\n");
    let differing = rows(true);
    if groups.len() > 1 && !differing.is_empty() {
        html += &format!(
            "<details open><summary>Settings that differ, and where each comes from</summary><div>{}</div></details>\n",
            differing.html("")
        );
    }
    Ok(html + &format!("<details><summary>All settings</summary><div>{}</div></details>\n", rows(false).html("")))
}
