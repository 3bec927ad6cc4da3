//! What a run is called and how it is computed: the settings that belong to no part.

use super::range::{ensure, range};
use super::{Settings, methods};
use crate::{Error, Result};

/// Refuses unknown methods, and more threads than any machine has.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub(crate) fn check_run(settings: &Settings) -> Result<()> {
    methods::find(&settings.method)?;
    for (i, name) in settings.compare.iter().enumerate() {
        methods::find(name).map_err(|e| match e {
            Error::Setting { message, .. } => Error::setting("compare", message),
            other => other,
        })?;
        ensure(!settings.compare[..i].contains(name), "compare", format!("a list with `{name}` twice"), "each method once")?;
    }
    range(settings.threads <= 4096, "threads", settings.threads, "between 0 and 4096 (0: all cores)")
}
