//! The shape of the settings, taken from their serialized defaults: which keys exist, of which kind, and which names a key accepts.

use super::Settings;
use super::refusal::{self, Refusal};
use crate::base::clean;
use crate::base::names;
use crate::{Error, Result};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// A number.
    Float,
    /// Text, or one of a list of names.
    Text,
    /// A list.
    List,
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Kind::Bool => "true or false",
            Kind::Int => "a whole number",
            Kind::Float => "a number",
            Kind::Text => "text in quotes",
            Kind::List => "a list in brackets",
        }
    }
}

/// Every dotted key with its kind and its default; an optional key without a default has none.
#[derive(Clone, Debug)]
pub struct Schema {
    keys: BTreeMap<String, (Kind, Option<Value>)>,
    sections: Vec<String>,
}

impl Schema {
    /// The schema of [`Settings`].
    pub fn new() -> Result<Schema> {
        // JSON keeps an absent optional value as null, which TOML leaves out.
        let json = serde_json::to_value(Settings::default()).map_err(|e| Error::Usage(format!("defaults cannot be written: {e}")))?;
        let mut schema = Schema { keys: BTreeMap::new(), sections: Vec::new() };
        schema.collect("", &json);
        Ok(schema)
    }

    fn collect(&mut self, path: &str, json: &serde_json::Value) {
        use serde_json::Value as J;
        let leaf = match json {
            J::Object(map) => {
                if !path.is_empty() {
                    self.sections.push(path.to_string());
                }
                for (name, value) in map {
                    self.collect(&join(path, name), value);
                }
                return;
            }
            J::Null => (Kind::Text, None),
            J::Bool(b) => (Kind::Bool, Some(Value::Boolean(*b))),
            J::Number(n) if n.is_f64() => (Kind::Float, n.as_f64().map(|x| Value::Float(tidy(x)))),
            J::Number(n) => (Kind::Int, n.as_i64().map(Value::Integer)),
            J::String(s) => (Kind::Text, Some(Value::String(s.clone()))),
            J::Array(list) => (Kind::List, Value::try_from(list).ok()),
        };
        self.keys.insert(path.to_string(), leaf);
    }

    /// Every key in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Default of every key that has one.
    pub fn defaults(&self) -> BTreeMap<String, Value> {
        self.keys.iter().filter_map(|(k, (_, v))| Some((k.clone(), v.clone()?))).collect()
    }

    /// The kind of `key`, or a message with the nearest key.
    pub fn kind(&self, key: &str, place: &str) -> Result<Kind> {
        if let Some((kind, _)) = self.keys.get(key) {
            return Ok(*kind);
        }
        if self.sections.iter().any(|s| s == key) {
            return Err(Error::setting(
                key,
                format!("{place}: is a table of settings, not a value; write `[{key}]` and its keys below it"),
            ));
        }
        let nearest = names::nearest(key, self.keys());
        let section_of = |key: &str| key.rsplit_once('.').map_or(String::new(), |(s, _)| s.to_string());
        let section = section_of(key);
        let listed = if self.sections.contains(&section) { Some(section) } else { nearest.map(section_of) };
        let Some(listed) = listed else {
            return Err(Error::setting(key, format!("{place}: unknown setting; `lumos config` lists all of them")));
        };
        let valid: Vec<&str> = self.keys().filter(|k| section_of(k) == listed).collect();
        let hint = nearest.map_or(".".to_string(), |n| format!("; did you mean `{n}`?"));
        Err(Error::setting(key, format!("{place}: unknown setting{hint} Valid: {}", valid.join(", "))))
    }

    /// Checks one value against its key: kind, accepted names, range of the number type.
    pub fn check(&self, key: &str, value: &Value, place: &str) -> Result<()> {
        let kind = self.kind(key, place)?;
        let fits = match kind {
            Kind::Bool => value.is_bool(),
            Kind::Int => value.is_integer(),
            Kind::Float => value.is_float() || value.is_integer(),
            Kind::Text => value.is_str(),
            Kind::List => value.is_array(),
        };
        if !fits && kind == Kind::Int && value.as_str().is_some_and(too_long) {
            // TOML's whole numbers have 64 bits, so a longer one has come as text.
            let message = format!("{place}: {} is out of range, must be between 0 and {}", found(value), i64::MAX);
            return Err(Error::setting(key, message.replacen("the text ", "", 1)));
        }
        if !fits {
            return Err(Error::setting(key, format!("{place}: found {}, wanted {}", found(value), self.wanted(key, kind))));
        }
        let names = self.names(key);
        if !names.is_empty() {
            let given: Vec<&Value> = value.as_array().map_or(vec![value], |list| list.iter().collect());
            for one in given {
                match one.as_str() {
                    Some(name) if names.iter().any(|n| n == name) => {}
                    Some(name) => {
                        let message = names::unknown("value", name, names.iter().map(String::as_str));
                        return Err(Error::setting(key, format!("{place}: {message}")));
                    }
                    None => {
                        let list = names.join(", ");
                        return Err(Error::setting(key, format!("{place}: found {} in the list, wanted names from: {list}", found(one))));
                    }
                }
            }
        }
        // What remains (a negative count, a number beyond 32 bits, a list of the wrong kind) is found by reading the defaults with
        // this one value changed, so that the complaint belongs to this key.
        let mut table = nest(&self.defaults())?;
        insert(&mut table, key, value.clone())?;
        match refusal::read::<Settings>(Value::Table(table)) {
            Ok(_) => Ok(()),
            Err((_, why)) => Err(Error::setting(key, format!("{place}: found {}, wanted {why}", found(value)))),
        }
    }

    fn wanted(&self, key: &str, kind: Kind) -> String {
        let names = self.names(key);
        if names.is_empty() {
            return kind.wanted().to_string();
        }
        let of = if kind == Kind::List { "a list of" } else { "one of" };
        format!("{of} \"{}\"", names.join("\", \""))
    }

    /// The names that a key accepts, learnt from the reader itself by offering it a name that cannot exist. Empty: any text.
    pub fn names(&self, key: &str) -> Vec<String> {
        let probe = match self.keys.get(key) {
            Some((Kind::Text, _)) => Value::String("\u{1}".into()),
            Some((Kind::List, _)) => Value::Array(vec![Value::String("\u{1}".into())]),
            _ => return Vec::new(),
        };
        let Ok(mut table) = nest(&self.defaults()) else { return Vec::new() };
        if insert(&mut table, key, probe).is_err() {
            return Vec::new();
        }
        match refusal::read::<Settings>(Value::Table(table)) {
            Err((_, Refusal::Names(names))) => names.iter().map(|n| n.to_string()).collect(),
            _ => Vec::new(),
        }
    }

    /// Every key and value below `table`, dotted; refuses unknown keys and wrong kinds. `place` says where the table stands.
    pub fn flatten(&self, table: &Table, place: &str) -> Result<BTreeMap<String, Value>> {
        let mut flat = BTreeMap::new();
        self.walk("", table, place, &mut flat)?;
        Ok(flat)
    }

    fn walk(&self, path: &str, table: &Table, place: &str, flat: &mut BTreeMap<String, Value>) -> Result<()> {
        for (name, value) in table {
            let key = join(path, name);
            let section = self.sections.contains(&key);
            match value {
                Value::Table(inner) if section || (!inner.is_empty() && !self.keys.contains_key(&key)) => {
                    self.walk(&key, inner, place, flat)?
                }
                _ if section => {
                    let message = format!("{place}: found {}, wanted a table of settings: `[{key}]` and its keys below it", found(value));
                    return Err(Error::setting(key, message));
                }
                _ => {
                    self.check(&key, value, place)?;
                    flat.insert(key, value.clone());
                }
            }
        }
        Ok(())
    }

    /// Reads the text of a command-line value by the kind that its key wants.
    pub fn parse(&self, key: &str, text: &str, place: &str) -> Result<Value> {
        let text = text.trim();
        let as_toml = || format!("v = {text}").parse::<Table>().ok().and_then(|mut t| t.remove("v"));
        let value = match self.kind(key, place)? {
            Kind::Text => match as_toml() {
                Some(Value::String(s)) => Value::String(s),
                _ => Value::String(text.to_string()),
            },
            Kind::List => match as_toml() {
                Some(list @ Value::Array(_)) => list,
                _ if text.starts_with('[') => Value::String(text.to_string()),
                _ => Value::Array(
                    text.split(',')
                        .map(str::trim)
                        .filter(|part| !part.is_empty())
                        .map(|part| match part.parse::<i64>() {
                            // `007` is a name.
                            Ok(n) if n.to_string() == part => Value::Integer(n),
                            _ => Value::String(part.to_string()),
                        })
                        .collect(),
                ),
            },
            Kind::Float => match text.parse::<f64>() {
                Ok(x) => Value::Float(x),
                Err(_) => Value::String(text.to_string()),
            },
            Kind::Bool | Kind::Int => as_toml().unwrap_or_else(|| Value::String(text.to_string())),
        };
        self.check(key, &value, place)?;
        Ok(value)
    }
}

/// A dotted map as nested tables.
pub fn nest(flat: &BTreeMap<String, Value>) -> Result<Table> {
    let mut table = Table::new();
    for (key, value) in flat {
        insert(&mut table, key, value.clone())?;
    }
    Ok(table)
}

fn insert(table: &mut Table, key: &str, value: Value) -> Result<()> {
    match key.split_once('.') {
        None => {
            table.insert(key.to_string(), value);
            Ok(())
        }
        Some((head, rest)) => match table.entry(head.to_string()).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(inner) => insert(inner, rest, value),
            _ => Err(Error::setting(key, format!("`{head}` is a value, not a table"))),
        },
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

/// Shortest number that stands for the same 32-bit float, so that `0.1` is not shown as `0.10000000149011612`.
pub fn tidy(x: f64) -> f64 {
    let narrow = x as f32;
    if f64::from(narrow) == x { narrow.to_string().parse().unwrap_or(x) } else { x }
}

/// Whether `text` is a whole number of more than 64 bits.
fn too_long(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && text.parse::<i64>().is_err()
}

fn found(value: &Value) -> String {
    match value {
        Value::String(s) => format!("the text \"{}\"", clean::id(s)),
        Value::Integer(n) => format!("the whole number {n}"),
        Value::Float(x) => format!("the number {x}"),
        Value::Boolean(b) => b.to_string(),
        Value::Datetime(d) => format!("the date {d}"),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Table(_) => "a table".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_learnt_from_the_reader() {
        let schema = Schema::new().unwrap();
        assert_eq!(schema.names("model.backbone"), super::super::Backbone::NAMES);
        assert_eq!(schema.names("federation.server"), super::super::ServerOptimizer::NAMES);
        assert_eq!(schema.names("federation.shared"), super::super::Group::NAMES);
        assert!(schema.names("data.name").is_empty());
        assert!(schema.names("eval.k").is_empty());
    }

    #[test]
    fn optional_keys_are_known() {
        let schema = Schema::new().unwrap();
        assert_eq!(schema.kind("data.inter", "file").unwrap(), Kind::Text);
        assert!(!schema.defaults().contains_key("data.inter"));
    }

    #[test]
    fn defaults_read_back_unchanged() {
        let table = nest(&Schema::new().unwrap().defaults()).unwrap();
        assert_eq!(table.try_into::<Settings>().unwrap(), Settings::default());
    }

    #[test]
    fn floats_are_shown_short() {
        assert_eq!(tidy(f64::from(0.1f32)), 0.1);
        assert_eq!(tidy(0.1), 0.1);
        assert_eq!(tidy(1e-8f32.into()), 1e-8);
    }
}
