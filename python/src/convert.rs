//! Python's values as settings, and JSON as Python's values.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde_json::Value;

/// `KEY=VALUE` for every setting of a dictionary, which may be nested (`{"loss": {"tau": 0.5}}`) or dotted (`{"loss.tau": 0.5}`).
pub fn sets(settings: Option<&Bound<PyDict>>) -> PyResult<Vec<String>> {
    let mut out = Vec::new();
    if let Some(settings) = settings {
        collect("", settings, &mut out)?;
    }
    Ok(out)
}

fn collect(path: &str, table: &Bound<PyDict>, out: &mut Vec<String>) -> PyResult<()> {
    for (key, value) in table {
        let name: String = key.extract().map_err(|_| PyTypeError::new_err(format!("settings: the key {key} is no text")))?;
        let key = if path.is_empty() { name } else { format!("{path}.{name}") };
        match value.cast::<PyDict>() {
            Ok(inner) => collect(&key, inner, out)?,
            Err(_) => out.push(format!("{key}={}", text(&key, &value)?)),
        }
    }
    Ok(())
}

/// A value as it would stand on the command line.
fn text(key: &str, value: &Bound<PyAny>) -> PyResult<String> {
    if let Ok(on) = value.cast::<PyBool>() {
        return Ok(if on.is_true() { "true" } else { "false" }.into());
    }
    if value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>() {
        return Ok(value.str()?.to_string());
    }
    if let Ok(text) = value.extract::<String>() {
        return Ok(text);
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let parts = value.try_iter()?.map(|one| {
            let one = one?;
            let quoted = |text: String| Value::String(text).to_string();
            if one.is_instance_of::<PyString>() { one.extract().map(quoted) } else { text(key, &one) }
        });
        return Ok(format!("[{}]", parts.collect::<PyResult<Vec<_>>>()?.join(", ")));
    }
    if let Ok(path) = value.call_method0("__fspath__") {
        return path.extract();
    }
    Err(PyTypeError::new_err(format!("setting `{key}`: {} is neither a number, text, a truth value, a path nor a list", value.repr()?)))
}

/// JSON as Python's dictionaries, lists, numbers and texts.
pub fn object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(on) => PyBool::new(py, *on).to_owned().into_any(),
        Value::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => n.into_pyobject(py)?.into_any(),
            (_, Some(n)) => n.into_pyobject(py)?.into_any(),
            _ => PyFloat::new(py, n.as_f64().unwrap_or(f64::NAN)).into_any(),
        },
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(list) => PyList::new(py, list.iter().map(|one| object(py, one)).collect::<PyResult<Vec<_>>>()?)?.into_any(),
        Value::Object(map) => {
            let out = PyDict::new(py);
            map.iter().try_for_each(|(key, one)| out.set_item(key, object(py, one)?))?;
            out.into_any()
        }
    })
}
