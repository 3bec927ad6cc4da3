//! CSV with named columns. The interactions' columns are named in the settings; the catalogue shares the item column and
//! may have `title`, `categories` (entries parted by `|` or a quoted list), `brand` and `also_bought` (by blanks or `|`).

use super::prepare::Progress;
use super::reader::{Builder, CatalogueColumns, CatalogueRow, RawData, Reader, column, data_error};
use super::source::Source;
use super::text::{ListStyle, clean, list};
use crate::config::DataSettings;
use crate::{Error, Result};

/// Reader of CSV files.
pub struct Csv;

/// Rows between two reports of progress.
const REPORT: u64 = 1 << 16;

/// Calls `row(line, fields)` for every record below the header; `start` is given the header first.
fn rows<C>(
    source: &Source,
    stage: &str,
    progress: &Progress,
    start: impl FnOnce(&[&str]) -> Result<C>,
    mut row: impl FnMut(&C, u64, &::csv::StringRecord) -> Result<()>,
) -> Result<()> {
    let path = source.path.as_path();
    let fail = |e: ::csv::Error| {
        let line = e.position().map_or(0, ::csv::Position::line);
        let message = match e.kind() {
            ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!("{len} fields where the header has {expected_len}"),
            _ => e.to_string(),
        };
        data_error(path, line, message)
    };
    let mut reader = ::csv::ReaderBuilder::new().from_reader(source.text.as_bytes());
    let header = reader.headers().map_err(fail)?.clone();
    let names: Vec<&str> = header.iter().map(str::trim).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)).map(|(_, n)| n) {
        return Err(data_error(path, 1, format!("column `{twice}` stands twice in the header")));
    }
    let context = start(&names)?;
    let total = source.text.len() as u64;
    let mut record = ::csv::StringRecord::new();
    let mut count = 0u64;
    while reader.read_record(&mut record).map_err(fail)? {
        let line = record.position().map_or(0, ::csv::Position::line);
        row(&context, line, &record)?;
        count += 1;
        if count.is_multiple_of(REPORT) {
            progress(stage, reader.position().byte(), total);
        }
    }
    progress(stage, total, total);
    Ok(())
}

impl Reader for Csv {
    fn name(&self) -> &'static str {
        "csv"
    }

    fn read(&self, settings: &DataSettings, inter: Option<&Source>, items: Option<&Source>, progress: &Progress) -> Result<RawData> {
        let source = inter.ok_or_else(|| Error::setting("data.inter", "an interactions file is needed"))?;
        let path = source.path.as_path();
        let mut builder = Builder::new(!settings.time_column.is_empty());
        let columns = |names: &[&str]| {
            let user = column(path, names, "data.user_column", &settings.user_column)?;
            let item = column(path, names, "data.item_column", &settings.item_column)?;
            let time = match settings.time_column.as_str() {
                "" => None,
                name => Some(column(path, names, "data.time_column", name)?),
            };
            Ok((user, item, time))
        };
        rows(source, "reading interactions", progress, columns, |&(user, item, time), line, r| {
            builder.interaction(path, line, r[user].trim(), r[item].trim(), time.map(|t| r[t].trim()))
        })?;
        builder.end_interactions(path)?;
        if let Some(source) = items {
            let path = source.path.as_path();
            let columns =
                |names: &[&str]| Ok((column(path, names, "data.item_column", &settings.item_column)?, CatalogueColumns::find(names)));
            rows(source, "reading catalogue", progress, columns, |(item, c), line, r| {
                let row = CatalogueRow {
                    title: c.title.map_or(String::new(), |c| clean(&r[c])),
                    categories: c.categories.map_or(Vec::new(), |c| list(&r[c], ListStyle::Bars)),
                    brand: c.brand.map_or(String::new(), |c| clean(&r[c])),
                    also_bought: c.also_bought.map_or(Vec::new(), |c| list(&r[c].replace('|', " "), ListStyle::Blanks)),
                };
                builder.describe(path, line, r[*item].trim(), row)
            })?;
        }
        Ok(builder.finish())
    }
}
