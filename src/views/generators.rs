//! The register of generators: what each is called, what it needs, and which settings change what it writes.
//!
//! `views.generator` names one. A generator is one file beside this one, an entry of [`KINDS`] and its name in [`GeneratorKind`]; one of
//! another crate is made known by [`register`].

use super::generator::{Generator, PublicCatalogue, ViewKind};
use super::{catalogue, random, served};
use crate::base::names;
use crate::config::{GeneratorKind, ViewSettings};
use crate::{Error, Result};
use parking_lot::RwLock;
use std::path::Path;

/// What a generator is made of besides its settings.
pub struct Inputs<'a> {
    /// What a generator may know besides a user's own training items.
    pub public: &'a PublicCatalogue<'a>,
    /// Threads, for a generator that loads a model or an encoder.
    pub threads: usize,
    /// Folder for what is derived from a catalogue.
    pub cache: Option<&'a Path>,
}

/// Settings of `views` that change what a generator writes, besides `seed`, by the view that they change. Keys without `views.`; a table
/// such as `text` stands for all in it, and `mask` for `eval.mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reads {
    /// Keys that change the future alone.
    pub future: &'static [&'static str],
    /// Keys that change the paraphrase alone.
    pub paraphrase: &'static [&'static str],
    /// Keys that change the counterfactuals alone.
    pub counterfactual: &'static [&'static str],
    /// Keys that change all three.
    pub all: &'static [&'static str],
}

impl Reads {
    /// The number of items that a future appends, what it may not come back to, and the shares of a paraphrase.
    pub const USUAL: Reads =
        Reads { future: &["future_min", "future_max", "mask"], paraphrase: &["substitute", "reorder"], counterfactual: &[], all: &[] };

    /// Whether a key, such as the table `text`, changes every view.
    pub(super) fn all_by(&self, key: &str) -> bool {
        self.all.contains(&key)
    }

    /// Keys that change `part` alone.
    pub(super) fn own(&self, part: ViewKind) -> &'static [&'static str] {
        match part {
            ViewKind::Future => self.future,
            ViewKind::Paraphrase => self.paraphrase,
            ViewKind::Counterfactual(_) => self.counterfactual,
        }
    }

    fn keys(&self) -> impl Iterator<Item = &'static str> {
        [self.future, self.paraphrase, self.counterfactual, self.all].into_iter().flatten().copied()
    }
}

/// A generator by name.
pub struct Kind {
    /// Name in `views.generator`.
    pub name: &'static str,
    /// One line: how it writes views.
    pub summary: &'static str,
    /// Version of what it writes. With a higher one stored views are made again. 0: the generator changes with the program alone.
    pub version: u32,
    /// Whether it looks at [`PublicCatalogue::neighbours`], which take time to find.
    pub neighbours: bool,
    /// Whether its views are worth more than the space of their journal, and whether users for whom it gave none have those of
    /// `views.fallback`: what a language model writes.
    pub costly: bool,
    /// Which settings change what it writes.
    pub reads: Reads,
    /// Refuses settings that the generator cannot have.
    pub check: fn(&ViewSettings) -> Result<()>,
    /// Makes the generator from validated settings.
    pub build: for<'a> fn(&ViewSettings, Inputs<'a>) -> Result<Box<dyn Generator + 'a>>,
}

/// The generators of LUMOS.
pub const KINDS: &[Kind] = &[catalogue::KIND, random::KIND, random::COUNTERFACTUAL_KIND, LLM, served::KIND];

#[cfg(feature = "llm")]
const LLM: Kind = super::llm::KIND;

/// A local language model in a build without one.
#[cfg(not(feature = "llm"))]
const LLM: Kind = Kind {
    name: GeneratorKind::LLM.name(),
    summary: "a language model in a local folder",
    version: 0,
    neighbours: false,
    costly: true,
    reads: Reads { all: &["text", "llm"], ..Reads::USUAL },
    check: |_| Ok(()),
    build: |_, _| Err(Error::setting("views.generator", "`llm` is not in this build; build with `--features llm`")),
};

/// Generators that were registered.
static REGISTERED: RwLock<Vec<&'static Kind>> = RwLock::new(Vec::new());

/// Makes a generator known in this process, for settings that are read from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken or cannot stand in a configuration file, and for a key in `reads` that is no setting of
/// `views`.
pub fn register(kind: Kind) -> Result<()> {
    let settings = serde_json::to_value(ViewSettings::default()).map_err(|e| Error::Usage(format!("views cannot be written: {e}")))?;
    let known = || settings.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).chain(["mask"]);
    if let Some(key) = kind.reads.keys().find(|key| !known().any(|k| k == *key)) {
        let message = names::unknown("setting of views", key, known());
        return Err(Error::Usage(format!("generator `{}` reads an {message}", kind.name)));
    }
    // Held over both, so that whoever reads the name finds what it stands for.
    let mut registered = REGISTERED.write();
    GeneratorKind::register(kind.name)?;
    registered.push(Box::leak(Box::new(kind)));
    Ok(())
}

/// What `generator` stands for; nothing for `none`.
pub fn kind(generator: GeneratorKind) -> Option<&'static Kind> {
    kinds().into_iter().find(|kind| kind.name == generator.name())
}

/// Every generator: those of LUMOS, then registered ones.
pub fn kinds() -> Vec<&'static Kind> {
    KINDS.iter().chain(REGISTERED.read().iter().copied()).collect()
}

/// Refuses settings that the generator that they name cannot have.
///
/// # Errors
/// [`Error::Setting`] with the key and what to do.
pub fn check(settings: &ViewSettings) -> Result<()> {
    kind(settings.generator).map_or(Ok(()), |kind| (kind.check)(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_VIEWS: Kind = Kind {
        name: "no-views",
        summary: "refuses",
        version: 1,
        neighbours: false,
        costly: false,
        reads: Reads::USUAL,
        check: |_| Ok(()),
        build: |_, _| Err(Error::Usage("never".into())),
    };

    #[test]
    fn every_name_of_lumos_has_its_generator() {
        let names: Vec<&str> = ["none"].into_iter().chain(KINDS.iter().map(|kind| kind.name)).collect();
        assert!(GeneratorKind::names().starts_with(&names), "{names:?} and {:?}", GeneratorKind::names());
        assert!(kind(GeneratorKind::NONE).is_none());
    }

    #[test]
    fn a_key_that_is_no_setting_and_a_name_that_is_taken_are_refused() {
        let odd = Reads { all: &["neighbors"], ..Reads::USUAL };
        let message = register(Kind { reads: odd, ..NO_VIEWS }).unwrap_err().to_string();
        assert!(message.contains("did you mean `neighbours`"), "{message}");
        for name in ["none", "random", "a b"] {
            assert!(register(Kind { name, ..NO_VIEWS }).is_err(), "{name}");
        }
        assert!("no-views".parse::<GeneratorKind>().is_err(), "what was refused is not known");
    }
}
