//! Public formats as they come: each small file written as its owners write it, and MIND itself.

use std::io::Write;
use std::path::Path;

use crate::cli::Sandbox;
use crate::common::{put, quiet, real};
use lumos::config::{DataSettings, SplitRule};
use lumos::data::{Dataset, Manifest, Split, load, prepare};
use proptest::prelude::*;

fn settings(format: &str, inter: &Path, items: Option<&Path>) -> DataSettings {
    let (inter, items) = (Some(inter.to_path_buf()), items.map(Path::to_path_buf));
    DataSettings { name: "set".into(), format: format.into(), inter, items, min_length: 3, ..DataSettings::default() }
}

fn made(settings: &DataSettings) -> lumos::Result<(Manifest, Dataset)> {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("set");
    let manifest = prepare(settings, &dir, false, &quiet)?;
    Ok((manifest, load(&dir)?))
}

/// The items of each user by name.
fn sequences(data: &Dataset) -> Vec<String> {
    let name = |item: &u32| data.item_tokens[*item as usize].as_str();
    let words = |user: usize| data.sequence(user).iter().map(name).collect::<Vec<_>>().join(" ");
    (0..data.users()).map(|user| format!("{}: {}", data.user_tokens[user], words(user))).collect()
}

/// Reads `inter` and `items` as `format` and as `auto`; both give the same.
#[track_caller]
fn both(format: &str, inter: (&str, &[u8]), items: Option<(&str, &[u8])>) -> Dataset {
    let dir = tempfile::tempdir().unwrap();
    let file = put(dir.path(), inter.0, inter.1);
    let catalogue = items.map(|(name, bytes)| put(dir.path(), name, bytes));
    let (_, named) = made(&settings(format, &file, catalogue.as_deref())).unwrap();
    let (manifest, found) = made(&settings("auto", &file, catalogue.as_deref())).unwrap();
    let words = manifest.source_notes.recognised.unwrap();
    assert!(words.contains(&format!("`{format}`")), "{words}");
    assert_eq!((&found.items, &found.item_tokens, &found.catalogue), (&named.items, &named.item_tokens, &named.catalogue));
    named
}

#[test]
fn mind() {
    let behaviors = "1\tU1\t11/12/2019 2:14:46 PM\tN1 N2\tN3-0 N4-1\n2\tU2\t11/12/2019 9:00:00 AM\t\tN1-1 N2-0\n\
        3\tU1\t11/12/2019 9:14:46 AM\tN1 N2\tN5-1 N2-0\n4\tU2\t11/13/2019 12:00:01 AM\t\tN2-1\n5\tU2\t11/13/2019 12:00:00 AM\t\tN3-1 N4\n";
    let news =
        "N1\tnews\tpolitics\tOne &amp; two\tabstract\turl\t[]\t[]\nN9\tsports\tgolf\tNine\t\t\t[]\t[]\nN2\tfood\t\tTwo\t\t\t[]\t[]\n";
    let data = both("mind", ("behaviors.tsv", behaviors.as_bytes()), Some(("news.tsv", news.as_bytes())));
    assert_eq!(sequences(&data), ["U1: N1 N2 N5 N4", "U2: N1 N3 N2"], "the history, then clicks by time");
    assert_eq!(
        (data.catalogue[0].title.as_str(), &data.catalogue[0].categories[..]),
        ("One & two", &["news".into(), "politics".into()][..])
    );
    assert_eq!(data.catalogue[1].categories, ["food"]);
}

#[test]
fn mind_itself() {
    let Some(folder) = real("mindsmall-raw") else { return };
    let all = DataSettings { min_length: 3, ..settings("auto", &folder.join("behaviors.tsv"), Some(&folder.join("news.tsv"))) };
    let (manifest, data) = made(&all).unwrap();
    assert_eq!(manifest.raw.users, 4_637);
    let user = data.user_tokens.iter().position(|u| u == "U81994").unwrap();
    let first: Vec<&str> = data.sequence(user)[..4].iter().map(|item| data.item_tokens[*item as usize].as_str()).collect();
    assert_eq!(first, ["N138", "N64727", "N138", "N27288"]);
    assert!(manifest.stats.items_with_title > 500, "{:?}", manifest.stats);
}

#[test]
fn amazon_of_each_year() {
    let old = "{\"reviewerID\": \"A\", \"asin\": \"1\", \"overall\": 5.0, \"unixReviewTime\": 30}\n\
        {\"reviewerID\": \"A\", \"asin\": \"2\", \"overall\": 1.0, \"unixReviewTime\": 10}\n\
        {\"reviewerID\": \"A\", \"asin\": \"3\", \"overall\": 4.0, \"unixReviewTime\": 20}\n";
    let meta = "{'asin': '1', 'title': \"It's\", 'categories': [['Beauty', 'Hair'], ['Gifts']], 'related': {'also_bought': ['2', '9']}}\n\
        {'asin': '2', 'brand': u'Acm\\xe9', 'price': None}\n";
    let data = both("amazon", ("reviews.json", old.as_bytes()), Some(("meta.json", meta.as_bytes())));
    assert_eq!(sequences(&data), ["A: 2 3 1"]);
    assert_eq!((data.catalogue[0].title.as_str(), &data.catalogue[0].categories[..]), ("It's", &["Beauty".into(), "Hair".into()][..]));
    assert_eq!((&data.catalogue[0].also_bought[..], data.catalogue[1].brand.as_str()), (&[1][..], "Acmé"));

    let new = old.replace("reviewerID", "user_id").replace("asin", "parent_asin").replace("overall", "rating");
    let new = new.replace("unixReviewTime", "timestamp").replace("{\"", "{\"asin\": \"x\", \"");
    let meta =
        "{\"parent_asin\": \"3\", \"title\": \"Three\", \"categories\": [\"A\", \"B\"], \"store\": \"Shop\", \"bought_together\": null}\n";
    let data = both("amazon", ("2023.jsonl", new.as_bytes()), Some(("meta.jsonl", format!("{meta}{meta}").as_bytes())));
    assert_eq!(sequences(&data), ["A: 2 3 1"]);
    let three = data.item_tokens.iter().position(|t| t == "3").unwrap();
    assert_eq!((data.catalogue[three].brand.as_str(), &data.catalogue[three].categories[..]), ("Shop", &["A".into(), "B".into()][..]));
}

#[test]
fn movielens_of_each_age() {
    let dat = "1::10::5::300\n1::20::3::100\n1::30::4::200\n";
    let movies = b"10::Caf\xe9 (1995)::Comedy|Drama\n99::Ghost::Drama\n20::Toy Story (1995)::(no genres listed)\n";
    let data = both("movielens", ("ratings.dat", dat.as_bytes()), Some(("movies.dat", movies)));
    assert_eq!(sequences(&data), ["1: 20 30 10"]);
    assert_eq!(
        (data.catalogue[0].title.as_str(), &data.catalogue[0].categories[..]),
        ("Café (1995)", &["Comedy".into(), "Drama".into()][..])
    );
    assert!(data.catalogue[1].categories.is_empty());

    let flags = "0|0|0|0|0|1|0|0|1|0|0|0|0|0|0|0|0|0|0";
    let item = format!("10|Caf\u{e9} (1995)|01-Jan-1995||http://x|{flags}\n");
    let latin: Vec<u8> = item.chars().map(|c| c as u32 as u8).collect();
    let data = both("movielens", ("u.data", dat.replace("::", "\t").as_bytes()), Some(("u.item", &latin)));
    assert_eq!(
        (data.catalogue[0].title.as_str(), &data.catalogue[0].categories[..]),
        ("Café (1995)", &["Comedy".into(), "Drama".into()][..])
    );

    let csv = format!("userId,movieId,rating,timestamp\n{}", dat.replace("::", ","));
    let movies = "movieId,title,genres\n10,\"Café, The\",Comedy|Drama\n";
    let data = both("movielens", ("ratings.csv", csv.as_bytes()), Some(("movies.csv", movies.as_bytes())));
    assert_eq!((sequences(&data), data.catalogue[0].title.as_str()), (vec!["1: 20 30 10".to_string()], "Café, The"));
}

#[test]
fn sequences_without_times() {
    assert_eq!(sequences(&both("sasrec", ("a.txt", b"1 5\n1 4\n2 5\n1 9\n2 1\n2 2\n"), None)), ["1: 5 4 9", "2: 5 1 2"]);
    let attributes = br#"{"5": [1, 2], "4": ["x"]}"#;
    let data = both("s3rec", ("b.txt", b"1 5 4 9\n2 5 1 2 3\n"), Some(("a.json", attributes)));
    assert_eq!(
        (sequences(&data), &data.catalogue[0].categories[..]),
        (vec!["1: 5 4 9".into(), "2: 5 1 2 3".into()], &["1".into(), "2".into()][..])
    );
    let dir = tempfile::tempdir().unwrap();
    let (_, p5) = made(&settings("p5", &put(dir.path(), "s.txt", "1 5 4 9\n"), None)).unwrap();
    assert_eq!(sequences(&p5), ["1: 5 4 9"]);
    let unisrec = "user_id:token\titem_id_list:token_seq\titem_id:token\n1\t5 4\t9\n1\t5\t4\n2\t7 8\t1\n";
    let texts = "item_id:token\ttext:token_seq\n5\tFive\n";
    let data = both("unisrec", ("x.test.inter", unisrec.as_bytes()), Some(("x.text", texts.as_bytes())));
    assert_eq!((sequences(&data), data.catalogue[0].title.as_str()), (vec!["1: 5 4 9".into(), "2: 7 8 1".into()], "Five"));
    let rechorus = "user_id\titem_id\ttime\n1\t5\t3\n1\t4\t1\n1\t9\t2\n";
    assert_eq!(sequences(&both("rechorus", ("dev.csv", rechorus.as_bytes()), None)), ["1: 4 9 5"]);
}

#[test]
fn tables_and_objects_with_columns_of_any_name() {
    let sandbox = Sandbox::new();
    let rows = [("a", "x", 3), ("a", "y", 1), ("a", "z", 2)];
    let table = |separator: &str| {
        let row = |(user, item, time): &(&str, &str, i32)| [user.to_string(), item.to_string(), time.to_string()].join(separator) + "\n";
        ["who", "what", "when"].join(separator) + "\n" + &rows.iter().map(row).collect::<String>()
    };
    let objects: String = rows.iter().map(|(u, i, t)| format!("{{\"who\": \"{u}\", \"what\": \"{i}\", \"when\": {t}}}\n")).collect();
    for (format, separator, text) in
        [("csv", "|", table("|")), ("csv", "tab", table("\t")), ("csv", ";", table(";")), ("jsonl", "", objects)]
    {
        sandbox.write("log", text.as_bytes());
        let mut words = vec!["data", "prepare", "--format", format, "--inter", "log", "--out", "set", "--overwrite", "--min-length", "3"];
        words.extend(["--columns", "user=who,item=what,time=when"]);
        if !separator.is_empty() {
            words.extend(["--separator", separator]);
        }
        sandbox.lumos(&words).done();
        assert_eq!(sequences(&load(&sandbox.path().join("set")).unwrap()), ["a: y z x"], "{format} {separator}");
    }
    let refused = |more: &[&str], parts: &[&str]| {
        let words = ["data", "prepare", "--format", "csv", "--inter", "log", "--out", "other"];
        sandbox.lumos(&[&words[..], more].concat()).refused(1, parts);
    };
    refused(&["--columns", "usr=who"], &["--columns", "did you mean `user`"]);
    refused(&["--columns", "who"], &["--columns", "WHAT=NAME"]);
    refused(&["--separator", "ab"], &["--separator", "one character"]);
    sandbox.write("log", b"neither this nor that\nis, of a kind.\n");
    sandbox.lumos(&["data", "prepare", "--format", "auto", "--inter", "log", "--out", "other"]).refused(1, &["log:1", "--format"]);
}

#[test]
fn each_filter_says_what_it_removed() {
    let sandbox = Sandbox::new();
    let mut text = "user_id,item_id,timestamp,rating\n".to_string();
    for user in 0..6 {
        for step in 0..6 {
            text += &format!("u{user},i{step},2020-0{}-01,{}\n", step + 1, step % 5 + 1);
        }
    }
    text += "broken\nu0,,2020-01-01,5\n";
    sandbox.write("log.csv", text.as_bytes());
    let words = ["data", "prepare", "--format", "csv", "--inter", "log.csv", "--out", "set", "--overwrite", "--min-length", "3"];
    let run = |more: &[&str]| sandbox.lumos(&[&words[..], more].concat());
    run(&[]).refused(1, &["log.csv:38"]);
    run(&["--max-bad-rows", "1"]).refused(1, &["log.csv:39", "item is empty"]);
    let said =
        run(&["--max-bad-rows", "2", "--min-rating", "2", "--from", "2020-02-01", "--until", "2020-06-01", "--first-users", "5"]).done();
    for part in [
        "bad rows: 2 were skipped (--max-bad-rows); the first:",
        "ratings: 12 rows below 2",
        "first users: 4 rows of later users",
        "times: 0 rows",
    ] {
        assert_eq!(said.contains(part), !part.starts_with("times: 0"), "{part}: {said}");
    }
    assert_eq!(load(&sandbox.path().join("set")).unwrap().users(), 5);
    let said = run(&["--max-bad-rows", "2", "--from", "2020-03-01"]).done();
    assert!(said.contains("times: 12 rows outside of the range"), "{said}");
    run(&["--max-bad-rows", "2", "--from", "soon"]).refused(1, &["--from", "not a time"]);
    run(&["--max-bad-rows", "2", "--time-column", "", "--from", "2020-01-01"]).refused(1, &["--from", "no times"]);
    run(&["--max-bad-rows", "2", "--min-rating", "9"]).refused(1, &["below --min-rating"]);
}

/// An archive of `files`, deflated, each with its size in its header or, `streamed`, behind it.
fn archive(files: &[(&str, &[u8])], streamed: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(bytes).unwrap();
        let packed = packed.finish().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let sizes = [crc.sum(), packed.len() as u32, bytes.len() as u32].map(u32::to_le_bytes).concat();
        out.extend(b"PK\x03\x04\x14\x00");
        out.extend(if streamed { [8, 0, 8, 0] } else { [0, 0, 8, 0] });
        out.extend([0; 4]);
        out.extend(if streamed { vec![0; 12] } else { sizes.clone() });
        out.extend((name.len() as u16).to_le_bytes());
        out.extend([0; 2]);
        out.extend(name.as_bytes());
        out.extend(packed);
        if streamed {
            out.extend(b"PK\x07\x08");
            out.extend(sizes);
        }
    }
    out.extend(b"PK\x05\x06");
    out.extend([0; 18]);
    out
}

#[test]
fn files_of_an_archive() {
    let (log, items) = (&b"1 5 4 9\n2 5 1 2 3\n"[..], &br#"{"5": ["x"]}"#[..]);
    for streamed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(&[("ml/", b""), ("ml/items.json", items), ("ml/log.txt", log)], streamed);
        let file = put(dir.path(), "a.zip", &bytes);
        let of = |name: &str| file.join(name);
        let (manifest, data) = made(&settings("s3rec", &of("ml/log.txt"), Some(&of("ml/items.json")))).unwrap();
        assert_eq!((sequences(&data)[0].as_str(), &data.catalogue[0].categories[..]), ("1: 5 4 9", &["x".into()][..]));
        assert_eq!(manifest.inter.unwrap().bytes, bytes.len() as u64, "the archive is read to its end for its checksum");
        let message = made(&settings("s3rec", &of("ml/lgo.txt"), None)).unwrap_err().to_string();
        assert!(message.contains("ml/lgo.txt") && message.contains("ml/log.txt"), "{message}");
        let message = made(&settings("s3rec", &file, None)).unwrap_err().to_string();
        assert!(message.contains("several files") && message.contains("ARCHIVE.zip/"), "{message}");
        let one = put(dir.path(), "one.zip", archive(&[("log.txt", log)], streamed));
        assert_eq!(made(&settings("auto", &one, None)).unwrap().1.users(), 2);
        let cut = put(dir.path(), "cut.zip", &archive(&[("log.txt", log)], streamed)[..45]);
        assert!(made(&settings("s3rec", &cut, None)).unwrap_err().to_string().contains("zip"));
    }
    let mut bytes = archive(&[("log.txt", log)], false);
    bytes[14] ^= 1;
    let dir = tempfile::tempdir().unwrap();
    let message = made(&settings("s3rec", &put(dir.path(), "b.zip", bytes), None)).unwrap_err().to_string();
    assert!(message.contains("checksum"), "{message}");
}

#[test]
fn splits_by_time_and_by_shares() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = "user_id,item_id,timestamp\n".to_string();
    // Ten interactions of `a` at 0, 10, ..., five of `b` in the first half, three of `c` at the end.
    (0..10).for_each(|n| text += &format!("a,i{n},{}\n", 10 * n));
    (0..5).for_each(|n| text += &format!("b,i{n},{}\n", 5 * n + 1));
    (0..3).for_each(|n| text += &format!("c,i{n},{}\n", 95 + n));
    let file = put(dir.path(), "log.csv", text);
    let base = DataSettings { split: SplitRule::Time, validation_share: 0.2, test_share: 0.3, ..settings("csv", &file, None) };
    let (manifest, data) = made(&base).unwrap();
    // Of 18 rows the cuts are the times of rows 9 and 12 in the order of time: 40 and 70.
    assert_eq!(sequences(&data), ["a: i0 i1 i2 i3 i4 i5 i6 i7 i8 i9", "b: i0 i1 i2 i3 i4"]);
    assert_eq!(manifest.removed.untrained, 3, "`c` has nothing to train on");
    let of = |data: &Dataset, user: usize, split| data.input_and_target(user, split).map(|(input, target)| (input.len(), target));
    assert_eq!((data.train(0).len(), of(&data, 0, Split::Validation), of(&data, 0, Split::Test)), (4, Some((4, 4)), Some((7, 7))));
    assert_eq!((data.train(1).len(), of(&data, 1, Split::Validation), of(&data, 1, Split::Test)), (5, None, None));
    let (_, ratio) = made(&DataSettings { split: SplitRule::Ratio, ..base.clone() }).unwrap();
    assert_eq!((ratio.train(0).len(), of(&ratio, 0, Split::Validation), of(&ratio, 0, Split::Test)), (5, Some((5, 5)), Some((7, 7))));
    assert_eq!((ratio.train(2).len(), of(&ratio, 2, Split::Validation), of(&ratio, 2, Split::Test)), (1, Some((1, 1)), Some((2, 2))));
    let message = made(&DataSettings { time_column: String::new(), ..base }).unwrap_err().to_string();
    assert!(message.contains("data.split") && message.contains("no times"), "{message}");
    let sandbox = Sandbox::new();
    sandbox.write("log.csv", std::fs::read(&file).unwrap().as_slice());
    let words = ["data", "prepare", "--format", "csv", "--inter", "log.csv", "--out", "set", "--overwrite", "--min-length", "3"];
    assert!(sandbox.lumos(&words).done().contains("later than half of the test items"));
    // The last tenth of the log is of `c` alone, who has nothing to train on.
    sandbox.lumos(&[&words[..], &["--split", "time"]].concat()).refused(1, &["--split", "no user", "raise --test-share"]);
    let by_time = ["--split", "time", "--validation-share", "0.2", "--test-share", "0.3"];
    assert!(!sandbox.lumos(&[&words[..], &by_time].concat()).done().contains("leave-one-out"));
    let words =
        "train small.toml --data set --set method=fed-sasrec --set loss.negatives=3 --set eval.select=HR@5 --set eval.k=5 --out run --json";
    let run = sandbox.lumos(&words.split(" ").collect::<Vec<_>>()).json();
    assert!(run["test"]["users"].as_u64().unwrap() >= 1, "{run}");
}

/// Beginnings of real files, with a catalogue behind the byte that no text holds.
const SAMPLES: [&[u8]; 6] = [
    b"1\tU1\t11/12/2019 2:14:46 PM\tN1 N2\tN3-1 N4-0\n\xffN1\tnews\tus\tTitle\n",
    b"{\"reviewerID\": \"A\", \"asin\": \"1\", \"unixReviewTime\": 3}\n\xff{'asin': '1', 'categories': [['x']], 'title': u'\\u20ac'}\n",
    b"1::10::5::300\n1::20::3::100\n\xff10::T (1990)::Comedy|Drama\n",
    b"1 5 4 9\n2 5 1 2\n\xff{\"5\": [1, \"x\"]}",
    b"user_id:token\titem_id_list:token_seq\titem_id:token\n1\t5 4\t9\n\xffitem_id:token\ttext:token_seq\n5\tFive\n",
    b"{\"user_id\": 1, \"item_id\": 2, \"timestamp\": \"2020-01-01\"}\n\xff{\"item_id\": 2, \"title\": \"x\"}\n",
];

proptest! {
    #![proptest_config(crate::common::cases(300))]

    #[test]
    fn no_bytes_make_a_reader_panic(
        sample in 0..SAMPLES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..6),
        streamed in any::<bool>(),
        packed in any::<bool>(),
    ) {
        let mut bytes = SAMPLES[sample].to_vec();
        if packed {
            bytes = archive(&[("a", bytes.as_slice())], streamed);
        }
        for (at, byte, kind) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at + 1),
            }
        }
        lumos::data::fuzz::formats(&bytes);
    }
}

#[test]
fn a_table_whose_columns_are_named_is_recognised_and_what_fails_says_as_what() {
    let dir = tempfile::tempdir().unwrap();
    for (separator, named) in [(",", ""), (";", ""), ("\t", ""), ("^", "^")] {
        let rows = ["who,what,when", "a,x,1", "a,y,2", "a,z,3", "b,x,1", "b,z,2", "b,y,3", ""].join("\n").replace(',', separator);
        let file = put(dir.path(), "log.csv", rows.as_bytes());
        let mut settings = settings("auto", &file, None);
        (settings.user_column, settings.item_column, settings.separator) = ("who".into(), "what".into(), named.into());
        settings.time_column = "when".into();
        let (manifest, data) = made(&settings).unwrap();
        assert_eq!(sequences(&data), ["a: x y z", "b: x z y"]);
        let words = manifest.source_notes.recognised.unwrap();
        assert!(words.contains("`csv`") && words.contains("user `who`, item `what`, time `when`"), "{words}");
        // A name that is not there, and a filter that leaves nothing.
        settings.item_column = "wat".into();
        let error = made(&settings).unwrap_err().to_string();
        assert!(error.contains("`wat`") && error.contains("what") && error.contains("recognised as `csv`"), "{error}");
        (settings.item_column, settings.min_length) = ("what".into(), 4);
        let error = made(&settings).unwrap_err().to_string();
        assert!(error.contains("no user is left") && error.contains("recognised as `csv`"), "{error}");
    }
}
