//! Two sets of views of the same users, side by side: what to look at before training on either.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Serialize;

use super::features::{Features, Profile};
use super::store::{Manifest, load, load_manifest};
use super::{UserViews, ViewKind, Views};
use crate::data::Dataset;
use crate::{Error, Result};

/// Users looked at for likeness, evenly spread: enough for three digits.
const SAMPLE: usize = 2000;

/// What one generator put into one kind of view.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Mean number of items that are not of the history.
    pub new_items: f64,
    /// Distinct ones among all users.
    pub distinct_items: u64,
    /// These as a share of the catalogue.
    pub catalogue_share: f64,
    /// Entropy of their narrowest categories in bits; items without categories left out.
    pub category_entropy: f64,
    /// Mean cosine of such an item and the items of the history.
    pub likeness_to_history: f64,
    /// Share of them that have a narrow category in common with the history.
    pub shared_category: f64,
    /// Geometric mean of (1 + training count).
    pub popularity: f64,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Folder.
    pub folder: String,
    /// Generator.
    pub generator: String,
    /// Model, where a language model wrote them.
    pub model: Option<String>,
    /// Users that have views.
    pub users: u64,
    /// Share of lines that named an item of the catalogue, where a language model wrote them.
    pub grounded_share: Option<f64>,
    /// Share of lines that named an item of the user's own history.
    pub own_share: Option<f64>,
    /// Figures of the futures of common users.
    pub future: Figures,
    /// Of their paraphrases.
    pub paraphrase: Figures,
    /// Of their counterfactuals.
    pub counterfactual: Figures,
}

/// How much two views of a user have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Overlap {
    /// Mean over users of common new items over all new items (Jaccard).
    pub jaccard: f64,
    /// Share of users whose two views are the same sequence.
    pub same: f64,
}

/// Both sides and what they share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the data set.
    pub data: String,
    /// Users that have views on both sides; all figures are of these.
    pub users: u64,
    /// Likeness of the history's items among themselves, for scale.
    pub likeness_history: f64,
    /// First.
    pub a: Side,
    /// Second.
    pub b: Side,
    /// Of futures.
    pub future: Overlap,
    /// Of paraphrases.
    pub paraphrase: Overlap,
    /// Of counterfactuals.
    pub counterfactual: Overlap,
}

/// Two loaded sets of views.
pub struct Pair {
    /// Views of both sides.
    pub views: [Views; 2],
    manifests: [Manifest; 2],
    folders: [String; 2],
}

impl Pair {
    /// Reads the folders `a` and `b`, both of `data`.
    ///
    /// # Errors
    /// Where one cannot be read or is of another data set.
    pub fn load(data: &Dataset, a: &Path, b: &Path) -> Result<Pair> {
        Ok(Pair {
            views: [load(a, data)?, load(b, data)?],
            manifests: [load_manifest(a)?, load_manifest(b)?],
            folders: [a.display().to_string(), b.display().to_string()],
        })
    }

    /// Users with views on both sides.
    pub fn common(&self) -> Vec<usize> {
        let has = |views: &Views, user: usize| views.get(user).is_some_and(|v| !v.future.is_empty());
        (0..self.views[0].users.len()).filter(|u| has(&self.views[0], *u) && has(&self.views[1], *u)).collect()
    }
}

/// Holds two sets of views against each other.
///
/// # Errors
/// Where they have no user in common.
pub fn compare(data: &Dataset, pair: &Pair) -> Result<Comparison> {
    let common = pair.common();
    if common.is_empty() {
        return Err(Error::Usage("no user has views in both folders; nothing can be compared".into()));
    }
    let features = Features::new(&data.catalogue);
    let counts = data.train_counts();
    let step = common.len().div_ceil(SAMPLE).max(1);
    let profiles: Vec<(usize, Profile)> = common.iter().step_by(step).map(|u| (*u, Profile::new(&features, data.train(*u)))).collect();
    let [future, paraphrase, counterfactual] = [ViewKind::Future, ViewKind::Paraphrase, ViewKind::Counterfactual(0)].map(|part| {
        let of = |side: usize| -> Vec<Vec<u32>> { common.iter().map(|u| new_items(data, *u, &pair.views[side].users[*u], part)).collect() };
        let named = [of(0), of(1)];
        let figures = |named: &[Vec<u32>]| figures(data, &counts, named, step, &profiles);
        (figures(&named[0]), figures(&named[1]), overlap(&common, &pair.views, &named, part))
    });
    let side = |index: usize, future: Figures, paraphrase: Figures, counterfactual: Figures| {
        let manifest = &pair.manifests[index];
        let written = manifest.generation.as_ref();
        Side {
            folder: pair.folders[index].clone(),
            generator: manifest.generator.clone(),
            model: written.map(|g| g.provenance.model.clone()),
            users: pair.views[index].users.iter().filter(|v| !v.future.is_empty()).count() as u64,
            grounded_share: written.map(|g| g.grounded_share),
            own_share: written.map(|g| g.own_share),
            future,
            paraphrase,
            counterfactual,
        }
    };
    Ok(Comparison {
        data: data.name.clone(),
        users: common.len() as u64,
        likeness_history: likeness_of_histories(data, &features, &profiles),
        a: side(0, future.0, paraphrase.0, counterfactual.0),
        b: side(1, future.1, paraphrase.1, counterfactual.1),
        future: future.2,
        paraphrase: paraphrase.2,
        counterfactual: counterfactual.2,
    })
}

/// Items of a view that are not of the history; counterfactual sequences of a user together.
fn new_items(data: &Dataset, user: usize, views: &UserViews, part: ViewKind) -> Vec<u32> {
    let history: HashSet<u32> = data.train(user).iter().copied().collect();
    let new = |sequence: &[u32]| sequence.iter().copied().filter(|i| !history.contains(i)).collect::<Vec<u32>>();
    match part {
        ViewKind::Future => new(&views.future),
        ViewKind::Paraphrase => new(&views.paraphrase),
        ViewKind::Counterfactual(_) => views.counterfactuals.iter().flat_map(|c| new(c)).collect(),
    }
}

fn figures(data: &Dataset, counts: &[u32], named: &[Vec<u32>], step: usize, profiles: &[(usize, Profile)]) -> Figures {
    let mut distinct = HashSet::new();
    let mut categories: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut total, mut popularity) = (0u64, 0.0);
    for &item in named.iter().flatten() {
        distinct.insert(item);
        total += 1;
        popularity += (1.0 + f64::from(counts[item as usize])).ln();
        if let Some(category) = data.catalogue.get(item as usize).and_then(|t| t.categories.last()) {
            *categories.entry(category).or_default() += 1;
        }
    }
    let with_category = categories.values().sum::<u64>() as f64;
    let entropy: f64 = categories.values().map(|n| *n as f64 / with_category).map(|p| -p * p.log2()).sum();
    let (mut likeness, mut shared, mut looked_at) = (0.0, 0.0, 0.0);
    for (items, (_, profile)) in named.iter().step_by(step).zip(profiles) {
        for &item in items {
            let (near, category) = profile.nearness(item);
            likeness += f64::from(near);
            shared += f64::from(u8::from(category));
            looked_at += 1.0;
        }
    }
    let share = |sum: f64, n: f64| if n == 0.0 { 0.0 } else { sum / n };
    Figures {
        new_items: share(total as f64, named.len() as f64),
        distinct_items: distinct.len() as u64,
        catalogue_share: share(distinct.len() as f64, data.item_count() as f64),
        category_entropy: entropy,
        likeness_to_history: share(likeness, looked_at),
        shared_category: share(shared, looked_at),
        popularity: share(popularity, total as f64).exp(),
    }
}

fn overlap(common: &[usize], views: &[Views; 2], named: &[Vec<Vec<u32>>; 2], part: ViewKind) -> Overlap {
    let (mut jaccard, mut same) = (0.0, 0.0);
    for (place, &user) in common.iter().enumerate() {
        let [a, b] = [0, 1].map(|side: usize| named[side][place].iter().copied().collect::<HashSet<u32>>());
        let all = a.union(&b).count();
        jaccard += if all == 0 { 1.0 } else { a.intersection(&b).count() as f64 / all as f64 };
        let [x, y] = [0, 1].map(|side: usize| &views[side].users[user]);
        let equal = match part {
            ViewKind::Counterfactual(_) => x.counterfactuals == y.counterfactuals,
            _ => x.part(part) == y.part(part),
        };
        same += f64::from(u8::from(equal));
    }
    let n = common.len() as f64;
    Overlap { jaccard: jaccard / n, same: same / n }
}

fn likeness_of_histories(data: &Dataset, features: &Features, profiles: &[(usize, Profile)]) -> f64 {
    let (mut sum, mut n) = (0.0, 0.0);
    for (user, profile) in profiles {
        let history = data.train(*user);
        if history.len() < 2 {
            continue;
        }
        for &item in history {
            let all = f64::from(profile.nearness(item).0) * history.len() as f64;
            sum += ((all - f64::from(features.cosine(item, item))) / (history.len() as f64 - 1.0)).max(0.0);
            n += 1.0;
        }
    }
    if n == 0.0 { 0.0 } else { sum / n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ViewSettings;
    use crate::data::ItemText;
    use crate::views::{Statistics, save};

    #[test]
    fn figures_are_what_they_say() {
        let item = |title: &str, category: &str| ItemText {
            title: title.into(),
            categories: vec!["All".into(), category.into()],
            ..Default::default()
        };
        let mut data = Dataset { name: "made".into(), fingerprint: "ab".into(), offsets: vec![0, 4, 8, 12], ..Default::default() };
        data.catalogue = ["tea", "tea", "tea", "tea", "pot", "pot", "cup", "jar"]
            .iter()
            .enumerate()
            .map(|(i, c)| item(&format!("{c} {i}"), c))
            .collect();
        data.item_tokens = (0..8).map(|i| format!("i{i}")).collect();
        data.user_tokens = ["a", "b", "c"].map(String::from).to_vec();
        // All three chose items 0 and 1 before what is held out.
        data.items = vec![0, 1, 7, 7, 0, 1, 7, 7, 0, 1, 7, 7];
        let view = |next: [u32; 2], other: [u32; 2]| UserViews {
            future: vec![0, 1, next[0], next[1]],
            paraphrase: vec![1, 0],
            counterfactuals: vec![other.to_vec()],
        };
        // User c has views on one side alone.
        let a = Views { users: vec![view([2, 3], [4, 5]), view([2, 4], [6, 7]), view([2, 3], [4, 5])] };
        let b = Views { users: vec![view([2, 3], [4, 5]), view([3, 4], [4, 5]), UserViews::default()] };
        let root = tempfile::tempdir().unwrap();
        let [x, y] = ["x", "y"].map(|name| root.path().join(name));
        save(&x, &data, &ViewSettings::default(), &a, &Statistics::default()).unwrap();
        save(&y, &data, &ViewSettings::default(), &b, &Statistics::default()).unwrap();
        let pair = Pair::load(&data, &x, &y).unwrap();
        let found = compare(&data, &pair).unwrap();
        assert_eq!((found.users, found.a.users, found.b.users, pair.common()), (2, 3, 2, vec![0, 1]));
        // A's futures: tea, tea, tea, pot; counterfactuals: pot, pot, cup, jar.
        let entropy = |shares: &[f64]| shares.iter().map(|p| -p * p.log2()).sum::<f64>();
        assert!((found.a.future.category_entropy - entropy(&[0.75, 0.25])).abs() < 1e-12);
        assert!((found.a.counterfactual.category_entropy - entropy(&[0.5, 0.25, 0.25])).abs() < 1e-12);
        assert_eq!((found.a.future.new_items, found.a.future.distinct_items, found.a.future.catalogue_share), (2.0, 3, 0.375));
        assert_eq!((found.a.future.shared_category, found.a.counterfactual.shared_category), (0.75, 0.0));
        assert!(found.a.future.likeness_to_history > found.a.counterfactual.likeness_to_history);
        // {2, 3} and {2, 3}; {2, 4} and {3, 4}.
        assert!((found.future.jaccard - (1.0 + 1.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!((found.future.same, found.counterfactual.jaccard, found.counterfactual.same), (0.5, 0.5, 0.5));
        // Neither paraphrase has a new item: they agree, and no figure is made up.
        assert_eq!((found.paraphrase.jaccard, found.a.paraphrase.new_items, found.a.paraphrase.likeness_to_history), (1.0, 0.0, 0.0));
        let none = Views { users: vec![UserViews::default(); 3] };
        save(&y, &data, &ViewSettings::default(), &none, &Statistics::default()).unwrap();
        let message = compare(&data, &Pair::load(&data, &x, &y).unwrap()).unwrap_err().to_string();
        assert!(message.contains("no user has views in both"), "{message}");
    }
}
