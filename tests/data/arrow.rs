//! Arrow's IPC files and streams: what a writer of them has put in is what the other readers find in the same rows as text; broken files are errors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Int16Type;
use arrow_array::{
    ArrayRef, Date32Array, DictionaryArray, DurationSecondArray, Float32Array, Float64Array, Int64Array, LargeStringArray, NullArray,
    RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

use crate::common::{put, quiet};
use crate::parquet::{ROWS, read, settings, text};
use lumos::config::DataSettings;

/// A text column of each kind.
fn texts(kind: usize, values: &[&str]) -> ArrayRef {
    let values = values.iter().copied();
    match kind {
        0 => Arc::new(StringArray::from_iter_values(values)),
        1 => Arc::new(LargeStringArray::from_iter_values(values)),
        2 => Arc::new(StringViewArray::from_iter_values(values)),
        _ => Arc::new(values.collect::<DictionaryArray<Int16Type>>()),
    }
}

/// The interactions in batches of three rows, each with a dictionary of its own, which a file may not have, or all with one.
fn batches(kind: usize, own: bool) -> Vec<RecordBatch> {
    let batch = |rows: &[(i64, &str, i64, f32)]| {
        let moments = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2 * 1_000_000)).with_timezone("UTC");
        let columns: [(&str, ArrayRef); 6] = [
            ("who", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
            // A type that is not read does no harm in a column that nothing asks for.
            ("spent", Arc::new(DurationSecondArray::from_iter_values(rows.iter().map(|row| row.2)))),
            ("what", texts(kind, &rows.iter().map(|row| row.1).collect::<Vec<_>>())),
            ("price", Arc::new(Float64Array::from(vec![9.99; rows.len()]))),
            ("stars", Arc::new(Float32Array::from_iter_values(rows.iter().map(|row| row.3)))),
            ("ts", Arc::new(moments)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    };
    if own {
        return ROWS.chunks(3).map(batch).collect();
    }
    let whole = batch(&ROWS);
    (0..ROWS.len()).step_by(3).map(|at| whole.slice(at, (ROWS.len() - at).min(3))).collect()
}

fn file(batches: &[RecordBatch], packed: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(packed).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

fn stream(batches: &[RecordBatch], packed: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(packed).unwrap();
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

const PACKINGS: [Option<CompressionType>; 3] = [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)];

#[test]
fn every_packing_gives_what_the_same_rows_give_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = read("csv", &settings(), &text(dir.path()), None).unwrap();
    for packed in PACKINGS {
        for kind in 0..4 {
            let files = [("file.arrow", file(&batches(kind, false), packed)), ("stream.arrows", stream(&batches(kind, true), packed))];
            for (name, bytes) in files {
                let path = put(dir.path(), name, bytes);
                for format in ["arrow", "auto"].into_iter().take(if name == "file.arrow" { 2 } else { 1 }) {
                    let mut found = read(format, &settings(), &path, None).unwrap();
                    assert_eq!(found.notes.unused, ["spent", "price", "stars"], "{packed:?}");
                    assert_eq!(found.notes.recognised.is_some(), format == "auto");
                    (found.notes, found.first_line) = (wanted.notes.clone(), wanted.first_line);
                    assert_eq!(found, wanted, "{packed:?}, texts of kind {kind}, {name} as {format}");
                }
            }
        }
    }
}

/// Another type for the column of times, or of users.
fn with(name: &str, column: ArrayRef) -> Vec<RecordBatch> {
    let columns: Vec<(String, ArrayRef)> = vec![
        ("who".into(), Arc::new(UInt64Array::from(vec![1, 1, u64::MAX]))),
        ("what".into(), Arc::new(StringArray::from(vec!["a", "b", "a"]))),
        ("ts".into(), Arc::new(Int64Array::from(vec![1_600_000_000, 1_600_000_001, 1_600_000_002]))),
    ];
    let columns = columns.into_iter().map(|(n, c)| if n == name { (n, column.clone()) } else { (n, c) });
    vec![RecordBatch::try_from_iter(columns).unwrap()]
}

#[test]
fn times_ids_and_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let attempt =
        |batches: &[RecordBatch], settings: &DataSettings| read("arrow", settings, &put(dir.path(), "x.arrow", file(batches, None)), None);
    let seconds = attempt(&with("", Arc::new(NullArray::new(3))), &settings()).unwrap();
    assert_eq!(seconds.user_tokens, ["1", "18446744073709551615"]);
    let found =
        attempt(&with("ts", Arc::new(TimestampSecondArray::from(vec![1_600_000_000, 1_600_000_001, 1_600_000_002]))), &settings()).unwrap();
    assert_eq!((found.users, found.times.is_some()), (seconds.users, true));
    assert!(attempt(&with("ts", Arc::new(Date32Array::from(vec![18_000, 18_001, 18_002]))), &settings()).unwrap().times.is_some());
    // A missing value is that of a bad row.
    let holes = with("who", Arc::new(Int64Array::from(vec![Some(1), None, Some(2)])));
    let message = attempt(&holes, &settings()).unwrap_err().to_string();
    assert!(message.contains("x.arrow:2") && message.contains("`who`"), "{message}");
    let skipped = attempt(&holes, &DataSettings { max_bad_rows: 1, ..settings() }).unwrap();
    assert_eq!((skipped.users.len(), skipped.notes.bad_rows), (2, 1));
    for column in [Arc::new(NullArray::new(3)) as ArrayRef, Arc::new(DurationSecondArray::from(vec![1, 2, 3]))] {
        let message = attempt(&with("who", column), &settings()).unwrap_err().to_string();
        assert!(message.contains("column `who` has the type") && message.contains("not read"), "{message}");
    }
    let missing = DataSettings { item_column: "waht".into(), ..settings() };
    let message = attempt(&with("", Arc::new(NullArray::new(3))), &missing).unwrap_err().to_string();
    assert!(message.contains("`waht`") && message.contains("the nearest is `what`"), "{message}");
    let message = read("arrow", &settings(), &put(dir.path(), "old.feather", b"FEA1restFEA1"), None).unwrap_err().to_string();
    assert!(message.contains("version 1"), "{message}");
    // Another reader sees what it was given.
    let path = put(dir.path(), "x.csv", file(&batches(0, false), None));
    let named = DataSettings { format: "csv".into(), inter: Some(path), name: "x".into(), ..settings() };
    let message = lumos::data::prepare(&named, &dir.path().join("x"), false, &quiet).unwrap_err().to_string();
    assert!(message.contains("an Arrow file") && message.contains("data.format=arrow"), "{message}");
}

fn catalogue(dir: &Path) -> PathBuf {
    let mut categories = ListBuilder::new(StringBuilder::new());
    categories.append_value([Some("Food"), Some("Hot | cold")]);
    categories.append_null();
    let columns: [(&str, ArrayRef); 3] = [
        ("what", texts(3, &["a", "ü"])),
        ("title", Arc::new(StringArray::from(vec![Some("Tea & Co"), None]))),
        ("categories", Arc::new(categories.finish())),
    ];
    put(dir, "items.arrow", file(&[RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()], None))
}

#[test]
fn a_catalogue_has_titles_and_lists_of_categories() {
    let dir = tempfile::tempdir().unwrap();
    let rows = put(dir.path(), "rows.arrow", file(&batches(0, false), None));
    let found = read("arrow", &settings(), &rows, Some(&catalogue(dir.path()))).unwrap();
    let a = found.item_tokens.iter().position(|item| item == "a").unwrap();
    assert_eq!(
        (found.catalogue[a].title.as_str(), &found.catalogue[a].categories[..]),
        ("Tea & Co", &["Food".into(), "Hot | cold".into()][..])
    );
    assert_eq!(found.notes.catalogue.unwrap().matched, 2);
    let rated = read("arrow", &DataSettings { min_rating: 3.0, ..settings() }, &rows, None).unwrap();
    assert_eq!((rated.users.len(), rated.notes.below_rating), (4, 3));
}

/// A packed column says how long it is unpacked: a length that no machine has must not be allocated.
#[test]
fn a_broken_file_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let attempt = |bytes: &[u8]| read("arrow", &settings(), &put(dir.path(), "broken.arrow", bytes), None);
    for (packed, kind) in [(None, 2), (Some(CompressionType::LZ4_FRAME), 3), (Some(CompressionType::ZSTD), 0)] {
        for (whole, in_stream) in [(file(&batches(kind, false), packed), false), (stream(&batches(kind, true), packed), true)] {
            for length in (0..whole.len()).step_by(13) {
                // A stream may end behind any of its messages.
                match attempt(&whole[..length]) {
                    Ok(_) => assert!(in_stream, "{length}"),
                    Err(e) => assert!(e.to_string().contains("broken.arrow"), "{length}: {e}"),
                }
            }
            let mut refused = 0;
            for at in (0..whole.len()).step_by(4) {
                let mut bytes = whole.clone();
                bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
                refused += usize::from(attempt(&bytes).is_err());
            }
            assert!(refused > whole.len() / 40, "{refused} of {}", whole.len() / 4);
        }
    }
}
