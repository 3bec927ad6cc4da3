//! Doors for fuzzing: source files, plain or packed, through a reader and the filter. None of these may panic, run for long, or allocate
//! much more than it is given.

use std::io::Cursor;
use std::path::Path;

use super::filter::filter;
use super::reader::reader;
use super::source::Source;
use super::unpack::Packing;
use crate::config::{DataSettings, Duplicates, Repeats};

/// RecBole atomic files: interactions, and behind the first `0xff` byte, which no text holds, the catalogue. Gzip and zstd are taken for
/// interactions as a whole.
pub fn recbole(bytes: &[u8]) {
    read("recbole", bytes);
}

/// CSV files, laid out like those of [`recbole`].
pub fn csv(bytes: &[u8]) {
    read("csv", bytes);
}

/// Files of the public formats, laid out like those of [`recbole`]: each of their readers is given the same bytes.
pub fn formats(bytes: &[u8]) {
    for format in ["auto", "mind", "amazon", "movielens", "sasrec", "s3rec", "p5", "unisrec", "rechorus", "jsonl", "parquet", "arrow"] {
        read(format, bytes);
    }
}

fn read(format: &str, bytes: &[u8]) {
    let packed = Packing::of(bytes, "") != Packing::Plain;
    let (inter, items) = match bytes.iter().position(|b| *b == 0xff && !packed) {
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
        None => (bytes, None),
    };
    let open = |bytes: &[u8]| Source::from_stream(Path::new("source"), Cursor::new(bytes.to_vec()));
    for (time, duplicates, repeats) in [
        ("timestamp", Duplicates::Drop, Repeats::First),
        ("timestamp", Duplicates::Refuse, Repeats::Keep),
        ("", Duplicates::Keep, Repeats::Consecutive),
    ] {
        let settings = DataSettings {
            format: format.into(),
            time_column: time.into(),
            k_core: 2,
            min_length: 3,
            duplicates,
            repeats,
            ..Default::default()
        };
        let (Ok(reader), Ok(mut inter), Ok(mut items)) = (reader(format), open(inter), items.map(open).transpose()) else { return };
        if let Ok(raw) = reader.read(&settings, Some(&mut inter), items.as_mut(), &|_, _, _| ()) {
            let _ = (inter.finish(), items.map(Source::finish), filter(raw, &settings));
        }
    }
}
