//! Terms of other crates, by name.

use super::Term;
use crate::base::options::{self, Choice, Options};
use crate::{Error, Result};
use parking_lot::RwLock;

/// A term by name.
pub struct TermKind {
    /// Name, the first word of an entry of `loss.terms`.
    pub name: &'static str,
    /// One line: what it asks of the model.
    pub summary: &'static str,
    /// Where it was published.
    pub paper: &'static str,
    /// Every option with its default.
    pub options: &'static [(&'static str, f64)],
    /// Makes the term, or says what is wrong with an option.
    pub build: fn(&Options) -> Result<Box<dyn Term>>,
}

/// Terms that were registered.
static REGISTERED: RwLock<Vec<&'static TermKind>> = RwLock::new(Vec::new());

impl Choice for TermKind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self) -> &'static [(&'static str, f64)] {
        self.options
    }
}

/// Makes a term known in this process, for settings that are used from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken.
pub fn register(kind: TermKind) -> Result<()> {
    let mut registered = REGISTERED.write();
    if registered.iter().any(|k| k.name == kind.name) {
        return Err(Error::Usage(format!("there is a term `{}` already; give this one another name", kind.name)));
    }
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

/// The term that an entry of `loss.terms` asks for.
pub(super) fn build(entry: &str) -> Result<Box<dyn Term>> {
    let known: Vec<&TermKind> = REGISTERED.read().clone();
    let (kind, options) = options::read("loss.terms", "term", entry, &known)?;
    (kind.build)(&options)
}
