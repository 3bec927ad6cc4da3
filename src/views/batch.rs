//! Views whose questions and answers pass through files: for offline engines that take many requests at once.

use super::{Generator, PublicCatalogue};
use crate::Result;
use crate::config::ViewSettings;
use std::path::Path;

/// Takes the place of a generator's own way to its answers.
pub trait Batch: Sync {
    /// The generator that asks or answers by way of this. `study` stands for the data set and all that views depend on: an answer is of one
    /// study alone.
    ///
    /// # Errors
    /// Where a prompt file cannot be used, or no answer is of this study.
    fn generator<'g>(
        &'g self,
        study: &str,
        public: &'g PublicCatalogue<'g>,
        settings: &ViewSettings,
        threads: usize,
        cache: Option<&Path>,
    ) -> Result<Box<dyn Generator + 'g>>;

    /// Whether it asks and nothing is answered yet: no view comes of it.
    fn only_asks(&self) -> bool;
}
