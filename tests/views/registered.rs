//! Generators of another crate: how the store tells their views apart, and what it refuses.

use lumos::config::{GeneratorKind, ViewSettings};
use lumos::data::{Dataset, ItemText};
use lumos::views::{self, GeneratorEntry, Reads, UserViews};
use lumos::{Generator, Result};
use std::sync::Once;

const ITEMS: u32 = 9;

/// The history as every view, with as many times `added` behind it as a prompt would show items.
struct Echo {
    added: u32,
    times: u32,
}

impl Generator for Echo {
    fn name(&self) -> &str {
        "echo"
    }

    fn generate(&self, _user: u32, history: &[u32]) -> Result<UserViews> {
        let future = history.iter().copied().chain((0..self.times).map(|_| self.added)).collect();
        Ok(UserViews { future, paraphrase: history.to_vec(), counterfactuals: vec![history.to_vec()] })
    }
}

const ECHO: GeneratorEntry = GeneratorEntry {
    name: "echo",
    summary: "the history itself",
    neighbours: false,
    follows: false,
    version: 3,
    costly: false,
    reads: Reads { future: &["text"], paraphrase: &[], counterfactual: &[], all: &[] },
    build: |settings, _, _, _| Ok(Box::new(Echo { added: 0, times: settings.text.history })),
};

const BEYOND: GeneratorEntry =
    GeneratorEntry { name: "beyond", reads: Reads::USUAL, build: |_, _, _, _| Ok(Box::new(Echo { added: ITEMS, times: 1 })), ..ECHO };

fn settings(name: &str) -> ViewSettings {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| [ECHO, BEYOND].into_iter().for_each(|entry| views::register_generator(entry).unwrap()));
    ViewSettings { generator: GeneratorKind::find(name).unwrap(), ..Default::default() }
}

fn data() -> Dataset {
    let mut data = Dataset { name: "made".into(), fingerprint: "0123abcd".into(), offsets: vec![0], ..Default::default() };
    data.catalogue = (0..ITEMS).map(|i| ItemText { title: format!("item {i}"), ..Default::default() }).collect();
    data.item_tokens = (0..ITEMS).map(|i| format!("i{i}")).collect();
    for user in 0..6u32 {
        data.user_tokens.push(format!("u{user}"));
        data.items.extend((0..5).map(|k| (user + k) % ITEMS));
        data.offsets.push(data.items.len() as u64);
    }
    data
}

#[test]
fn views_are_found_again_until_a_setting_changes_that_the_generator_reads() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let ensure = |settings: &ViewSettings| views::ensure(&data, settings, root.path(), 2, &|_, _| ()).unwrap();
    let plain = settings("echo");
    let (made, reused) = ensure(&plain);
    assert!(!reused);
    assert_eq!(ensure(&plain), (made.clone(), true));
    let changed = |change: &dyn Fn(&mut ViewSettings)| {
        let mut other = plain.clone();
        change(&mut other);
        ensure(&other)
    };
    assert_eq!(changed(&|s| s.served.temperature = 0.1), (made.clone(), true), "another table");
    let (longer, reused) = changed(&|s| s.text.history += 1);
    assert!(!reused && longer != made, "a table that is read for the future");
    let dir = views::store_dir(root.path(), &data, &plain);
    assert_eq!(views::load_manifest(&dir).unwrap().generator, "echo");
    assert!(views::inspect(&data, &made, 0).unwrap().contains("future: 20 appended"));
}

#[test]
fn views_of_items_that_the_catalogue_does_not_have_are_refused() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let error = views::ensure(&data, &settings("beyond"), root.path(), 2, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("the future names item 9, and the catalogue has 9"), "{error}");
    assert!(error.contains("views.max_failed"), "{error}");
}
