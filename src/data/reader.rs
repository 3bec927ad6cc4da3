//! The reader trait, the registry of formats, and what every reader hands on: interactions in file order and a catalogue.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::columns::{CatalogueColumns, Header};
use super::dataset::{ItemText, UserGroups};
use super::prepare::Progress;
use super::source::Source;
use super::times::Times;
use crate::base::clean;
use crate::base::json::is_zero;
use crate::base::names;
use crate::config::DataSettings;
use crate::{Error, Result};
use parking_lot::RwLock;

/// Interactions and catalogue as they stand in the source: nothing removed, nothing sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawData {
    /// Token of every user `[U]`, by first appearance.
    pub user_tokens: Vec<String>,
    /// Token of every item with an interaction `[I]`, by first appearance.
    pub item_tokens: Vec<String>,
    /// User of every interaction, in file order `[N]`.
    pub users: Vec<u32>,
    /// Item of every interaction, in file order `[N]`.
    pub items: Vec<u32>,
    /// Time of every interaction `[N]`; `None`: file order is time order.
    pub times: Option<Times>,
    /// Catalogue `[I]`; an item without metadata has an empty entry.
    pub catalogue: Vec<ItemText>,
    /// Group of every user, where `data.group_column` asks for it.
    pub groups: Option<UserGroups>,
    /// Line of the first interaction where each stands in a line of its own, one below the other; else `None`.
    pub first_line: Option<u64>,
    /// What the reader found beside them.
    pub notes: SourceNotes,
}

/// What a reader found in the sources beside what it hands on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceNotes {
    /// Columns of the interactions file that nothing uses.
    pub unused: Vec<String>,
    /// The catalogue file, where one was given.
    pub catalogue: Option<CatalogueNotes>,
    /// What `data.format = "auto"` took the sources for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recognised: Option<String>,
    /// Rows below `data.min_rating`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub below_rating: u64,
    /// Rows that cannot be read and were skipped (`data.max_bad_rows`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bad_rows: u64,
    /// What is wrong with the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bad_row: Option<String>,
}

/// What a reader found in a catalogue file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueNotes {
    /// Rows below the header.
    pub rows: u64,
    /// Rows of an item that has an interaction.
    pub matched: u64,
    /// Name of the column with the titles.
    pub title: Option<String>,
    /// Name of the column with the categories.
    pub category: Option<String>,
    /// Columns that nothing uses.
    pub unused: Vec<String>,
}

impl CatalogueNotes {
    /// A catalogue with `header` of which `columns` are read; no row counted yet.
    pub(super) fn of(header: &Header, columns: &CatalogueColumns) -> CatalogueNotes {
        let name = |at: Option<usize>| at.map(|at| header.name(at).to_owned());
        CatalogueNotes {
            rows: 0,
            matched: 0,
            title: name(columns.title),
            category: name(columns.category),
            unused: header.unused(&columns.all()),
        }
    }
}

/// One source format. A new format of LUMOS is one file that implements this and one line in `READERS`; any other is made known by
/// [`register_reader`].
pub trait Reader: Sync {
    /// Name as it stands in `data.format`.
    fn name(&self) -> &'static str;

    /// Whether `data.inter` and `data.items` name this format's sources.
    fn reads_files(&self) -> bool {
        true
    }

    /// The interactions and the catalogue. `inter` and `items` are the opened sources; a format for which
    /// [`Reader::reads_files`] is false gets neither.
    fn read(&self, settings: &DataSettings, inter: Option<&mut Source>, items: Option<&mut Source>, progress: &Progress)
    -> Result<RawData>;
}

/// The formats of LUMOS.
const READERS: &[&dyn Reader] = &[
    &super::recbole::RecBole,
    &super::csv::Csv,
    &super::formats::Auto,
    &super::formats::Mind,
    &super::formats::Amazon,
    &super::formats::MovieLens,
    &super::formats::SasRec,
    &super::formats::S3Rec,
    &super::formats::P5,
    &super::formats::UniSRec,
    &super::formats::ReChorus,
    &super::formats::JsonLines,
    &super::formats::Parquet,
    &super::formats::Arrow,
    &super::synth::Synthetic,
];

/// Formats that were registered.
static REGISTERED: RwLock<Vec<&'static dyn Reader>> = RwLock::new(Vec::new());

fn readers() -> impl Iterator<Item = &'static dyn Reader> {
    let registered = REGISTERED.read().clone();
    READERS.iter().copied().chain(registered)
}

/// Names of every known format.
pub fn reader_names() -> Vec<&'static str> {
    readers().map(|r| r.name()).collect()
}

/// Whether the format `name` is one of LUMOS whose files are text.
pub(super) fn reads_text(name: &str) -> bool {
    !["auto", "parquet", "arrow"].contains(&name) && READERS.iter().any(|reader| reader.name() == name)
}

/// Makes `reader` known in this process, for settings that are read from now on.
///
/// # Errors
/// [`Error::Usage`] where its name is taken.
pub fn register_reader(reader: impl Reader + 'static) -> Result<()> {
    let mut registered = REGISTERED.write();
    let name = reader.name();
    if READERS.iter().chain(registered.iter()).any(|r| r.name() == name) {
        return Err(Error::Usage(format!("there is a reader `{}` already; give this one another name", clean::id(name))));
    }
    registered.push(Box::leak(Box::new(reader)));
    Ok(())
}

/// The reader called `name`; an unknown name is refused with the nearest known one.
///
/// # Errors
/// [`Error::Setting`].
pub fn reader(name: &str) -> Result<&'static dyn Reader> {
    readers().find(|r| r.name() == name).ok_or_else(|| Error::setting("data.format", names::unknown("format", name, reader_names())))
}

/// `error` with `words` behind its message, where it is one about data or settings.
pub(super) fn also(error: Error, words: &str) -> Error {
    let and = |message: String| format!("{message}; the file was {words}");
    match error {
        Error::Data { path, line, message } => Error::Data { path, line, message: and(message) },
        Error::Setting { key, message } => Error::Setting { key, message: and(message) },
        other => other,
    }
}

/// An [`Error::Data`].
pub(super) fn data_error(path: &Path, line: u64, message: impl Into<String>) -> Error {
    Error::Data { path: path.to_path_buf(), line, message: message.into() }
}
