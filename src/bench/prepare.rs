//! How fast a large file of interactions is prepared, and in how much memory.

use crate::base::rng::{Purpose, Stream};
use crate::config::DataSettings;
use crate::data::{self, Progress};
use crate::run::peak_bytes;
use crate::{Error, Result};
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Rows between two reports of progress.
const REPORT: u64 = 1 << 18;
/// First second of the file.
const EPOCH: u64 = 1_500_000_000;

/// What to prepare.
#[derive(Clone, Debug)]
pub struct PrepareBench {
    /// Interactions.
    pub rows: u64,
    /// Mean interactions of a user.
    pub mean_length: u64,
    /// Items.
    pub items: u64,
    /// Folder for the file and the prepared set, which are removed afterwards.
    pub folder: PathBuf,
}

/// What it took.
#[derive(Clone, Debug, Serialize)]
pub struct PrepareFigures {
    /// Interactions read.
    pub rows: u64,
    /// Users that are left.
    pub users: u64,
    /// Items that are left.
    pub items: u64,
    /// Bytes of the file, CSV.
    pub file_bytes: u64,
    /// Seconds from the file to the prepared folder.
    pub seconds: f64,
    /// Interactions a second.
    pub rows_per_s: f64,
    /// Most memory that the process has held, in bytes; 0 where the system does not tell.
    pub peak_bytes: u64,
}

/// Writes a CSV file in the order of time, users and popular items mixed, and prepares it with a k-core of 2.
///
/// # Errors
/// Where the folder cannot be written, and those of [`data::prepare()`].
pub fn prepare_rows(bench: &PrepareBench, progress: &Progress) -> Result<PrepareFigures> {
    let folder = tempfile::tempdir_in(&bench.folder).map_err(Error::io(&bench.folder, "create a folder in"))?;
    let path = folder.path().join("rows.csv");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(Error::io(&path, "create"))?);
    let mut write = |text: std::fmt::Arguments| out.write_fmt(text).map_err(Error::io(&path, "write"));
    let (mut stream, users) = (Stream::new(1, Purpose::World, 9, 0), (bench.rows / bench.mean_length).max(1));
    write(format_args!("user_id,item_id,timestamp\n"))?;
    for row in 0..bench.rows {
        let (user, unit) = (stream.below(users), f64::from(stream.unit()));
        let item = (bench.items as f64 * unit * unit) as u64;
        write(format_args!("u{user},i{item},{}\n", EPOCH + row / 4))?;
        if row.is_multiple_of(REPORT) {
            progress("writing the file", row, bench.rows);
        }
    }
    out.flush().map_err(Error::io(&path, "write"))?;
    drop(out);
    progress("writing the file", bench.rows, bench.rows);
    let file_bytes = std::fs::metadata(&path).map_err(Error::io(&path, "read"))?.len();
    let settings = DataSettings { name: "rows".into(), format: "csv".into(), inter: Some(path), k_core: 2, ..DataSettings::default() };
    let begun = Instant::now();
    let manifest = data::prepare(&settings, &folder.path().join("set"), false, progress)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(PrepareFigures {
        rows: bench.rows,
        users: manifest.stats.users,
        items: manifest.stats.items,
        file_bytes,
        seconds,
        rows_per_s: bench.rows as f64 / seconds,
        peak_bytes: peak_bytes(),
    })
}
