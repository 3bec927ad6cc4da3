//! RecBole atomic files: tab-separated, a header of `name:type` fields, types token, token_seq, float and float_seq.

use std::path::Path;

use super::prepare::Progress;
use super::reader::{Builder, CatalogueColumns, CatalogueRow, RawData, Reader, column, data_error, nearest, shorten};
use super::source::Source;
use super::text::{ListStyle, clean, list};
use crate::config::DataSettings;
use crate::{Error, Result};

/// Reader of RecBole atomic files.
pub struct RecBole;

const TYPES: &[&str] = &["token", "token_seq", "float", "float_seq"];

/// Rows between two reports of progress.
const REPORT: u64 = 1 << 16;

/// A text table: names and types of its columns, and the lines below the header.
struct Table<'a> {
    path: &'a Path,
    names: Vec<&'a str>,
    types: Vec<&'a str>,
    body: &'a str,
}

impl<'a> Table<'a> {
    fn open(source: &'a Source) -> Result<Table<'a>> {
        let path = source.path.as_path();
        let (header, body) = source.text.split_once('\n').unwrap_or((&source.text, ""));
        let (mut names, mut types) = (Vec::new(), Vec::new());
        for field in header.trim_end_matches('\r').split('\t') {
            let Some((name, kind)) = field.split_once(':') else {
                let message = format!("header field `{}` has no type; atomic files name columns as `user_id:token`", shorten(field));
                return Err(data_error(path, 1, message));
            };
            if !TYPES.contains(&kind) {
                let hint = nearest(kind, TYPES).unwrap_or("token");
                let message = format!("column `{}` has the unknown type `{}`; the nearest is `{hint}`", shorten(name), shorten(kind));
                return Err(data_error(path, 1, message));
            }
            if names.contains(&name) {
                return Err(data_error(path, 1, format!("column `{name}` stands twice in the header")));
            }
            names.push(name);
            types.push(kind);
        }
        Ok(Table { path, names, types, body })
    }

    /// Calls `row(line, fields)` for every line; blank lines are accepted at the end of the file only.
    fn rows(&self, stage: &str, progress: &Progress, mut row: impl FnMut(u64, &[&'a str]) -> Result<()>) -> Result<()> {
        let mut fields: Vec<&'a str> = Vec::with_capacity(self.names.len());
        let body = self.body.trim_end_matches(['\n', '\r']);
        if body.is_empty() {
            return Ok(());
        }
        let mut read = 0;
        for (index, text) in body.split('\n').enumerate() {
            let line = index as u64 + 2;
            read += text.len() as u64 + 1;
            fields.clear();
            fields.extend(text.strip_suffix('\r').unwrap_or(text).split('\t'));
            if fields.len() != self.names.len() {
                let message = format!("{} fields where the header has {}", fields.len(), self.names.len());
                return Err(data_error(self.path, line, message));
            }
            row(line, &fields)?;
            if line.is_multiple_of(REPORT) {
                progress(stage, read, body.len() as u64);
            }
        }
        progress(stage, body.len() as u64, body.len() as u64);
        Ok(())
    }
}

impl Reader for RecBole {
    fn name(&self) -> &'static str {
        "recbole"
    }

    fn read(&self, settings: &DataSettings, inter: Option<&Source>, items: Option<&Source>, progress: &Progress) -> Result<RawData> {
        let source = inter.ok_or_else(|| Error::setting("data.inter", "an interactions file is needed"))?;
        let table = Table::open(source)?;
        let user = column(table.path, &table.names, "data.user_column", &settings.user_column)?;
        let item = column(table.path, &table.names, "data.item_column", &settings.item_column)?;
        let time = match settings.time_column.as_str() {
            "" => None,
            name => Some(column(table.path, &table.names, "data.time_column", name)?),
        };
        if let Some(t) = time.filter(|&t| table.types[t] != "float") {
            let message = format!("time column `{}` has type `{}`; `float` is needed", table.names[t], table.types[t]);
            return Err(data_error(table.path, 1, message));
        }
        let mut builder = Builder::new(time.is_some());
        table.rows("reading interactions", progress, |line, f| {
            builder.interaction(table.path, line, f[user], f[item], time.map(|t| f[t]))
        })?;
        builder.end_interactions(table.path)?;
        if let Some(source) = items {
            read_catalogue(&mut builder, settings, source, progress)?;
        }
        Ok(builder.finish())
    }
}

fn read_catalogue(builder: &mut Builder, settings: &DataSettings, source: &Source, progress: &Progress) -> Result<()> {
    let table = Table::open(source)?;
    let item = column(table.path, &table.names, "data.item_column", &settings.item_column)?;
    let columns = CatalogueColumns::find(&table.names);
    // A single token is one category whatever is in it; only a sequence is cut.
    let categories = |f: &[&str]| match columns.categories {
        Some(c) if table.types[c] == "token" => Some(clean(f[c])).filter(|c| !c.is_empty()).into_iter().collect(),
        Some(c) => list(f[c], ListStyle::Blanks),
        None => Vec::new(),
    };
    table.rows("reading catalogue", progress, |line, f| {
        let row = CatalogueRow {
            title: columns.title.map_or(String::new(), |c| clean(f[c])),
            categories: categories(f),
            brand: columns.brand.map_or(String::new(), |c| clean(f[c])),
            also_bought: columns.also_bought.map_or(Vec::new(), |c| list(f[c], ListStyle::Blanks)),
        };
        builder.describe(table.path, line, f[item], row)
    })
}
