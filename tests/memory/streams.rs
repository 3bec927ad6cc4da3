//! Sources are streams: a limit on one line, none on the file, memory that follows the rows.

use std::io::Write;

use crate::common::{SMALL_INTER, SMALL_ITEM, put, quiet, recbole};
use crate::{MOST, NOW, alone};
use lumos::config::DataSettings;
use lumos::data::{MAX_LINE, Manifest, fuzz, load, prepare};
use sha2::{Digest, Sha256};
use std::sync::atomic::Ordering::Relaxed;

fn gz(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write(&mut out);
    out.finish().unwrap()
}

fn zst(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

fn prepared(settings: &DataSettings) -> lumos::Result<Manifest> {
    let out = tempfile::tempdir().unwrap();
    prepare(settings, &out.path().join("set"), false, &quiet)
}

#[test]
fn memory_follows_the_rows_not_the_file() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // 64 MB of text in 64 rows, of which two short columns are read.
    let review = "x".repeat(1_000_000);
    let rows = |out: &mut dyn Write, header: &str, separator: &str| {
        writeln!(out, "{header}").unwrap();
        for row in 0..64 {
            writeln!(out, "u{}{separator}i{row}{separator}{row}{separator}{review}", row / 8).unwrap();
        }
    };
    let atomic = gz(|out| rows(out, "user_id:token\titem_id:token\ttimestamp:float\treview:token_seq", "\t"));
    let csv = gz(|out| rows(out, "user_id,item_id,timestamp,review", ","));
    for (format, bytes) in [("recbole", atomic), ("csv", csv)] {
        let settings = DataSettings { format: format.into(), ..recbole("wide", &put(dir.path(), "wide.gz", bytes), None) };
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        assert_eq!(prepared(&settings).unwrap().stats.interactions, 64);
        let most = MOST.load(Relaxed) - before;
        assert!(most < 8 << 20, "{format}: {most} bytes at once");
    }
}

#[test]
fn a_line_without_an_end_is_refused_where_it_stands() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let head = "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n";
    let commas = head.replace(":token", "").replace(":float", "").replace('\t', ",");
    let bomb = |head: &str| {
        gz(|out| {
            out.write_all(head.as_bytes()).unwrap();
            (0..64).for_each(|_| out.write_all(&[b'a'; 1 << 20]).unwrap());
        })
    };
    // A quote that is never closed takes line after line for one record.
    let open = format!("{commas}u,\"{}", "line\n".repeat(MAX_LINE / 2));
    for (what, format, bytes, line) in [
        ("gzip", "recbole", bomb(head), 3),
        ("header", "recbole", bomb(""), 1),
        ("csv", "csv", bomb(&commas), 3),
        ("csv header", "csv", bomb(""), 1),
        ("zstd", "recbole", zst(&format!("{head}{}", "a".repeat(3 * MAX_LINE))), 3),
        ("plain", "recbole", format!("{head}{}", "a".repeat(MAX_LINE + 1)).into_bytes(), 3),
        ("open quote", "csv", open.into_bytes(), 3),
    ] {
        let settings = DataSettings { format: format.into(), ..recbole("bomb", &put(dir.path(), "bomb", bytes), None) };
        let before = NOW.load(Relaxed);
        MOST.store(before, Relaxed);
        match prepared(&settings).expect_err(what) {
            lumos::Error::Data { line: l, message, .. } => {
                assert!(l == line && message.contains("1048576 bytes without an end"), "{what}: {l} {message}");
            }
            other => panic!("{what}: {other:?}"),
        }
        let most = MOST.load(Relaxed) - before;
        assert!(most < 8 << 20, "{what}: {most} bytes at once");
    }
    let long = format!("{head}u\ta\t2\nu\t{}\t3\n", "b".repeat(MAX_LINE - 4));
    let settings = DataSettings { min_length: 3, ..recbole("long", &put(dir.path(), "long", long), None) };
    assert_eq!(prepared(&settings).unwrap().stats.items, 3, "a line of the greatest length");
    let field = "b".repeat(MAX_LINE - 10);
    let long = format!("{commas}u,a,2\nu,{field},3\n");
    let settings = DataSettings { format: "csv".into(), min_length: 3, ..recbole("long", &put(dir.path(), "long", long), None) };
    assert_eq!(prepared(&settings).unwrap().stats.items, 3);
}

#[test]
fn a_header_of_very_many_columns_is_read_at_once() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let many: String = (0..60_000).map(|column| format!("\tc{column}:float")).collect();
    let row = |item: &str| format!("u\t{item}{}\n", "\t".repeat(60_000));
    let text = format!("user_id:token\titem_id:token{many}\n{}{}{}", row("a"), row("b"), row("c"));
    let settings = DataSettings { min_length: 3, time_column: String::new(), ..recbole("many", &put(dir.path(), "many", text), None) };
    let notes = prepared(&settings).unwrap().notes();
    assert!(notes[0].ends_with("c19, and 59980 more"), "{}", notes[0]);
}

#[test]
fn checksums_are_of_the_whole_file_as_it_lies_there() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("a.inter", SMALL_INTER.as_bytes().to_vec()),
        ("a.inter.gz", gz(|out| out.write_all(SMALL_INTER.as_bytes()).unwrap())),
        ("a.inter.zst", zst(SMALL_INTER)),
    ] {
        let sum: String = hex::encode(Sha256::digest(&bytes));
        let length = bytes.len() as u64;
        let items = put(dir.path(), "a.item", SMALL_ITEM);
        let settings = DataSettings { min_length: 4, ..recbole("a", &put(dir.path(), name, bytes), Some(&items)) };
        let file = prepared(&settings).unwrap().inter.unwrap();
        assert_eq!((file.sha256, file.bytes), (sum, length), "{name}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_csv_header() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let inter = put(dir.path(), "a.csv", "\u{feff}user_id,item_id,timestamp\r\nu,a,1\r\nu,b,2\r\nu,c,3\r\n");
    let settings = DataSettings { format: "csv".into(), min_length: 3, ..recbole("bom", &inter, None) };
    let out = dir.path().join("set");
    prepare(&settings, &out, false, &quiet).unwrap();
    assert_eq!(load(&out).unwrap().item_tokens, ["a", "b", "c"]);
}

#[test]
fn empty_and_blank_headed_files() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for (format, text, line, part) in [
        ("recbole", "", 0, "empty"),
        ("recbole", " \n\r\n\t", 0, "empty"),
        ("recbole", "\u{feff}", 0, "empty"),
        ("recbole", "\nuser_id:token\titem_id:token\n", 1, "blank where the header belongs"),
        ("csv", "", 0, "empty"),
        ("csv", "\n\n", 0, "empty"),
    ] {
        let settings = DataSettings { format: format.into(), ..recbole("e", &put(dir.path(), "e", text), None) };
        match prepared(&settings).unwrap_err() {
            lumos::Error::Data { line: l, message, .. } => assert!(l == line && message.contains(part), "{text:?}: {l} {message}"),
            other => panic!("{text:?}: {other:?}"),
        }
    }
}

#[test]
fn the_doors_for_fuzzing_open() {
    let _alone = alone();
    let both = [SMALL_INTER.as_bytes(), &[0xff], SMALL_ITEM.as_bytes()].concat();
    let packed = gz(|out| out.write_all(SMALL_INTER.as_bytes()).unwrap());
    for bytes in [&both[..], SMALL_INTER.as_bytes(), &packed, &zst(SMALL_INTER), b"", b"\xff"] {
        fuzz::recbole(bytes);
        fuzz::csv(bytes);
        fuzz::csv(&bytes.iter().map(|b| if *b == b'\t' { b',' } else { *b }).collect::<Vec<u8>>());
    }
}
