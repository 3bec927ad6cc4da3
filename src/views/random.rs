//! Ablations: views that know nothing, and catalogue views with a counterfactual that knows nothing or nothing but the history.

use std::collections::HashSet;

use super::UserViews;
use super::catalogue::CatalogueGenerator;
use super::generator::{Generator, PublicCatalogue, ViewKind, future_length, stream};
use crate::Result;
use crate::base::rng::Stream;
use crate::config::ViewSettings;

/// Draws before a walk over the catalogue looks for an item that is still free.
const TRIES: usize = 32;

/// Uniform random items: a future of the history and random items, and two random sequences of its length. Items are distinct
/// and not of the history (in a future: not of what the mask hides) as long as the catalogue has such ones.
pub struct RandomGenerator<'a> {
    public: &'a PublicCatalogue<'a>,
    settings: ViewSettings,
}

impl<'a> RandomGenerator<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings) -> RandomGenerator<'a> {
        RandomGenerator { public, settings: settings.clone() }
    }

    /// A random sequence as long as `history`.
    pub(super) fn sequence(&self, user: u32, history: &[u32], part: ViewKind) -> Vec<u32> {
        let mut stream = stream(self.settings.seed, user, part);
        let n = self.public.item_count() as u64;
        let known: HashSet<u32> = history.iter().copied().collect();
        let mut used = known.clone();
        let mut view = Vec::with_capacity(history.len());
        for _ in history {
            if used.len() as u64 == n {
                // All of the catalogue is in use: items come a second time.
                used.clone_from(&known);
            }
            view.push(fresh(n, &mut used, &mut stream).unwrap_or_else(|| stream.below(n) as u32));
        }
        view
    }
}

impl Generator for RandomGenerator<'_> {
    fn name(&self) -> &str {
        "random"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let mut stream = stream(self.settings.seed, user, ViewKind::Future);
        let mut used = self.settings.mask.masked(history).iter().copied().collect();
        let mut future = history.to_vec();
        for _ in 0..future_length(&self.settings, &mut stream) {
            future.extend(fresh(self.public.item_count() as u64, &mut used, &mut stream));
        }
        let paraphrase = self.sequence(user, history, ViewKind::Paraphrase);
        let counterfactuals =
            (0..self.settings.counterfactuals).map(|i| self.sequence(user, history, ViewKind::Counterfactual(i))).collect();
        Ok(UserViews { future, paraphrase, counterfactuals })
    }

    fn notes(&self) -> Vec<String> {
        vec!["items of all three views are drawn at random".into()]
    }
}

/// A random item that is not in `used`, which it joins; `None` where every item is.
fn fresh(n: u64, used: &mut HashSet<u32>, stream: &mut Stream) -> Option<u32> {
    let drawn = (0..TRIES).map(|_| stream.below(n) as u32).find(|i| !used.contains(i));
    let found = drawn.or_else(|| {
        let start = stream.below(n);
        (0..n).map(|step| ((start + step) % n) as u32).find(|i| !used.contains(i))
    })?;
    used.insert(found);
    Some(found)
}

/// The catalogue generator's future and paraphrase, and random counterfactuals.
pub struct RandomCounterfactual<'a> {
    catalogue: CatalogueGenerator<'a>,
    random: RandomGenerator<'a>,
}

impl<'a> RandomCounterfactual<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings) -> RandomCounterfactual<'a> {
        RandomCounterfactual { catalogue: CatalogueGenerator::new(public, settings), random: RandomGenerator::new(public, settings) }
    }
}

impl Generator for RandomCounterfactual<'_> {
    fn name(&self) -> &str {
        "random-counterfactual"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.random.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let count = self.random.settings.counterfactuals;
        Ok(UserViews {
            future: self.catalogue.future(user, history),
            paraphrase: self.catalogue.paraphrase(user, history),
            counterfactuals: (0..count).map(|i| self.random.sequence(user, history, ViewKind::Counterfactual(i))).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.catalogue.notes();
        notes.push("counterfactual items are drawn at random".into());
        notes
    }
}

/// The catalogue generator's future and paraphrase, and the history in a random order as the counterfactual: the items of the user, so that
/// nothing but their order tells it from a positive.
pub struct HistoryCounterfactual<'a> {
    catalogue: CatalogueGenerator<'a>,
    public: &'a PublicCatalogue<'a>,
    settings: ViewSettings,
}

impl<'a> HistoryCounterfactual<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings) -> HistoryCounterfactual<'a> {
        HistoryCounterfactual { catalogue: CatalogueGenerator::new(public, settings), public, settings: settings.clone() }
    }
}

impl Generator for HistoryCounterfactual<'_> {
    fn name(&self) -> &str {
        "history-counterfactual"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let shuffled = |i| {
            let mut view = history.to_vec();
            stream(self.settings.seed, user, ViewKind::Counterfactual(i)).shuffle(&mut view);
            view
        };
        Ok(UserViews {
            future: self.catalogue.future(user, history),
            paraphrase: self.catalogue.paraphrase(user, history),
            counterfactuals: (0..self.settings.counterfactuals).map(shuffled).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.catalogue.notes();
        notes.push("counterfactuals are the history in a random order".into());
        notes
    }
}
