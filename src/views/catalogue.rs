//! The embedded generator: views from the public catalogue and the user's own training items, without a language model.

use std::collections::HashSet;

use super::UserViews;
use super::features::Profile;
use super::generator::{Generator, PublicCatalogue, ViewKind, future_length, part_of, reorder, stream};
use super::mix;
use super::popularity::Popularity;
use crate::Result;
use crate::base::rng::Stream;
use crate::config::ViewSettings;

/// Latest items of the history that a future follows from.
pub(super) const RECENT: usize = 10;
/// What an item weighs beside the one after it.
pub(super) const RECENCY: f32 = 0.8;
/// What the head of an also-bought list weighs beside a perfect likeness.
const LINK: f32 = 0.5;
/// A future's item is drawn by likeness times (1 + count) to this power.
const POPULARITY_POWER: f32 = 0.25;
/// Number of best candidates that a future is drawn from.
const POOL: usize = 50;
/// A counterfactual item this far from the history is far enough.
const FAR: f32 = 0.02;
/// Cost of an item of which nothing is known, where others are known: not far, only unknown.
const UNKNOWN: f32 = 0.03;

/// Views from the public catalogue and the user's own training items.
///
/// * Future: items like, or bought with, the latest ones, drawn by likeness, recency and (mildly) popularity; where the
///   catalogue says nothing, items as popular as recent ones. It appends no item that the mask hides and none twice; fewer than
///   promised only where the catalogue has no more.
/// * Paraphrase: a share of the items gives way to near substitutes; where nothing at all is known of any item, to items
///   about as popular; then a share of neighbouring pairs changes places.
/// * Counterfactual: for each item one of its popularity band that shares no narrow category with the history and next to
///   no words, else the farthest of some draws. Where the catalogue has no unused item left, items come twice; where the
///   history is the whole catalogue, history items come.
pub struct CatalogueGenerator<'a> {
    public: &'a PublicCatalogue<'a>,
    settings: ViewSettings,
}

impl<'a> CatalogueGenerator<'a> {
    /// A generator over `public`.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings) -> CatalogueGenerator<'a> {
        CatalogueGenerator { public, settings: settings.clone() }
    }

    pub(super) fn future(&self, user: u32, history: &[u32]) -> Vec<u32> {
        future(&self.public.popularity, &self.settings, user, history, |masked| self.next_items(user, history, masked))
    }

    /// Candidates of a future and their weights, best first.
    fn next_items(&self, user: u32, history: &[u32], masked: &HashSet<u32>) -> Vec<(u32, f32)> {
        let mut pool: Vec<(u32, f32)> = Vec::new();
        let mut recency = 1.0;
        for &item in history.iter().rev().take(RECENT) {
            pool.extend(self.public.neighbours.of(item).map(|(other, likeness)| (other, recency * likeness)));
            let links = self.public.links(item).enumerate();
            pool.extend(links.map(|(rank, other)| (other, recency * LINK / (1.0 + rank as f32 / 10.0))));
            recency *= RECENCY;
        }
        let mut pool = merged(pool, masked);
        for (item, weight) in pool.iter_mut() {
            *weight *= (1.0 + self.public.popularity.count(*item) as f32).powf(POPULARITY_POWER);
        }
        best(pool, user)
    }

    pub(super) fn paraphrase(&self, user: u32, history: &[u32]) -> Vec<u32> {
        paraphrase(&self.settings, user, history, |item, used, stream| self.substitute(item, used, stream))
    }

    /// A near item that is not used yet; `None` leaves the item as it is.
    fn substitute(&self, item: u32, used: &HashSet<u32>, stream: &mut Stream) -> Option<u32> {
        if !self.public.features.any() {
            return self.public.popularity.draw(item, 0.0, stream, |i| (!used.contains(&i)).then_some(0.0));
        }
        // Squared, so that the nearest are clearly preferred.
        let near = self.public.neighbours.of(item).filter(|(other, _)| !used.contains(other));
        draw_weighted(&mut near.map(|(other, likeness)| (other, likeness * likeness)).collect(), stream)
    }

    /// A counterfactual of `history`, of which `profile` is made, by the draws of `stream`.
    pub(super) fn counterfactual(&self, history: &[u32], profile: &Profile, stream: &mut Stream) -> Vec<u32> {
        let any = self.public.features.any();
        let cost = |item: u32| {
            if any && !self.public.features.known(item) {
                return UNKNOWN;
            }
            let (likeness, category) = profile.nearness(item);
            likeness + f32::from(u8::from(category))
        };
        counterfactual(&self.public.popularity, history, FAR, stream, cost)
    }
}

/// `history` and what follows it, drawn from the `pool` of candidates beside those that are masked, and after these from items as popular as recent ones.
pub(super) fn future(
    popularity: &Popularity,
    settings: &ViewSettings,
    user: u32,
    history: &[u32],
    pool: impl FnOnce(&HashSet<u32>) -> Vec<(u32, f32)>,
) -> Vec<u32> {
    let mut stream = stream(settings.seed, user, ViewKind::Future);
    let wanted = future_length(settings, &mut stream);
    let masked: HashSet<u32> = settings.mask.masked(history).iter().copied().collect();
    let mut pool = pool(&masked);
    let mut view = history.to_vec();
    while view.len() < history.len() + wanted {
        let next = match draw_weighted(&mut pool, &mut stream) {
            Some(item) => Some(item),
            None => {
                let recent = history.len().min(RECENT);
                let like = history[history.len() - 1 - stream.below(recent as u64) as usize];
                let added = &view[history.len()..];
                popularity.draw(like, 0.0, &mut stream, |i| (!masked.contains(&i) && !added.contains(&i)).then_some(0.0))
            }
        };
        let Some(next) = next else { break };
        view.push(next);
    }
    view
}

/// `pool` without what is masked, each item once with the sum of its weights, ascending.
pub(super) fn merged(mut pool: Vec<(u32, f32)>, masked: &HashSet<u32>) -> Vec<(u32, f32)> {
    pool.retain(|(item, _)| !masked.contains(item));
    // A stable sort: the terms of one item's sum stay in the order of the history.
    pool.sort_by_key(|(item, _)| *item);
    pool.dedup_by(|later, first| {
        let same = later.0 == first.0;
        if same {
            first.1 += later.1;
        }
        same
    });
    pool
}

/// The heaviest of `pool`, heaviest first; of equal ones others for other users.
pub(super) fn best(mut pool: Vec<(u32, f32)>, user: u32) -> Vec<(u32, f32)> {
    pool.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| (mix(a.0, user), a.0).cmp(&(mix(b.0, user), b.0))));
    pool.truncate(POOL);
    pool
}

/// `history` with a share of its items replaced by what `substitute` gives for an item, those that are used already and the draws, and a share of
/// neighbouring pairs swapped.
pub(super) fn paraphrase(
    settings: &ViewSettings,
    user: u32,
    history: &[u32],
    substitute: impl Fn(u32, &HashSet<u32>, &mut Stream) -> Option<u32>,
) -> Vec<u32> {
    let mut stream = stream(settings.seed, user, ViewKind::Paraphrase);
    let mut view = history.to_vec();
    let mut used: HashSet<u32> = history.iter().copied().collect();
    let mut left = part_of(settings.substitute, history.len(), &mut stream);
    let mut places: Vec<usize> = (0..history.len()).collect();
    stream.shuffle(&mut places);
    for place in places {
        if left == 0 {
            break;
        }
        if let Some(item) = substitute(history[place], &used, &mut stream) {
            view[place] = item;
            used.insert(item);
            left -= 1;
        }
    }
    reorder(settings.reorder, &mut view, &mut stream);
    view
}

/// For each item of `history` one about as popular that it does not have, of the lowest `cost` among some draws; one of at most `enough` is taken at
/// once. Items come twice where there are no others, and history items where that is the whole catalogue.
pub(super) fn counterfactual(
    popularity: &Popularity,
    history: &[u32],
    enough: f32,
    stream: &mut Stream,
    cost: impl Fn(u32) -> f32,
) -> Vec<u32> {
    let known: HashSet<u32> = history.iter().copied().collect();
    let mut used = HashSet::new();
    let mut view = Vec::with_capacity(history.len());
    for &like in history {
        let fresh = popularity.draw(like, enough, stream, |i| (!known.contains(&i) && !used.contains(&i)).then(|| cost(i)));
        let item = match fresh {
            Some(item) => item,
            None => popularity.draw(like, enough, stream, |i| (!known.contains(&i)).then(|| cost(i))).unwrap_or(like),
        };
        used.insert(item);
        view.push(item);
    }
    view
}

impl Generator for CatalogueGenerator<'_> {
    fn name(&self) -> &str {
        "catalogue"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        let profile = Profile::new(&self.public.features, history);
        let counterfactual = |i| self.counterfactual(history, &profile, &mut stream(self.settings.seed, user, ViewKind::Counterfactual(i)));
        Ok(UserViews {
            future: self.future(user, history),
            paraphrase: self.paraphrase(user, history),
            counterfactuals: (0..self.settings.counterfactuals).map(counterfactual).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let n = self.public.item_count();
        let known = (0..n as u32).filter(|i| self.public.features.known(*i)).count();
        if !self.public.features.any() {
            return vec!["the catalogue has nothing that distinguishes items: popularity bands stand in for likeness".into()];
        }
        let note = |known: usize| format!("nothing is known of {} of {n} items: never substituted or near", n - known);
        if known < n { vec![note(known)] } else { Vec::new() }
    }
}

/// Takes one entry out of `pool`, by weight.
pub(super) fn draw_weighted(pool: &mut Vec<(u32, f32)>, stream: &mut Stream) -> Option<u32> {
    let total: f32 = pool.iter().map(|(_, weight)| weight).sum();
    let mut rest = stream.unit() * total;
    // Rounding may leave a little over at the end: the last one takes it.
    let last = pool.len().checked_sub(1)?;
    let place = pool.iter().position(|(_, weight)| {
        rest -= weight;
        rest < 0.0
    });
    Some(pool.remove(place.unwrap_or(last)).0)
}
