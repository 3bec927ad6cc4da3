//! The generator that learns: views from what was counted to follow which.

use super::UserViews;
use super::catalogue::{RECENCY, RECENT, best, counterfactual, draw_weighted, future, merged, paraphrase};
use super::generator::{Generator, PublicCatalogue, ViewKind, stream};
use crate::Result;
use crate::config::ViewSettings;
use std::collections::{HashMap, HashSet};

/// A counterfactual item of which this or less was counted with the history is far enough.
const FAR: f32 = 0.0;

/// Views from counted pairs of items (`PublicCatalogue::follows`) and the user's own training items: no model, and nothing of the catalogue.
///
/// * Future: items that followed the latest ones, drawn by their shares and recency; where nothing followed, items as popular as recent ones.
/// * Paraphrase: a share of the items gives way to items that go with the same others; then a share of neighbouring pairs changes places.
/// * Counterfactual: for each item one about as popular that was counted with no item of the history, else the least so of some draws.
///
/// The counts are those that the protocol `transitions` takes: each client adds its pairs once, in fixed point, and the sums alone are seen. A pair that
/// one client met names that client's taste to whoever sees the sums; under user-level privacy the generator is refused.
pub struct TransitionsGenerator<'a> {
    public: &'a PublicCatalogue<'a>,
    settings: ViewSettings,
}

impl<'a> TransitionsGenerator<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings) -> TransitionsGenerator<'a> {
        TransitionsGenerator { public, settings: settings.clone() }
    }

    /// Candidates of a future and their weights, best first.
    fn next_items(&self, user: u32, history: &[u32], masked: &HashSet<u32>) -> Vec<(u32, f32)> {
        let mut pool: Vec<(u32, f32)> = Vec::new();
        let mut recency = 1.0;
        for &item in history.iter().rev().take(RECENT) {
            pool.extend(self.public.follows.next(item).iter().map(|(other, share)| (*other, recency * share)));
            recency *= RECENCY;
        }
        best(merged(pool, masked), user)
    }

    /// What was counted of each item with those of `history`.
    fn strengths(&self, history: &[u32]) -> HashMap<u32, f32> {
        let (mut sums, mut seen) = (HashMap::new(), HashSet::new());
        // In the order of the history, so that a sum has one value.
        for &item in history.iter().filter(|item| seen.insert(**item)) {
            self.public.follows.partners(item).iter().for_each(|(other, strength)| *sums.entry(*other).or_default() += strength);
        }
        sums
    }
}

impl Generator for TransitionsGenerator<'_> {
    fn name(&self) -> &str {
        "transitions"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let (settings, popularity, follows) = (&self.settings, &self.public.popularity, &self.public.follows);
        let strengths = self.strengths(history);
        let cost = |item: u32| strengths.get(&item).copied().unwrap_or(0.0);
        let counterfactual = |i| {
            let mut stream = stream(settings.seed, user, ViewKind::Counterfactual(i));
            counterfactual(popularity, history, FAR, &mut stream, cost)
        };
        Ok(UserViews {
            future: future(popularity, settings, user, history, |masked| self.next_items(user, history, masked)),
            paraphrase: paraphrase(settings, user, history, |item, used, stream| {
                let like = follows.like(item).iter().filter(|(other, _)| !used.contains(other));
                // Squared, so that the likest are clearly preferred.
                draw_weighted(&mut like.map(|(other, likeness)| (*other, likeness * likeness)).collect(), stream)
            }),
            counterfactuals: (0..settings.counterfactuals).map(counterfactual).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let counted = "views are made of counted pairs of all training histories: exact sums, without noise";
        let empty = "no pair of items was counted: popularity bands stand in for what follows, and nothing is substituted";
        vec![if self.public.follows.any() { counted.into() } else { empty.into() }]
    }
}
