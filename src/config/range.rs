//! Refusals that all checks of settings share: one wording for one kind of fault.

use crate::{Error, Result};
use std::fmt::Display;

/// Refuses `value` of `key`, and says what is `wanted`.
pub(crate) fn refuse<T>(key: &str, value: impl Display, wanted: &str) -> Result<T> {
    Err(Error::setting(key, format!("is {value}, wanted {wanted}")))
}

/// Refuses a value unless `ok`, and says what is `wanted`.
pub(crate) fn ensure(ok: bool, key: &str, value: impl Display, wanted: &str) -> Result<()> {
    if ok { Ok(()) } else { refuse(key, value, wanted) }
}

/// Refuses a number outside its range, whose ends `range` names: `between 1 and 64`.
pub(crate) fn range(ok: bool, key: &str, value: impl Display, range: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::setting(key, format!("is {value}, must be {range}"))) }
}

/// Refuses a number that is not finite or outside its range, whose ends `wanted` names.
pub(crate) fn number(ok: impl Fn(f32) -> bool, key: &str, value: f32, wanted: &str) -> Result<()> {
    range(value.is_finite() && ok(value), key, value, wanted)
}

/// Refuses 0.
pub(crate) fn at_least_one(key: &str, value: u32) -> Result<()> {
    range(value >= 1, key, value, "at least 1")
}
