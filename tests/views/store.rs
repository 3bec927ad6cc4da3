//! Views on disk: round trip, reuse, refusal of other data sets and of damage, and nothing half-written.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use lumos::Error;
use lumos::config::{GeneratorKind, ViewSettings};
use lumos::data::{Dataset, ItemText};
use lumos::views::{self, Views};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn data() -> Dataset {
    let mut data = Dataset { name: "made".into(), fingerprint: "0123abcd".into(), offsets: vec![0], ..Default::default() };
    let item =
        |i: u32| ItemText { title: format!("group{} item{i}", i % 3), categories: vec![format!("c{}", i % 3)], ..Default::default() };
    data.catalogue = (0..60).map(item).collect();
    data.item_tokens = (0..60).map(|i| format!("item-{i}")).collect();
    for user in 0..20u32 {
        data.user_tokens.push(format!("user-{user}"));
        data.items.extend((0..user % 8).map(|k| (user * 7 + k * 3) % 60));
        data.offsets.push(data.items.len() as u64);
    }
    data
}

fn ensure(data: &Dataset, settings: &ViewSettings, root: &Path) -> (Views, bool) {
    views::ensure(data, settings, root, 2, &|_, _| ()).unwrap()
}

/// Rewrites the checksums, as someone would who changes a file on purpose.
fn sign(dir: &Path) {
    let line = |name: &str| {
        let digest: String = hex::encode(Sha256::digest(fs::read(dir.join(name)).unwrap()));
        format!("{digest}  {name}\n")
    };
    fs::write(dir.join("SHA256SUMS"), line("manifest.json") + &line("views.safetensors")).unwrap();
}

fn entries(root: &Path) -> Vec<String> {
    fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn stored_views_come_back_and_are_reused() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let settings = ViewSettings { counterfactuals: 2, ..Default::default() };
    let (made, reused) = ensure(&data, &settings, root.path());
    assert!(!reused && made.users.len() == 20);
    assert_eq!(ensure(&data, &settings, root.path()), (made.clone(), true));
    let dir = views::store_dir(root.path(), &data, &settings);
    assert_eq!(views::load(&dir, &data).unwrap(), made);
    let manifest = views::load_manifest(&dir).unwrap();
    assert_eq!((manifest.settings, manifest.generator.as_str()), (settings.clone(), "catalogue"));
    assert_eq!((manifest.statistics.users, manifest.statistics.empty_users), (11, 9));
    assert!(manifest.statistics.likeness_future > manifest.statistics.likeness_counterfactual);
    // Every setting has its own folder, and nothing else is left behind.
    let other = ViewSettings { seed: 2, ..settings };
    assert!(!ensure(&data, &other, root.path()).1);
    assert_eq!(entries(root.path()).len(), 2);
}

#[test]
fn the_file_is_the_same_for_any_number_of_threads() {
    let (one, three, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), data());
    let settings = ViewSettings::default();
    let bytes = |root: &Path, threads| {
        views::ensure(&data, &settings, root, threads, &|_, _| ()).unwrap();
        fs::read(views::store_dir(root, &data, &settings).join("views.safetensors")).unwrap()
    };
    assert_eq!(bytes(one.path(), 1), bytes(three.path(), 3));
}

#[test]
fn no_views_touch_no_file() {
    let root = tempfile::tempdir().unwrap();
    let none = ViewSettings { generator: GeneratorKind::NONE, ..Default::default() };
    assert_eq!(ensure(&data(), &none, &root.path().join("sub")), (Views::default(), false));
    assert!(!root.path().join("sub").exists());
}

#[test]
fn another_data_set_is_refused() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let settings = ViewSettings::default();
    ensure(&data, &settings, root.path());
    let dir = views::store_dir(root.path(), &data, &settings);
    let other = Dataset { fingerprint: "ffff".into(), ..data.clone() };
    let message = views::load(&dir, &other).unwrap_err().to_string();
    assert!(message.contains("0123abcd") && message.contains("ffff"), "{message}");
    assert_ne!(views::store_dir(root.path(), &other, &settings), dir);
    // The same fingerprint over fewer items or users: the sizes do not fit.
    let fewer = Dataset { item_tokens: data.item_tokens[..9].to_vec(), ..data.clone() };
    assert!(matches!(views::load(&dir, &fewer), Err(Error::Mismatch { .. })));
    let fewer = Dataset { offsets: data.offsets[..9].to_vec(), ..data.clone() };
    assert!(matches!(views::load(&dir, &fewer), Err(Error::Mismatch { .. })));
    assert!(views::save(&dir, &fewer, &settings, &views::load(&dir, &data).unwrap(), &Default::default()).is_err());
    let message = views::load(root.path(), &data).unwrap_err().to_string();
    assert!(message.contains("lumos views build"), "{message}");
}

#[test]
fn damaged_or_old_views_are_made_anew_and_foreign_files_are_kept() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let settings = ViewSettings::default();
    let (made, _) = ensure(&data, &settings, root.path());
    let dir = views::store_dir(root.path(), &data, &settings);
    fs::write(dir.join("views.safetensors"), b"short").unwrap();
    assert!(matches!(views::load(&dir, &data), Err(Error::Mismatch { .. })));
    assert_eq!(ensure(&data, &settings, root.path()), (made.clone(), false));
    fs::remove_file(dir.join("SHA256SUMS")).unwrap();
    assert_eq!(ensure(&data, &settings, root.path()), (made.clone(), false));
    let old = fs::read_to_string(dir.join("manifest.json")).unwrap().replacen("\"version\": 2", "\"version\": 0", 1);
    fs::write(dir.join("manifest.json"), old).unwrap();
    sign(&dir);
    assert!(views::load(&dir, &data).unwrap_err().to_string().contains("version 0"));
    assert_eq!(ensure(&data, &settings, root.path()), (made, false));
    assert_eq!(entries(root.path()).len(), 1, "neither drafts nor old folders stay");
    fs::remove_file(dir.join("manifest.json")).unwrap();
    fs::write(dir.join("thesis.txt"), b"mine").unwrap();
    assert!(!ensure(&data, &settings, root.path()).1);
    assert_eq!((fs::read(dir.join("thesis.txt")).unwrap().as_slice(), ensure(&data, &settings, root.path()).1), (&b"mine"[..], true));
}

#[test]
fn a_killed_writers_draft_is_swept() {
    let (root, data) = (tempfile::tempdir().unwrap(), data());
    let settings = ViewSettings::default();
    let dir = views::store_dir(root.path(), &data, &settings);
    let draft = root.path().join(format!(".{}-draft-1-0.tmp", dir.file_name().unwrap().to_string_lossy()));
    fs::create_dir(&draft).unwrap();
    fs::write(draft.join("views.safetensors"), b"half").unwrap();
    ensure(&data, &settings, root.path());
    assert_eq!(entries(root.path()).len(), 1);
}

#[test]
fn inspect_marks_what_each_view_did() {
    let mut data = data();
    data.catalogue[1].title = String::new();
    data.catalogue[2].title = "line\none\u{1b}[31m".into();
    data.items = vec![0, 1, 2, 3, 4];
    data.offsets = vec![0, 5];
    data.user_tokens = vec!["anna".into()];
    let view = views::UserViews { future: vec![0, 1, 2, 9], paraphrase: vec![1, 0, 8], counterfactuals: vec![vec![20, 21, 22]] };
    let views = Views { users: vec![view] };
    let text = views::inspect(&data, &views, 0).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let has = |needle: &str, other: &str| lines.iter().any(|l| l.contains(needle) && l.contains(other));
    assert!(has("user anna", "3 training items"), "{text}");
    assert!(has("future", "1 appended") && has("+", "item9"), "{text}");
    assert!(has("paraphrase", "1 replaced (~), 2 moved (<>)") && has("<>", "item0") && has("~", "item8"), "{text}");
    assert!(has("item-1", "c1"), "a token stands where there is no title: {text}");
    assert!(has("x ", "item20") && !text.contains('\u{1b}'), "{text}");
    assert!(views::inspect(&data, &views, 1).unwrap_err().to_string().contains("user 1"));
    assert!(views::inspect(&data, &Views::default(), 0).is_err());
    assert_eq!(views::user_matching(&data, "anna").unwrap(), 0);
    assert!(views::user_matching(&data, "ana").unwrap_err().to_string().contains("did you mean `anna`?"));
    assert!(views::user_matching(&Dataset::default(), "ana").is_err());
}

/// A data set, its views and the files that hold them.
type Store = (Dataset, Views, Vec<(&'static str, Vec<u8>)>);

/// A store made once.
fn store() -> &'static Store {
    static STORE: std::sync::OnceLock<Store> = std::sync::OnceLock::new();
    STORE.get_or_init(|| {
        let (root, data) = (tempfile::tempdir().unwrap(), data());
        let (made, _) = ensure(&data, &ViewSettings::default(), root.path());
        let dir = views::store_dir(root.path(), &data, &ViewSettings::default());
        let read = |name| (name, fs::read(dir.join(name)).unwrap());
        let files = ["manifest.json", "views.safetensors", "SHA256SUMS"].map(read).to_vec();
        (data, made, files)
    })
}

proptest! {
    /// A flipped bit or a cut is noticed wherever it is; and where the checksums were made to fit it, reading still ends in
    /// views that fit the data set or in an error, never in a panic.
    #[test]
    fn damage_is_an_error_and_never_a_panic(file in 0usize..3, place in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<bool>(), header in any::<bool>(), signed in any::<bool>()) {
        let (data, made, files) = store();
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let (name, mut bytes) = files[file].clone();
        // Half of the trials aim at the head, where the structure is described.
        let place = place.index(if header { bytes.len().min(400) } else { bytes.len() });
        if cut { bytes.truncate(place) } else { bytes[place] ^= 1 << bit }
        fs::write(dir.path().join(name), bytes).unwrap();
        let signed = signed && name != "SHA256SUMS";
        if signed {
            sign(dir.path());
        }
        match views::load(dir.path(), data) {
            Ok(found) if signed => {
                let all = found.users.iter().flat_map(|v| v.future.iter().chain(&v.paraphrase).chain(v.counterfactuals.iter().flatten()));
                prop_assert!(found.users.len() == 20 && all.into_iter().all(|i| *i < 60));
            }
            Ok(found) => prop_assert!(false, "damage of {} at {} went unseen ({})", name, place, found == *made),
            Err(error) => prop_assert!(matches!(error, Error::Mismatch { .. }), "{}", error),
        }
    }
}

#[test]
fn a_build_that_is_stopped_keeps_what_is_finished() {
    let (root, data, settings) = (tempfile::tempdir().unwrap(), data(), ViewSettings::default());
    // 60 items are looked at before the 60 views, of which 9 are of users without a history.
    let (seen, least) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let progress = |done: u64, _: u64| {
        seen.store(done, Relaxed);
        if done > 60 {
            least.fetch_min(done, Relaxed);
        }
    };
    let stopped = || seen.load(Relaxed) >= 60 + 30;
    let options = views::Options { threads: 1, progress: &progress, stopped: &stopped, ..Default::default() };
    let error = views::ensure_with(&data, &settings, root.path(), &options).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Interrupted(_)) && text.contains(" of 60 views are finished and kept"), "{text}");
    let kept: u64 = text.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert!((30..60).contains(&kept), "{text}");
    assert!(entries(root.path()).iter().all(|name| name.ends_with(".journal")), "{:?}", entries(root.path()));
    // The same again, to its end: nothing that was finished is made once more.
    least.store(u64::MAX, Relaxed);
    let (made, reused) = views::ensure_with(&data, &settings, root.path(), &views::Options { stopped: &|| false, ..options }).unwrap();
    assert!(!reused && least.load(Relaxed) >= 60 + kept, "{} of {kept}", least.load(Relaxed));
    assert_eq!(made, views::build(&data, &settings, 1, &|_, _| ()).unwrap());
}

/// A journal whose bits flip, or which is cut short, leads to the identical views or to an error with the remedy.
#[test]
fn a_damaged_journal_gives_the_same_views_or_an_error() {
    let (root, data, settings) = (tempfile::tempdir().unwrap(), data(), ViewSettings::default());
    let whole = views::build(&data, &settings, 1, &|_, _| ()).unwrap();
    let seen = AtomicU64::new(0);
    let (progress, stopped) = (|done: u64, _: u64| seen.store(done, Relaxed), || seen.load(Relaxed) >= 60 + 45);
    let options = views::Options { threads: 1, progress: &progress, stopped: &stopped, ..Default::default() };
    assert!(matches!(views::ensure_with(&data, &settings, root.path(), &options), Err(Error::Interrupted(_))));
    let [name] = &entries(root.path())[..] else { panic!("{:?}", entries(root.path())) };
    let good = fs::read(root.path().join(name)).unwrap();
    let (mut same, mut refused, mut told) = (0, 0, 0);
    for seed in 0..90 {
        let mut random = lumos::base::rng::Stream::new(seed, lumos::base::rng::Purpose::Cohort, 0, 0);
        let mut bytes = good.clone();
        for _ in 0..1 + random.below(20) {
            let place = random.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << random.below(8);
        }
        if seed % 5 == 0 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        let case = tempfile::tempdir().unwrap();
        fs::write(case.path().join(name), &bytes).unwrap();
        let notes = std::sync::Mutex::new(Vec::new());
        let note = |text: &str| notes.lock().unwrap().push(text.to_string());
        match views::ensure_with(&data, &settings, case.path(), &views::Options { threads: 1, note: &note, ..Default::default() }) {
            Ok((made, _)) => {
                assert!(made == whole, "seed {seed}: other views");
                same += 1;
                told += notes.into_inner().unwrap().iter().filter(|n| n.contains(name) && n.contains("made again")).count();
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(name) && text.contains("remove the file"), "seed {seed}: {text}");
                refused += 1;
            }
        }
    }
    assert!(same > 80 && told > 60, "{same} went on, {told} were told, {refused} refused");
}
