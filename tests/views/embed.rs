//! Free text grounded by the meaning of titles: from an endpoint and from a local model, in the store and on the command line.

use crate::encoder;
use crate::outside as real;
use std::path::{Path, PathBuf};

use crate::cli::Sandbox;
use crate::endpoint::{Endpoint, Reply, model};
use lumos::config::{GeneratorKind, Grounding, LlmSettings, ServedSettings, TextSettings, ViewSettings};
use lumos::data::{Dataset, ItemText};
use lumos::views::{self, Built, Options};

const MEAN: &str = "pooling_mode_mean_tokens";

fn titles() -> Vec<String> {
    (0..60).map(|i| format!("The {} ball {}", ["red", "big", "cat", "dog"][i % 4], i / 4)).collect()
}

fn dataset() -> Dataset {
    let mut data = Dataset { name: "made".into(), fingerprint: "f00d".into(), offsets: vec![0], ..Default::default() };
    data.catalogue = titles().into_iter().map(|title| ItemText { title, ..Default::default() }).collect();
    data.item_tokens = (0..60).map(|i| format!("i{i}")).collect();
    for user in 0..12u32 {
        data.user_tokens.push(format!("u{user}"));
        data.items.extend((0..4 + user % 5).map(|k| (user * 17 + k * 7) % 60));
        data.offsets.push(data.items.len() as u64);
    }
    data
}

fn served(endpoint: &Endpoint, text: TextSettings) -> ViewSettings {
    let served = ServedSettings { url: Some(endpoint.url.clone()), model: Some("m".into()), ..Default::default() };
    ViewSettings { generator: GeneratorKind::SERVED, served, text, max_failed: 1.0, ..Default::default() }
}

fn with(folder: &Path, threshold: f32) -> TextSettings {
    TextSettings { embedder: Some(folder.into()), embed_threshold: threshold, ..Default::default() }
}

fn build(settings: &ViewSettings) -> Built {
    views::build_with(&dataset(), settings, &Options::default()).unwrap()
}

fn grounded(built: &Built) -> f64 {
    built.generation.as_ref().unwrap().grounded_share
}

#[test]
fn titles_written_otherwise_are_found_and_the_threshold_decides() {
    let folder = encoder::folder(MEAN, true);
    let name = model(titles());
    // Case and marks apart these are titles; for words and for meaning alike.
    let loud = Endpoint::new(move |asked| Reply::Says(name(asked).replace("The ", "THE - ").replace("ball", "Ball!")));
    let by_words = build(&served(&loud, TextSettings::default()));
    let by_meaning = build(&served(&loud, with(folder.path(), 1.0)));
    assert_eq!((grounded(&by_words), grounded(&by_meaning)), (1.0, 1.0));
    assert_eq!(by_meaning.views, by_words.views);
    // One word for each title: nothing that words could find.
    let name = model(titles());
    let joined = Endpoint::new(move |asked| Reply::Says(name(asked).replace(' ', "").replace("\"items\":", "\"items\": ")));
    assert_eq!(grounded(&build(&served(&joined, TextSettings::default()))), 0.0);
    assert_eq!(grounded(&build(&served(&joined, with(folder.path(), -1.0)))), 1.0);
    let strict = build(&served(&joined, with(folder.path(), 1.0)));
    assert_eq!(grounded(&strict), 0.0);
    assert!(!strict.failures.is_empty() && strict.failures.iter().all(|f| f.asked));
    // A line without a word is no title.
    let marks = Endpoint::new(|_| Reply::Says("{\"items\": [\"?!\", \"...\", \"--\"]}".into()));
    assert_eq!(grounded(&build(&served(&marks, with(folder.path(), -1.0)))), 0.0);
}

#[test]
fn the_store_knows_the_encoder_and_keeps_the_vectors() {
    let (mean, copy, cls) = (encoder::folder(MEAN, true), encoder::folder(MEAN, true), encoder::folder("pooling_mode_cls_token", true));
    let (data, root) = (dataset(), tempfile::tempdir().unwrap());
    let endpoint = Endpoint::new({
        let name = model(titles());
        move |asked| Reply::Says(name(asked).replace("ball", "bal"))
    });
    let settings = |folder: &Path, threshold: f32| served(&endpoint, with(folder, threshold));
    let ensure = |s: &ViewSettings| views::ensure_with(&data, s, root.path(), &Options::default()).unwrap();
    let asked = || endpoint.asked().len();
    let vectors = || -> Vec<PathBuf> {
        let all = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().path());
        all.filter(|p| p.extension().is_some_and(|e| e == "vectors")).collect()
    };
    let (made, reused) = ensure(&settings(mean.path(), 0.2));
    assert!(!reused && vectors().len() == 1);
    let manifest = views::load_manifest(&views::store_dir(root.path(), &data, &settings(mean.path(), 0.2))).unwrap();
    let (grounding, failed) = (manifest.generation.unwrap().provenance.grounding, manifest.failures.len());
    assert!(grounding.starts_with("embeddings by ") && grounding.contains("SHA-256") && grounding.ends_with("at least 0.2"), "{grounding}");
    assert_eq!(ensure(&settings(mean.path(), 0.2)), (made.clone(), true));
    let before = asked();
    // The same encoder elsewhere: a folder of views with its own name, and only those who had failed are asked again.
    assert_eq!(ensure(&settings(copy.path(), 0.2)), (made.clone(), false));
    assert!(failed < 4 && asked() - before <= 3 * failed && vectors().len() == 1, "{failed} {before} {}", asked());
    let before = asked();
    // Other thresholds, prefixes and poolings are other views.
    ensure(&settings(mean.path(), 0.3));
    let at_threshold = asked();
    assert!(at_threshold >= before + 3 * 12 && vectors().len() == 1);
    ensure(&settings(cls.path(), 0.2));
    assert!(asked() >= at_threshold + 3 * 12 && vectors().len() == 2);
    // Damaged vectors are made anew.
    for path in vectors() {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100] ^= 4;
        std::fs::write(&path, bytes).unwrap();
    }
    let fresh = tempfile::tempdir().unwrap();
    for path in vectors() {
        std::fs::copy(&path, fresh.path().join(path.file_name().unwrap())).unwrap();
    }
    let (again, reused) = views::ensure_with(&data, &settings(mean.path(), 0.2), fresh.path(), &Options::default()).unwrap();
    assert_eq!((again, reused), (made.clone(), false));
    // Without the encoder's folder finished views are used as they are.
    drop(mean);
    let gone = settings(copy.path(), 0.2);
    std::fs::remove_dir_all(copy.path()).unwrap();
    assert_eq!(ensure(&gone), (made, true));
}

#[test]
fn a_local_models_text_is_matched_by_meaning() {
    let Some(local) = real::tinystories() else { return };
    let folder = encoder::folder(MEAN, true);
    let settings = |batch: u32, threshold: f32| ViewSettings {
        generator: GeneratorKind::LLM,
        llm: LlmSettings { model: Some(local.clone()), grounding: Grounding::Retrieval, batch, ..Default::default() },
        text: TextSettings { line_tokens: 12, ..with(folder.path(), threshold) },
        max_failed: 1.0,
        ..Default::default()
    };
    let loose = build(&settings(16, -1.0));
    let g = loose.generation.as_ref().unwrap();
    assert!(g.lines > 0 && g.grounded_share > 0.9 && g.provenance.grounding.starts_with("embeddings by "), "{g:?}");
    for (batch, threads) in [(1, 1), (5, 2)] {
        let options = Options { threads, ..Default::default() };
        let other = views::build_with(&dataset(), &settings(batch, -1.0), &options).unwrap();
        assert_eq!(other.views, loose.views, "batch {batch}, {threads} threads");
    }
    // A story teller writes no title word for word.
    assert!(grounded(&build(&settings(16, 1.0))) < g.grounded_share);
}

#[test]
fn the_command_line_measures_and_refuses() {
    let (sandbox, folder) = (Sandbox::new(), encoder::folder(MEAN, true));
    sandbox.lumos(&["data", "build", "small.toml"]).done();
    let path = folder.path().display().to_string();
    let ground = ["bench", "ground", "--data", "data/small", "--titles", "30", "--words", "0.3,0.9", "--meaning=-1,0.999"];
    let found = sandbox.lumos(&[&ground[..], &["--embedder", &path, "--json"]].concat()).json();
    let rows = found["scored"].as_array().unwrap();
    let names: Vec<(&str, f64)> = rows.iter().map(|r| (r["method"].as_str().unwrap(), r["threshold"].as_f64().unwrap())).collect();
    assert_eq!(names, [("words", 0.3), ("words", 0.9), ("meaning", -1.0), ("meaning", 0.999)]);
    let share = |row: usize, of: &str, part: &str| rows[row][of][part].as_f64().unwrap();
    for row in 0..4 {
        for of in ["edited", "foreign"] {
            let all: f64 = ["right", "wrong", "rejected"].map(|part| share(row, of, part)).iter().sum();
            assert!((all - 1.0).abs() < 1e-9, "{row} {of}: {all}");
        }
        assert_eq!(share(row, "foreign", "right"), 0.0);
    }
    for (low, high) in [(0, 1), (2, 3)] {
        assert!(share(low, "edited", "right") >= share(high, "edited", "right"));
        assert!(share(low, "foreign", "rejected") < share(high, "foreign", "rejected"));
    }
    assert!(share(0, "edited", "right") > 0.5 && share(2, "foreign", "rejected") == 0.0 && found["timed"].as_array().unwrap().len() == 2);
    let text = sandbox.lumos(&ground).done();
    assert!(text.contains("words shuffled") && text.contains("talk") && !text.contains("meaning  "), "{text}");
    sandbox.lumos(&[&ground[..], &["--embedder", "nowhere"]].concat()).refused(1, &["views.text.embedder", "nowhere", "no such folder"]);
    sandbox.lumos(&["bench", "ground", "--data", "nowhere"]).refused(1, &["nowhere"]);
    let build = ["views", "build", "small.toml", "--set=views.generator=served", "--set=views.served.url=http://127.0.0.1:9/v1"];
    let refused = |set: &str, parts: &[&str]| {
        sandbox.lumos(&[&build[..], &["--set=views.served.model=m", set]].concat()).refused(1, parts);
    };
    refused("--set=views.text.embeder=x", &["`views.text.embeder`", "did you mean `views.text.embedder`"]);
    refused("--set=views.text.embed_threshold=2", &["views.text.embed_threshold", "must be between -1 and 1 (a cosine)"]);
    refused("--set=views.text.embedder=no-such-folder", &["views.text.embedder", "no-such-folder"]);
    refused("--set=views.text.embedder=data", &["views.text.embedder", "config.json"]);
}
