//! The reader trait, the registry of formats, and what every reader hands on: interactions in file order and a catalogue.

use std::collections::HashMap;
use std::path::Path;

use super::dataset::ItemText;
use super::prepare::Progress;
use super::source::Source;
use crate::config::DataSettings;
use crate::{Error, Result};

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
    pub times: Option<Vec<f64>>,
    /// Catalogue `[I]`; an item without metadata has an empty entry.
    pub catalogue: Vec<ItemText>,
}

/// One source format. A new format is one file that implements this and one line in `READERS`.
pub trait Reader: Sync {
    /// Name as it stands in `data.format`.
    fn name(&self) -> &'static str;

    /// Whether `data.inter` and `data.items` name this format's sources.
    fn reads_files(&self) -> bool {
        true
    }

    /// The interactions and the catalogue. `inter` and `items` are the loaded, decompressed sources; a format for which
    /// [`Reader::reads_files`] is false gets neither.
    fn read(&self, settings: &DataSettings, inter: Option<&Source>, items: Option<&Source>, progress: &Progress) -> Result<RawData>;
}

/// Every known format.
const READERS: &[&dyn Reader] = &[&super::recbole::RecBole, &super::csv::Csv, &super::synth::Synthetic];

/// Names of every known format.
pub fn reader_names() -> Vec<&'static str> {
    READERS.iter().map(|r| r.name()).collect()
}

/// The reader called `name`; an unknown name is refused with the nearest known one.
pub fn reader(name: &str) -> Result<&'static dyn Reader> {
    READERS.iter().copied().find(|r| r.name() == name).ok_or_else(|| {
        let names = reader_names();
        let near = nearest(name, &names).unwrap_or_default();
        Error::setting("data.format", format!("unknown format `{name}`; the nearest is `{near}`. Known formats: {}", names.join(", ")))
    })
}

/// The name among `names` most like `name`, if any is there.
pub(super) fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let score = |n: &str| strsim::jaro_winkler(&name.to_lowercase(), &n.to_lowercase());
    names.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// Position of column `name` in a header, or an error that names the setting and the nearest column.
pub(super) fn column(path: &Path, header: &[&str], key: &str, name: &str) -> Result<usize> {
    header.iter().position(|h| *h == name).ok_or_else(|| {
        let hint = nearest(name, header).map_or(String::new(), |n| format!("; the nearest is `{n}` (set {key} to it if that is meant)"));
        data_error(path, 1, format!("there is no column `{name}`{hint}. Columns: {}", header.join(", ")))
    })
}

/// An [`Error::Data`].
pub(super) fn data_error(path: &Path, line: u64, message: impl Into<String>) -> Error {
    Error::Data { path: path.to_path_buf(), line, message: message.into() }
}

/// Tokens to indices by first appearance. Each token is stored once.
#[derive(Default)]
struct Interner {
    map: HashMap<String, u32>,
}

impl Interner {
    fn intern(&mut self, token: &str) -> u32 {
        if let Some(&index) = self.map.get(token) {
            return index;
        }
        let index = self.map.len() as u32;
        self.map.insert(token.to_owned(), index);
        index
    }

    fn into_tokens(self) -> Vec<String> {
        let mut tokens = vec![String::new(); self.map.len()];
        for (token, index) in self.map {
            tokens[index as usize] = token;
        }
        tokens
    }
}

/// Collects what a text reader finds, row by row, with the checks that all text formats share.
pub(super) struct Builder {
    users: Interner,
    items: Interner,
    raw: RawData,
    /// Line of the catalogue that described an item; 0: none yet `[I]`.
    described: Vec<u64>,
}

impl Builder {
    pub fn new(timed: bool) -> Builder {
        let raw = RawData { times: timed.then(Vec::new), ..RawData::default() };
        Builder { users: Interner::default(), items: Interner::default(), raw, described: Vec::new() }
    }

    /// Adds one interaction. `time` must be given exactly when the builder was made with `timed`.
    pub fn interaction(&mut self, path: &Path, line: u64, user: &str, item: &str, time: Option<&str>) -> Result<()> {
        if user.is_empty() || item.is_empty() {
            let which = if user.is_empty() { "user" } else { "item" };
            return Err(data_error(path, line, format!("the {which} is empty; give it an id or remove the row")));
        }
        if self.raw.users.len() as u64 >= u64::from(u32::MAX) {
            return Err(data_error(path, line, "more than 4,294,967,295 interactions; split the file"));
        }
        if let (Some(times), Some(text)) = (self.raw.times.as_mut(), time) {
            times.push(parse_time(text).map_err(|message| data_error(path, line, message))?);
        }
        let (user, item) = (self.users.intern(user), self.items.intern(item));
        self.raw.users.push(user);
        self.raw.items.push(item);
        Ok(())
    }

    /// Ends the interactions: from here on only [`Builder::describe`] may follow.
    pub fn end_interactions(&mut self, path: &Path) -> Result<()> {
        if self.raw.users.is_empty() {
            return Err(data_error(path, 1, "there is a header but no interaction below it"));
        }
        self.raw.catalogue = vec![ItemText::default(); self.items.map.len()];
        self.described = vec![0; self.items.map.len()];
        Ok(())
    }

    /// Adds one catalogue row; items without an interaction and also-bought tokens without one are left out.
    pub fn describe(&mut self, path: &Path, line: u64, item: &str, row: CatalogueRow) -> Result<()> {
        let Some(&index) = self.items.map.get(item) else { return Ok(()) };
        let first = std::mem::replace(&mut self.described[index as usize], line);
        if first != 0 {
            return Err(data_error(path, line, format!("item `{item}` is described twice (first in line {first}); keep one row")));
        }
        let also_bought = row.also_bought.iter().filter_map(|token| self.items.map.get(token.as_str()).copied()).collect();
        self.raw.catalogue[index as usize] = ItemText { title: row.title, categories: row.categories, brand: row.brand, also_bought };
        Ok(())
    }

    pub fn finish(self) -> RawData {
        RawData { user_tokens: self.users.into_tokens(), item_tokens: self.items.into_tokens(), ..self.raw }
    }
}

/// One row of a catalogue file, also-bought still as tokens.
#[derive(Default)]
pub(super) struct CatalogueRow {
    pub title: String,
    pub categories: Vec<String>,
    pub brand: String,
    pub also_bought: Vec<String>,
}

/// Where a catalogue file keeps what we read. Other columns are ignored.
#[derive(Default)]
pub(super) struct CatalogueColumns {
    pub title: Option<usize>,
    pub categories: Option<usize>,
    pub brand: Option<usize>,
    pub also_bought: Option<usize>,
}

impl CatalogueColumns {
    /// Finds the known columns; of several names for one thing the first listed wins.
    pub fn find(header: &[&str]) -> CatalogueColumns {
        let find = |names: &[&str]| names.iter().find_map(|n| header.iter().position(|h| h == n));
        CatalogueColumns {
            title: find(&["title", "movie_title", "name"]),
            categories: find(&["categories", "category", "class", "genres"]),
            brand: find(&["brand"]),
            also_bought: find(&["also_bought"]),
        }
    }
}

/// A time as a finite number. Whole numbers, the usual case, take the short way.
fn parse_time(text: &str) -> Result<f64, String> {
    let bytes = text.as_bytes();
    if (1..=15).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_digit) {
        return Ok(bytes.iter().fold(0u64, |n, b| n * 10 + u64::from(b - b'0')) as f64);
    }
    match text.parse::<f64>() {
        // Adding zero turns -0 into 0, so that the two tie.
        Ok(t) if t.is_finite() => Ok(t + 0.0),
        Ok(t) => Err(format!("the time is {t}; a finite number is needed")),
        Err(_) => Err(format!("`{}` is not a time; a number (such as unix seconds) is needed", shorten(text))),
    }
}

/// `text` cut to a length that fits a message.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
