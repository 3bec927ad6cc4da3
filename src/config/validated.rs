//! Settings that were checked.

use super::Settings;
use crate::Result;
use std::ops::Deref;
use std::sync::Arc;

/// Settings that passed validation: what training, preparation and runs take. They are read like the settings themselves. To change one,
/// see [`Validated::with`], or take it apart by [`Validated::into_inner`] and validate the result again.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated<S>(S);

impl<S> Validated<S> {
    /// `settings`, if `check` lets them pass.
    pub(crate) fn by(settings: S, check: impl FnOnce(&S) -> Result<()>) -> Result<Validated<S>> {
        check(&settings)?;
        Ok(Validated(settings))
    }

    /// The settings, free to be changed.
    pub fn into_inner(self) -> S {
        self.0
    }
}

/// A copy to share, so that a trainer can be made from settings that are still in use.
impl From<&Validated<Settings>> for Arc<Validated<Settings>> {
    fn from(settings: &Validated<Settings>) -> Arc<Validated<Settings>> {
        Arc::new(settings.clone())
    }
}

impl<S> Deref for Validated<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}
