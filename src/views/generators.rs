//! The generators by name.

use super::catalogue::CatalogueGenerator;
use super::codebook::CodebookGenerator;
#[cfg(feature = "llm")]
use super::llm::LlmGenerator;
use super::pool::PoolGenerator;
use super::random::{HistoryCounterfactual, RandomCounterfactual, RandomGenerator};
#[cfg(feature = "endpoint")]
use super::served::ServedGenerator;
use super::transitions::TransitionsGenerator;
use super::{Generator, PublicCatalogue, ViewKind};
use crate::base::names;
use crate::config::{GeneratorKind, ViewSettings};
use crate::{Error, Result};
use parking_lot::RwLock;
use std::path::Path;

/// Makes a generator from its settings, the public catalogue, a number of threads and a folder for what it derives from a catalogue.
pub type BuildGenerator = for<'a> fn(&ViewSettings, &'a PublicCatalogue<'a>, usize, Option<&Path>) -> Result<Box<dyn Generator + 'a>>;

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

    /// Whether a key, such as the table `text`, changes any view.
    pub(super) fn any(&self, key: &str) -> bool {
        self.keys().any(|own| own == key)
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
pub struct GeneratorEntry {
    /// What `views.generator` calls it.
    pub name: &'static str,
    /// One line: what it writes.
    pub summary: &'static str,
    /// Whether it reads [`PublicCatalogue::neighbours`], which take a while to make.
    pub neighbours: bool,
    /// Whether it reads [`PublicCatalogue::follows`], which is counted over all training histories.
    pub follows: bool,
    /// Raised where the generator comes to write other views from the same settings: stored views of an earlier version are made anew.
    pub version: u32,
    /// Whether its views are worth more than the space of their journal, and whether users for whom it gave none have those of
    /// `views.fallback`: what a language model writes.
    pub costly: bool,
    /// Which settings change what it writes.
    pub reads: Reads,
    /// Makes it.
    ///
    /// # Errors
    /// Where a model, a file or an address that the settings name cannot be used.
    pub build: BuildGenerator,
}

/// The generators of LUMOS.
pub const KINDS: &[GeneratorEntry] = &[
    GeneratorEntry {
        name: "catalogue",
        summary: "near and far items by titles, categories, brands and links",
        neighbours: true,
        follows: false,
        version: 0,
        costly: false,
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, _, _| Ok(Box::new(CatalogueGenerator::new(public, settings))),
    },
    GeneratorEntry {
        name: "random",
        summary: "uniform random items in all three views",
        neighbours: false,
        follows: false,
        version: 0,
        costly: false,
        // Nothing is near a random item; the key is a part of the digests of stored views.
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, _, _| Ok(Box::new(RandomGenerator::new(public, settings))),
    },
    GeneratorEntry {
        name: "random-counterfactual",
        summary: "catalogue views with uniform random items as the counterfactual",
        neighbours: true,
        follows: false,
        version: 0,
        costly: false,
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, _, _| Ok(Box::new(RandomCounterfactual::new(public, settings))),
    },
    GeneratorEntry {
        name: "history-counterfactual",
        summary: "catalogue views with the history in a random order as the counterfactual",
        neighbours: true,
        follows: false,
        version: 1,
        costly: false,
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, _, _| Ok(Box::new(HistoryCounterfactual::new(public, settings))),
    },
    GeneratorEntry {
        name: "pool",
        summary: "catalogue views with a counterfactual out of a public pool that all clients share",
        neighbours: true,
        follows: false,
        version: 1,
        costly: false,
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, threads, _| Ok(Box::new(PoolGenerator::new(public, settings, threads))),
    },
    GeneratorEntry {
        name: "transitions",
        summary: "what was counted to follow which, over all training histories",
        neighbours: false,
        follows: true,
        version: 0,
        costly: false,
        reads: Reads { all: &["neighbours"], ..Reads::USUAL },
        build: |settings, public, _, _| Ok(Box::new(TransitionsGenerator::new(public, settings))),
    },
    GeneratorEntry {
        name: "codebook",
        summary: "the nearest item under noisy text vectors for each item, and a random sequence",
        neighbours: false,
        follows: false,
        version: 1,
        costly: false,
        reads: Reads { paraphrase: &[], ..Reads::USUAL },
        build: |settings, public, threads, _| Ok(Box::new(CodebookGenerator::new(public, settings, threads))),
    },
    GeneratorEntry {
        name: "llm",
        summary: "a language model in a local folder",
        neighbours: false,
        follows: false,
        version: 0,
        costly: true,
        reads: Reads { all: &["text", "llm"], ..Reads::USUAL },
        #[cfg(feature = "llm")]
        build: |settings, public, threads, cache| Ok(Box::new(LlmGenerator::new(public, settings, threads, cache)?)),
        #[cfg(not(feature = "llm"))]
        build: |_, _, _, _| Err(Error::setting("views.generator", "`llm` is not in this build; build with `--features llm`")),
    },
    GeneratorEntry {
        name: "served",
        summary: "a language model behind an endpoint",
        neighbours: false,
        follows: false,
        version: 0,
        costly: true,
        reads: Reads { all: &["text", "served"], ..Reads::USUAL },
        #[cfg(feature = "endpoint")]
        build: |settings, public, threads, cache| Ok(Box::new(ServedGenerator::new(public, settings, threads, cache)?)),
        #[cfg(not(feature = "endpoint"))]
        build: |_, _, _, _| Err(Error::setting("views.generator", "`served` is not in this build; build with `--features endpoint`")),
    },
];

/// Generators that were registered.
static REGISTERED: RwLock<Vec<&'static GeneratorEntry>> = RwLock::new(Vec::new());

/// Makes a generator known in this process, for settings that are read from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken, and for a key in `reads` that is no setting of `views`.
pub fn register(entry: GeneratorEntry) -> Result<()> {
    let settings = serde_json::to_value(ViewSettings::default()).map_err(|e| Error::Usage(format!("views cannot be written: {e}")))?;
    let known = || settings.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).chain(["mask"]);
    if let Some(key) = entry.reads.keys().find(|key| !known().any(|k| k == *key)) {
        let message = names::unknown("setting of views", key, known());
        return Err(Error::Usage(format!("generator `{}` reads an {message}", entry.name)));
    }
    let mut registered = REGISTERED.write();
    if !GeneratorKind::register(entry.name) {
        return Err(Error::Usage(format!("there is a generator `{}` already; give this one another name", entry.name)));
    }
    registered.push(Box::leak(Box::new(entry)));
    Ok(())
}

/// The generator called `kind`; nothing for `none`.
pub(super) fn find(kind: GeneratorKind) -> Option<&'static GeneratorEntry> {
    KINDS.iter().chain(REGISTERED.read().iter().copied()).find(|entry| entry.name == kind.name())
}

/// The generator that `settings` asks for; `None` for `none`. `threads` is for generators that load a model or an encoder, `cache` a folder for what
/// these derive from a catalogue.
///
/// # Errors
/// Where a model, a prompt file or an endpoint's address cannot be used.
pub fn generator<'a>(
    settings: &ViewSettings,
    public: &'a PublicCatalogue<'a>,
    threads: usize,
    cache: Option<&Path>,
) -> Result<Option<Box<dyn Generator + 'a>>> {
    find(settings.generator).map(|entry| (entry.build)(settings, public, threads, cache)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_but_none_has_its_generator() {
        let names: Vec<_> = std::iter::once("none").chain(KINDS.iter().map(|entry| entry.name)).collect();
        assert_eq!(names, GeneratorKind::NAMES);
        assert!(find(GeneratorKind::NONE).is_none());
    }
    #[test]
    fn a_key_that_is_no_setting_is_refused_and_the_name_stays_unknown() {
        let entry = GeneratorEntry {
            name: "never",
            summary: "",
            neighbours: false,
            follows: false,
            version: 1,
            costly: false,
            reads: Reads { all: &["neighbors"], ..Reads::USUAL },
            build: |_, _, _, _| Err(Error::Usage("never".into())),
        };
        let message = register(entry).unwrap_err().to_string();
        assert!(message.contains("did you mean `neighbours`"), "{message}");
        assert!(GeneratorKind::find("never").is_none());
    }
}
