//! Which settings of the data can be meant.

use super::csv::separator_of;
use super::synth::check_habits;
use super::{reader, reader_names};
use crate::base::names;
use crate::config::range::{ensure, number, range};
use crate::config::{DataSettings, NoiseSettings};
use crate::{Error, Result};

/// Refuses settings that name no source, or a synthetic world out of range.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(s: &DataSettings) -> Result<()> {
    if !reader_names().contains(&s.format.as_str()) {
        return Err(Error::setting("data.format", names::unknown("value", &s.format, reader_names())));
    }
    let plain = !s.name.is_empty() && s.name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c)) && !s.name.starts_with('.');
    ensure(plain, "data.name", format!("`{}`", s.name), "letters, digits, `-`, `_` and `.` (it names folders)")?;
    if s.format == "synthetic" {
        range(s.synth_users >= 2, "data.synth_users", s.synth_users, "at least 2")?;
        range(s.synth_items >= 2, "data.synth_items", s.synth_items, "at least 2")?;
        check_habits(s)?;
        number(|x| (3.0..=10_000.0).contains(&x), "data.synth_mean_length", s.synth_mean_length, "between 3 and 10000")?;
    } else if reader(&s.format)?.reads_files() {
        let given = s.inter.as_ref().is_some_and(|p| !p.as_os_str().is_empty());
        if !given {
            return Err(Error::setting("data.inter", format!("is not set; format `{}` reads the interactions from this file", s.format)));
        }
        ensure(!s.user_column.is_empty(), "data.user_column", "empty", "the name of a column")?;
        ensure(!s.item_column.is_empty(), "data.item_column", "empty", "the name of a column")?;
        let catalogue = [
            ("data.title_column", &s.title_column),
            ("data.category_column", &s.category_column),
            ("data.brand_column", &s.brand_column),
            ("data.also_bought_column", &s.also_bought_column),
        ];
        if let Some((key, name)) = catalogue.into_iter().find(|(_, name)| !name.is_empty() && s.items.is_none()) {
            return Err(Error::setting(key, format!("`{name}` is a column of the catalogue, and data.items names none")));
        }
    }
    separator_of(&s.separator)?;
    for (key, share) in [("data.validation_share", s.validation_share), ("data.test_share", s.test_share)] {
        number(|x| x > 0.0 && x <= 0.4, key, share, "above 0 and at most 0.4")?;
    }
    number(f32::is_finite, "data.min_rating", s.min_rating, "a finite number; 0 keeps all")?;
    let long_enough = s.max_length == 0 || s.max_length >= 3;
    ensure(long_enough, "data.max_length", s.max_length, "0 (all) or at least 3 (training, validation and test item)")
}

/// Refuses shares of noise out of range.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check_noise(s: &NoiseSettings) -> Result<()> {
    range((0.0..=0.5).contains(&s.share), "noise.share", s.share, "a share from 0 to 0.5")?;
    range((0.0..=1.0).contains(&s.titles), "noise.titles", s.titles, "a share from 0 to 1")
}
