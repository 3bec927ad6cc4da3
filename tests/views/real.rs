//! Views of the real data sets, where they are at hand.

use crate::outside as real;
use lumos::config::{DataSettings, ViewSettings};
use lumos::data::{self, Dataset};
use lumos::views::{self, Statistics, Views};

/// A prepared data set; `None` where its files are not here.
fn prepared(name: &str, file: &str) -> Option<Dataset> {
    let folder = real::data(name)?;
    let path = |kind: &str| folder.join(format!("{file}.{kind}"));
    let settings = DataSettings {
        name: name.into(),
        format: "recbole".into(),
        inter: Some(path("inter")),
        items: Some(path("item")),
        ..Default::default()
    };
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    data::prepare(&settings, &dir, false, &|_, _, _| ()).unwrap();
    Some(data::load(&dir).unwrap())
}

/// Builds views and checks what holds anywhere; positives are `nearer` times as like the history as the counterfactual.
fn build(data: &Dataset, nearer: f64) -> (Views, Statistics) {
    let (made, found) = views::build_with_statistics(data, &ViewSettings::default(), 2, &|_, _| ()).unwrap();
    println!("{}: {}", data.name, serde_json::to_string_pretty(&found).unwrap());
    println!("{}", views::inspect(data, &made, 7).unwrap());
    for (user, view) in made.users.iter().enumerate() {
        let history = data.train(user);
        let added = &view.future[history.len()..];
        assert!((3..=5).contains(&added.len()) && added.iter().all(|i| !history.contains(i)));
        assert!(view.paraphrase.len() == history.len() && view.counterfactuals[0].len() == history.len());
        assert!(view.counterfactuals[0].iter().all(|i| !history.contains(i)));
    }
    assert!((0.8..1.25).contains(&(found.popularity_counterfactual / found.popularity_history)));
    assert!(found.likeness_future > nearer * found.likeness_counterfactual);
    assert!(found.likeness_paraphrase > nearer * found.likeness_counterfactual);
    (made, found)
}

#[test]
fn beauty_has_text() {
    let Some(data) = prepared("amazon-beauty", "Amazon_Beauty") else { return };
    let (_, found) = build(&data, 3.0);
    assert_eq!(found.users, 22_363);
    assert!(found.items_with_neighbours > 0.99 && found.counterfactual_shared_category < 0.15);
    assert!((found.replaced_share - 0.5).abs() < 0.03);
}

#[test]
fn cell_phones_has_links_and_no_titles() {
    let Some(data) = prepared("amazon-cell-phones", "Amazon_Cell_Phones_and_Accessories") else { return };
    let (_, found) = build(&data, 3.0);
    assert_eq!(found.users, 27_879);
    assert!(found.items_with_neighbours > 0.9 && found.counterfactual_shared_category < 0.1);
}

#[test]
fn news_has_titles_for_some() {
    let Some(data) = prepared("mind-1000", "mind-1000") else { return };
    let (_, found) = build(&data, 3.0);
    assert!(found.notes.iter().any(|n| n.contains("nothing is known")), "{:?}", found.notes);
}

#[test]
fn films_have_long_histories_in_a_small_catalogue() {
    let Some(data) = prepared("ml-100k", "ml-100k") else { return };
    // A hundred films touch every genre, so nothing in the catalogue is far from all of them.
    let (_, found) = build(&data, 2.0);
    assert_eq!(found.users, 943);
}
