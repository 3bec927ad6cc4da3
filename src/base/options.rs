//! Entries of settings such as `"norm-bound bound=0.5"`: the name of something that can be chosen, and options with their values.

use super::{names, parallel};
use crate::{Error, Result};

/// The options of one entry.
pub struct Options {
    /// Setting that holds the entry.
    key: &'static str,
    entry: String,
    values: Vec<(&'static str, f64)>,
    threads: usize,
}

impl Options {
    /// The same for whoever has `threads` threads.
    pub fn with_threads(self, threads: usize) -> Options {
        Options { threads, ..self }
    }

    /// Threads that what is chosen may use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The value of `name` if `fits` says so, else an error that names the range `wanted`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn get(&self, name: &str, fits: impl Fn(f64) -> bool, wanted: &str) -> Result<f64> {
        match self.values.iter().find(|(n, _)| *n == name) {
            Some(&(_, value)) if value.is_finite() && fits(value) => Ok(value),
            Some((_, value)) => Err(self.refuse(&format!("{name} is {value}, wanted {wanted}"))),
            None => Err(self.refuse(&format!("has no option {name}"))),
        }
    }

    /// The whole number of option `name`, from `least` to `most`.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn count(&self, name: &str, least: u32, most: u32) -> Result<u32> {
        let fits = |x: f64| x.fract() == 0.0 && (f64::from(least)..=f64::from(most)).contains(&x);
        self.get(name, fits, &format!("a whole number from {least} to {most}")).map(|x| x as u32)
    }

    fn refuse(&self, message: &str) -> Error {
        Error::setting(self.key, format!("`{}`: {message}", self.entry))
    }
}

/// What an entry may name.
pub trait Choice {
    /// Name, the first word of an entry.
    fn name(&self) -> &'static str;

    /// Every option with its default.
    fn options(&self) -> &'static [(&'static str, f64)];
}

impl<C: Choice> Choice for &C {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn options(&self) -> &'static [(&'static str, f64)] {
        (**self).options()
    }
}

/// Reads the `entry` of setting `key`, which names a `what`: the choice and its options.
///
/// # Errors
/// [`Error::Setting`] for unknown names and options, with the nearest valid one, and for what is no number.
pub fn read<'c, C: Choice>(key: &'static str, what: &str, entry: &str, choices: &'c [C]) -> Result<(&'c C, Options)> {
    let fail = |message: String| Error::setting(key, message);
    let mut words = entry.split_whitespace();
    let name = words.next().ok_or_else(|| fail("holds an empty entry; leave it out".into()))?;
    let choice = choices.iter().find(|c| c.name() == name);
    let choice = choice.ok_or_else(|| fail(names::unknown(what, name, choices.iter().map(Choice::name))))?;
    let mut options = Options { key, entry: entry.to_string(), values: choice.options().to_vec(), threads: parallel::threads(0) };
    for word in words {
        let (name, text) = word.split_once('=').ok_or_else(|| options.refuse(&format!("`{word}` is no option; write NAME=VALUE")))?;
        let value: f64 = text.parse().map_err(|_| options.refuse(&format!("`{text}` is no number")))?;
        match options.values.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None if choice.options().is_empty() => return Err(options.refuse(&format!("the {what} has no options"))),
            None => return Err(options.refuse(&names::unknown("option", name, choice.options().iter().map(|(n, _)| *n)))),
        }
    }
    Ok((choice, options))
}
