//! Which settings of evaluation can be meant, by themselves and beside a data set.

use super::SelectMetric;
use crate::Result;
use crate::config::range::{at_least_one, ensure, range, refuse};
use crate::config::{EvalSettings, Settings};

/// Refuses cut-offs below 1 or named twice, and a selection metric that is not computed.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(s: &EvalSettings) -> Result<()> {
    at_least_one("eval.every", s.every)?;
    ensure(!s.k.is_empty(), "eval.k", "empty", "at least one cut-off, such as [5, 10, 20]")?;
    for (i, k) in s.k.iter().enumerate() {
        ensure(*k >= 1, "eval.k", format!("a list with {k}"), "cut-offs of at least 1")?;
        ensure(!s.k[..i].contains(k), "eval.k", format!("a list with {k} twice"), "each cut-off once")?;
    }
    select(s).map(|_| ())
}

/// The metric of `eval.select`, whose K must be among `eval.k`.
///
/// # Errors
/// [`crate::Error::Setting`] for a metric or a cut-off that is not there.
pub fn select(s: &EvalSettings) -> Result<SelectMetric> {
    let metric = SelectMetric::parse("eval.select", &s.select)?;
    if s.k.contains(&metric.k) {
        return Ok(metric);
    }
    let list: Vec<String> = s.k.iter().map(u32::to_string).collect();
    let wanted = format!("a K out of eval.k = [{}]; add {} there or choose one of them", list.join(", "), metric.k);
    refuse("eval.select", format!("`{}`", s.select), &wanted)
}

/// Refuses cut-offs and numbers of users beyond the `items` items and `users` users of a data set.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn fits(settings: &Settings, users: u64, items: u64) -> Result<()> {
    for &k in &settings.eval.k {
        let most = format!("cut-offs of at most {items}, the number of items of `{}`", settings.data.name);
        ensure(u64::from(k) <= items, "eval.k", format!("a list with {k}"), &most)?;
    }
    let chosen = u64::from(settings.eval.users);
    range(chosen <= users, "eval.users", chosen, &format!("between 0 and {users}, the number of users (0: all)"))
}
