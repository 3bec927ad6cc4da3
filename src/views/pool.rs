//! Counterfactuals out of a small public pool that all clients share.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use super::UserViews;
use super::catalogue::CatalogueGenerator;
use super::features::{Features, Profile};
use super::generator::{Generator, PublicCatalogue, ViewKind, stream};
use crate::Result;
use crate::base::parallel;
use crate::base::rng::{Purpose, Stream};
use crate::config::ViewSettings;

/// Sequences of a leading category.
const SEQUENCES: usize = 16;
/// Most items of a sequence.
const LENGTH: usize = 50;
/// The draws of the pool are those of users behind the last real one.
const BEHIND_USERS: u64 = 1 << 32;

/// The catalogue generator's future and paraphrase, and a counterfactual from a public pool.
///
/// For each leading category of the catalogue the pool has [`SEQUENCES`] sequences of at most [`LENGTH`] distinct items, none of them in that
/// category. Each is what [`CatalogueGenerator`] gives a made-up user whose history is of that category, its items drawn by how often they occur.
/// Whoever has the catalogue and the counts that `privacy.counts` lets be known can make the pool; no user's history enters it.
///
/// A client finds the narrow category (one that at most half of the items have) of most of its training items, and takes one of the sequences of
/// that category by `views.seed` and its number: as many of its items as its history is long, but for those that it has met. Several counterfactuals of a
/// client are different sequences, as long as they are no more than [`SEQUENCES`]. A client that downloads the whole pool reveals nothing; it costs
/// categories x [`SEQUENCES`] x [`LENGTH`] item ids of 4 bytes, 3,200 bytes a category.
///
/// A category that lies within another narrow one is not leading: a history has the wider one at least as often. Where a history has no narrow
/// category, or all items of its sequence, and where the catalogue says nothing, the counterfactual is the catalogue generator's, which
/// the client makes by itself.
pub struct PoolGenerator<'a> {
    catalogue: CatalogueGenerator<'a>,
    public: &'a PublicCatalogue<'a>,
    settings: ViewSettings,
    /// Sequences of each leading category, by its term.
    pool: BTreeMap<u32, Vec<Vec<u32>>>,
    /// Items of each narrow category `[V]`.
    sizes: BTreeMap<u32, usize>,
}

impl<'a> PoolGenerator<'a> {
    /// A generator over `public`; the pool is made by `threads` threads.
    pub fn new(public: &'a PublicCatalogue<'a>, settings: &ViewSettings, threads: usize) -> PoolGenerator<'a> {
        let catalogue = CatalogueGenerator::new(public, settings);
        let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for item in 0..public.item_count() as u32 {
            public.features.narrow_categories(item).for_each(|category| members.entry(category).or_default().push(item));
        }
        let leading: Vec<(u32, &Vec<u32>)> =
            members.iter().filter(|(category, _)| leads(&public.features, **category, &members)).map(|(c, items)| (*c, items)).collect();
        let make = |i: usize| {
            let (category, items) = leading[i / SEQUENCES];
            sequence(&catalogue, public, settings.seed, (category, items), (i % SEQUENCES) as u32)
        };
        let mut made = parallel::map(threads, leading.len() * SEQUENCES, 1, make).into_iter();
        let pool = leading.iter().map(|(category, _)| (*category, made.by_ref().take(SEQUENCES).collect())).collect();
        let sizes = members.iter().map(|(category, items)| (*category, items.len())).collect();
        PoolGenerator { catalogue, public, settings: settings.clone(), pool, sizes }
    }

    /// The leading category of `history`: the narrow category of most of its items, of several the one with most items in the catalogue.
    fn leading(&self, history: &[u32]) -> Option<u32> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        history.iter().flat_map(|item| self.public.features.narrow_categories(*item)).for_each(|c| *counts.entry(c).or_default() += 1);
        counts
            .into_iter()
            .max_by_key(|(category, count)| (*count, self.sizes.get(category), Reverse(*category)))
            .map(|(category, _)| category)
    }

    fn counterfactual(&self, user: u32, history: &[u32], index: u32) -> Vec<u32> {
        let pool = self.leading(history).and_then(|category| self.pool.get(&category));
        let first = stream(self.settings.seed, user, ViewKind::Counterfactual(0)).below(SEQUENCES as u64) as usize;
        let known: HashSet<u32> = history.iter().copied().collect();
        let chosen = pool.map_or(&[][..], |all| &all[(first + index as usize) % SEQUENCES]);
        let view: Vec<u32> = chosen.iter().copied().filter(|item| !known.contains(item)).take(history.len()).collect();
        if !view.is_empty() {
            return view;
        }
        let profile = Profile::new(&self.public.features, history);
        self.catalogue.counterfactual(history, &profile, &mut stream(self.settings.seed, user, ViewKind::Counterfactual(index)))
    }
}

/// Whether `category` is within no other one that a history has at least as often and that is preferred to it.
fn leads(features: &Features, category: u32, members: &BTreeMap<u32, Vec<u32>>) -> bool {
    let rank = |category: u32| (members[&category].len(), Reverse(category));
    let (Some(first), rest) = (members[&category].first(), &members[&category][1..]) else { return false };
    let mut wider: Vec<u32> = features.narrow_categories(*first).filter(|other| rank(*other) > rank(category)).collect();
    for &item in rest {
        if wider.is_empty() {
            break;
        }
        wider.retain(|other| features.narrow_categories(item).any(|own| own == *other));
    }
    wider.is_empty()
}

/// Sequence `number` of a `category` with its `items`.
fn sequence(
    catalogue: &CatalogueGenerator,
    public: &PublicCatalogue,
    seed: u64,
    (category, items): (u32, &[u32]),
    number: u32,
) -> Vec<u32> {
    let mut stream = Stream::new(seed, Purpose::Views, ViewKind::Counterfactual(number).index(), BEHIND_USERS + u64::from(category));
    let mut bounds = Vec::with_capacity(items.len());
    let mut total = 0;
    for &item in items {
        total += 1 + u64::from(public.popularity.count(item));
        bounds.push(total);
    }
    let mut draw = |_| {
        let place = stream.below(total.min(1 << 32));
        items[bounds.partition_point(|bound| *bound <= place)]
    };
    // Twice as many as are wanted: a popularity band that is used up gives items twice, or of the category for want of others.
    let history: Vec<u32> = (0..2 * LENGTH).map(&mut draw).collect();
    let profile = Profile::new(&public.features, &history);
    let mut seen = HashSet::new();
    let mut made = catalogue.counterfactual(&history, &profile, &mut stream);
    made.retain(|item| seen.insert(*item) && public.features.narrow_categories(*item).all(|own| own != category));
    made.truncate(LENGTH);
    made
}

impl Generator for PoolGenerator<'_> {
    fn name(&self) -> &str {
        "pool"
    }

    fn generate(&self, user: u32, history: &[u32]) -> Result<UserViews> {
        self.public.check(user, history)?;
        if history.is_empty() {
            return Ok(UserViews::default());
        }
        Ok(UserViews {
            future: self.catalogue.future(user, history),
            paraphrase: self.catalogue.paraphrase(user, history),
            counterfactuals: (0..self.settings.counterfactuals).map(|i| self.counterfactual(user, history, i)).collect(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = self.catalogue.notes();
        let ids: usize = self.pool.values().flatten().map(Vec::len).sum();
        notes.push(match self.pool.len() {
            0 => "no category leads, so there is no pool: counterfactuals are those of `catalogue`".into(),
            n => format!(
                "counterfactuals are from a public pool: {n} categories with {SEQUENCES} sequences each, {} bytes of item ids",
                4 * ids
            ),
        });
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GeneratorKind;
    use crate::data::ItemText;

    const GROUPS: [&str; 4] = ["makeup", "garden", "chess", "cycling"];

    /// Item `i` is of group `i % 4`, and of one of five kinds within it; every ninth item is of the next group as well.
    fn catalogue(items: u32) -> Vec<ItemText> {
        let item = |i: u32| {
            let (group, kind) = (GROUPS[i as usize % 4], i / 4 % 5);
            let mut categories = vec!["Everything".to_string(), group.into(), format!("{group} {kind}")];
            if i.is_multiple_of(9) {
                categories.push(GROUPS[(i as usize + 1) % 4].into());
            }
            ItemText { title: format!("{group} thing number{i}"), categories, ..Default::default() }
        };
        (0..items).map(item).collect()
    }

    fn with<T>(
        items: &[ItemText],
        settings: &ViewSettings,
        threads: usize,
        work: impl FnOnce(&PoolGenerator, &CatalogueGenerator) -> T,
    ) -> T {
        let counts: Vec<u32> = (0..items.len() as u32).map(|i| 1000 / (1 + i)).collect();
        let public = PublicCatalogue::new(items, &counts, settings, 1, &|_| ()).unwrap();
        work(&PoolGenerator::new(&public, settings, threads), &CatalogueGenerator::new(&public, settings))
    }

    fn settings() -> ViewSettings {
        ViewSettings { generator: GeneratorKind::POOL, counterfactuals: 3, ..Default::default() }
    }

    fn is_of(item: u32, group: u32) -> bool {
        item % 4 == group || item.is_multiple_of(9) && (item + 1) % 4 == group
    }

    /// Histories of eight items of a group, with two of another that the pool of the first holds.
    fn histories() -> Vec<(u32, Vec<u32>)> {
        let history = |n: u32| (n % 4, (0..8).map(|i| 4 * (7 * n + 11 * i) % 400 + n % 4).chain([(n + 1) % 4, (n + 2) % 4 + 4]).collect());
        (0..120).map(history).collect()
    }

    #[test]
    fn a_client_takes_a_sequence_of_its_leading_category() {
        let items = catalogue(400);
        with(&items, &settings(), 2, |pool, catalogue| {
            // A kind lies within its group, and everything is of `Everything`.
            assert_eq!(pool.pool.len(), 4);
            let mut taken = [const { BTreeMap::new() }; 4];
            for (user, (group, history)) in histories().iter().enumerate() {
                let category = pool.leading(history).unwrap();
                let sequences = &pool.pool[&category];
                assert_eq!(sequences.len(), SEQUENCES);
                let made = pool.generate(user as u32, history).unwrap();
                let mut places = HashSet::new();
                for view in &made.counterfactuals {
                    assert!(
                        view.len() == history.len() && view.iter().all(|item| !history.contains(item) && !is_of(*item, *group)),
                        "{view:?}"
                    );
                    let from = |all: &Vec<u32>| all.iter().filter(|i| !history.contains(i)).take(history.len()).eq(view);
                    places.insert(sequences.iter().position(from).expect("a sequence of the category"));
                }
                assert_eq!(places.len(), 3, "different sequences");
                places.iter().for_each(|place| *taken[*group as usize].entry(*place).or_insert(0) += 1);
                let own = catalogue.generate(user as u32, history).unwrap();
                assert_eq!((made.future, made.paraphrase), (own.future, own.paraphrase));
            }
            assert!(taken.iter().all(|places| places.len() > SEQUENCES / 2), "{taken:?}");
            for (category, sequences) in &pool.pool {
                for sequence in sequences {
                    assert_eq!(sequence.iter().collect::<HashSet<_>>().len(), sequence.len());
                    assert_eq!(sequence.len(), LENGTH);
                    assert!(sequence.iter().all(|i| pool.public.features.narrow_categories(*i).all(|own| own != *category)));
                }
            }
            assert!(pool.notes().iter().any(|note| note.contains("4 categories") && note.contains("12800 bytes")), "{:?}", pool.notes());
        });
    }

    #[test]
    fn equal_seeds_have_equal_pools_and_a_client_is_alone_with_its_own() {
        let items = catalogue(400);
        let all = |settings: &ViewSettings, threads: usize, backwards: bool| {
            with(&items, settings, threads, |pool, _| {
                let mut order: Vec<usize> = (0..120).collect();
                if backwards {
                    order.reverse();
                }
                let mut made: Vec<_> = order.iter().map(|&u| (u, pool.generate(u as u32, &histories()[u].1).unwrap())).collect();
                made.sort_by_key(|(user, _)| *user);
                (pool.pool.clone(), made)
            })
        };
        let one = all(&settings(), 1, false);
        assert!(one == all(&settings(), 3, true));
        let (pool, made) = all(&ViewSettings { seed: 2, ..settings() }, 1, false);
        assert!(pool != one.0 && made != one.1);
        // More counterfactuals leave the first ones.
        let (pool, fewer) = all(&ViewSettings { counterfactuals: 1, ..settings() }, 1, false);
        assert!(pool == one.0 && fewer.iter().zip(&one.1).all(|(a, b)| a.1.counterfactuals[0] == b.1.counterfactuals[0]));
    }

    #[test]
    fn where_no_category_leads_the_catalogue_generator_stands_in() {
        let mut nameless = catalogue(400);
        nameless.iter_mut().for_each(|item| item.categories.clear());
        let plain = |items: &[ItemText], histories: &[Vec<u32>]| {
            with(items, &settings(), 1, |pool, catalogue| {
                for history in histories {
                    assert_eq!(pool.generate(7, history).unwrap(), catalogue.generate(7, history).unwrap());
                }
                pool.notes().concat()
            })
        };
        let some: Vec<Vec<u32>> = histories().into_iter().take(5).map(|(_, history)| history).chain([vec![]]).collect();
        assert!(plain(&nameless, &some).contains("no category leads"));
        assert!(plain(&vec![ItemText::default(); 40], &[vec![1, 2, 3]]).contains("no category leads"));
        // A client of items without categories, and one that has met all that its sequences hold.
        let mut few = catalogue(12);
        few[3].categories.clear();
        plain(&few, &[vec![3, 3], (0..12).collect()]);
    }
}
