//! Finding the columns of a table by their names.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::reader::data_error;
use crate::base::clean;
use crate::base::names;
use crate::config::DataSettings;
use crate::{Error, Result};

/// Names that a message lists at most.
const LISTED: usize = 20;

/// The header of a source: names of its columns, none of them twice.
pub(super) struct Header {
    path: PathBuf,
    names: Vec<String>,
}

/// Where the interactions' columns stand.
#[derive(Clone, Copy)]
pub(super) struct InteractionColumns {
    pub user: usize,
    pub item: usize,
    pub time: Option<usize>,
    pub group: Option<usize>,
    pub rating: Option<usize>,
}

/// Where a catalogue keeps what we read.
#[derive(Clone, Copy)]
pub(super) struct CatalogueColumns {
    pub item: usize,
    pub title: Option<usize>,
    pub category: Option<usize>,
    pub brand: Option<usize>,
    pub also_bought: Option<usize>,
}

impl Header {
    pub fn new(path: &Path, names: Vec<String>) -> Result<Header> {
        let mut met = HashSet::with_capacity(names.len());
        match names.iter().find(|name| !met.insert(name.as_str())) {
            Some(twice) => Err(data_error(path, 1, format!("column `{}` occurs twice in the header", clean::id(twice)))),
            None => Ok(Header { path: path.to_path_buf(), names }),
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The column that the setting `key` calls `name`. `otherwise` says what to do where there is none.
    fn column(&self, key: &str, name: &str, otherwise: &str) -> Result<usize> {
        self.find(name).ok_or_else(|| {
            let near = names::nearest(name, self.names.iter().map(String::as_str));
            let near = near.map_or(String::new(), |n| format!("; the nearest is `{}`", clean::id(n)));
            let message = format!(
                "there is no column `{}`{near}. {key} names the column to read{otherwise}. Columns: {}",
                clean::id(name),
                listed(&self.names)
            );
            data_error(&self.path, 1, message)
        })
    }

    /// The interactions' columns.
    ///
    /// # Errors
    /// [`Error::Data`] where one is missing, and for RecBole's augmented rows, which hold a history each.
    pub fn interactions(&self, settings: &DataSettings) -> Result<InteractionColumns> {
        let list = format!("{}_list", settings.item_column);
        if self.find(&list).is_some() {
            let message = format!(
                "column `{}` holds a whole history in each row: these are augmented rows, in which RecBole repeats an interaction once for \
                 every target behind it, already split into training, validation and test; give the interactions file that they were made \
                 from, with one row an interaction",
                clean::id(&list)
            );
            return Err(data_error(&self.path, 1, message));
        }
        let user = self.column("data.user_column", &settings.user_column, "")?;
        let item = self.column("data.item_column", &settings.item_column, "")?;
        let time = match settings.time_column.as_str() {
            "" => None,
            name => Some(self.column("data.time_column", name, ", data.time_column='' takes the rows in the order of the file")?),
        };
        let group = match settings.group_column.as_str() {
            "" => None,
            name => Some(self.column("data.group_column", name, ", data.group_column='' reads no groups")?),
        };
        let rating = match settings.rating_column.as_str() {
            _ if settings.min_rating == 0.0 => None,
            "" => RATINGS.iter().find_map(|name| self.find(name)),
            name => Some(self.column("data.rating_column", name, "")?),
        };
        if settings.min_rating != 0.0 && rating.is_none() {
            let message = format!(
                "data.min_rating is set, and there is no column {}; data.rating_column names it. Columns: {}",
                RATINGS.join(", "),
                listed(&self.names)
            );
            return Err(data_error(&self.path, 1, message));
        }
        Ok(InteractionColumns { user, item, time, group, rating })
    }

    /// The catalogue's columns: those that the settings name, else those with a usual name; of several the first listed wins.
    ///
    /// # Errors
    /// [`Error::Data`] where the item column or a column that a setting names is missing.
    pub fn catalogue(&self, settings: &DataSettings) -> Result<CatalogueColumns> {
        let find = |key: &str, set: &str, usual: &[&str]| match set {
            "" => Ok(usual.iter().find_map(|n| self.find(n))),
            name => self.column(key, name, "").map(Some),
        };
        Ok(CatalogueColumns {
            item: self.column("data.item_column", &settings.item_column, "")?,
            title: find("data.title_column", &settings.title_column, TITLES)?,
            category: find("data.category_column", &settings.category_column, CATEGORIES)?,
            brand: find("data.brand_column", &settings.brand_column, &["brand"])?,
            also_bought: find("data.also_bought_column", &settings.also_bought_column, &["also_bought"])?,
        })
    }

    /// The file that it belongs to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.names.len()
    }

    /// Name of the column at `at`.
    pub fn name(&self, at: usize) -> &str {
        &self.names[at]
    }

    /// Names of the columns that are not among `used`.
    pub fn unused(&self, used: &[Option<usize>]) -> Vec<String> {
        self.names.iter().enumerate().filter(|(at, _)| !used.contains(&Some(*at))).map(|(_, n)| n.clone()).collect()
    }
}

/// Columns by their names, as a message lists them.
pub(super) fn listed(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(LISTED).map(|n| clean::id(n)).collect();
    if names.len() > LISTED {
        shown.push(format!("and {} more", names.len() - LISTED));
    }
    shown.join(", ")
}

/// Usual names of a catalogue's columns and of ratings.
pub(super) const TITLES: &[&str] = &["title", "movie_title", "name"];
pub(super) const RATINGS: &[&str] = &["rating", "overall", "stars"];
pub(super) const CATEGORIES: &[&str] = &["categories", "category", "class", "genres", "genre"];

impl CatalogueColumns {
    /// All of them.
    pub fn all(&self) -> [Option<usize>; 5] {
        [Some(self.item), self.title, self.category, self.brand, self.also_bought]
    }
}

impl InteractionColumns {
    /// All of them.
    pub fn all(&self) -> [Option<usize>; 5] {
        [Some(self.user), Some(self.item), self.time, self.group, self.rating]
    }
}

/// Separators that are met where another one belongs.
const SEPARATORS: &[(char, &str)] = &[('\t', "tabs"), (',', "commas"), (';', "semicolons"), ('|', "bars"), (' ', "blanks")];

/// The first separator other than `wanted` that cuts `text` into pieces which pass `fits`.
pub(super) fn separator(text: &str, wanted: char, fits: impl Fn(&[&str]) -> bool) -> Option<&'static str> {
    SEPARATORS.iter().filter(|(c, _)| *c != wanted).find_map(|(c, name)| {
        let pieces: Vec<&str> = text.split(*c).collect();
        (pieces.len() > 1 && fits(&pieces)).then_some(*name)
    })
}

/// The message for a row of `found` fields below a header of `wanted`, both separated by tabs.
pub(super) fn wrong_width(found: usize, wanted: usize, text: &str) -> String {
    let other = (found == 1).then(|| separator(text, '\t', |pieces| pieces.len() == wanted)).flatten();
    let hint = match other {
        Some(name) => format!("; this line is separated by {name}, the header by tabs"),
        None if text.trim().is_empty() => "; this line is blank".into(),
        None => String::new(),
    };
    format!("{found} fields where the header has {wanted}{hint}")
}

/// The refusal of an item column that was set to a list.
pub(super) fn is_list(token: &str) -> bool {
    token.starts_with('[') && token.ends_with(']') && token.contains([',', ' '])
}

/// An [`Error`] for a missing interactions file.
pub(super) fn no_interactions() -> Error {
    Error::setting("data.inter", "an interactions file is needed")
}
