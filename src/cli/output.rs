//! Writing to stdout and stderr without a panic where nobody reads.

use crate::{Error, Result};
use serde::Serialize;
use std::io::Write;

/// Writes `text` and a line end to stdout.
pub fn say(text: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("stdout", "write"))
}

/// Writes `value` to stdout as one line of JSON.
pub fn say_json(value: &impl Serialize) -> Result<()> {
    say(serde_json::to_string(value).map_err(|e| Error::Usage(format!("cannot write JSON: {e}")))?)
}

/// One message to stderr.
pub fn complain(error: &Error) {
    // If stderr is gone, the exit code still tells.
    let _ = writeln!(std::io::stderr(), "error: {error}");
}

/// A line to stderr that is not an error.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
