//! Runs that differ in the seed only are one method.

use crate::config::{Settings, Validated};
use crate::run::folder::{RunFolder, RunInfo, differences_key, read_json};
use crate::run::metrics::read_lines;
use crate::run::pipeline::clean_fingerprint;
use crate::run::result::RunResult;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// A run as far as it has come.
pub(super) struct Run {
    pub folder: RunFolder,
    pub settings: Validated<Settings>,
    pub info: RunInfo,
    /// Fingerprint of its data set, before noise was put into histories.
    pub data: String,
    pub result: Option<RunResult>,
    pub lines: Vec<Value>,
    /// Where each setting came from, by its dotted key.
    pub origins: BTreeMap<String, String>,
}

impl Run {
    pub fn open(folder: &RunFolder) -> Result<Run> {
        let lines = if folder.metrics().exists() { read_lines(&folder.metrics())? } else { Vec::new() };
        let result = if folder.result().exists() { Some(read_json(&folder.result())?) } else { None };
        let text = std::fs::read_to_string(folder.config()).map_err(Error::io(folder.config(), "read"))?;
        let (settings, info) = (folder.settings()?, folder.info()?);
        let data = clean_fingerprint(&info, &settings);
        Ok(Run { folder: folder.clone(), settings, info, data, result, lines, origins: origins(&text) })
    }

    /// The values of a validation metric by round.
    pub fn validations(&self, metric: &str) -> BTreeMap<u64, f64> {
        self.values(|line| line.get("valid")?.get(metric)?.as_f64())
    }

    /// What `value` finds in the lines, by round.
    pub fn values(&self, value: impl Fn(&Value) -> Option<f64>) -> BTreeMap<u64, f64> {
        self.lines.iter().filter_map(|line| Some((line.get("round")?.as_u64()?, value(line)?))).collect()
    }

    /// The sum over rounds of a number of their lines.
    pub fn sum(&self, key: &str) -> f64 {
        self.lines.iter().filter_map(|line| line.get(key)?.as_f64()).sum()
    }
}

/// The comments of a run's `config.toml`: `key = value # origin` below `[table]`.
fn origins(text: &str) -> BTreeMap<String, String> {
    let mut table = String::new();
    let mut all = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let (Some((key, _)), Some((_, origin))) = (line.split_once('='), line.rsplit_once("# "))
            && !line.starts_with('#')
        {
            all.insert(format!("{table}{}", key.trim()), origin.trim().to_string());
        }
    }
    all
}

/// One method's runs.
pub(super) struct Group {
    pub name: String,
    pub runs: Vec<Run>,
}

impl Group {
    pub fn first(&self) -> &Run {
        &self.runs[0]
    }

    /// A test or validation metric of each finished run.
    pub fn scores(&self, test: bool, metric: &str) -> Vec<f64> {
        let results = self.runs.iter().filter_map(|run| run.result.as_ref());
        results.filter_map(|r| if test { &r.test } else { &r.validation }.get(metric)?.as_f64()).collect()
    }
}

/// Groups in the order of their first run; several of one method are named by their folders.
pub(super) fn grouped(runs: Vec<Run>) -> Result<Vec<Group>> {
    let mut groups: Vec<(String, Group)> = Vec::new();
    for run in runs {
        let mut settings = (*run.settings).clone();
        settings.seed = 0;
        settings.compare.clear();
        let key = format!("{}{}", run.data, differences_key(&settings)?);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.runs.push(run),
            None => groups.push((key, Group { name: run.info.method.clone(), runs: vec![run] })),
        }
    }
    let mut groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
    let names: Vec<String> = groups.iter().map(|g| g.name.clone()).collect();
    for group in &mut groups {
        if names.iter().filter(|name| **name == group.name).count() > 1 {
            let folder = group.first().folder.root();
            let end = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
            group.name = format!("{} ({end})", group.name);
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    #[test]
    fn origins_stand_behind_the_values() {
        let text = "# Effective\nmethod = \"a # b\" # file\n\n[local]\nlr = 0.1   # method table\n# dir = # not set\n";
        let all = super::origins(text);
        assert_eq!(all.into_iter().collect::<Vec<_>>(), [("local.lr".into(), "method table".into()), ("method".into(), "file".into())]);
    }
}
