//! Settings that were checked.

use crate::Result;
use std::ops::Deref;

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

impl<S> Deref for Validated<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}
