//! Rows that are objects of named values, whatever file holds them: which keys are read, and what becomes of a row.

use std::path::Path;

use super::objects::{Fields, entries, first, needed};
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::{CATEGORIES, RATINGS, TITLES};
use crate::data::reader::{CatalogueNotes, RawData};
use crate::data::{Progress, text};
use crate::{Error, Result};

/// What is done with a row: its number from 1, and its fields or why it cannot be read.
pub(super) type Each<'e> = dyn FnMut(u64, Result<Fields>) -> Result<()> + 'e;

/// A file of such rows.
pub(super) trait Rows {
    /// Where it is.
    fn path(&self) -> &Path;

    /// Gives every row to `row`.
    ///
    /// # Errors
    /// Those of the file, and what `row` refuses.
    fn each(&mut self, stage: &str, progress: &Progress, row: &mut Each) -> Result<()>;
}

/// The name that is set, else the usual ones.
fn either<'a>(set: &'a str, usual: &'a [&'a str]) -> Vec<&'a str> {
    if set.is_empty() { usual.to_vec() } else { vec![set] }
}

/// Interactions and catalogue by the columns that `settings` name (`data.user_column` and the others).
///
/// # Errors
/// [`Error::Data`] for a row that cannot be used, with its number; [`Error::Setting`] for a column of the catalogue that is not there.
pub(super) fn read(settings: &DataSettings, inter: &mut dyn Rows, items: Option<&mut dyn Rows>, progress: &Progress) -> Result<RawData> {
    let path = inter.path().to_path_buf();
    let (user, item) = ([settings.user_column.as_str()], [settings.item_column.as_str()]);
    let (time, group) = ([settings.time_column.as_str()], [settings.group_column.as_str()]);
    let rating = either(&settings.rating_column, RATINGS);
    let mut builder = RawBuilder::with_filters(settings, !time[0].is_empty());
    inter.each("reading interactions", progress, &mut |line, fields| {
        let row = fields.and_then(|fields| {
            let user = needed(&path, line, &fields, &user)?;
            let item = needed(&path, line, &fields, &item)?;
            let time = if time[0].is_empty() { None } else { Some(needed(&path, line, &fields, &time)?) };
            if !builder.keeps_rating(&path, line, first(&fields, &rating).as_deref())? {
                return Ok(None);
            }
            builder.interaction(&path, line, &user, &item, time.as_deref())?;
            Ok(Some((user, fields)))
        });
        let Some(Some((user, fields))) = builder.good(row)? else { return Ok(()) };
        if group[0].is_empty() {
            return Ok(());
        }
        builder.group(&path, line, &user, group[0], &first(&fields, &group).unwrap_or_default())
    })?;
    builder.complete(&path, items, |builder, source| catalogue(builder, settings, source, progress))
}

fn catalogue(builder: &mut RawBuilder, settings: &DataSettings, source: &mut dyn Rows, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    let item = [settings.item_column.as_str()];
    let titles = either(&settings.title_column, TITLES);
    let categories = either(&settings.category_column, CATEGORIES);
    let brand = either(&settings.brand_column, &["brand"]);
    let also = either(&settings.also_bought_column, &["also_bought"]);
    let mut met = [false; 4];
    source.each("reading catalogue", progress, &mut |line, fields| {
        let row = fields.and_then(|fields| {
            let item = needed(&path, line, &fields, &item)?;
            Ok((builder.wants(&path, line, &item)?, fields))
        });
        let Some((index, fields)) = builder.good(row)? else { return Ok(()) };
        for (met, names) in met.iter_mut().zip([&titles, &categories, &brand, &also]) {
            *met |= names.iter().any(|name| fields.contains_key(*name));
        }
        let Some(index) = index else { return Ok(()) };
        let list = |names: &[&str]| names.iter().map(|name| entries(fields.get(*name))).find(|all| !all.is_empty()).unwrap_or_default();
        let row = CatalogueRow {
            title: text::clean(&first(&fields, &titles).unwrap_or_default()),
            categories: list(&categories),
            brand: text::clean(&first(&fields, &brand).unwrap_or_default()),
            also_bought: list(&also),
        };
        builder.describe(index, row);
        Ok(())
    })?;
    let named = [
        ("data.title_column", &settings.title_column),
        ("data.category_column", &settings.category_column),
        ("data.brand_column", &settings.brand_column),
        ("data.also_bought_column", &settings.also_bought_column),
    ];
    if let Some(((key, name), _)) = named.into_iter().zip(met).find(|((_, name), met)| !name.is_empty() && !met) {
        return Err(Error::setting(key, format!("no row of {} has the key `{name}`", path.display())));
    }
    let counted = builder.notes().catalogue.take().unwrap_or_default();
    let found = |met: bool, names: &[&str]| met.then(|| names.join(" or "));
    let (title, category) = (found(met[0], &titles), found(met[1], &categories));
    builder.notes().catalogue = Some(CatalogueNotes { title, category, ..counted });
    builder.end_catalogue(&path)
}
