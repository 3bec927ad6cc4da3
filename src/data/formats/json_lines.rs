//! JSON lines: one object a line, whose keys are the columns that the settings name (`data.user_column` and the others).

use super::objects::{entries, first, needed, object};
use crate::config::DataSettings;
use crate::data::builder::{CatalogueRow, RawBuilder};
use crate::data::columns::{CATEGORIES, RATINGS, TITLES, no_interactions};
use crate::data::reader::{CatalogueNotes, RawData, Reader};
use crate::data::rows::{Encoding, each_line};
use crate::data::source::Source;
use crate::data::{Progress, text};
use crate::{Error, Result};

/// Reader of JSON lines.
pub struct JsonLines;

/// The name that is set, else the usual ones.
fn either<'a>(set: &'a str, usual: &'a [&'a str]) -> Vec<&'a str> {
    if set.is_empty() { usual.to_vec() } else { vec![set] }
}

impl Reader for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let source = inter.ok_or_else(no_interactions)?;
        let path = source.path().to_path_buf();
        let (user, item) = ([settings.user_column.as_str()], [settings.item_column.as_str()]);
        let (time, group) = ([settings.time_column.as_str()], [settings.group_column.as_str()]);
        let rating = either(&settings.rating_column, RATINGS);
        let mut builder = RawBuilder::with_filters(settings, !time[0].is_empty());
        each_line(source, Encoding::Utf8, "reading interactions", progress, |line, text| {
            let row = text.and_then(|text| {
                let fields = object(&path, line, text)?;
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
        builder.end_interactions(&path)?;
        if let Some(source) = items {
            catalogue(&mut builder, settings, source, progress)?;
        }
        Ok(builder.finish())
    }
}

fn catalogue(builder: &mut RawBuilder, settings: &DataSettings, source: &mut Source, progress: &Progress) -> Result<()> {
    let path = source.path().to_path_buf();
    let item = [settings.item_column.as_str()];
    let titles = either(&settings.title_column, TITLES);
    let categories = either(&settings.category_column, CATEGORIES);
    let brand = either(&settings.brand_column, &["brand"]);
    let also = either(&settings.also_bought_column, &["also_bought"]);
    let mut met = [false; 4];
    each_line(source, Encoding::Utf8, "reading catalogue", progress, |line, text| {
        let row = text.and_then(|text| {
            let fields = object(&path, line, text)?;
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
        return Err(Error::setting(key, format!("no line of {} has the key `{name}`", path.display())));
    }
    let counted = builder.notes().catalogue.take().unwrap_or_default();
    let found = |met: bool, names: &[&str]| met.then(|| names.join(" or "));
    let (title, category) = (found(met[0], &titles), found(met[1], &categories));
    builder.notes().catalogue = Some(CatalogueNotes { title, category, ..counted });
    builder.end_catalogue(&path)
}
