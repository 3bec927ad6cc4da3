//! What the readers of tables kept column by column share: which columns are read, and how values become those of JSON.

use serde_json::{Number, Value};

use crate::Result;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::columns::Header;
use crate::data::formats::keyed::{self, Rows};
use crate::data::reader::RawData;
use crate::data::source::Source;

/// A table of columns.
pub(super) trait Columns: Rows + Sized {
    /// The table in `source`; no row is read yet.
    ///
    /// # Errors
    /// Where it is no such table.
    fn open(source: &mut Source) -> Result<Self>;

    /// Names of its columns, in their order.
    fn names(&self) -> Vec<String>;

    /// Reads the columns at these places and no others.
    ///
    /// # Errors
    /// For a column whose values cannot be read.
    fn keep(&mut self, places: &[usize]) -> Result<()>;
}

/// Interactions and catalogue by the columns that `settings` name.
///
/// # Errors
/// Those of [`Columns`] and [`keyed::read`].
pub(super) fn read<T: Columns>(
    settings: &DataSettings,
    inter: &mut Source,
    items: Option<&mut Source>,
    progress: &Progress,
) -> Result<RawData> {
    let header = |table: &T| Header::new(table.path(), table.names());
    let keep = |table: &mut T, places: &[Option<usize>]| {
        let mut places: Vec<usize> = places.iter().flatten().copied().collect();
        places.sort_unstable();
        places.dedup();
        table.keep(&places)
    };
    let mut table = T::open(inter)?;
    let found = header(&table)?;
    let used = found.interactions(settings)?.all();
    keep(&mut table, &used)?;
    let mut described = items.map(T::open).transpose()?;
    let mut catalogue_unused = Vec::new();
    if let Some(catalogue) = &mut described {
        let header = header(catalogue)?;
        let used = header.catalogue(settings)?.all();
        keep(catalogue, &used)?;
        catalogue_unused = header.unused(&used);
    }
    let mut raw = keyed::read(settings, &mut table, described.as_mut().map(|table| table as &mut dyn Rows), progress)?;
    raw.notes.unused = found.unused(&used);
    if let Some(notes) = &mut raw.notes.catalogue {
        notes.unused = catalogue_unused;
    }
    Ok(raw)
}

/// A number; nothing for one that is not finite.
pub(super) fn float(x: f64) -> Value {
    Number::from_f64(x).map_or(Value::Null, Value::Number)
}

/// A number of 32 bits by its digits: 4.1 stays 4.1.
pub(super) fn short_float(x: f32) -> Value {
    x.to_string().parse().map_or(Value::Null, float)
}

/// A moment as ISO 8601 in UTC; nothing for one that no calendar has.
pub(super) fn moment(at: std::result::Result<jiff::Timestamp, jiff::Error>) -> Value {
    at.map_or(Value::Null, |at| at.to_string().into())
}

/// A date by its days since 1970.
pub(super) fn date(days: i64) -> Value {
    let day = jiff::Span::new().try_days(days).and_then(|span| jiff::civil::date(1970, 1, 1).checked_add(span));
    day.map_or(Value::Null, |day| day.to_string().into())
}
