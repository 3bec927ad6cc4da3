//! LUMOS from Python: what the Rust library does, as functions, data sets and runs. `python/lumos/__init__.pyi` documents all of it.

mod convert;
mod data;
mod errors;
mod run;
mod train;

use convert::{object, sets};
use data::{DataSet, PyViews};
use errors::raise;
use lumos::Silent;
use lumos::config::Effective;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use run::Run;
use std::path::PathBuf;

/// The settings that `config` and `settings` give together.
fn effective(config: Option<PathBuf>, settings: Option<&Bound<PyDict>>) -> PyResult<Effective> {
    lumos::load_settings(config.as_deref(), &sets(settings)?).map_err(raise)
}

/// Every setting that would be used, as nested dictionaries.
#[pyfunction]
#[pyo3(signature = (config=None, settings=None))]
fn settings<'py>(py: Python<'py>, config: Option<PathBuf>, settings: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyAny>> {
    let effective = effective(config, settings)?;
    object(py, &serde_json::to_value(&*effective.settings).map_err(|e| raise(lumos::Error::Usage(e.to_string())))?)
}

/// Prepares the data set, or opens it where it lies.
#[pyfunction]
#[pyo3(signature = (config=None, settings=None))]
fn prepare(py: Python, config: Option<PathBuf>, settings: Option<&Bound<PyDict>>) -> PyResult<DataSet> {
    let effective = effective(config, settings)?;
    let (data, folder) = py.detach(|| lumos::prepare_data(&effective.settings, false, &Silent)).map_err(raise)?;
    Ok(DataSet::new(data.into(), folder))
}

/// Makes the views of every user, or opens them where they lie.
#[pyfunction]
#[pyo3(signature = (config=None, settings=None))]
fn views(py: Python, config: Option<PathBuf>, settings: Option<&Bound<PyDict>>) -> PyResult<PyViews> {
    let effective = effective(config, settings)?;
    let prepared = py.detach(|| lumos::prepare(&effective.settings, &Silent)).map_err(raise)?;
    Ok(PyViews::new(&prepared))
}

#[pymodule]
fn _lumos(m: &Bound<PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("MISS", lumos::MISS)?;
    errors::add(m)?;
    m.add_class::<DataSet>()?;
    m.add_class::<PyViews>()?;
    m.add_class::<Run>()?;
    m.add_function(wrap_pyfunction!(settings, m)?)?;
    m.add_function(wrap_pyfunction!(prepare, m)?)?;
    m.add_function(wrap_pyfunction!(views, m)?)?;
    m.add_function(wrap_pyfunction!(train::train, m)?)?;
    m.add_function(wrap_pyfunction!(run::runs, m)?)
}
