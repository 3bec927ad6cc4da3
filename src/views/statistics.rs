//! What can be said of finished views without training on them.

use serde::{Deserialize, Serialize};

use super::Views;
use super::features::Profile;
use super::generator::PublicCatalogue;
use crate::data::Dataset;

/// Users looked at for likeness, evenly spread: enough for three digits.
const SAMPLE: usize = 2000;

/// Figures of a set of views. Likeness is the mean cosine between an item and the items of the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Users that have views.
    pub users: u64,
    /// Users without training items, who have none.
    pub empty_users: u64,
    /// Users with training items and no views: beyond the first ones asked for, or failed without a fallback.
    #[serde(default)]
    pub without_views: u64,
    /// Mean number of training items of a user who has views.
    pub mean_history: f64,
    /// Mean number of items that a future appends.
    pub mean_appended: f64,
    /// Share of a paraphrase's items that are not of the history.
    pub replaced_share: f64,
    /// Share of items with a nearest item in the catalogue.
    pub items_with_neighbours: f64,
    /// Likeness of the history's items among themselves (an item with itself left out).
    pub likeness_history: f64,
    /// Likeness of a future's appended items.
    pub likeness_future: f64,
    /// Likeness of a paraphrase's replaced items.
    pub likeness_paraphrase: f64,
    /// Likeness of counterfactual items.
    pub likeness_counterfactual: f64,
    /// Share of counterfactual items that have a narrow category in common with the history.
    pub counterfactual_shared_category: f64,
    /// Geometric mean of (1 + training count) of the history's items.
    pub popularity_history: f64,
    /// The same of appended items.
    pub popularity_future: f64,
    /// The same of counterfactual items.
    pub popularity_counterfactual: f64,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// Time to build.
    pub seconds: f64,
}

/// A running mean.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }

    fn value(&self) -> f64 {
        if self.count == 0.0 { 0.0 } else { self.sum / self.count }
    }
}

/// Measures `views`; seconds and notes are left to the caller.
pub(super) fn measure(data: &Dataset, public: &PublicCatalogue, views: &Views) -> Statistics {
    let items = public.item_count();
    let near = (0..items as u32).filter(|i| public.neighbours.of(*i).len() > 0).count();
    let mut made = Statistics { items_with_neighbours: near as f64 / items.max(1) as f64, ..Default::default() };
    let mut means: [Mean; 11] = Default::default();
    let [length, appended, replaced, own, future, paraphrase, counterfactual, category, pop_own, pop_future, pop_counter] = &mut means;
    let step = views.users.len().div_ceil(SAMPLE).max(1);
    let popularity = |item: u32| (1.0 + f64::from(public.popularity.count(item))).ln();
    for (user, view) in views.users.iter().enumerate() {
        let history = data.train(user);
        if history.is_empty() {
            made.empty_users += 1;
            continue;
        }
        if view.future.is_empty() {
            made.without_views += 1;
            continue;
        }
        made.users += 1;
        length.add(history.len() as f64);
        let added = &view.future[history.len().min(view.future.len())..];
        appended.add(added.len() as f64);
        if user % step != 0 {
            continue;
        }
        let profile = Profile::new(&public.features, history);
        let n = history.len() as f64;
        for &item in history {
            if n > 1.0 {
                let itself = f64::from(public.features.cosine(item, item));
                own.add(((f64::from(profile.nearness(item).0) * n - itself) / (n - 1.0)).max(0.0));
            }
            pop_own.add(popularity(item));
        }
        for &item in added {
            future.add(f64::from(profile.nearness(item).0));
            pop_future.add(popularity(item));
        }
        for item in &view.paraphrase {
            let new = !history.contains(item);
            replaced.add(f64::from(u8::from(new)));
            if new {
                paraphrase.add(f64::from(profile.nearness(*item).0));
            }
        }
        for &item in view.counterfactuals.iter().flatten() {
            let (likeness, shared) = profile.nearness(item);
            counterfactual.add(f64::from(likeness));
            category.add(f64::from(u8::from(shared)));
            pop_counter.add(popularity(item));
        }
    }
    made.mean_history = length.value();
    made.mean_appended = appended.value();
    made.replaced_share = replaced.value();
    made.likeness_history = own.value();
    made.likeness_future = future.value();
    made.likeness_paraphrase = paraphrase.value();
    made.likeness_counterfactual = counterfactual.value();
    made.counterfactual_shared_category = category.value();
    made.popularity_history = pop_own.value().exp();
    made.popularity_future = pop_future.value().exp();
    made.popularity_counterfactual = pop_counter.value().exp();
    made
}
