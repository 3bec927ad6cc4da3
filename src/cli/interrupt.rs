//! Ctrl-C: the first press lets the round, or the views under way, end; the second ends the program at once. Files are whole either way, for each is renamed into
//! place when it is complete.

use super::output;
use crate::{Error, Result};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Starts to listen; the flag is set by the first press.
pub fn listen() -> Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        if std::io::stderr().is_terminal() {
            output::remark("stopping once what is under way is saved; press Ctrl-C again to stop at once");
        }
    })
    .map_err(|e| Error::Usage(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(&STOP)
}

/// Whether Ctrl-C was pressed, where somebody listens.
pub fn pressed() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Adds to an interruption, or to the failure of a device, how to go on: the same command, with `flag` where it is not there yet.
pub fn how_to_resume(error: Error, flag: Option<&str>) -> Error {
    if !matches!(error, Error::Interrupted(_) | Error::Stopped { .. }) {
        return error;
    }
    let mut words: Vec<String> = std::env::args().map(|a| if a.contains(' ') { format!("'{a}'") } else { a }).collect();
    if let Some(program) = words.first_mut() {
        *program = "lumos".into();
    }
    if let Some(flag) = flag
        && !words.iter().any(|w| w == flag)
    {
        words.push(flag.into());
    }
    let go_on = |what: String| format!("{what}; go on with: {}", words.join(" "));
    match error {
        Error::Interrupted(what) => Error::Interrupted(go_on(what)),
        Error::Stopped { source, saved } => Error::Stopped { source, saved: go_on(saved) },
        other => other,
    }
}
