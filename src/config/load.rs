//! Putting the layers together: defaults < file < method < the file's tables for the method < command line.

use super::methods::{self, Family, Method};
use super::refusal;
use super::schema::{Schema, nest, tidy};
use super::{DataSettings, Settings, Validated};
use crate::base::names;
use crate::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// Written in the program.
    #[serde(rename = "default")]
    Default,
    /// Top level of the file.
    #[serde(rename = "file")]
    File,
    /// The method's preset.
    #[serde(rename = "method")]
    Method,
    /// The file's table for the method or its family.
    #[serde(rename = "method table")]
    MethodTable,
    /// `--set`, `--seed` or `--threads`.
    #[serde(rename = "command line")]
    CommandLine,
    /// The manifest of the folder that `--data` names.
    #[serde(rename = "prepared data set")]
    Prepared,
}

impl Origin {
    /// The words shown to a reader.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::File => "file",
            Origin::Method => "method",
            Origin::MethodTable => "method table",
            Origin::CommandLine => "command line",
            Origin::Prepared => "prepared data set",
        }
    }
}

/// Refuses settings that cannot be meant.
pub(crate) type Check<'c> = &'c dyn Fn(&Settings) -> Result<()>;

/// The settings of a run and where each came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The settings.
    pub settings: Validated<Settings>,
    /// Origin of every dotted key.
    pub origins: BTreeMap<String, Origin>,
    /// The file, where there was one.
    pub file: Option<PathBuf>,
}

/// As [`crate::settings::load`], with the check of the parts that are set.
pub(crate) fn load(path: Option<&Path>, sets: &[String], check: Check) -> Result<Effective> {
    let schema = Schema::new()?;
    let place = path.map_or_else(|| "defaults".to_string(), |p| p.display().to_string());
    let mut top = match path {
        Some(path) => read_table(path)?,
        None => Table::new(),
    };
    let tables = method_tables(&schema, top.remove("methods"), &place)?;
    let file = schema.flatten(&top, &place)?;
    let line = command_line(&schema, sets)?;

    let mut values = schema.defaults();
    let mut origins: BTreeMap<String, Origin> = schema.keys().map(|k| (k.to_string(), Origin::Default)).collect();
    let mut lay = |layer: &BTreeMap<String, Value>, origin: Origin| {
        for (key, value) in layer {
            values.insert(key.clone(), value.clone());
            origins.insert(key.clone(), origin);
        }
    };
    let name = line.get("method").or(file.get("method")).and_then(Value::as_str).map_or(Settings::default().method, str::to_string);
    let method = methods::find(&name)?;
    let preset = preset(&schema, method)?;
    for (key, value) in &file {
        if let Some(set) = preset.get(key)
            && !same(set, value)
            && !line.contains_key(key)
        {
            let message = format!(
                "{place}: {value} at the top level disagrees with method `{name}`, which sets {set}; to change the method, write it \
                 under [methods.{name}] or pass --set {key}={}",
                plain(value)
            );
            return Err(Error::setting(key, message));
        }
    }
    lay(&file, Origin::File);
    lay(&preset, Origin::Method);
    for table in [method.family.name(), &method.name] {
        if let Some(layer) = tables.get(table) {
            lay(layer, Origin::MethodTable);
        }
    }
    lay(&line, Origin::CommandLine);

    let read = refusal::read(Value::Table(nest(&values)?));
    let mut settings: Settings = read.map_err(|(key, why)| Error::setting(key, format!("{place}: wanted {why}")))?;
    settings.views.mask = settings.eval.mask;
    let settings = Validated::by(settings, check)?;
    Ok(Effective { settings, origins, file: path.map(Path::to_path_buf) })
}

/// As [`crate::settings::load_written`], with the check of the parts that are set.
pub(crate) fn load_written(path: &Path, check: Check) -> Result<Validated<Settings>> {
    let schema = Schema::new()?;
    let flat = schema.flatten(&read_table(path)?, &path.display().to_string())?;
    let mut values = schema.defaults();
    values.extend(flat);
    let read = refusal::read(Value::Table(nest(&values)?));
    let mut settings: Settings = read.map_err(|(key, why)| Error::mismatch(path, format!("`{key}` cannot be read: wanted {why}")))?;
    settings.views.mask = settings.eval.mask;
    Validated::by(settings, check)
}

/// Every key of `settings` with its value, dotted; optional keys without a value are left out.
pub fn flat(settings: &Settings) -> Result<BTreeMap<String, Value>> {
    let table = Table::try_from(settings).map_err(|e| Error::Usage(format!("settings cannot be written as TOML: {e}")))?;
    let mut flat = BTreeMap::new();
    collect("", &table, &mut flat);
    Ok(flat)
}

fn collect(path: &str, table: &Table, flat: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Table(inner) => collect(&key, inner, flat),
            Value::Float(x) => {
                flat.insert(key, Value::Float(tidy(*x)));
            }
            _ => {
                flat.insert(key, value.clone());
            }
        }
    }
}

impl Effective {
    /// As [`Effective::on_prepared`], with the check of the parts that are set.
    pub(crate) fn moved(mut self, dir: &Path, data: &DataSettings, check: Check) -> Result<Effective> {
        let own = |key: &&String| key.starts_with("data.");
        if let Some((key, _)) = self.origins.iter().find(|(key, origin)| own(key) && **origin == Origin::CommandLine) {
            return Err(Error::setting(key, format!("{} is prepared already; leave out --set {key} or --data", dir.display())));
        }
        let data = DataSettings { dir: Some(dir.to_path_buf()), ..data.clone() };
        self.settings = Validated::by(Settings { data, ..self.settings.into_inner() }, check)?;
        // What the folder was made with by default was not chosen.
        let (values, defaults) = (flat(&self.settings)?, flat(&Settings::default())?);
        for (key, origin) in self.origins.iter_mut().filter(|(key, _)| own(key)) {
            *origin = if values.get(key) == defaults.get(key) { Origin::Default } else { Origin::Prepared };
        }
        Ok(self)
    }

    /// The settings as TOML with the origin of each value as a comment. Readable by [`crate::settings::load_written`].
    pub fn to_toml(&self) -> Result<String> {
        let values = flat(&self.settings)?;
        let mut text = String::new();
        let mut section = "";
        // Keys without a section first: TOML has no way back to the top level.
        let (top, mut below): (Vec<_>, Vec<_>) = self.origins.iter().partition(|(k, _)| !k.contains('.'));
        // A table may stand only once, so its own keys come before those of the tables inside it.
        below.sort_by_key(|(k, _)| k.rsplit_once('.'));
        for (key, origin) in top.into_iter().chain(below) {
            let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
            if table != section {
                text.push_str(&format!("\n[{table}]\n"));
                section = table;
            }
            match values.get(key) {
                Some(value) => text.push_str(&format!("{:<40} # {}\n", format!("{name} = {}", shown(value)), origin.name())),
                None => text.push_str(&format!("{:<40} # not set\n", format!("# {name} ="))),
            }
        }
        Ok(text)
    }
}

/// A value as TOML; very small numbers with an exponent instead of a row of zeros.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && x.abs() < 1e-4 => format!("{x:e}"),
        _ => value.to_string(),
    }
}

fn read_table(path: &Path) -> Result<Table> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let line_of = |at: usize| 1 + bytes[..at.min(bytes.len())].iter().filter(|&&b| b == b'\n').count() as u64;
    let data = |line, message: String| Error::Data { path: path.to_path_buf(), line, message };
    let text = std::str::from_utf8(&bytes)
        .map_err(|e| data(line_of(e.valid_up_to()), "is not UTF-8 text; save it as UTF-8 or name another file".into()))?;
    text.parse::<Table>().map_err(|e| data(e.span().map_or(0, |s| line_of(s.start)), format!("is not valid TOML: {}", e.message().trim())))
}

/// The file's `[methods.<name>]` tables, each checked, whichever method is chosen.
fn method_tables(schema: &Schema, methods: Option<Value>, place: &str) -> Result<BTreeMap<String, BTreeMap<String, Value>>> {
    let mut all = BTreeMap::new();
    let Some(methods) = methods else { return Ok(all) };
    let Value::Table(methods) = methods else {
        return Err(Error::setting("methods", format!("{place}: wanted tables `[methods.<name>]`")));
    };
    let known = methods::all()?;
    for (name, table) in methods {
        let key = format!("methods.{name}");
        let place = format!("{place}, [{key}]");
        let valid = || known.iter().map(|m| m.name.as_str()).chain(Family::ALL.map(Family::name));
        if !valid().any(|n| n == name) {
            return Err(Error::setting(key, format!("{place}: {}", names::unknown("method", &name, valid()))));
        }
        let Value::Table(table) = table else {
            return Err(Error::setting(key, format!("{place}: wanted a table of settings")));
        };
        let flat = schema.flatten(&table, &place)?;
        // Methods are compared on one data set under one protocol.
        if let Some(key) = flat.keys().find(|k| ["method", "compare"].contains(&k.as_str()) || k.starts_with("data.")) {
            return Err(Error::setting(key, format!("{place}: holds for all methods; write it at the top level of the file")));
        }
        all.insert(name, flat);
    }
    Ok(all)
}

fn command_line(schema: &Schema, sets: &[String]) -> Result<BTreeMap<String, Value>> {
    let mut line = BTreeMap::new();
    for set in sets {
        let Some((key, text)) = set.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
            return Err(Error::setting(set, "command line: wanted --set KEY=VALUE, such as --set local.lr=0.01"));
        };
        let key = key.trim();
        if key.starts_with("methods.") {
            return Err(Error::setting(key, "command line: --set holds for the chosen method already; leave `methods.<name>.` out"));
        }
        line.insert(key.to_string(), schema.parse(key, text, "command line")?);
    }
    Ok(line)
}

fn preset(schema: &Schema, method: &Method) -> Result<BTreeMap<String, Value>> {
    let place = format!("method {}", method.name);
    method.all_choices()?.into_iter().map(|c| Ok((c.key.clone(), schema.parse(&c.key, &c.value, &place)?))).collect()
}

/// Equal values; a whole number equals the same number written as a float.
fn same(a: &Value, b: &Value) -> bool {
    let number = |v: &Value| v.as_float().or(v.as_integer().map(|n| n as f64));
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x as f32 == y as f32,
        _ => a == b,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_string)
}
