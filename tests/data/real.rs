//! The numbers of the real data sets.

use crate::common::{quiet, real, recbole};
use lumos::data::{Dropped, Manifest, TimeUnit, load, load_times, prepare, stats_with_times};

fn prepare_real(set: &str, file: &str, k_core: u32) -> Option<(Manifest, lumos::data::Dataset)> {
    let folder = real(set)?;
    let mut settings = recbole(set, &folder.join(format!("{file}.inter")), Some(&folder.join(format!("{file}.item"))));
    settings.k_core = k_core;
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    let manifest = prepare(&settings, &dir, false, &quiet).unwrap();
    let dataset = load(&dir).unwrap();
    let times = load_times(&dir).unwrap();
    assert_eq!(stats_with_times(&dataset, times.as_ref()), manifest.stats, "stored and recomputed statistics differ");
    assert_eq!(manifest.dropped, Dropped::default(), "no published data set has a duplicate row");
    Some((manifest, dataset))
}

fn counts(m: &Manifest) -> (u64, u64, u64) {
    (m.stats.users, m.stats.items, m.stats.interactions)
}

#[test]
fn amazon_beauty() {
    let Some((m, d)) = prepare_real("amazon-beauty", "Amazon_Beauty", 5) else { return };
    assert_eq!(counts(&m), (22_363, 12_101, 198_502));
    assert_eq!((m.stats.min_length, m.stats.median_length, m.stats.max_length), (5, 6, 204));
    assert_eq!(m.stats.items_with_title, 12_094);
    assert!((m.stats.same_day.unwrap() - 0.4394).abs() < 1e-4, "{:?}", m.stats.same_day);
    let item = |token: &str| &d.catalogue[d.item_tokens.iter().position(|t| t == token).unwrap()];
    assert_eq!(item("9788072216").categories, ["Beauty", "Fragrance", "Women's", "Eau de Parfum"]);
    assert_eq!(item("7806397051").brand, "COKA");
    // The first user of the file keeps place 0 and the file's order.
    assert_eq!(d.user_tokens[0], "A1YJEY40YUW4SE");
    assert_eq!(d.item_tokens[..3], ["B004756YJA", "B004ZT0SSG", "B0020YLEYK"]);
    assert_eq!(d.sequence(0)[..3], [0, 1, 2]);
}

#[test]
fn amazon_cell_phones() {
    let Some((m, d)) = prepare_real("amazon-cell-phones", "Amazon_Cell_Phones_and_Accessories", 5) else { return };
    assert_eq!(counts(&m), (27_879, 10_429, 194_439));
    assert_eq!((m.stats.items_with_title, m.stats.items_with_also_bought > 8_000), (0, true));
    assert_eq!((m.stats.min_length, m.stats.max_length), (5, 152));
    let item = &d.catalogue[d.item_tokens.iter().position(|t| t == "120401325X").unwrap()];
    assert_eq!(item.categories, ["4"]);
}

#[test]
fn ml_100k() {
    let Some((m, d)) = prepare_real("ml-100k", "ml-100k", 0) else { return };
    assert_eq!(counts(&m), (943, 1_682, 100_000));
    let toy = &d.catalogue[d.item_tokens.iter().position(|t| t == "1").unwrap()];
    assert_eq!((toy.title.as_str(), toy.categories.len()), ("Toy Story", 3));
}

#[test]
fn mind_1000_before_filtering() {
    let Some((m, _)) = prepare_real("mind-1000", "mind-1000", 0) else { return };
    assert_eq!((m.raw.users, m.raw.items, m.raw.interactions), (1_000, 10_547, 40_955));
    assert!(m.stats.users <= 1_000 && m.stats.min_length >= 5);
    assert_eq!(m.stats.duplicates, Some(0), "positions differ, so no interaction is recorded twice");
    assert_eq!(m.stats.repeats, 597);
    assert_eq!((m.stats.time_unit, m.stats.same_day), (Some(TimeUnit::Positions), None), "positions are no dates");
}
