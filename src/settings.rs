//! From files and values to settings that hold together: each part checks its own, in a fixed order.

use crate::config::{self, DataSettings, Effective, Settings, Validated};
use crate::{Result, data, device, engine, eval, federation, model, privacy, views};
use std::path::Path;

/// Reads `path` (none: defaults and presets alone) and applies `sets`, each `KEY=VALUE`, later ones winning.
///
/// # Errors
/// [`crate::Error::Data`] with file and line for broken TOML, [`crate::Error::Setting`] for unknown keys and names, wrong types, values out
/// of range and a top-level value that the method sets otherwise.
pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Effective> {
    config::load(path, sets, &validate)
}

/// Reads settings that were written by [`Effective::to_toml`]: complete, so no method is applied to them again.
///
/// # Errors
/// As [`load`], and [`crate::Error::Mismatch`] for a file that is not complete in itself.
pub fn load_written(path: &Path) -> Result<Validated<Settings>> {
    config::load_written(path, &validate)
}

/// Refuses settings that cannot be meant, with the key, the value and what is wanted.
///
/// # Errors
/// [`crate::Error::Setting`] for the first that is refused.
pub fn validate(settings: &Settings) -> Result<()> {
    config::check_run(settings)?;
    device::check(settings)?;
    data::check(&settings.data)?;
    data::check_noise(&settings.noise)?;
    views::check(&settings.views)?;
    model::check(settings)?;
    engine::check(settings)?;
    federation::check(settings)?;
    privacy::check(settings)?;
    eval::check(&settings.eval)
}

/// Refuses settings that do not fit a data set of `users` and `items`.
///
/// # Errors
/// [`crate::Error::Setting`] for the first that is refused.
pub fn validate_against(settings: &Settings, users: usize, items: usize) -> Result<()> {
    let (users, items) = (users as u64, items as u64);
    eval::fits(settings, users, items)?;
    federation::fits(settings, users)?;
    model::fits(settings, items)
}

impl Validated<Settings> {
    /// `settings`, if they hold together. Views and recommendations leave out the same items: `views.mask` becomes `eval.mask`.
    ///
    /// # Errors
    /// As [`validate`].
    pub fn new(mut settings: Settings) -> Result<Validated<Settings>> {
        settings.views.mask = settings.eval.mask;
        Validated::by(settings, validate)
    }

    /// The same after `change`, validated again.
    ///
    /// # Errors
    /// As [`validate`].
    pub fn with(self, change: impl FnOnce(&mut Settings)) -> Result<Validated<Settings>> {
        let mut settings = self.into_inner();
        change(&mut settings);
        Validated::new(settings)
    }
}

impl TryFrom<Settings> for Validated<Settings> {
    type Error = crate::Error;

    fn try_from(settings: Settings) -> Result<Validated<Settings>> {
        Validated::new(settings)
    }
}

impl Effective {
    /// The same with the data set in the folder `dir`, which was prepared with `data`. Every `data.*` of a file gives way.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for a `data.*` of the command line, which contradicts the folder.
    pub fn on_prepared(self, dir: &Path, data: &DataSettings) -> Result<Effective> {
        self.moved(dir, data, &validate)
    }
}
