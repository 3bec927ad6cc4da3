//! Which device a setting may name.

use super::Choice;
use crate::config::Settings;
use crate::{Error, Result};

/// Refuses a `device` that is none.
///
/// # Errors
/// [`Error::Setting`] with the names that are.
pub fn check(settings: &Settings) -> Result<()> {
    settings.device.parse::<Choice>().map(|_| ()).map_err(|e| Error::setting("device", e.to_string()))
}
