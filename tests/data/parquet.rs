//! Parquet files: what a writer of them has put in is what the other readers find in the same rows as text; broken files are errors.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{put, quiet};
use lumos::Result;
use lumos::config::DataSettings;
use lumos::data::{RawData, Source, reader};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

/// User, item, seconds, rating.
pub const ROWS: [(i64, &str, i64, f32); 7] = [
    (7, "b", 1_600_000_300, 5.0),
    (7, "a", 1_600_000_100, 4.1),
    (-3, "ü", 1_600_000_200, 1.0),
    (7, "c,d", 1_600_000_200, 3.0),
    (-3, "a", 1_600_000_000, 2.5),
    (9, "b", 1_600_000_000, 5.0),
    (9, "c,d", 1_600_086_400, 0.5),
];

fn column<T: DataType>(group: &mut SerializedRowGroupWriter<'_, std::fs::File>, values: &[T::T], levels: Option<(&[i16], &[i16])>) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<T>().write_batch(values, levels.map(|l| l.0), levels.map(|l| l.1)).unwrap();
    column.close().unwrap();
}

/// The interactions, three rows a group, times as microseconds of a column of moments.
fn interactions(dir: &Path, name: &str, packed: Compression) -> PathBuf {
    let schema = "message rows { REQUIRED INT64 who; OPTIONAL BYTE_ARRAY what (UTF8); REQUIRED DOUBLE price; REQUIRED FLOAT stars;
        REQUIRED INT64 ts (TIMESTAMP(MICROS, true)); }";
    let properties = WriterProperties::builder().set_compression(packed).build();
    let file = std::fs::File::create(dir.join(name)).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(parse_message_type(schema).unwrap()), Arc::new(properties)).unwrap();
    for rows in ROWS.chunks(3) {
        let mut group = writer.next_row_group().unwrap();
        let items: Vec<ByteArray> = rows.iter().map(|row| row.1.into()).collect();
        column::<Int64Type>(&mut group, &rows.iter().map(|row| row.0).collect::<Vec<_>>(), None);
        column::<ByteArrayType>(&mut group, &items, Some((&vec![1; rows.len()], &vec![0; rows.len()])));
        column::<DoubleType>(&mut group, &vec![9.99; rows.len()], None);
        column::<FloatType>(&mut group, &rows.iter().map(|row| row.3).collect::<Vec<_>>(), None);
        column::<Int64Type>(&mut group, &rows.iter().map(|row| row.2 * 1_000_000).collect::<Vec<_>>(), None);
        group.close().unwrap();
    }
    writer.close().unwrap();
    dir.join(name)
}

/// A catalogue of two items whose categories are lists, one of them empty.
fn catalogue(dir: &Path) -> PathBuf {
    let schema = "message rows { REQUIRED BYTE_ARRAY what (UTF8); OPTIONAL BYTE_ARRAY title (UTF8);
        OPTIONAL GROUP categories (LIST) { REPEATED GROUP list { OPTIONAL BYTE_ARRAY element (UTF8); } } }";
    let file = std::fs::File::create(dir.join("items.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, Arc::new(parse_message_type(schema).unwrap()), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    column::<ByteArrayType>(&mut group, &["a".into(), "ü".into()], None);
    column::<ByteArrayType>(&mut group, &["Tea & Co".into()], Some((&[1, 0], &[0, 0])));
    column::<ByteArrayType>(&mut group, &["Food".into(), "Hot | cold".into()], Some((&[3, 3, 1], &[0, 1, 0])));
    group.close().unwrap();
    writer.close().unwrap();
    dir.join("items.parquet")
}

pub fn settings() -> DataSettings {
    let columns = ("who".to_string(), "what".to_string(), "ts".to_string());
    DataSettings { user_column: columns.0, item_column: columns.1, time_column: columns.2, ..DataSettings::default() }
}

pub fn read(format: &str, settings: &DataSettings, inter: &Path, items: Option<&Path>) -> Result<RawData> {
    let (mut inter, mut items) = (Source::open(inter)?, items.map(Source::open).transpose()?);
    let raw = reader(format)?.read(settings, Some(&mut inter), items.as_mut(), &quiet)?;
    // What a data set says of its sources is of the whole file, whoever read it.
    assert_eq!(inter.finish().unwrap().sha256.len(), 64);
    Ok(raw)
}

pub fn text(dir: &Path) -> PathBuf {
    let moment = |at: i64| jiff(at);
    let rows = ROWS.iter().map(|(who, what, ts, stars)| format!("{who},\"{what}\",{},{stars}\n", moment(*ts)));
    put(dir, "rows.csv", format!("who,what,ts,stars\n{}", rows.collect::<String>()))
}

/// Seconds of September 2020 as ISO 8601.
fn jiff(at: i64) -> String {
    let (day, second) = ((at - 1_598_918_400) / 86_400 + 1, (at - 1_598_918_400) % 86_400);
    format!("2020-09-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[test]
fn every_packing_gives_what_the_same_rows_give_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = read("csv", &settings(), &text(dir.path()), None).unwrap();
    assert!(wanted.times.is_some() && wanted.users.len() == ROWS.len());
    let gzip = Compression::GZIP(GzipLevel::default());
    for packed in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, Compression::ZSTD(ZstdLevel::default())] {
        let file = interactions(dir.path(), "rows.parquet", packed);
        for (format, columns) in [("parquet", settings()), ("auto", settings())] {
            let mut found = read(format, &columns, &file, None).unwrap();
            assert_eq!(found.notes.unused, ["price", "stars"], "{packed:?}");
            (found.notes, found.first_line) = (wanted.notes.clone(), wanted.first_line);
            assert_eq!(found, wanted, "{packed:?} {format}");
        }
    }
    // A packed file cannot be read from its end, so that it is unpacked first.
    let whole = std::fs::read(interactions(dir.path(), "rows.parquet", Compression::SNAPPY)).unwrap();
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    packer.write_all(&whole).unwrap();
    let packed = put(dir.path(), "rows.parquet.gz", packer.finish().unwrap());
    assert_eq!(read("auto", &settings(), &packed, None).unwrap().items, wanted.items);
}

#[test]
fn catalogue_ratings_and_columns_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = interactions(dir.path(), "rows.parquet", Compression::SNAPPY);
    let items = catalogue(dir.path());
    let found = read("parquet", &settings(), &file, Some(&items)).unwrap();
    let a = found.item_tokens.iter().position(|item| item == "a").unwrap();
    assert_eq!(
        (found.catalogue[a].title.as_str(), &found.catalogue[a].categories[..]),
        ("Tea & Co", &["Food".into(), "Hot | cold".into()][..])
    );
    assert_eq!(found.notes.catalogue.unwrap().matched, 2);
    let rated = read("parquet", &DataSettings { min_rating: 3.0, ..settings() }, &file, None).unwrap();
    assert_eq!((rated.users.len(), rated.notes.below_rating), (4, 3));
    let missing = DataSettings { item_column: "waht".into(), ..settings() };
    let message = read("parquet", &missing, &file, None).unwrap_err().to_string();
    assert!(message.contains("`waht`") && message.contains("the nearest is `what`"), "{message}");
    let message = read("csv", &settings(), &put(dir.path(), "x.csv", "who,what\n"), None).unwrap_err().to_string();
    assert!(message.contains("`ts`"), "{message}");
    // Another reader sees what it was given.
    let named = DataSettings { format: "csv".into(), inter: Some(file), name: "x".into(), ..settings() };
    let message = lumos::data::prepare(&named, &dir.path().join("x"), false, &quiet).unwrap_err().to_string();
    assert!(message.contains("data.format=parquet"), "{message}");
}

#[test]
fn a_broken_file_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(interactions(dir.path(), "rows.parquet", Compression::SNAPPY)).unwrap();
    let attempt = |bytes: &[u8]| read("parquet", &settings(), &put(dir.path(), "broken.parquet", bytes), None);
    for length in (0..whole.len()).step_by(7) {
        let message = attempt(&whole[..length]).unwrap_err().to_string();
        assert!(message.contains("broken.parquet"), "{length}: {message}");
    }
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= [0xff, 0x01, 0x80][at % 3];
        refused += usize::from(attempt(&bytes).is_err());
    }
    assert!(refused > whole.len() / 10, "{refused} of {}", whole.len());
}
