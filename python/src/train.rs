//! Training with a callback.

use crate::convert::object;
use crate::effective;
use crate::errors::raise;
use crate::run::Run;
use lumos::federation::RoundReport;
use lumos::run::{self, Claim, Devices, Job, Start};
use lumos::{Error, Observer};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Hands what happens to a Python function. An exception of it, and Ctrl-C, stop the run after the round.
struct Caller {
    callback: Option<Py<PyAny>>,
    stop: AtomicBool,
    round: AtomicU64,
    error: Mutex<Option<PyErr>>,
}

impl Caller {
    fn call(&self, event: &serde_json::Value) {
        let outcome = Python::attach(|py| {
            py.check_signals()?;
            let Some(callback) = &self.callback else { return Ok(()) };
            let answer = callback.bind(py).call1((object(py, event)?,))?;
            // `False` ends the run, anything else goes on.
            if answer.extract::<bool>().is_ok_and(|on| !on) {
                self.stop.store(true, Ordering::Relaxed);
            }
            Ok(())
        });
        if let Err(error) = outcome {
            self.fail(error);
        }
    }

    fn fail(&self, error: PyErr) {
        self.stop.store(true, Ordering::Relaxed);
        self.error.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(error);
    }
}

impl Observer for Caller {
    fn stage(&self, _: &str, _: u64, _: u64) {
        if let Err(error) = Python::attach(|py| py.check_signals()) {
            self.fail(error);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn in_round(&self, _: u64, _: u64) {
        if let Err(error) = Python::attach(|py| py.check_signals()) {
            self.fail(error);
        }
    }

    fn round(&self, report: &RoundReport) {
        self.round.store(report.round, Ordering::Relaxed);
        let mut event = serde_json::to_value(report).unwrap_or_default();
        event["event"] = json!("round");
        self.call(&event);
    }

    fn evaluated(&self, metric: &str, value: f64, best: bool) {
        let round = self.round.load(Ordering::Relaxed);
        self.call(&json!({ "event": "validation", "round": round, "metric": metric, "value": value, "best": best }));
    }
}

/// Trains one method into one run folder, and tests its best checkpoint.
#[pyfunction]
#[pyo3(signature = (config=None, out=None, settings=None, resume=false, callback=None))]
pub fn train(
    py: Python,
    config: Option<PathBuf>,
    out: Option<PathBuf>,
    settings: Option<&Bound<PyDict>>,
    resume: bool,
    callback: Option<Py<PyAny>>,
) -> PyResult<Run> {
    let effective = effective(config, settings)?;
    let out = match out {
        Some(out) => out,
        None => run::default_folder(&effective.settings).map_err(raise)?,
    };
    let caller = Caller { callback, stop: AtomicBool::new(false), round: AtomicU64::new(0), error: Mutex::new(None) };
    let done = py.detach(|| {
        let claim = Claim::take(&out, if resume { Start::Resume } else { Start::New })?;
        let device = Devices::default().to_train(&effective.settings)?;
        let prepared = lumos::prepare(&effective.settings, &caller)?;
        run::train(&Job { effective: &effective, prepared: &prepared, device: &device, out: &claim, stop: &caller.stop }, &caller)
    });
    if let Some(error) = caller.error.into_inner().unwrap_or_else(|e| e.into_inner()) {
        return Err(error);
    }
    match done {
        // The callback asked for the end: what there is so far is the run.
        Err(Error::Interrupted(_)) | Ok(_) => Run::open(&out),
        Err(error) => Err(raise(error)),
    }
}
