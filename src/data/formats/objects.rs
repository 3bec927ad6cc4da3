//! Lines that hold an object each, as JSON or as a Python literal, and what their fields come to.

use std::path::Path;

use serde_json::{Map, Value};

use super::python;
use crate::Result;
use crate::base::clean;
use crate::base::names;
use crate::data::reader::data_error;
use crate::data::text;

/// The fields of a line.
pub(super) type Fields = Map<String, Value>;

/// The object in `text`, which is line `line` of `path`. A line that begins with a single quote's key is a Python literal.
pub(super) fn object(path: &Path, line: u64, text: &str) -> Result<Fields> {
    let text = text.trim().trim_end_matches(',');
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(json) => python::literal(text).map_err(|why| {
            let why = if text.contains("{'") { why } else { json.to_string() };
            data_error(path, line, format!("is neither a JSON object nor a Python dictionary ({why})"))
        })?,
    };
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(data_error(path, line, "holds no object; a line is `{\"name\": value, ...}`")),
    }
}

/// A text or a number as text; `None` for nothing, or for a list.
pub(super) fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}

/// The first of `names` that holds a text or a number.
pub(super) fn first(fields: &Fields, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| scalar(fields.get(*name)).filter(|text| !text.is_empty()))
}

/// As [`first`], with an error that names the keys that are there.
pub(super) fn needed(path: &Path, line: u64, fields: &Fields, names: &[&str]) -> Result<String> {
    first(fields, names).ok_or_else(|| {
        let wanted = names.iter().map(|name| format!("`{}`", clean::id(name))).collect::<Vec<_>>().join(" or ");
        let keys: Vec<&str> = fields.keys().map(String::as_str).collect();
        let near = names::nearest(names[0], keys.iter().copied());
        let near = near.map_or(String::new(), |name| format!("; the nearest is `{}`", clean::id(name)));
        let listed = keys.iter().take(20).map(|key| clean::id(key)).collect::<Vec<_>>().join(", ");
        data_error(path, line, format!("has no {wanted} with a text or a number{near}. Keys: {listed}"))
    })
}

/// The entries of a list; of a list of lists the first one's, which is an item's main path of categories. A text is cut at bars.
pub(super) fn entries(value: Option<&Value>) -> Vec<String> {
    let all = match value {
        Some(Value::Array(list)) => match list.first() {
            Some(Value::Array(inner)) => inner.iter().filter_map(|entry| scalar(Some(entry))).collect(),
            _ => list.iter().filter_map(|entry| scalar(Some(entry))).collect(),
        },
        Some(Value::String(text)) => text.split('|').map(str::to_owned).collect(),
        other => scalar(other).into_iter().collect::<Vec<_>>(),
    };
    all.iter().map(|entry| text::clean(entry)).filter(|entry| !entry.is_empty()).collect()
}
