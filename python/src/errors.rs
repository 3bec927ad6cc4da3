//! Errors as Python's exceptions: one class a kind that a program would act on.

use lumos::{Error, ErrorKind};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(lumos, LumosError, PyException, "What LUMOS refuses or cannot do; the message says where and what to do.");
create_exception!(lumos, SettingError, LumosError, "A setting is unknown, mistyped or out of range.");
create_exception!(lumos, DataError, LumosError, "A file breaks its format, or does not fit what it is used with.");
create_exception!(lumos, InUseError, LumosError, "Another process is at work in the folder.");
create_exception!(lumos, InterruptedRun, LumosError, "The run was stopped; what is saved goes on with resume=True.");

/// Adds the classes to the module.
pub fn add(m: &Bound<PyModule>) -> PyResult<()> {
    let py = m.py();
    m.add("LumosError", py.get_type::<LumosError>())?;
    m.add("SettingError", py.get_type::<SettingError>())?;
    m.add("DataError", py.get_type::<DataError>())?;
    m.add("InUseError", py.get_type::<InUseError>())?;
    m.add("InterruptedRun", py.get_type::<InterruptedRun>())
}

/// The exception that stands for `error`. A file that cannot be read or written is an `OSError`, as everywhere in Python.
pub fn raise(error: Error) -> PyErr {
    let message = error.to_string();
    match error.kind() {
        ErrorKind::Io => pyo3::exceptions::PyOSError::new_err(message),
        ErrorKind::Setting => SettingError::new_err(message),
        ErrorKind::Data | ErrorKind::Mismatch => DataError::new_err(message),
        ErrorKind::InUse => InUseError::new_err(message),
        ErrorKind::Interrupted => InterruptedRun::new_err(message),
        _ => LumosError::new_err(message),
    }
}
