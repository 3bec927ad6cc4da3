//! Views as promised: lengths, ids, distinctness, determinism, taste, popularity, and no sight of what is held out.

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::endpoint::{Endpoint, Reply, model};
use lumos::Error;
use lumos::base::rng::{Purpose, Stream};
use lumos::config::{GeneratorKind, Mask, ServedSettings, ViewSettings};
use lumos::data::{Dataset, ItemText};
use lumos::views::{self, Views};
use proptest::prelude::*;

const KINDS: [GeneratorKind; 4] =
    [GeneratorKind::CATALOGUE, GeneratorKind::RANDOM, GeneratorKind::RANDOM_COUNTERFACTUAL, GeneratorKind::TRANSITIONS];
const GROUPS: [&str; 4] = ["makeup", "garden", "chess", "cycling"];

fn build(data: &Dataset, settings: &ViewSettings) -> Views {
    views::build(data, settings, 2, &|_, _| ()).unwrap()
}

fn dataset(catalogue: Vec<ItemText>, sequences: &[Vec<u32>]) -> Dataset {
    let mut data = Dataset { name: "made".into(), fingerprint: "f00d".into(), offsets: vec![0], ..Default::default() };
    data.item_tokens = (0..catalogue.len()).map(|i| format!("i{i}")).collect();
    data.catalogue = catalogue;
    for (user, sequence) in sequences.iter().enumerate() {
        data.user_tokens.push(format!("u{user}"));
        data.items.extend(sequence);
        data.offsets.push(data.items.len() as u64);
    }
    data
}

/// Item `i` is of group `i % 4`; titles within a group share words.
fn grouped(items: u32) -> Vec<ItemText> {
    let item = |i: u32| {
        let (group, kind) = (GROUPS[i as usize % 4], i / 4 % 5);
        ItemText {
            title: format!("{group} thing kind{kind} number{i}"),
            categories: vec!["Everything".into(), group.into(), format!("{group} {kind}")],
            ..Default::default()
        }
    };
    (0..items).map(item).collect()
}

/// Users who like one group, popular items more than others.
fn one_group_users(users: u32, items: u32) -> Vec<Vec<u32>> {
    let sequence = |user: u32| {
        let mut stream = Stream::new(3, Purpose::World, 0, u64::from(user));
        let mut sequence: Vec<u32> = Vec::new();
        while sequence.len() < 5 + user as usize % 7 {
            let rank = (stream.unit() * stream.unit() * (items / 4) as f32) as u32;
            let item = rank * 4 + user % 4;
            if !sequence.contains(&item) {
                sequence.push(item);
            }
        }
        sequence
    };
    (0..users).map(sequence).collect()
}

fn check_promises(data: &Dataset, settings: &ViewSettings, made: &Views) {
    assert_eq!(made.users.len(), data.users());
    for (user, view) in made.users.iter().enumerate() {
        let history = data.train(user);
        if history.is_empty() {
            assert!(view.future.is_empty() && view.paraphrase.is_empty() && view.counterfactuals.is_empty());
            continue;
        }
        let known: HashSet<u32> = history.iter().copied().collect();
        let unknown = data.item_count() - known.len();
        assert_eq!(&view.future[..history.len()], history);
        let added = &view.future[history.len()..];
        assert!(added.len() <= settings.future_max as usize);
        assert!(added.len() >= unknown.min(settings.future_min as usize), "{} appended, {unknown} left", added.len());
        assert_eq!(added.iter().collect::<HashSet<_>>().len(), added.len(), "appended items are distinct");
        assert!(added.iter().all(|i| !known.contains(i)));
        assert_eq!(view.paraphrase.len(), history.len());
        assert_eq!(view.counterfactuals.len(), settings.counterfactuals as usize);
        for sequence in &view.counterfactuals {
            assert_eq!(sequence.len(), history.len());
            if unknown > 0 {
                assert!(sequence.iter().all(|i| !known.contains(i)));
            }
            if unknown >= history.len() {
                assert_eq!(sequence.iter().collect::<HashSet<_>>().len(), sequence.len());
            }
        }
        let all = view.future.iter().chain(&view.paraphrase).chain(view.counterfactuals.iter().flatten());
        assert!(all.into_iter().all(|i| (*i as usize) < data.item_count()));
    }
}

/// Items of which the catalogue says nothing: what was counted together is of one group.
#[test]
fn counted_pairs_alone_keep_the_taste_apart() {
    let data = dataset(vec![ItemText::default(); 400], &one_group_users(300, 400));
    let made = build(&data, &ViewSettings { generator: GeneratorKind::TRANSITIONS, counterfactuals: 2, ..Default::default() });
    let counted: HashSet<u32> = (0..data.users()).flat_map(|user| data.train(user).iter().copied()).collect();
    let (mut appended, mut replaced) = (0, 0);
    for (user, view) in made.users.iter().enumerate() {
        let (group, history) = (user as u32 % 4, data.train(user));
        // Some items were met by one user or none: what is as popular stands in where nothing follows.
        let followed = view.future[history.len()..].iter().filter(|item| *item % 4 == group && counted.contains(item)).count();
        appended += usize::from(followed + history.len() == view.future.len());
        assert!(view.paraphrase.iter().all(|item| item % 4 == group), "user {user}");
        replaced += view.paraphrase.iter().filter(|item| !history.contains(item)).count();
        let met = |item: &u32| {
            (0..data.users()).any(|other| data.train(other).contains(item) && data.train(other).iter().any(|i| history.contains(i)))
        };
        assert!(!view.counterfactuals.iter().flatten().any(met), "user {user}: counted with an item of the history");
        assert!(view.counterfactuals[0] != view.counterfactuals[1] || history.len() < 2, "user {user}");
    }
    assert!(appended > 270 && replaced > 300, "{appended} users with a future of their group, {replaced} substitutes");
}

#[test]
fn future_and_paraphrase_keep_the_taste_and_the_counterfactual_never_does() {
    let data = dataset(grouped(400), &one_group_users(300, 400));
    let made = build(&data, &ViewSettings::default());
    let (mut same, mut total, mut replaced, mut items) = (0, 0, 0, 0);
    for (user, view) in made.users.iter().enumerate() {
        let group = user as u32 % 4;
        let history = data.train(user);
        for item in view.future[history.len()..].iter().chain(&view.paraphrase) {
            same += u32::from(item % 4 == group);
            total += 1;
        }
        replaced += view.paraphrase.iter().filter(|i| !history.contains(i)).count();
        items += history.len();
        assert!(view.counterfactuals[0].iter().all(|i| i % 4 != group), "user {user}");
    }
    assert!(f64::from(same) > 0.95 * f64::from(total), "{same} of {total}");
    let share = replaced as f64 / items as f64;
    assert!((share - 0.5).abs() < 0.05, "half of the items are replaced, not {share}");
}

/// Under the mask `none` any item may be recommended, so a future may come back to one; what is no future stays as it was.
#[test]
fn a_future_comes_back_to_items_where_nothing_is_masked() {
    // Few items, so that a draw out of all of them often meets the history: eleven of the user's own group, two of them held out.
    let data = dataset(grouped(48), &one_group_users(60, 48));
    for generator in KINDS {
        let masked = ViewSettings { generator, ..Default::default() };
        let open = ViewSettings { mask: Mask::None, ..masked.clone() };
        let (before, after) = (build(&data, &masked), build(&data, &open));
        let mut returns = 0;
        for (user, (a, b)) in before.users.iter().zip(&after.users).enumerate() {
            let history = data.train(user);
            assert_eq!((&a.paraphrase, &a.counterfactuals), (&b.paraphrase, &b.counterfactuals), "{generator:?}");
            assert!(!a.future[history.len()..].iter().any(|i| history.contains(i)));
            let added = &b.future[history.len()..];
            assert_eq!(added.iter().collect::<HashSet<_>>().len(), added.len(), "appended items are distinct");
            returns += added.iter().filter(|i| history.contains(i)).count();
        }
        assert!(returns > 10, "{generator:?}: {returns}");
    }
}

#[test]
fn reordering_swaps_neighbours_and_loses_nothing() {
    let data = dataset(grouped(400), &one_group_users(200, 400));
    let made = build(&data, &ViewSettings { substitute: 0.0, reorder: 0.3, ..Default::default() });
    let mut swapped = 0;
    for (user, view) in made.users.iter().enumerate() {
        let history = data.train(user);
        for (place, item) in view.paraphrase.iter().enumerate() {
            let from = history.iter().position(|h| h == item).unwrap();
            assert!(from.abs_diff(place) <= 1);
            swapped += u32::from(from != place);
        }
    }
    assert!(swapped > 0);
    let still = build(&data, &ViewSettings { substitute: 0.0, reorder: 0.0, ..Default::default() });
    assert!(still.users.iter().enumerate().all(|(user, view)| view.paraphrase == data.train(user)));
}

#[test]
fn counterfactuals_are_as_popular_as_the_history() {
    let data = dataset(grouped(800), &one_group_users(3000, 800));
    let (_, found) = views::build_with_statistics(&data, &ViewSettings::default(), 2, &|_, _| ()).unwrap();
    let ratio = found.popularity_counterfactual / found.popularity_history;
    assert!((0.8..1.25).contains(&ratio), "{ratio}");
    assert_eq!(found.counterfactual_shared_category, 0.0);
    assert!(found.likeness_future > 5.0 * found.likeness_counterfactual && found.likeness_paraphrase > 5.0 * found.likeness_counterfactual);
    let random = ViewSettings { generator: GeneratorKind::RANDOM_COUNTERFACTUAL, ..Default::default() };
    let (_, random) = views::build_with_statistics(&data, &random, 2, &|_, _| ()).unwrap();
    assert!(random.popularity_counterfactual < 0.7 * random.popularity_history, "the ablation is not matched");
    assert!(random.likeness_future == found.likeness_future && random.likeness_paraphrase == found.likeness_paraphrase);
}

#[test]
fn links_alone_are_enough() {
    // Items come in circles of eight that link to each other; there is no text.
    let circle = |i: u32| (0..8).map(|k| i / 8 * 8 + k).filter(|j| *j != i).collect();
    let catalogue = (0..400u32).map(|i| ItemText { also_bought: circle(i), ..Default::default() }).collect();
    let sequences: Vec<Vec<u32>> = (0..100u32).map(|u| (0..5).map(|k| u % 50 * 8 + k).collect()).collect();
    let data = dataset(catalogue, &sequences);
    let made = build(&data, &ViewSettings::default());
    check_promises(&data, &ViewSettings::default(), &made);
    for (user, view) in made.users.iter().enumerate() {
        let home = user as u32 % 50;
        assert!(view.future.iter().chain(&view.paraphrase).all(|i| i / 8 == home));
        assert!(view.counterfactuals[0].iter().all(|i| i / 8 != home));
    }
}

#[test]
fn a_catalogue_that_says_nothing_still_gives_views_and_says_so() {
    let data = dataset(vec![ItemText::default(); 300], &one_group_users(200, 300));
    let settings = ViewSettings::default();
    let (made, found) = views::build_with_statistics(&data, &settings, 2, &|_, _| ()).unwrap();
    check_promises(&data, &settings, &made);
    assert!(found.notes.iter().any(|n| n.contains("popularity")), "{:?}", found.notes);
    assert!(found.replaced_share > 0.3, "substitutes come from popularity bands");
}

#[test]
fn tiny_catalogues_and_short_users_end() {
    for items in [1u32, 2, 3, 6] {
        let sequences: Vec<Vec<u32>> =
            vec![vec![], vec![0], vec![0; 2], vec![0; 3], (0..items).chain([0, 0]).collect(), vec![items - 1; 9]];
        for catalogue in [grouped(items), vec![ItemText::default(); items as usize]] {
            let data = dataset(catalogue, &sequences);
            for generator in KINDS {
                let settings = ViewSettings { generator, counterfactuals: 3, ..Default::default() };
                check_promises(&data, &settings, &build(&data, &settings));
            }
        }
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let data = dataset(grouped(8), &[vec![0, 1, 2, 3]]);
    let base = ViewSettings::default();
    for (key, wrong) in [
        ("views.future_min", ViewSettings { future_min: 0, ..base.clone() }),
        ("views.future_min", ViewSettings { future_min: 4, future_max: 3, ..base.clone() }),
        ("views.future_max", ViewSettings { future_max: 1001, ..base.clone() }),
        ("views.counterfactuals", ViewSettings { counterfactuals: 0, ..base.clone() }),
        ("views.neighbours", ViewSettings { neighbours: u32::MAX, ..base.clone() }),
        ("views.substitute", ViewSettings { substitute: 1.5, ..base.clone() }),
        ("views.reorder", ViewSettings { reorder: f32::NAN, ..base.clone() }),
    ] {
        match views::build(&data, &wrong, 1, &|_, _| ()) {
            Err(Error::Setting { key: found, .. }) => assert_eq!(found, key),
            other => panic!("{key}: {other:?}"),
        }
    }
}

/// Runs in a build without the feature: `cargo test --no-default-features --test views`.
#[cfg(not(feature = "endpoint"))]
#[test]
fn an_endpoint_is_refused_with_the_name_of_its_feature() {
    let data = dataset(grouped(8), &[vec![0, 1, 2, 3]]);
    let mut settings = ViewSettings { generator: GeneratorKind::SERVED, ..Default::default() };
    (settings.served.url, settings.served.model) = (Some("http://localhost:1/v1".into()), Some("m".into()));
    let message = views::build(&data, &settings, 1, &|_, _| ()).unwrap_err().to_string();
    assert!(message.contains("views.generator") && message.contains("--features endpoint"), "{message}");
}

#[test]
fn items_outside_the_catalogue_are_an_error() {
    let data = dataset(grouped(8), &[vec![0, 1, 2, 3]]);
    for generator in KINDS {
        let settings = ViewSettings { generator, ..Default::default() };
        let public = views::PublicCatalogue::new(&data.catalogue, &data.train_counts(), &settings, 1, &|_| ()).unwrap();
        let made = views::generator(&settings, &public, 1, None).unwrap().unwrap();
        assert_eq!(made.name(), generator.name());
        assert!(made.generate(0, &[1, 8]).unwrap_err().to_string().contains("item 8"));
    }
    assert!(views::PublicCatalogue::new(&data.catalogue, &[1], &ViewSettings::default(), 1, &|_| ()).is_err());
    let none = ViewSettings { generator: GeneratorKind::NONE, ..Default::default() };
    assert!(build(&data, &none).users.is_empty());
}

/// A world of up to 60 items and 12 users; text, links and categories come and go.
fn world() -> impl Strategy<Value = (Vec<ItemText>, Vec<Vec<u32>>)> {
    (4u32..60).prop_flat_map(|items| {
        let item = (0u32..6, 0u32..4, proptest::collection::vec(0..items, 0..4)).prop_map(|(word, category, also_bought)| ItemText {
            title: if word == 0 { String::new() } else { format!("word{word} shared") },
            categories: if category == 0 { vec![] } else { vec!["All".into(), format!("c{category}")] },
            brand: String::new(),
            also_bought,
        });
        (proptest::collection::vec(item, items as usize), proptest::collection::vec(proptest::collection::vec(0..items, 0..14), 1..12))
    })
}

/// What an endpoint is sent for the views of `data`, and what becomes of its answers: views, or why there are none.
fn served(data: &Dataset) -> (Vec<String>, Result<Views, String>) {
    static ENDPOINT: OnceLock<Endpoint> = OnceLock::new();
    let endpoint = ENDPOINT.get_or_init(|| {
        let model = model((1..6).map(|word| format!("word{word} shared")).chain(["All / c1".to_string()]).collect());
        Endpoint::new(move |asked| Reply::Says(model(asked)))
    });
    let before = endpoint.asked().len();
    let served = ServedSettings { url: Some(endpoint.url.clone()), model: Some("m".into()), concurrency: 3, ..Default::default() };
    let settings = ViewSettings { generator: GeneratorKind::SERVED, counterfactuals: 2, max_failed: 1.0, served, ..Default::default() };
    let made = views::build(data, &settings, 2, &|_, _| ()).map_err(|e| e.to_string());
    let mut sent: Vec<String> = endpoint.asked()[before..].iter().map(|a| a.body.to_string()).collect();
    sent.sort();
    (sent, made)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Two worlds that differ in nothing but validation and test items have the same views, byte for byte: what is held out
    /// has no way into a view, neither through a user's own sequence nor through the popularity counts.
    #[test]
    fn no_view_has_seen_a_held_out_item((catalogue, sequences) in world(), held_out in proptest::collection::vec((any::<u32>(), any::<u32>()), 12)) {
        let items = catalogue.len() as u32;
        let mut others = sequences.clone();
        for (sequence, (validation, test)) in others.iter_mut().zip(held_out) {
            let n = sequence.len();
            for (place, item) in [(n.checked_sub(2), validation), (n.checked_sub(1), test)] {
                if let Some(place) = place {
                    sequence[place] = item % items;
                }
            }
        }
        let (one, two) = (dataset(catalogue.clone(), &sequences), dataset(catalogue, &others));
        prop_assert_eq!(one.train_counts(), two.train_counts());
        for generator in KINDS {
            let settings = ViewSettings { generator, counterfactuals: 2, ..Default::default() };
            prop_assert_eq!(build(&one, &settings), build(&two, &settings));
        }
        // A model is not even told.
        prop_assert_eq!(served(&one), served(&two));
    }

    /// Lengths, ids and distinctness hold in any world; threads and the other users do not matter.
    #[test]
    fn promises_hold_and_threads_do_not_matter((catalogue, sequences) in world(), seed in any::<u64>(), pick in 0usize..3) {
        let data = dataset(catalogue, &sequences);
        let settings = ViewSettings { generator: KINDS[pick], seed, counterfactuals: 2, ..Default::default() };
        let made = build(&data, &settings);
        check_promises(&data, &settings, &made);
        for threads in [1, 3] {
            prop_assert_eq!(&views::build(&data, &settings, threads, &|_, _| ()).unwrap(), &made);
        }
        // Asked alone and in another order, with the same public counts: the same views.
        let public = views::PublicCatalogue::new(&data.catalogue, &data.train_counts(), &settings, 1, &|_| ()).unwrap();
        let generator = views::generator(&settings, &public, 1, None).unwrap().unwrap();
        for user in (0..data.users()).rev() {
            prop_assert_eq!(&generator.generate(user as u32, data.train(user)).unwrap(), &made.users[user]);
        }
    }
}
