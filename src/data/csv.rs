//! CSV with named columns. The interactions' columns are named in the settings; the catalogue shares the item column and
//! may have a title, categories (entries parted by `|` or a quoted list), a brand and also-bought items (by blanks or `|`).

use std::io::{self, BufRead, Read};
use std::path::Path;

use super::builder::{CatalogueRow, RawBuilder};
use super::columns::{Header, no_interactions, separator};
use super::prepare::Progress;
use super::reader::{CatalogueNotes, RawData, Reader, data_error};
use super::source::{MAX_LINE, Source};
use super::text::{ListStyle, clean, list};
use crate::base::clean::id as clean_id;
use crate::config::DataSettings;
use crate::{Error, Result};

/// Reader of CSV files.
pub struct Csv;

/// Rows between two reports of progress.
const REPORT: u64 = 1 << 16;

/// The content of a source up to a point that moves on with every record, so that a quote that is never closed does not take the whole
/// file for one record.
struct Bounded<'a> {
    content: &'a mut dyn BufRead,
    read: u64,
    until: u64,
    passed: bool,
}

/// Bytes that a reader may take beyond the longest record: line end, byte order mark.
const SLACK: u64 = 16;

impl Read for Bounded<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read >= self.until {
            self.passed = true;
            return Err(io::Error::other("too long"));
        }
        let room = usize::try_from(self.until - self.read).map_or(out.len(), |room| room.min(out.len()));
        let n = self.content.read(&mut out[..room])?;
        self.read += n as u64;
        Ok(n)
    }
}

/// Calls `row(line, fields)` for every record below the header; `start` is given the header first.
fn rows<C>(
    source: &mut Source,
    separator: u8,
    stage: &str,
    progress: &Progress,
    start: impl FnOnce(&Header) -> Result<C>,
    mut row: impl FnMut(&C, u64, Result<&::csv::StringRecord>) -> Result<()>,
) -> Result<()> {
    let (state, content) = source.parts();
    let path = state.path.as_path();
    let bounded = Bounded { content, read: 0, until: MAX_LINE as u64 + SLACK, passed: false };
    let mut reader = ::csv::ReaderBuilder::new().delimiter(separator).buffer_capacity(1 << 16).from_reader(bounded);
    let fail = |error: ::csv::Error, passed: bool, line: u64| {
        if passed {
            return state.too_long(line);
        }
        let line = error.position().map_or(line, ::csv::Position::line);
        match error.into_kind() {
            ::csv::ErrorKind::Io(error) => state.fail(error),
            ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                data_error(path, line, format!("{len} fields where the header has {expected_len}"))
            }
            ::csv::ErrorKind::Utf8 { .. } => data_error(path, line, "the line is not UTF-8; convert the file (for example with iconv)"),
            other => data_error(path, line, format!("cannot be read as CSV: {other:?}")),
        }
    };
    let mut record = ::csv::StringRecord::new();
    // The header is a record like any other here, so that its errors have the same form.
    let header = match reader.headers().cloned() {
        Ok(header) => header,
        Err(error) => return Err(fail(error, reader.get_ref().passed, 1)),
    };
    if header.is_empty() {
        return Err(data_error(path, 0, "the file is empty"));
    }
    check_separator(path, &header, separator)?;
    let context = start(&Header::new(path, header.iter().map(|name| name.trim().to_owned()).collect())?)?;
    let mut count = 0u64;
    loop {
        let at = reader.position().clone();
        reader.get_mut().until = at.byte() + MAX_LINE as u64 + SLACK;
        match reader.read_record(&mut record) {
            Ok(true) => {
                let line = record.position().map_or(0, ::csv::Position::line);
                row(&context, line, Ok(&record))?;
            }
            Ok(false) => break,
            Err(error) => {
                // Such a record is read to its end, so that the next one can follow.
                let whole = matches!(error.kind(), ::csv::ErrorKind::UnequalLengths { .. } | ::csv::ErrorKind::Utf8 { .. });
                let error = fail(error, reader.get_ref().passed, at.line());
                if !whole {
                    return Err(error);
                }
                row(&context, at.line(), Err(error))?;
            }
        }
        count += 1;
        if count.is_multiple_of(REPORT) {
            let (done, total) = state.progress();
            progress(stage, done, total);
        }
    }
    let (_, total) = state.progress();
    progress(stage, total, total);
    Ok(())
}

/// The character that `data.separator` names.
///
/// # Errors
/// [`Error::Setting`] for anything but one ASCII character or `tab`.
pub(super) fn separator_of(setting: &str) -> Result<u8> {
    match (setting, setting.as_bytes()) {
        ("", _) => Ok(b','),
        ("tab" | "\\t", _) => Ok(b'\t'),
        (_, [byte]) if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => {
            let message = format!("is `{}`, wanted one character that is neither letter, digit nor quote, or `tab`", clean_id(setting));
            Err(Error::setting("data.separator", message))
        }
    }
}

/// Refuses a header of one column that something else than `wanted` separates.
fn check_separator(path: &Path, header: &::csv::StringRecord, wanted: u8) -> Result<()> {
    if header.len() > 1 {
        return Ok(());
    }
    let Some(name) = header.get(0).and_then(|field| separator(field, char::from(wanted), |_| true)) else { return Ok(()) };
    let atomic = if name == "tabs" && header[0].contains(':') { "; data.format=recbole reads atomic files" } else { "" };
    let needs = match wanted {
        b',' => "CSV needs commas".to_owned(),
        b'\t' => "data.separator says tabs".to_owned(),
        other => format!("data.separator says `{}`", char::from(other)),
    };
    let message = format!("the columns are separated by {name}; {needs}. data.separator names another separator{atomic}");
    Err(data_error(path, 1, message))
}

impl Reader for Csv {
    fn name(&self) -> &'static str {
        "csv"
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
        let separator = separator_of(&settings.separator)?;
        let mut builder = RawBuilder::with_filters(settings, !settings.time_column.is_empty());
        let mut unused = Vec::new();
        let columns = |header: &Header| {
            let columns = header.interactions(settings)?;
            unused = header.unused(&columns.all());
            Ok(columns)
        };
        rows(source, separator, "reading interactions", progress, columns, |c, line, r| {
            let Some(r) = builder.good(r)? else { return Ok(()) };
            let keeps = builder.keeps_rating(&path, line, c.rating.map(|at| &r[at]));
            if builder.good(keeps)? != Some(true) {
                return Ok(());
            }
            let added = builder.interaction(&path, line, r[c.user].trim(), r[c.item].trim(), c.time.map(|t| r[t].trim()));
            if builder.good(added)?.is_none() {
                return Ok(());
            }
            c.group.map_or(Ok(()), |g| builder.group(&path, line, r[c.user].trim(), &settings.group_column, r[g].trim()))
        })?;
        builder.notes().unused = unused;
        builder.end_interactions(&path)?;
        if let Some(source) = items {
            let path = source.path().to_path_buf();
            let mut found = CatalogueNotes::default();
            let columns = |header: &Header| {
                let columns = header.catalogue(settings)?;
                found = CatalogueNotes::of(header, &columns);
                Ok(columns)
            };
            rows(source, separator, "reading catalogue", progress, columns, |c, line, r| {
                let Some(r) = builder.good(r)? else { return Ok(()) };
                let wanted = builder.wants(&path, line, r[c.item].trim());
                let Some(Some(index)) = builder.good(wanted)? else { return Ok(()) };
                let row = CatalogueRow {
                    title: c.title.map_or(String::new(), |c| clean(&r[c])),
                    categories: c.category.map_or(Vec::new(), |c| list(&r[c], ListStyle::Bars)),
                    brand: c.brand.map_or(String::new(), |c| clean(&r[c])),
                    also_bought: c.also_bought.map_or(Vec::new(), |c| list(&r[c].replace('|', " "), ListStyle::Blanks)),
                };
                builder.describe(index, row);
                Ok(())
            })?;
            let counted = builder.notes().catalogue.take().unwrap_or_default();
            builder.notes().catalogue = Some(CatalogueNotes { rows: counted.rows, matched: counted.matched, ..found });
            builder.end_catalogue(&path)?;
        }
        Ok(builder.finish())
    }
}
