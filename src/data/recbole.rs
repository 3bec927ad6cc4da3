//! RecBole atomic files: tab-separated, a header of `name:type` fields, types token, token_seq, float and float_seq.

use std::path::Path;

use smallvec::SmallVec;

use super::builder::{CatalogueRow, RawBuilder};
use super::columns::{Header, no_interactions, separator, wrong_width};
use super::prepare::Progress;
use super::reader::{CatalogueNotes, RawData, Reader, data_error};
use super::source::Source;
use super::text::{ListStyle, clean, list};
use crate::Result;
use crate::base::clean::id;
use crate::base::names;
use crate::config::DataSettings;

/// Reader of RecBole atomic files.
pub struct RecBole;

const TYPES: &[&str] = &["token", "token_seq", "float", "float_seq"];

/// Rows between two reports of progress.
const REPORT: u64 = 1 << 16;

/// A text table: names and types of its columns, and the lines below the header.
struct Table<'a> {
    source: &'a mut Source,
    header: Header,
    types: Vec<String>,
}

impl<'a> Table<'a> {
    fn open(source: &'a mut Source) -> Result<Table<'a>> {
        let path = source.path().to_path_buf();
        let mut buffer = Vec::new();
        let mut line = 1;
        // Blank lines are looked through only to tell an empty file.
        while source.read_line(line, &mut buffer)? {
            if line == 1 && buffer.starts_with(b"\xEF\xBB\xBF") {
                buffer.drain(..3);
            }
            if !buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
            line += 1;
        }
        if buffer.is_empty() {
            return Err(data_error(&path, 0, "the file is empty"));
        }
        if line > 1 {
            return Err(data_error(&path, 1, "the line is blank where the header belongs"));
        }
        let header = std::str::from_utf8(&buffer).map_err(|_| not_utf8(&path, 1))?;
        let fields: Vec<&str> = header.split('\t').collect();
        let wrong = |message| data_error(&path, 1, message);
        if let [field] = fields[..]
            && let Some(message) = other_separator(field)
        {
            return Err(wrong(message));
        }
        let (mut names, mut types) = (Vec::new(), Vec::new());
        for field in fields {
            let Some((name, kind)) = field.split_once(':') else {
                return Err(wrong(format!("header field `{}` has no type; atomic files name columns as `user_id:token`", id(field))));
            };
            if !TYPES.contains(&kind) {
                let hint = names::nearest(kind, TYPES.iter().copied()).map_or(String::new(), |n| format!("; the nearest is `{n}`"));
                let message = format!("column `{}` has the unknown type `{}`{hint}. Types: {}", id(name), id(kind), TYPES.join(", "));
                return Err(wrong(message));
            }
            names.push(name.to_owned());
            types.push(kind.to_owned());
        }
        Ok(Table { source, header: Header::new(&path, names)?, types })
    }

    /// Refuses another type than one of `wanted` for the column at `at`, which holds `what`.
    fn check_type(&self, at: usize, what: &str, wanted: &[&str]) -> Result<()> {
        let (name, kind) = (self.header.name(at), &self.types[at]);
        if wanted.contains(&kind.as_str()) {
            return Ok(());
        }
        let wanted = wanted.join("` or `");
        let reason = if kind.ends_with("_seq") { "a list is not read as one value" } else { "numbers are not read as ids" };
        let message = format!("{what} column `{}` has type `{kind}`; `{wanted}` is needed, {reason}", id(name));
        Err(data_error(self.header.path(), 1, message))
    }

    /// Calls `row(line, fields)` for every line; blank lines are accepted at the end of the file only.
    fn rows(self, stage: &str, progress: &Progress, mut row: impl FnMut(u64, Result<&[&str]>) -> Result<()>) -> Result<()> {
        let (path, width) = (self.header.path(), self.header.width());
        let mut buffer = Vec::new();
        let mut line = 2;
        let mut blank = None;
        while self.source.read_line(line, &mut buffer)? {
            if let Some(at) = blank.filter(|_| !buffer.is_empty()) {
                return Err(data_error(path, at, wrong_width(1, width, "")));
            }
            if buffer.is_empty() {
                blank = blank.or(Some(line));
                line += 1;
                continue;
            }
            match std::str::from_utf8(&buffer) {
                Ok(text) => {
                    let fields: SmallVec<[&str; 16]> = text.split('\t').collect();
                    let wrong = || data_error(path, line, wrong_width(fields.len(), width, text));
                    row(line, if fields.len() == width { Ok(&fields[..]) } else { Err(wrong()) })?;
                }
                Err(_) => row(line, Err(not_utf8(path, line)))?,
            }
            if line.is_multiple_of(REPORT) {
                let (done, total) = self.source.state.progress();
                progress(stage, done, total);
            }
            line += 1;
        }
        let (_, total) = self.source.state.progress();
        progress(stage, total, total);
        Ok(())
    }
}

fn not_utf8(path: &Path, line: u64) -> crate::Error {
    data_error(path, line, "the line is not UTF-8; convert the file (for example with iconv)")
}

/// What is wrong with a header without a tab, where it is separated by something else.
fn other_separator(header: &str) -> Option<String> {
    let typed = |piece: &str| piece.rsplit_once(':').is_some_and(|(_, kind)| TYPES.contains(&kind.trim()));
    if let Some(name) = separator(header, '\t', |pieces| pieces.iter().all(|piece| typed(piece))) {
        return Some(format!("the columns are separated by {name}; atomic files need tabs. Put a tab for each separator in every line"));
    }
    let plain = !header.contains(':');
    let name = separator(header, '\t', |_| plain)?;
    let csv = if name == "commas" { "; data.format=csv reads such a file" } else { "" };
    Some(format!("the columns are separated by {name} and have no types; atomic files need tabs and `name:type`{csv}"))
}

impl Reader for RecBole {
    fn name(&self) -> &'static str {
        "recbole"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let table = Table::open(inter.ok_or_else(no_interactions)?)?;
        let path = table.header.path().to_path_buf();
        let columns = table.header.interactions(settings)?;
        table.check_type(columns.user, "user", &["token"])?;
        table.check_type(columns.item, "item", &["token"])?;
        if let Some(time) = columns.time {
            table.check_type(time, "time", &["float", "token"])?;
        }
        if let Some(group) = columns.group {
            table.check_type(group, "group", &["token"])?;
        }
        let mut builder = RawBuilder::with_filters(settings, columns.time.is_some());
        builder.notes().unused = table.header.unused(&columns.all());
        table.rows("reading interactions", progress, |line, f| {
            let Some(f) = builder.good(f)? else { return Ok(()) };
            let keeps = builder.keeps_rating(&path, line, columns.rating.map(|r| f[r]));
            if builder.good(keeps)? != Some(true) {
                return Ok(());
            }
            let added = builder.interaction(&path, line, f[columns.user], f[columns.item], columns.time.map(|t| f[t]));
            if builder.good(added)?.is_none() {
                return Ok(());
            }
            columns.group.map_or(Ok(()), |g| builder.group(&path, line, f[columns.user], &settings.group_column, f[g]))
        })?;
        builder.complete(&path, items, |builder, source| read_catalogue(builder, settings, source, progress))
    }
}

fn read_catalogue(builder: &mut RawBuilder, settings: &DataSettings, source: &mut Source, progress: &Progress) -> Result<()> {
    let table = Table::open(source)?;
    let path = table.header.path().to_path_buf();
    let columns = table.header.catalogue(settings)?;
    table.check_type(columns.item, "item", &["token"])?;
    builder.notes().catalogue = Some(CatalogueNotes::of(&table.header, &columns));
    // A single token is one category whatever is in it; only a sequence is cut.
    let single = columns.category.is_some_and(|c| table.types[c] == "token");
    table.rows("reading catalogue", progress, |line, f| {
        let Some(f) = builder.good(f)? else { return Ok(()) };
        let wanted = builder.wants(&path, line, f[columns.item]);
        let Some(Some(index)) = builder.good(wanted)? else { return Ok(()) };
        let categories = match columns.category {
            Some(c) if single => Some(clean(f[c])).filter(|c| !c.is_empty()).into_iter().collect(),
            Some(c) => list(f[c], ListStyle::Blanks),
            None => Vec::new(),
        };
        let row = CatalogueRow {
            title: columns.title.map_or(String::new(), |c| clean(f[c])),
            categories,
            brand: columns.brand.map_or(String::new(), |c| clean(f[c])),
            also_bought: columns.also_bought.map_or(Vec::new(), |c| list(f[c], ListStyle::Blanks)),
        };
        builder.describe(index, row);
        Ok(())
    })?;
    builder.end_catalogue(&path)
}
