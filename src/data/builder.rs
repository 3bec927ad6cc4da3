//! What every text reader collects its rows in, with the checks that all formats share.

use std::collections::HashMap;
use std::path::Path;

use super::columns::is_list;
use super::dataset::{ItemText, UserGroups};
use super::reader::{RawData, SourceNotes, data_error};
use super::times::TimeColumn;
use crate::base::clean;
use crate::config::DataSettings;
use crate::{Error, Result};

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
pub struct RawBuilder {
    users: Interner,
    items: Interner,
    raw: RawData,
    times: Option<TimeColumn>,
    /// Group of each user met so far, and the line that said so.
    groups: Vec<(String, u64)>,
    /// Line of the catalogue that described an item; 0: none yet `[I]`.
    described: Vec<u64>,
    /// First item of the catalogue without an interaction, for a message.
    stranger: String,
    /// Rows that cannot be read are skipped up to this number.
    max_bad_rows: u64,
    /// Least rating of a row that stays; `None`: no row has to have one.
    min_rating: Option<f64>,
}

impl RawBuilder {
    /// One without rows; `timed` says whether rows have times.
    pub fn new(timed: bool) -> RawBuilder {
        RawBuilder {
            users: Interner::default(),
            items: Interner::default(),
            raw: RawData::default(),
            times: timed.then(TimeColumn::default),
            groups: Vec::new(),
            described: Vec::new(),
            stranger: String::new(),
            max_bad_rows: 0,
            min_rating: None,
        }
    }

    /// One without rows that keeps to `data.max_bad_rows` and `data.min_rating`; `timed` says whether rows have times.
    pub fn with_filters(settings: &DataSettings, timed: bool) -> RawBuilder {
        let min_rating = (settings.min_rating != 0.0).then_some(settings.min_rating.into());
        RawBuilder { max_bad_rows: settings.max_bad_rows, min_rating, ..RawBuilder::new(timed) }
    }

    /// What a row came to; `None` where it cannot be read and is skipped, which `data.max_bad_rows` allows that often.
    ///
    /// # Errors
    /// The row's error beyond that number, and any error that is not about the content of a row.
    pub fn good<T>(&mut self, row: Result<T>) -> Result<Option<T>> {
        match row {
            Err(error @ Error::Data { .. }) if self.raw.notes.bad_rows < self.max_bad_rows => {
                self.raw.notes.bad_rows += 1;
                self.raw.notes.first_bad_row.get_or_insert_with(|| error.to_string());
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Whether ratings are asked for.
    pub fn wants_rating(&self) -> bool {
        self.min_rating.is_some()
    }

    /// Whether a row with this rating stays; one that goes is counted.
    ///
    /// # Errors
    /// [`Error::Data`] where `data.min_rating` is set and the rating is no number.
    pub fn keeps_rating(&mut self, path: &Path, line: u64, rating: Option<&str>) -> Result<bool> {
        let Some(least) = self.min_rating else { return Ok(true) };
        let text = rating.unwrap_or_default().trim();
        let number = text.parse::<f64>().ok().filter(|x| x.is_finite());
        let number = number.ok_or_else(|| {
            let message = format!("the rating `{}` is no number; data.min_rating=0 keeps rows whatever it is", clean::id(text));
            data_error(path, line, message)
        })?;
        self.raw.notes.below_rating += u64::from(number < least);
        Ok(number >= least)
    }

    /// What was found beside the rows.
    pub fn notes(&mut self) -> &mut SourceNotes {
        &mut self.raw.notes
    }

    /// Adds one interaction, found in `line` of the file `path`. `time` must be given exactly when the builder was made with `timed`.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty id, a list in the place of an id, a text that is no time.
    pub fn interaction(&mut self, path: &Path, line: u64, user: &str, item: &str, time: Option<&str>) -> Result<()> {
        for (which, token) in [("user", user), ("item", item)] {
            if token.is_empty() {
                return Err(data_error(path, line, format!("the {which} is empty; give it an id or remove the row")));
            }
            if is_list(token) {
                let message = format!("the {which} is the list `{}`; a row is one interaction, so give each entry a row", clean::id(token));
                return Err(data_error(path, line, message));
            }
        }
        let rows = self.raw.users.len() as u64;
        if rows >= u64::from(u32::MAX) {
            return Err(data_error(path, line, "more than 4,294,967,295 interactions; split the file"));
        }
        if let (Some(times), Some(text)) = (self.times.as_mut(), time) {
            times.push(text).map_err(|message| data_error(path, line, message))?;
        }
        match self.raw.first_line {
            None if rows == 0 => self.raw.first_line = Some(line),
            Some(first) if first + rows != line => self.raw.first_line = None,
            _ => {}
        }
        let (user, item) = (self.users.intern(user), self.items.intern(item));
        self.raw.users.push(user);
        self.raw.items.push(item);
        Ok(())
    }

    /// Says that the user of the interaction added last belongs to the group `name`, by the column `column`. To be called for every
    /// interaction, or for none.
    ///
    /// # Errors
    /// [`Error::Data`] for an empty name, and for another one than an earlier interaction of the user has.
    pub fn group(&mut self, path: &Path, line: u64, user: &str, column: &str, name: &str) -> Result<()> {
        let (user_name, column_name) = (clean::id(user), clean::id(column));
        if name.is_empty() {
            let message =
                format!("user `{user_name}` has no value of `{column_name}`; give every row one (data.group_column='' reads none)");
            return Err(data_error(path, line, message));
        }
        let Some(&index) = self.raw.users.last() else { return Ok(()) };
        match self.groups.get(index as usize) {
            None => self.groups.push((name.to_owned(), line)),
            Some((earlier, _)) if earlier == name => {}
            Some((earlier, first)) => {
                let message = format!(
                    "user `{user_name}` has two values of `{column_name}`: `{}` (line {first}) and `{}`; a user belongs to one group, so \
                     correct the rows or name another column by data.group_column",
                    clean::id(earlier),
                    clean::id(name)
                );
                return Err(data_error(path, line, message));
            }
        }
        Ok(())
    }

    /// Ends the interactions.
    ///
    /// # Errors
    /// [`Error::Data`] where there is none.
    pub fn end_interactions(&mut self, path: &Path) -> Result<()> {
        if self.raw.users.is_empty() {
            let message = match self.raw.notes.below_rating {
                0 => "there is a header but no interaction below it".to_string(),
                gone => format!("no interaction is left: {gone} rows have a rating below data.min_rating"),
            };
            return Err(data_error(path, 1, message));
        }
        self.raw.times = self.times.take().map(TimeColumn::finish);
        self.raw.catalogue = vec![ItemText::default(); self.items.map.len()];
        self.described = vec![0; self.items.map.len()];
        Ok(())
    }

    /// The place of a catalogue row of `item`, for [`RawBuilder::describe`]; `None` for an item without an interaction.
    ///
    /// # Errors
    /// [`Error::Data`] where an earlier row describes the item.
    pub fn wants(&mut self, path: &Path, line: u64, item: &str) -> Result<Option<u32>> {
        let catalogue = self.raw.notes.catalogue.get_or_insert_default();
        catalogue.rows += 1;
        let Some(&index) = self.items.map.get(item) else {
            if self.stranger.is_empty() {
                self.stranger = clean::id(item);
            }
            return Ok(None);
        };
        catalogue.matched += 1;
        let first = std::mem::replace(&mut self.described[index as usize], line);
        if first != 0 {
            let message = format!("item `{}` is described twice (first in line {first}); keep one row", clean::id(item));
            return Err(data_error(path, line, message));
        }
        Ok(Some(index))
    }

    /// As [`RawBuilder::wants`]; of several rows of an item the first one counts.
    pub fn wants_first(&mut self, item: &str) -> Option<u32> {
        let described = |index: &u32| self.described[*index as usize] != 0;
        if self.items.map.get(item).is_some_and(described) {
            self.raw.notes.catalogue.get_or_insert_default().rows += 1;
            return None;
        }
        // Only a second row is an error.
        self.wants(Path::new(""), u64::MAX, item).ok().flatten()
    }

    /// Sets the texts of the item `index`; also-bought tokens without an interaction are left out.
    pub fn describe(&mut self, index: u32, row: CatalogueRow) {
        let also_bought = row.also_bought.iter().filter_map(|token| self.items.map.get(token.as_str()).copied()).collect();
        self.raw.catalogue[index as usize] = ItemText { title: row.title, categories: row.categories, brand: row.brand, also_bought };
    }

    /// Ends the catalogue.
    ///
    /// # Errors
    /// [`Error::Data`] where it has rows and describes no item at all.
    pub fn end_catalogue(&mut self, path: &Path) -> Result<()> {
        let Some(catalogue) = &self.raw.notes.catalogue else { return Ok(()) };
        if catalogue.rows == 0 || catalogue.matched > 0 {
            return Ok(());
        }
        let own = self.items.map.iter().find(|(_, index)| **index == 0).map_or("", |(token, _)| token);
        let message = format!(
            "none of its {} items occurs in the interactions (`{}` is the first here, `{}` the first there, of {}); give the catalogue of \
             this data set, name the column of the ids by data.item_column, or leave the catalogue away",
            catalogue.rows,
            self.stranger,
            clean::id(own),
            self.items.map.len()
        );
        Err(data_error(path, 0, message))
    }

    /// As [`RawBuilder::with_filters`], for rows that have neither times nor ratings; `format` is called so in a message.
    ///
    /// # Errors
    /// [`Error::Setting`] where `data.min_rating` asks for ratings.
    pub fn of_sequences(settings: &DataSettings, format: &str) -> Result<RawBuilder> {
        let builder = RawBuilder::with_filters(settings, false);
        match builder.min_rating {
            Some(_) => Err(Error::setting("data.min_rating", format!("is set, and format `{format}` has no ratings; leave it at 0"))),
            None => Ok(builder),
        }
    }

    /// Adds what `user` met, in order, found in `line` of the file `path`; entries that cannot be read are skipped as rows are.
    ///
    /// # Errors
    /// As for [`RawBuilder::interaction`] and [`RawBuilder::good`].
    pub fn sequence<'i>(&mut self, path: &Path, line: u64, user: &str, items: impl IntoIterator<Item = &'i str>) -> Result<()> {
        for item in items {
            let added = self.interaction(path, line, user, item, None);
            self.good(added)?;
        }
        Ok(())
    }

    /// As [`RawBuilder::end_catalogue`], of a file without a header that says what it holds: where titles and categories were found, and what is unused.
    ///
    /// # Errors
    /// As for it.
    pub fn end_described(&mut self, path: &Path, found: [Option<&str>; 2], unused: &[&str]) -> Result<()> {
        let catalogue = self.raw.notes.catalogue.get_or_insert_default();
        [catalogue.title, catalogue.category] = found.map(|name| name.map(str::to_owned));
        catalogue.unused = unused.iter().map(|name| (*name).to_owned()).collect();
        self.end_catalogue(path)
    }

    /// Ends the interactions of the file `path`, reads the catalogue by `describe` where there is one, and gives what was collected.
    ///
    /// # Errors
    /// As for [`RawBuilder::end_interactions`], and those of `describe`.
    pub fn complete<S>(
        mut self,
        path: &Path,
        items: Option<S>,
        describe: impl FnOnce(&mut RawBuilder, S) -> Result<()>,
    ) -> Result<RawData> {
        self.end_interactions(path)?;
        items.map_or(Ok(()), |source| describe(&mut self, source))?;
        Ok(self.finish())
    }

    /// What was collected.
    pub fn finish(self) -> RawData {
        let values: Vec<&str> = self.groups.iter().map(|(name, _)| name.as_str()).collect();
        let groups = (!values.is_empty()).then(|| UserGroups::new("", &values));
        RawData { user_tokens: self.users.into_tokens(), item_tokens: self.items.into_tokens(), groups, ..self.raw }
    }
}

/// One row of a catalogue file, also-bought still as tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogueRow {
    /// Title.
    pub title: String,
    /// Categories, broad to narrow.
    pub categories: Vec<String>,
    /// Brand or maker.
    pub brand: String,
    /// Ids of items often bought together.
    pub also_bought: Vec<String>,
}
