//! What a generator is, what it may know, and the table of all of them.

use super::UserViews;
use super::catalogue::CatalogueGenerator;
use super::features::Features;
use super::neighbours::Neighbours;
use super::popularity::Popularity;
use super::random::{RandomCounterfactual, RandomGenerator};
use crate::config::{GeneratorKind, ViewSettings};
use crate::data::ItemText;
use crate::rng::{Purpose, Stream};
use crate::{Error, Result};

/// One user's views asked for: all that a generator ever learns of a user.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Index of the user.
    pub user: u32,
    /// Training items, oldest first.
    pub history: &'a [u32],
}

/// Writes the views of single users. A user's views depend on that user's request alone: not on other users, on batches or
/// on threads.
pub trait Generator: Sync {
    /// Name in the settings.
    fn name(&self) -> &str;

    /// Views of `user` from the training items `history`, oldest first. An empty history has empty views.
    ///
    /// # Errors
    /// [`Error::Usage`] where an item is not in the catalogue; generators of other kinds may fail in other ways.
    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews>;

    /// How many requests [`Generator::generate_batch`] likes to have at once.
    fn batch_size(&self) -> usize {
        16
    }

    /// Views of several users, in order. A generator that gains from batches overrides this; one user's failure is that
    /// user's result only.
    fn generate_batch(&self, requests: &[Request<'_>]) -> Vec<Result<UserViews>> {
        requests.iter().map(|r| self.generate(r.user, r.history)).collect()
    }

    /// What a reader of the manifest should know of this generator on this catalogue.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What every generator may know besides a user's own training items.
pub struct PublicCatalogue<'a> {
    /// Titles, categories, brands and links `[I]`.
    pub items: &'a [ItemText],
    /// Vectors of the items.
    pub features: Features,
    /// Nearest items of each item; no entries where the generator needs none.
    pub neighbours: Neighbours,
    /// Training popularity.
    pub popularity: Popularity,
}

impl<'a> PublicCatalogue<'a> {
    /// From the catalogue `[I]` and the number of times each item occurs in training items `[I]`
    /// ([`Dataset::train_counts`](crate::data::Dataset::train_counts): an aggregate over all users, taken as public).
    /// `done` is told how many items have their neighbours.
    ///
    /// # Errors
    /// [`Error::Usage`] where the two lengths differ.
    pub fn new(
        items: &'a [ItemText],
        train_counts: &[u32],
        settings: &ViewSettings,
        threads: usize,
        done: &(dyn Fn(u64) + Sync),
    ) -> Result<PublicCatalogue<'a>> {
        if items.len() != train_counts.len() {
            let message = format!("the catalogue has {} items but popularity is given for {}", items.len(), train_counts.len());
            return Err(Error::Usage(message));
        }
        let features = Features::new(items);
        let needs_neighbours = matches!(settings.generator, GeneratorKind::Catalogue | GeneratorKind::RandomCounterfactual);
        let keep = if needs_neighbours { settings.neighbours as usize } else { 0 };
        let neighbours = Neighbours::new(&features, keep, threads, done);
        Ok(PublicCatalogue { items, features, neighbours, popularity: Popularity::new(train_counts) })
    }

    /// Number of items `I`.
    pub fn item_count(&self) -> usize {
        self.features.item_count()
    }

    /// Items often bought together with `item`, `item` itself and unknown ones left out.
    pub fn links(&self, item: u32) -> impl Iterator<Item = u32> + '_ {
        self.items[item as usize].also_bought.iter().copied().filter(move |j| *j != item && (*j as usize) < self.item_count())
    }

    /// Refuses items that are not in the catalogue.
    pub(super) fn check(&self, user: u32, history: &[u32]) -> Result<()> {
        match history.iter().find(|i| **i as usize >= self.item_count()) {
            None => Ok(()),
            Some(item) => Err(Error::Usage(format!(
                "user {user}: item {item} is not in the catalogue of {} items; prepare the data set again",
                self.item_count()
            ))),
        }
    }
}

/// The generator that `settings` asks for; `None` for `none`.
pub fn generator<'a>(settings: &ViewSettings, public: &'a PublicCatalogue<'a>) -> Option<Box<dyn Generator + 'a>> {
    match settings.generator {
        GeneratorKind::None => None,
        GeneratorKind::Catalogue => Some(Box::new(CatalogueGenerator::new(public, settings))),
        GeneratorKind::Random => Some(Box::new(RandomGenerator::new(public, settings))),
        GeneratorKind::RandomCounterfactual => Some(Box::new(RandomCounterfactual::new(public, settings))),
    }
}

/// Which view a draw is for. Each has its own stream, so that a setting of one leaves the draws of the others as they were.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Future,
    Paraphrase,
    Counterfactual(u32),
}

/// The draws of one view of one user.
pub(super) fn stream(seed: u64, user: u32, part: Part) -> Stream {
    let part = match part {
        Part::Future => 0,
        Part::Paraphrase => 1,
        Part::Counterfactual(index) => 2 + u64::from(index),
    };
    Stream::new(seed, Purpose::Views, part, u64::from(user))
}

/// How many items this user's future appends.
pub(super) fn future_length(settings: &ViewSettings, stream: &mut Stream) -> usize {
    let spread = u64::from(settings.future_max.saturating_sub(settings.future_min)) + 1;
    settings.future_min as usize + stream.below(spread) as usize
}
