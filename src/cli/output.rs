//! Writing to stdout and stderr: cleaned for a terminal, without a panic where the reader is gone.

use crate::base::clean;
use crate::{Error, Result};
use serde::Serialize;
use std::io::Write;

/// Writes `text` and a line end to stdout.
pub fn say(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", clean::lines(&text.to_string())).and_then(|()| out.flush()).map_err(Error::io("stdout", "write"))
}

/// Writes `value` to stdout as one line of JSON.
pub fn say_json(value: &impl Serialize) -> Result<()> {
    // Exact: JSON escapes control characters, and who reads it wants the ids as they are.
    let text = serde_json::to_string(value).map_err(|e| Error::Usage(format!("cannot write JSON: {e}")))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("stdout", "write"))
}

/// One message to stderr.
pub fn complain(error: &Error) {
    // If stderr is gone, the exit code still says so.
    let _ = writeln!(std::io::stderr(), "{}", clean::message(&format!("error: {error}")));
}

/// A line to stderr that is not an error.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", clean::message(text));
}
