//! The readers on small files, plain and compressed, and on every kind of broken one.

use crate::common;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::{SMALL_INTER, SMALL_ITEM, put, quiet, recbole};
use lumos::config::DataSettings;
use lumos::data::{Dataset, load, prepare, reader, resolve_source, stats};
use proptest::prelude::*;

/// Prepares into a fresh folder and loads.
fn made(settings: &DataSettings) -> lumos::Result<Dataset> {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    prepare(settings, &dir, false, &quiet)?;
    load(&dir)
}

fn small(dir: &Path) -> DataSettings {
    let (inter, items) = (put(dir, "s.inter", SMALL_INTER), put(dir, "s.item", SMALL_ITEM));
    DataSettings { min_length: 4, ..recbole("small", &inter, Some(&items)) }
}

#[test]
fn recbole_file_becomes_sequences_and_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let d = made(&small(dir.path())).unwrap();
    assert_eq!(d.user_tokens, ["ann", "bob", "cid", "dot", "eve"]);
    assert_eq!(d.item_tokens, ["a", "b", "c", "d", "e", "f"]);
    assert_eq!(d.sequence(0), [1, 0, 2, 3], "time order, ties in file order");
    assert_eq!(d.sequence(1), [2, 1, 0, 3]);
    assert_eq!(d.sequence(2), [4, 0, 1, 0], "a repeated item stays");
    assert_eq!(d.sequence(4), [1, 5, 0, 2], "negative, fractional and scientific times");
    let a = &d.catalogue[0];
    assert_eq!((a.title.as_str(), a.brand.as_str()), ("Salt & \"Pepper\"", "Acme, Inc."));
    assert_eq!(a.categories, ["Home | Garden", "Pots"], "a bar inside a category survives storage");
    assert_eq!(a.also_bought, [1, 2], "unknown companions are dropped");
    assert_eq!(d.catalogue[1].title, "A \"quoted\" title");
    assert_eq!(d.catalogue[1].categories, ["Home", "Pots"]);
    assert_eq!(d.catalogue[2].also_bought, [0], "neither itself nor twice");
    assert_eq!(d.catalogue[5], Default::default(), "no metadata, empty text");
    let s = stats(&d);
    assert_eq!((s.users, s.items, s.interactions), (5, 6, 20));
    assert_eq!((s.items_with_title, s.items_with_categories, s.items_with_also_bought, s.repeats), (3, 2, 2, 1));
}

#[test]
fn without_catalogue_and_without_times() {
    let dir = tempfile::tempdir().unwrap();
    let d = made(&DataSettings { items: None, time_column: String::new(), ..small(dir.path()) }).unwrap();
    assert_eq!(d.sequence(0), [0, 1, 2, 3], "file order");
    assert!(d.catalogue.iter().all(|c| *c == Default::default()));
}

#[test]
fn windows_line_ends_byte_order_mark_and_trailing_blank_lines() {
    let dir = tempfile::tempdir().unwrap();
    let plain = made(&small(dir.path())).unwrap();
    let other = tempfile::tempdir().unwrap();
    let text = format!("\u{feff}{}\r\n\r\n", SMALL_INTER.replace('\n', "\r\n"));
    let inter = put(other.path(), "w.inter", text);
    let d = made(&DataSettings { inter: Some(inter), ..small(dir.path()) }).unwrap();
    assert_eq!((d.items, d.catalogue), (plain.items, plain.catalogue));
}

#[test]
fn csv_gives_the_same_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let expected = made(&small(dir.path())).unwrap();
    let rows = SMALL_INTER.split_once('\n').unwrap().1.replace('\t', ",");
    let inter = put(dir.path(), "x.csv", format!("who,what,when\n{rows}"));
    let items = "what,price,name,category,brand,also_bought\n\
        a,1,\"Salt, pepper\",Home & Garden|Pots,Acme,\"b|x\"\n\
        b,2,\"Two\nlines\",\"['P, q', 'r']\",,c d\n";
    let items = put(dir.path(), "items.csv", items);
    let settings = DataSettings {
        format: "csv".into(),
        user_column: "who".into(),
        item_column: "what".into(),
        time_column: "when".into(),
        min_length: 4,
        ..recbole("small", &inter, Some(&items))
    };
    let d = made(&settings).unwrap();
    assert_eq!((&d.items, &d.offsets, &d.item_tokens), (&expected.items, &expected.offsets, &expected.item_tokens));
    assert_eq!(d.catalogue[0].title, "Salt, pepper");
    assert_eq!(d.catalogue[0].categories, ["Home & Garden", "Pots"]);
    assert_eq!(d.catalogue[0].also_bought, [1]);
    assert_eq!(d.catalogue[1].title, "Two\nlines");
    assert_eq!(d.catalogue[1].categories, ["P, q", "r"]);
    assert_eq!(d.catalogue[1].also_bought, [2, 3]);
}

fn gz(text: &str) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(text.as_bytes()).unwrap();
    out.finish().unwrap()
}

fn zst(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_files_read_alike_and_in_several_members() {
    let dir = tempfile::tempdir().unwrap();
    let expected = made(&small(dir.path())).unwrap();
    let (head, tail) = SMALL_INTER.split_at(100);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    for (name, bytes) in [
        ("one.inter.gz", gz(SMALL_INTER)),
        ("two.inter.gz", [gz(head), gz(tail)].concat()),
        ("one.inter.zst", zst(SMALL_INTER)),
        ("two.inter.zst", [zst(head), skippable, zst(tail)].concat()),
        ("no-ending", gz(SMALL_INTER)),
    ] {
        let d = made(&DataSettings { inter: Some(put(dir.path(), name, bytes)), ..small(dir.path()) }).unwrap();
        assert_eq!((&d.items, &d.offsets), (&expected.items, &expected.offsets), "{name}");
    }
}

#[test]
fn a_frame_of_the_reference_encoder_is_read() {
    // `zstd -3` over "user_id:token\titem_id:token\nu\ta\nu\tb\nu\tc\n", with its content checksum.
    let dir = tempfile::tempdir().unwrap();
    let inter = put(dir.path(), "r.inter.zst", REFERENCE_FRAME);
    let mut settings = DataSettings { time_column: String::new(), min_length: 3, ..recbole("r", &inter, None) };
    assert_eq!(made(&settings).unwrap().item_tokens, ["a", "b", "c"]);
    let mut wrong = REFERENCE_FRAME.to_vec();
    *wrong.last_mut().unwrap() ^= 1;
    settings.inter = Some(put(dir.path(), "wrong.inter.zst", wrong));
    let error = made(&settings).unwrap_err().to_string();
    assert!(error.contains("checksum"), "{error}");
}

const REFERENCE_FRAME: &[u8] = &[
    40, 181, 47, 253, 4, 88, 45, 1, 0, 248, 117, 115, 101, 114, 95, 105, 100, 58, 116, 111, 107, 101, 110, 9, 105, 116, 101, 109, 10, 117,
    9, 97, 10, 117, 9, 98, 10, 117, 9, 99, 10, 1, 0, 162, 152, 97, 40, 32, 215, 219,
];

/// What is wrong, the file's name, its bytes, the line of the message, words in it.
type Hostile = (&'static str, &'static str, Vec<u8>, u64, &'static [&'static str]);

fn hostile() -> Vec<Hostile> {
    const H: &str = "user_id:token\titem_id:token\ttimestamp:float\n";
    let with = |rows: &str| format!("{H}{rows}").into_bytes();
    vec![
        ("empty", "f.inter", vec![], 0, &["empty"]),
        ("blank", "f.inter", b"\n\n".to_vec(), 0, &["empty"]),
        ("header only", "f.inter", with(""), 1, &["no interaction"]),
        ("header without line end", "f.inter", H.trim_end().into(), 1, &["no interaction"]),
        (
            "missing column",
            "f.inter",
            b"user:token\titem_id:token\ttimestamp:float\na\tb\t1\n".to_vec(),
            1,
            &["`user_id`", "nearest is `user`", "data.user_column"],
        ),
        ("no type", "f.inter", b"user_id\titem_id:token\n".to_vec(), 1, &["`user_id` has no type"]),
        ("unknown type", "f.inter", b"user_id:tokne\titem_id:token\n".to_vec(), 1, &["`tokne`", "nearest is `token`"]),
        ("column twice", "f.inter", b"user_id:token\tuser_id:token\n".to_vec(), 1, &["twice"]),
        (
            "time of another type",
            "f.inter",
            b"user_id:token\titem_id:token\ttimestamp:float_seq\na\tb\t1\n".to_vec(),
            1,
            &["`float` or `token` is needed", "list"],
        ),
        ("too few fields", "f.inter", with("a\tb\t1\na\tb\n"), 3, &["2 fields where the header has 3"]),
        ("too many fields", "f.inter", with("a\tb\t1\t2\n"), 2, &["4 fields where the header has 3"]),
        ("blank line inside", "f.inter", with("a\tb\t1\n\na\tc\t2\n"), 3, &["1 fields"]),
        ("not UTF-8", "f.inter", [&with("a\tb\t1\n")[..], b"a\t\xff\t1\n"].concat(), 3, &["UTF-8"]),
        ("empty user", "f.inter", with("\tb\t1\n"), 2, &["user is empty"]),
        ("empty item", "f.inter", with("a\t\t1\n"), 2, &["item is empty"]),
        ("unparsable time", "f.inter", with("a\tb\t1\na\tb\tyesterday\n"), 3, &["`yesterday` is not a time"]),
        ("empty time", "f.inter", with("a\tb\t\n"), 2, &["not a time"]),
        ("NaN time", "f.inter", with("a\tb\tNaN\n"), 2, &["NaN", "finite"]),
        ("infinite time", "f.inter", with("a\tb\t-inf\n"), 2, &["finite"]),
        ("overflowing time", "f.inter", with("a\tb\t1e999\n"), 2, &["finite"]),
        ("gzip cut short", "f.inter.gz", gz(SMALL_INTER)[..60].to_vec(), 0, &["gzip"]),
        ("zstd cut short", "f.inter.zst", zst(SMALL_INTER)[..60].to_vec(), 0, &["zstd"]),
        ("no gzip at all", "f.inter.gz", SMALL_INTER.into(), 0, &["gzip"]),
        ("zstd skippable frame cut short", "f.zst", vec![0x50, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 0], 0, &["zstd"]),
        ("binary", "f.inter", vec![0, 159, 146, 150], 1, &["UTF-8"]),
    ]
}

#[test]
fn hostile_files_are_refused_with_place_and_reason() {
    for (what, name, bytes, line, words) in hostile() {
        let dir = tempfile::tempdir().unwrap();
        let path = put(dir.path(), name, bytes);
        let out = dir.path().join("out");
        let error = prepare(&recbole("h", &path, None), &out, false, &quiet).expect_err(what);
        let message = error.to_string();
        match error {
            lumos::Error::Data { path: p, line: l, .. } => assert_eq!((p, l), (path, line), "{what}: {message}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(words.iter().all(|w| message.contains(w)), "{what}: {message}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{what}: something was left behind");
    }
}

#[test]
fn hostile_csv_files() {
    for (what, text, line, word) in [
        ("short row", "user_id,item_id,timestamp\na,b,1\na,b\n", 3, "2 fields where the header has 3"),
        ("missing column", "user_id,item,timestamp\na,b,1\n", 1, "nearest is `item`"),
        ("header only", "user_id,item_id,timestamp\n", 1, "no interaction"),
        ("bad time", "user_id,item_id,timestamp\na,b,x\n", 2, "not a time"),
        ("column twice", "user_id,item_id,item_id\na,b,x\n", 1, "twice"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let settings = DataSettings { format: "csv".into(), ..recbole("h", &put(dir.path(), "f.csv", text), None) };
        match made(&settings).expect_err(what) {
            lumos::Error::Data { line: l, message, .. } => assert!(l == line && message.contains(word), "{what}: {l} {message}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn hostile_catalogues() {
    for (what, text, line, word) in [
        ("no item column", "id:token\ttitle:token_seq\na\tA\n", 1, "`item_id`"),
        ("described twice", "item_id:token\ttitle:token_seq\na\tA\nb\tB\na\tC\n", 4, "twice (first in line 2)"),
        ("short row", "item_id:token\ttitle:token_seq\na\n", 2, "1 fields"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let items = put(dir.path(), "bad.item", text);
        match made(&DataSettings { items: Some(items), ..small(dir.path()) }).expect_err(what) {
            lumos::Error::Data { line: l, message, .. } => assert!(l == line && message.contains(word), "{what}: {l} {message}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn missing_files_and_unknown_formats() {
    let error = resolve_source(Path::new("no/such.inter")).unwrap_err().to_string();
    assert!(error.contains("no/such.inter") && error.contains("../shared/data/no/such.inter") && error.contains("LUMOS_DATA"), "{error}");
    let error = reader("recbol").err().unwrap().to_string();
    assert!(error.contains("data.format") && error.contains("`recbole`"), "{error}");
    let error = made(&DataSettings { format: "csv".into(), ..DataSettings::default() }).unwrap_err().to_string();
    assert!(error.contains("data.inter"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(made(&recbole("x", dir.path(), None)), Err(lumos::Error::Io { .. })), "a folder is no file");
}

proptest! {
    #![proptest_config(common::cases(200))]

    /// Whatever stands in the files, a reader answers and does not panic.
    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in 0usize..400, to in any::<u8>(), packed in 0..3) {
        let dir = tempfile::tempdir().unwrap();
        let mut small_text = match packed { 0 => SMALL_INTER.as_bytes().to_vec(), 1 => gz(SMALL_INTER), _ => zst(SMALL_INTER) };
        let at = flip % small_text.len();
        small_text[at] = to;
        for (name, content) in [("a", bytes.clone()), ("b", small_text), ("c.gz", bytes.clone()), ("d.zst", bytes)] {
            let path: PathBuf = put(dir.path(), name, content);
            for format in ["recbole", "csv"] {
                let _ = made(&DataSettings { format: format.into(), min_length: 3, ..recbole("p", &path, Some(&path)) });
            }
        }
    }
}
