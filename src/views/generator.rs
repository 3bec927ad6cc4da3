//! What a generator is and what it may know.

use super::UserViews;
use super::account::Provenance;
use super::features::Features;
use super::follows::Follows;
use super::neighbours::Neighbours;
use super::popularity::Popularity;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::ViewSettings;
use crate::data::{Dataset, ItemText};
use crate::{Error, Result};

/// One user's views asked for: all that a generator ever learns of a user.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Index of the user.
    pub user: u32,
    /// Training items, oldest first.
    pub history: &'a [u32],
}

/// One view of a user. Each has draws of its own, so that a setting of one leaves the others as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ViewKind {
    /// The history and what follows it.
    Future,
    /// The same intent in other items.
    Paraphrase,
    /// What this user would not produce; the number distinguishes several.
    Counterfactual(u32),
}

impl ViewKind {
    /// Every view of a user with these settings.
    pub fn all(settings: &ViewSettings) -> impl Iterator<Item = ViewKind> + use<> {
        [ViewKind::Future, ViewKind::Paraphrase].into_iter().chain((0..settings.counterfactuals).map(ViewKind::Counterfactual))
    }

    /// Name of the kind of view.
    pub fn name(self) -> &'static str {
        match self {
            ViewKind::Future => "future",
            ViewKind::Paraphrase => "paraphrase",
            ViewKind::Counterfactual(_) => "counterfactual",
        }
    }

    /// Number of the view's stream of draws.
    pub(super) fn index(self) -> u64 {
        match self {
            ViewKind::Future => 0,
            ViewKind::Paraphrase => 1,
            ViewKind::Counterfactual(index) => 2 + u64::from(index),
        }
    }
}

/// What is to be made for one user.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Whose views, from which items.
    pub request: Request<'a>,
    /// Which of them.
    pub parts: Vec<ViewKind>,
}

/// What was counted while a view was written; zero for generators that compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines of the answer.
    pub lines: u32,
    /// Of these, lines that name an item of the catalogue.
    pub grounded: u32,
    /// Of the grounded ones, lines that name an item of the user's history.
    pub own: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
}

/// A finished view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Made {
    /// The sequence, in item indices.
    pub sequence: Vec<u32>,
    /// See [`Counts`].
    pub counts: Counts,
}

/// Why a user has no view of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// The reason, for a reader.
    pub reason: String,
    /// Whether anything was asked at all; false where the user has too little history to ask with.
    pub asked: bool,
    /// What was counted until then.
    pub counts: Counts,
}

/// Receives every view as it is finished, from any thread and in any order.
pub trait Sink: Sync {
    /// `part` of job number `job` is finished.
    fn done(&self, job: usize, part: ViewKind, made: Result<Made, Failed>);

    /// Whether nothing more is wanted, because the rest could not be kept.
    fn stopped(&self) -> bool {
        false
    }

    /// Takes what is worth a line at once: that a server is left out.
    fn note(&self, _text: &str) {}
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

    /// Works off `jobs` with at most `threads` threads and gives `sink` every view asked for, once each. A generator that gains
    /// from many users at once overrides this.
    ///
    /// # Errors
    /// What makes all further work pointless; a failure of one user goes to `sink`.
    fn run(&self, jobs: &[Job<'_>], threads: usize, sink: &dyn Sink) -> Result<()> {
        let failed = parallel::map(threads, jobs.len(), 16, |index| {
            if sink.stopped() {
                return Ok(());
            }
            let job = &jobs[index];
            let made = self.generate(job.request.user, job.request.history)?;
            for &part in &job.parts {
                let sequence = made.part(part).unwrap_or_default().to_vec();
                sink.done(index, part, Ok(Made { sequence, counts: Counts::default() }));
            }
            Ok(())
        });
        failed.into_iter().collect()
    }

    /// Who wrote and how, where that is a language model.
    fn account(&self) -> Option<Provenance> {
        None
    }

    /// What a reader of the manifest should know of this generator on this catalogue.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Every view that `jobs` ask for, as the index of the job and the part.
#[cfg(any(feature = "endpoint", feature = "llm"))]
pub(super) fn work(jobs: &[Job<'_>]) -> Vec<(usize, ViewKind)> {
    jobs.iter().enumerate().flat_map(|(index, job)| job.parts.iter().map(move |part| (index, *part))).collect()
}

/// The views of one user by way of [`Generator::run`].
#[cfg(any(feature = "endpoint", feature = "llm"))]
pub(super) fn generate_one(generator: &dyn Generator, settings: &ViewSettings, user: u32, history: &[u32]) -> Result<UserViews> {
    /// Takes the views of one job.
    #[derive(Default)]
    struct One(parking_lot::Mutex<Vec<(ViewKind, Result<Made, Failed>)>>);
    impl Sink for One {
        fn done(&self, _job: usize, part: ViewKind, made: Result<Made, Failed>) {
            self.0.lock().push((part, made));
        }
    }
    let one = One::default();
    let job = Job { request: Request { user, history }, parts: ViewKind::all(settings).collect() };
    generator.run(&[job], 1, &one)?;
    let mut found = one.0.into_inner();
    found.sort_by_key(|(part, _)| *part);
    let mut views = UserViews::default();
    for (part, made) in found {
        let sequence = made.map_err(|failed| Error::Usage(format!("user {user}: {}", failed.reason)))?.sequence;
        match part {
            ViewKind::Future => views.future = sequence,
            ViewKind::Paraphrase => views.paraphrase = sequence,
            ViewKind::Counterfactual(_) if sequence.is_empty() => (),
            ViewKind::Counterfactual(_) => views.counterfactuals.push(sequence),
        }
    }
    Ok(views)
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
    /// What was counted to follow which; nothing where the generator needs none.
    pub follows: Follows,
}

impl<'a> PublicCatalogue<'a> {
    /// From the catalogue `[I]` and the number of times each item occurs in training items `[I]`
    /// ([`Dataset::known_counts`](crate::data::Dataset::known_counts): data of users, as far as `privacy.counts` lets them be known).
    /// `done` is called with the number of items that have their neighbours.
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
        let reads_neighbours = super::generators::find(settings.generator).is_some_and(|kind| kind.neighbours);
        let keep = if reads_neighbours { settings.neighbours as usize } else { 0 };
        let neighbours = Neighbours::new(&features, keep, threads, done);
        Ok(PublicCatalogue { items, features, neighbours, popularity: Popularity::new(train_counts), follows: Follows::default() })
    }

    /// What the generator of `settings` may know of `data`: its catalogue, its counts of items and, where it asks, its counts of pairs.
    /// `done` is called with the number of items that have their neighbours.
    ///
    /// # Errors
    /// That of [`PublicCatalogue::new`].
    pub fn of(data: &'a Dataset, settings: &ViewSettings, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Result<PublicCatalogue<'a>> {
        let mut public = PublicCatalogue::new(&data.catalogue, &data.known_counts(), settings, threads, done)?;
        if super::generators::find(settings.generator).is_some_and(|kind| kind.follows) {
            public.follows = Follows::new(data, settings.neighbours as usize, threads);
        }
        Ok(public)
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
    ///
    /// # Errors
    /// [`Error::Usage`] with the user and the first such item.
    pub fn check(&self, user: u32, history: &[u32]) -> Result<()> {
        match history.iter().find(|i| **i as usize >= self.item_count()) {
            None => Ok(()),
            Some(item) => Err(Error::Usage(format!(
                "user {user}: item {item} is not in the catalogue of {} items; prepare the data set again",
                self.item_count()
            ))),
        }
    }
}

/// `share` of `n`, rounded up or down by chance so that the mean is right.
pub(super) fn part_of(share: f32, n: usize, stream: &mut Stream) -> usize {
    ((share * n as f32 + stream.unit()) as usize).min(n)
}

/// Swaps a share of the neighbouring pairs of `view`; no item moves by more than one place.
pub(super) fn reorder(share: f32, view: &mut [u32], stream: &mut Stream) {
    let pairs = view.len().saturating_sub(1);
    let mut left = part_of(share, pairs, stream);
    let mut starts: Vec<usize> = (0..pairs).collect();
    stream.shuffle(&mut starts);
    let mut moved = vec![false; view.len()];
    for start in starts {
        if left > 0 && !moved[start] && !moved[start + 1] {
            view.swap(start, start + 1);
            (moved[start], moved[start + 1]) = (true, true);
            left -= 1;
        }
    }
}

/// The draws of one view of one user: a function of `views.seed`, the user and the view.
pub fn stream(seed: u64, user: u32, part: ViewKind) -> Stream {
    Stream::new(seed, Purpose::Views, part.index(), u64::from(user))
}

/// The number of items that a user's future appends, drawn between `views.future_min` and `views.future_max`.
pub fn future_length(settings: &ViewSettings, stream: &mut Stream) -> usize {
    let spread = u64::from(settings.future_max.saturating_sub(settings.future_min)) + 1;
    settings.future_min as usize + stream.below(spread) as usize
}
