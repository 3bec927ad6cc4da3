//! What a table holds: its rows, data sets and seeds, as data in `configs/reproduce/`.

use crate::base::names;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// A table of runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name; that of its file.
    #[serde(skip)]
    pub name: String,
    /// Heading.
    pub title: String,
    /// What the table is to show, one or two sentences.
    pub about: String,
    /// The row that the others are tested against.
    pub against: String,
    /// Data sets, by the names of configurations of LUMOS.
    pub data: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Metrics of the test columns, such as `HR@20`.
    pub metrics: Vec<String>,
    /// The rows, in order.
    #[serde(rename = "row")]
    pub rows: Vec<PlanRow>,
    /// Figures of others, which are printed beside ours.
    #[serde(default)]
    pub published: Vec<Published>,
    /// Pictures.
    #[serde(default, rename = "plot")]
    pub plots: Vec<PlanPlot>,
}

/// Pictures of test metrics over what rows differ in, one for each metric.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanPlot {
    /// Name of the axis across.
    pub across: String,
    /// Whether powers of ten are at equal distances on it.
    #[serde(default)]
    pub log: bool,
    /// Metrics of the table, a picture each.
    pub metrics: Vec<String>,
    /// The lines.
    #[serde(rename = "line")]
    pub lines: Vec<PlanLine>,
}

/// A line of a picture.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanLine {
    /// Name.
    pub name: String,
    /// Rows whose means are its points.
    pub rows: Vec<String>,
    /// Where they stand on the axis; left out: at the gigabytes that clients sent and got.
    #[serde(default)]
    pub at: Vec<f64>,
}

/// One row: a method and what it is changed by.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRow {
    /// Name; also of the run folders.
    pub name: String,
    /// Method; left out: the name.
    pub method: Option<String>,
    /// Settings over the method, each `KEY=VALUE`.
    #[serde(default)]
    pub set: Vec<String>,
    /// Whether every seed gives the same figures, so that one run is enough.
    #[serde(default)]
    pub once: bool,
}

/// Figures from elsewhere.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Data set.
    pub data: String,
    /// Method, as its source calls it.
    pub name: String,
    /// Figures by metric.
    pub figures: std::collections::BTreeMap<String, f64>,
    /// Where they stand.
    pub source: String,
    /// How far they can be compared with ours.
    pub trust: String,
}

macro_rules! embed {
    ($folder:literal: $($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("../../../configs/", $folder, $name, ".toml")))),+] };
}

/// The tables of LUMOS.
const TABLES: &[(&str, &str)] =
    embed!["reproduce/": "main", "ablation", "backbones", "sensitivity", "communication", "views", "noise", "attack", "defence", "privacy"];

/// The configurations of data sets that a table may name.
const DATA: &[(&str, &str)] = embed!["": "amazon-beauty", "amazon-cell-phones", "ml-100k", "mind-1000", "quickstart"];

impl Plan {
    /// The plan in `text`, the file of table `name`, which lies at `path`.
    ///
    /// # Errors
    /// [`Error::Data`] with what is wrong.
    pub fn parse(name: &str, text: &str, path: &Path) -> Result<Plan> {
        let fail = |message: String| Error::Data { path: path.to_path_buf(), line: 0, message };
        let read: std::result::Result<Plan, _> = toml::from_str(text);
        let plan = Plan { name: name.to_string(), ..read.map_err(|e| fail(format!("is no table: {}", e.to_string().trim())))? };
        let rows = || plan.rows.iter().map(|row| row.name.as_str());
        if let Some(twice) = rows().enumerate().find(|(i, name)| rows().take(*i).any(|other| other == *name)) {
            return Err(fail(format!("has two rows called `{}`", twice.1)));
        }
        let plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !name.starts_with('.');
        if let Some(odd) = rows().find(|name| !plain(name)) {
            return Err(fail(format!("has a row called `{odd}`, which cannot name a folder; use letters, digits, `-`, `_` and `.`")));
        }
        if !rows().any(|name| name == plan.against) {
            return Err(fail(format!("against: {}", names::unknown("row", &plan.against, rows()))));
        }
        let metrics = || plan.metrics.iter().map(String::as_str);
        // A picture of anything else would be missing without a word.
        if let Some(unknown) = plan.plots.iter().flat_map(|plot| &plot.metrics).find(|wanted| !metrics().any(|name| name == *wanted)) {
            return Err(fail(format!("a plot: {}", names::unknown("metric of the table", unknown, metrics()))));
        }
        for line in plan.plots.iter().flat_map(|plot| &plot.lines) {
            if let Some(unknown) = line.rows.iter().find(|wanted| !rows().any(|name| name == *wanted)) {
                return Err(fail(format!("the line `{}` of a plot: {}", line.name, names::unknown("row", unknown, rows()))));
            }
            if !line.at.is_empty() && line.at.len() != line.rows.len() {
                let (rows, at) = (line.rows.len(), line.at.len());
                return Err(fail(format!("the line `{}` of a plot has {rows} rows and {at} places for them", line.name)));
            }
        }
        if plan.seeds.is_empty() || plan.metrics.is_empty() || plan.data.is_empty() {
            return Err(fail("needs at least one data set, one seed and one metric".into()));
        }
        Ok(plan)
    }

    /// The tables of LUMOS.
    ///
    /// # Errors
    /// Where one of them cannot be read.
    pub fn all() -> Result<Vec<Plan>> {
        TABLES.iter().map(|(name, text)| Plan::parse(name, text, Path::new(&format!("configs/reproduce/{name}.toml")))).collect()
    }

    /// The table called `name`, or in the file `name` where it ends with `.toml`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown name, with the nearest; see [`Plan::parse`].
    pub fn find(name: &str) -> Result<Plan> {
        if name.ends_with(".toml") {
            let path = Path::new(name);
            let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
            let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("table");
            return Plan::parse(stem, &text, path);
        }
        let plans = Plan::all()?;
        let unknown = || Error::Usage(names::unknown("table", name, plans.iter().map(|plan| plan.name.as_str())));
        plans.iter().find(|plan| plan.name == name).cloned().ok_or_else(unknown)
    }

    /// Keeps the rows called `wanted` and the row that they are tested against.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown row, with the nearest.
    pub fn only(&mut self, wanted: &[String]) -> Result<()> {
        for name in wanted {
            if !self.rows.iter().any(|row| row.name == *name) {
                return Err(Error::Usage(names::unknown("row", name, self.rows.iter().map(|row| row.name.as_str()))));
            }
        }
        self.rows.retain(|row| row.name == self.against || wanted.contains(&row.name));
        Ok(())
    }
}

/// Text of the configuration of the data set `name`.
///
/// # Errors
/// [`Error::Usage`] for an unknown name, with the nearest.
pub fn data_config(name: &str) -> Result<&'static str> {
    let unknown = || Error::Usage(format!("{}; or name a configuration file", names::unknown("data set", name, DATA.iter().map(|d| d.0))));
    DATA.iter().find(|(known, _)| *known == name).map(|(_, text)| *text).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_names_methods_settings_and_data_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        for plan in Plan::all().unwrap() {
            for data in &plan.data {
                let path = folder.path().join(format!("{data}.toml"));
                std::fs::write(&path, data_config(data).unwrap()).unwrap();
                for row in &plan.rows {
                    let method = format!("method={}", row.method.as_ref().unwrap_or(&row.name));
                    let sets: Vec<String> = std::iter::once(method).chain(row.set.iter().cloned()).collect();
                    crate::settings::load(Some(&path), &sets).unwrap_or_else(|e| panic!("{}, {}: {e}", plan.name, row.name));
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_in_a_table_is_said() {
        let good = "title = 't'\nabout = 'a'\nagainst = 'x'\ndata = ['ml-100k']\nseeds = [1]\nmetrics = ['HR@20']\n[[row]]\nname = 'x'\n";
        let parse = |text: &str| Plan::parse("mine", text, Path::new("mine.toml")).map_err(|e| e.to_string());
        let plot = "[[plot]]\nacross = 'share'\nmetrics = ['HR@20']\n[[plot.line]]\nname = 'l'\n";
        assert_eq!(parse(good).unwrap().rows.len(), 1);
        for (text, part) in [
            (good.replace("against = 'x'", "against = 'y'"), "unknown row `y`"),
            (format!("{good}[[row]]\nname = 'x'\n"), "two rows called `x`"),
            (format!("{good}[[row]]\nname = '../x'\n"), "cannot name a folder"),
            (good.replace("[1]", "[]"), "at least one"),
            (good.replace("title", "titel"), "titel"),
            (format!("{good}{plot}rows = ['w']\n"), "unknown row `w`"),
            (
                format!("{good}{plot}rows = ['x']\n").replace("metrics = ['HR@20']\n[[plot.line]]", "metrics = ['HR@2']\n[[plot.line]]"),
                "`HR@2`",
            ),
            (format!("{good}{plot}rows = ['x']\nat = [1, 2]\n"), "1 rows and 2 places"),
        ] {
            let message = parse(&text).unwrap_err();
            assert!(message.contains(part) && message.contains("mine.toml"), "{message}");
        }
        let mut plan = parse(&format!("{good}[[row]]\nname = 'y'\n[[row]]\nname = 'z'\n")).unwrap();
        assert!(plan.only(&["q".into()]).is_err());
        plan.only(&["z".into()]).unwrap();
        assert_eq!(plan.rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["x", "z"]);
        assert!(data_config("ml-100").unwrap_err().to_string().contains("ml-100k"));
    }
}
