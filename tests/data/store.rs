//! The prepared folder: what comes back, what is refused, when it is made anew.

use crate::common;
use std::fs;
use std::path::Path;

use crate::common::{SMALL_INTER, SMALL_ITEM, ensure, put, quiet, recbole};
use lumos::base::lock::Lock;
use lumos::config::DataSettings;
use lumos::data::{Dataset, FORMAT_VERSION, TimeUnit, TimeValues, load, load_manifest, load_times, prepare, prepared_dir, stats};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const FILES: [&str; 5] = ["sequences.safetensors", "users.csv", "items.csv", "manifest.json", "SHA256SUMS"];

fn small(dir: &Path) -> DataSettings {
    let (inter, items) = (put(dir, "s.inter", SMALL_INTER), put(dir, "s.item", SMALL_ITEM));
    DataSettings { min_length: 4, ..recbole("small", &inter, Some(&items)) }
}

/// Rewrites `SHA256SUMS` so that only the checks behind the checksums can find what a test broke.
fn resign(dir: &Path) {
    let line = |f: &&str| {
        let sum: String = hex::encode(Sha256::digest(fs::read(dir.join(f)).unwrap()));
        format!("{sum}  {f}\n")
    };
    fs::write(dir.join("SHA256SUMS"), FILES[..4].iter().map(line).collect::<String>()).unwrap();
}

#[test]
fn a_folder_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("deep/set");
    let manifest = prepare(&small(dir.path()), &out, false, &quiet).unwrap();
    let d = load(&out).unwrap();
    assert_eq!((d.name.as_str(), d.fingerprint.as_str()), ("small", manifest.fingerprint.as_str()));
    assert_eq!(load_manifest(&out).unwrap(), manifest);
    let times = load_times(&out).unwrap().unwrap();
    let TimeValues::Float(values) = &times.values else { panic!("the file has fractions") };
    assert_eq!((&values[..4], times.unit), (&[50.0, 100.0, 100.0, 100.0][..], TimeUnit::Positions));
    assert_eq!(stats(&d).users, manifest.stats.users);
    assert_eq!(manifest.raw.interactions, 20);
    let mut names: Vec<String> = fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected = FILES.map(String::from);
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "a temporary folder was left");
    // The layout that other programs read: little-endian, offsets beginning with 0, 4.
    let bytes = fs::read(out.join(FILES[0])).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("offsets").unwrap().data()[..16], [0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    assert!(fs::read_to_string(out.join("items.csv")).unwrap().starts_with("index,token,title,categories,brand,also_bought\n0,a,"));
}

#[test]
fn preparing_twice_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    prepare(&small(dir.path()), &a, false, &quiet).unwrap();
    // The manifest holds the change time of the sources, so they are written once only.
    let settings = load_manifest(&a).unwrap().settings;
    prepare(&settings, &b, false, &quiet).unwrap();
    for file in FILES {
        assert_eq!(fs::read(a.join(file)).unwrap(), fs::read(b.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn nothing_is_overwritten_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    prepare(&settings, &out, false, &quiet).expect("an empty folder may be filled");
    let error = prepare(&settings, &out, false, &quiet).unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    prepare(&DataSettings { max_length: 3, ..settings.clone() }, &out, true, &quiet).unwrap();
    assert_eq!(load(&out).unwrap().items.len(), 15);
    let foreign = dir.path().join("thesis");
    fs::create_dir(&foreign).unwrap();
    put(&foreign, "chapter1.tex", "years of work");
    let error = prepare(&settings, &foreign, true, &quiet).unwrap_err().to_string();
    assert!(error.contains("no prepared data set"), "{error}");
    assert!(foreign.join("chapter1.tex").exists());
    let file = put(dir.path(), "file", "x");
    assert!(prepare(&settings, &file, true, &quiet).is_err());
    assert!(prepare(&settings, Path::new("/"), true, &quiet).is_err());
}

#[test]
fn a_failed_preparation_leaves_the_old_folder() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("out");
    prepare(&settings, &out, false, &quiet).unwrap();
    let before = load(&out).unwrap();
    put(dir.path(), "s.inter", "user_id:token\n");
    assert!(ensure(&settings, &out, true).is_err());
    assert!(prepare(&settings, &out, true, &quiet).is_err());
    assert_eq!(load(&out).unwrap(), before);
}

#[test]
fn a_dead_writers_draft_is_swept_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (dead, live) = (dir.path().join(".out-draft-1-0.tmp"), dir.path().join(".out-draft-2-0.tmp"));
    for draft in [&dead, &live] {
        fs::create_dir(draft).unwrap();
        put(draft, "users.csv", "half");
    }
    let lock = fs::File::open(&live).unwrap();
    lock.try_lock().unwrap();
    prepare(&settings, &dir.path().join("out"), false, &quiet).unwrap();
    assert_eq!((dead.exists(), live.exists()), (false, true));
}

#[test]
fn ensure_reuses_what_is_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("set");
    let make = |s: &DataSettings| ensure(s, &out, true).unwrap();
    let (first, reused) = make(&settings);
    assert!(!reused);
    assert_eq!(ensure(&settings, &out, false).unwrap(), (first.clone(), true));
    let renamed = DataSettings { name: "other".into(), synth_seed: 9, ..settings.clone() };
    assert_eq!(make(&renamed), (Dataset { name: "other".into(), ..first.clone() }, true), "neither name nor foreign settings matter");

    // The same bytes under a new date: compared by checksum.
    let inter = settings.inter.clone().unwrap();
    fs::File::options().write(true).open(&inter).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert!(make(&settings).1);
    // Other bytes of the same length.
    fs::write(&inter, SMALL_INTER.replace("eve", "eva")).unwrap();
    let refused = ensure(&settings, &out, false).unwrap_err().to_string();
    assert!(refused.contains("another state of its source files") && refused.contains("--overwrite"), "{refused}");
    let (changed, reused) = make(&settings);
    assert!(!reused && changed.fingerprint != first.fingerprint && changed.user_tokens[4] == "eva");
    // Other settings.
    let short = DataSettings { max_length: 3, ..settings.clone() };
    let refused = ensure(&short, &out, false).unwrap_err().to_string();
    assert!(refused.contains("data.max_length was 0, is 3") && load(&out).unwrap() == changed, "{refused}");
    let (shorter, reused) = make(&short);
    assert!(!reused && shorter.fingerprint != changed.fingerprint);
    let (bare, reused) = make(&DataSettings { items: None, max_length: 3, ..settings.clone() });
    assert!(!reused && bare.fingerprint != shorter.fingerprint);
    // Carried to a place without the source.
    fs::remove_file(&inter).unwrap();
    assert_eq!(make(&DataSettings { items: None, max_length: 3, ..settings.clone() }), (bare, true));
    assert!(ensure(&DataSettings { items: None, ..settings }, &out, true).is_err(), "other settings need the source");
}

#[test]
fn files_of_the_user_survive_every_replacement() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("set");
    ensure(&settings, &out, false).unwrap();
    put(&out, "notes.md", "mine");
    fs::create_dir(out.join("plots")).unwrap();
    put(&out.join("plots"), "a.svg", "<svg/>");
    let kept = || {
        assert_eq!(fs::read_to_string(out.join("notes.md")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(out.join("plots/a.svg")).unwrap(), "<svg/>");
    };
    let (short, _) = ensure(&DataSettings { max_length: 3, ..settings.clone() }, &out, true).unwrap();
    kept();
    assert_eq!(load(&out).unwrap(), short);
    prepare(&settings, &out, true, &quiet).unwrap();
    kept();
    assert_ne!(load(&out).unwrap(), short);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_the_folder_behind_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let (real, link) = (dir.path().join("disk/real"), dir.path().join("set"));
    fs::create_dir_all(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    for max_length in [0, 3] {
        let (made, _) = ensure(&DataSettings { max_length, ..settings.clone() }, &link, true).unwrap();
        assert!(link.is_symlink() && load(&real).unwrap() == made, "max_length {max_length}");
    }
    fs::remove_dir_all(&real).unwrap();
    let error = prepare(&settings, &link, true, &quiet).unwrap_err().to_string();
    assert!(error.contains("link to nothing") && link.is_symlink(), "{error}");
}

#[test]
fn what_another_process_writes_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("set");
    let other = Lock::take(&Lock::beside(&out), "the set").unwrap();
    let error = prepare(&settings, &out, false, &quiet).unwrap_err().to_string();
    assert!(error.contains("in use by pid ") && !out.exists(), "{error}");
    // Whoever only needs the data set waits for it.
    std::thread::scope(|s| {
        let waiting = s.spawn(|| ensure(&settings, &out, false).map(|(_, reused)| reused));
        drop(other);
        assert!(!waiting.join().unwrap().unwrap());
    });
    assert!(ensure(&settings, &out, false).unwrap().1);
}

#[test]
fn a_replacement_that_was_killed_half_way_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("set");
    prepare(&settings, &out, false, &quiet).unwrap();
    fs::remove_file(out.join("SHA256SUMS")).unwrap();
    fs::write(out.join("items.csv"), "of the new set").unwrap();
    assert!(load(&out).is_err());
    assert!(!ensure(&settings, &out, false).unwrap().1);
    load(&out).unwrap();
}

#[test]
fn another_version_is_named_and_replaced_where_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let settings = small(dir.path());
    let out = dir.path().join("set");
    prepare(&settings, &out, false, &quiet).unwrap();
    let path = out.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&format!("\"version\": {FORMAT_VERSION}"), "\"version\": 999")).unwrap();
    resign(&out);
    let error = load(&out).unwrap_err().to_string();
    assert!(error.contains("version 999"), "{error}");
    let refused = ensure(&settings, &out, false).unwrap_err().to_string();
    assert!(refused.contains("another version") && refused.contains("--overwrite"), "{refused}");
    assert!(!ensure(&settings, &out, true).unwrap().1);
    load(&out).unwrap();
}

#[test]
fn damage_behind_right_checksums_is_found_too() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let settings = small(dir.path());
    let text = |file: &str| fs::read_to_string(out.join(file)).unwrap();
    let tensor = |offsets: &[u64], items: &[u32]| {
        let o: Vec<u8> = offsets.iter().flat_map(|v| v.to_le_bytes()).collect();
        let i: Vec<u8> = items.iter().flat_map(|v| v.to_le_bytes()).collect();
        let view = |d, n, b| safetensors::tensor::TensorView::new(d, vec![n], b).unwrap();
        let all =
            [("offsets", view(safetensors::Dtype::U64, offsets.len(), &o)), ("items", view(safetensors::Dtype::U32, items.len(), &i))];
        safetensors::serialize(all, None).unwrap()
    };
    let good: Vec<u32> = vec![0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1];
    type Break<'a> = (&'a str, &'a str, Box<dyn Fn() -> Vec<u8> + 'a>, &'a str);
    let cases: Vec<Break> = vec![
        (
            "item out of range",
            FILES[0],
            Box::new(|| tensor(&[0, 4, 8, 12, 16, 20], &[[6].as_slice(), &good[1..]].concat())),
            "out of range",
        ),
        ("offsets beyond the end", FILES[0], Box::new(|| tensor(&[0, 4, 8, 12, 16, 21], &good)), "offsets"),
        ("offsets fall", FILES[0], Box::new(|| tensor(&[0, 8, 4, 12, 16, 20], &good)), "user 1"),
        ("offsets huge", FILES[0], Box::new(|| tensor(&[0, u64::MAX, 8, 12, 16, 20], &good)), "user 1"),
        ("short sequence", FILES[0], Box::new(|| tensor(&[0, 2, 8, 12, 16, 20], &good)), "user 0"),
        ("too few users", FILES[0], Box::new(|| tensor(&[0, 4, 8, 12, 20], &good)), "offsets"),
        ("no offsets", FILES[0], Box::new(|| tensor(&[], &good)), "offsets"),
        ("no tensors", FILES[0], Box::new(Vec::new), "damaged"),
        (
            "user missing",
            FILES[1],
            Box::new(|| text(FILES[1]).lines().take(5).map(|l| format!("{l}\n")).collect::<String>().into()),
            "offsets",
        ),
        ("index wrong", FILES[1], Box::new(|| text(FILES[1]).replace("2,cid", "7,cid").into()), "index"),
        ("header wrong", FILES[2], Box::new(|| text(FILES[2]).replace("brand", "maker").into()), "header"),
        ("companion out of range", FILES[2], Box::new(|| text(FILES[2]).replace("1|2", "1|6").into()), "also_bought"),
        ("companion no number", FILES[2], Box::new(|| text(FILES[2]).replace("1|2", "1|x").into()), "also_bought"),
        ("row short", FILES[2], Box::new(|| text(FILES[2]).replace("3,d,Ümlaut,,,", "3,d,Ümlaut").into()), "damaged"),
        ("manifest no JSON", FILES[3], Box::new(|| b"{".to_vec()), "damaged"),
        ("manifest field unknown", FILES[3], Box::new(|| text(FILES[3]).replace("\"program\"", "\"pogrom\"").into()), "damaged"),
        ("manifest counts", FILES[3], Box::new(|| text(FILES[3]).replace("\"interactions\": 20", "\"interactions\": 21").into()), "counts"),
    ];
    for (what, file, make, word) in cases {
        prepare(&settings, &out, true, &quiet).unwrap();
        let bytes = make();
        assert_ne!(bytes, fs::read(out.join(file)).unwrap(), "{what}: nothing was broken");
        fs::write(out.join(file), bytes).unwrap();
        let unsigned = load(&out).expect_err(what).to_string();
        assert!(unsigned.contains("checksum"), "{what}: {unsigned}");
        resign(&out);
        let error = load(&out).expect_err(what).to_string();
        assert!(error.contains(word), "{what}: {error}");
        // What is damaged is reported by `ensure` as well or was rightly judged stale; never a panic.
        let _ = ensure(&settings, &out, false);
        let _ = fs::remove_dir_all(&out);
    }
}

#[test]
fn not_a_data_set_at_all() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("none"), put(dir.path(), "file", "x")] {
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("not a prepared data set") && error.contains("lumos data prepare"), "{error}");
    }
}

#[test]
fn folder_names() {
    let named = |name: &str| prepared_dir(&DataSettings { name: name.into(), ..DataSettings::default() });
    assert_eq!(named("beauty").unwrap(), Path::new("data/beauty"));
    for bad in ["", "..", "a/b", "a\\b", ".hidden"] {
        assert!(named(bad).unwrap_err().to_string().contains("data.name"), "{bad}");
    }
}

/// The files of an undamaged folder, made once, and its data set.
fn whole() -> &'static (Vec<Vec<u8>>, Dataset) {
    static WHOLE: std::sync::OnceLock<(Vec<Vec<u8>>, Dataset)> = std::sync::OnceLock::new();
    WHOLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("set");
        prepare(&small(dir.path()), &out, false, &quiet).unwrap();
        (FILES.iter().map(|f| fs::read(out.join(f)).unwrap()).collect(), load(&out).unwrap())
    })
}

proptest! {
    #![proptest_config(common::cases(400))]

    /// A flipped byte or a lost tail, in any file, with or without matching checksums: an error or an equal data set.
    #[test]
    fn damage_never_passes_unseen(file in 0usize..5, at in any::<prop::sample::Index>(), bit in 0u32..8, cut in any::<bool>(), signed in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("set");
        let (files, good) = whole();
        fs::create_dir(&out).unwrap();
        for (name, bytes) in FILES.iter().zip(files) {
            fs::write(out.join(name), bytes).unwrap();
        }
        let path = out.join(FILES[file]);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, bytes).unwrap();
        if signed && file < 4 {
            // Here another data set may come back, but no panic and no index out of range.
            resign(&out);
            if let Ok(d) = load(&out) {
                prop_assert!(d.items.iter().all(|i| (*i as usize) < d.item_count()));
                prop_assert_eq!(d.catalogue.len(), d.item_count());
                prop_assert_eq!(d.user_tokens.len(), d.users());
            }
        } else if let Ok(d) = load(&out) {
            prop_assert_eq!(&d, good);
        }
        let _ = load_times(&out);
        let _ = load_manifest(&out);
    }
}
