//! Parquet files, feature `parquet`: a row is one interaction, its columns those that the settings name. Files written by pandas, polars, Spark or DuckDB,
//! plain or packed by snappy, zstd or gzip. A row passes through the library's record interface, which costs about a microsecond a column.

use crate::Result;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::reader::{RawData, Reader};
use crate::data::source::Source;

/// Reader of Parquet files.
pub struct Parquet;

impl Reader for Parquet {
    fn name(&self) -> &'static str {
        "parquet"
    }

    #[cfg(feature = "parquet")]
    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        super::columnar::read::<rows::Table>(settings, inter.ok_or_else(crate::data::columns::no_interactions)?, items, progress)
    }

    #[cfg(not(feature = "parquet"))]
    fn read(&self, _: &DataSettings, _: Option<&mut Source>, _: Option<&mut Source>, _: &Progress) -> Result<RawData> {
        Err(missing())
    }
}

/// Names of the columns of a Parquet file.
#[cfg(feature = "parquet")]
pub(super) fn names(source: &mut Source) -> Result<Vec<String>> {
    use super::columnar::Columns;
    Ok(rows::Table::open(source)?.names())
}

/// Names of the columns of a Parquet file, which this build cannot read.
#[cfg(not(feature = "parquet"))]
pub(super) fn names(_: &mut Source) -> Result<Vec<String>> {
    Err(missing())
}

#[cfg(not(feature = "parquet"))]
fn missing() -> crate::Error {
    crate::Error::setting("data.format", "`parquet` is not in this build; build with `--features parquet`, or write the file as CSV")
}

#[cfg(feature = "parquet")]
mod rows {
    use std::fs::File;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use parquet::record::reader::RowIter;
    use parquet::schema::types::Type;
    use serde_json::Value;

    use crate::base::guard::guarded;
    use crate::data::Progress;
    use crate::data::formats::columnar::{Columns, date, float, moment, short_float};
    use crate::data::formats::keyed::{Each, Rows};
    use crate::data::formats::objects::Fields;
    use crate::data::reader::data_error;
    use crate::data::source::Source;
    use crate::{Error, Result};

    /// Rows between two reports of progress.
    const REPORT: u64 = 1 << 16;

    /// A file and the columns of it that are read.
    pub(super) struct Table {
        path: PathBuf,
        reader: Option<SerializedFileReader<File>>,
        /// Columns at the top of the schema.
        columns: Vec<Arc<Type>>,
        root: String,
        rows: u64,
        /// Places of the columns that are read.
        read: Vec<usize>,
    }

    fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Error {
        data_error(path, 0, format!("is no Parquet file that can be read ({why}); fetch or write it again"))
    }

    impl Columns for Table {
        fn open(source: &mut Source) -> Result<Table> {
            let (path, file) = (source.path().to_path_buf(), source.on_disk()?);
            let reader = guarded(|| SerializedFileReader::new(file)).map_err(|why| unreadable(&path, &why))?;
            let reader = reader.map_err(|why| unreadable(&path, &why))?;
            let about = reader.metadata().file_metadata();
            let rows = u64::try_from(about.num_rows()).map_err(|_| unreadable(&path, &"it says that it has less than no rows"))?;
            let (columns, root) = (about.schema().get_fields().to_vec(), about.schema().name().to_owned());
            Ok(Table { path, reader: Some(reader), columns, root, rows, read: Vec::new() })
        }

        fn names(&self) -> Vec<String> {
            self.columns.iter().map(|column| column.name().to_owned()).collect()
        }

        fn keep(&mut self, places: &[usize]) -> Result<()> {
            self.read = places.to_vec();
            Ok(())
        }
    }

    impl Rows for Table {
        fn path(&self) -> &Path {
            &self.path
        }

        fn each(&mut self, stage: &str, progress: &Progress, row: &mut Each) -> Result<()> {
            let Some(reader) = self.reader.take() else { return Ok(()) };
            let (path, rows) = (self.path.clone(), self.rows);
            let fields = self.read.iter().map(|&at| self.columns[at].clone()).collect();
            let work = || -> Result<u64> {
                let fail = |why: parquet::errors::ParquetError| unreadable(&path, &why);
                let projection = Type::group_type_builder(&self.root).with_fields(fields).build().map_err(fail)?;
                let mut number = 0;
                for found in RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(fail)? {
                    number += 1;
                    let fields = found.map_err(fail)?.into_columns().into_iter().map(|(name, field)| (name, value(&field)));
                    row(number, Ok(fields.collect::<Fields>()))?;
                    if number.is_multiple_of(REPORT) {
                        progress(stage, number.min(rows), rows);
                    }
                }
                Ok(number)
            };
            let read = guarded(work).map_err(|why| unreadable(&self.path, &why))??;
            if read != rows {
                return Err(unreadable(&self.path, &format!("it has {read} rows and says that it has {rows}")));
            }
            progress(stage, rows, rows);
            Ok(())
        }
    }

    /// A value as JSON would have it; moments as ISO 8601 in UTC, what cannot be an id, a time or a text as nothing.
    fn value(field: &Field) -> Value {
        match field {
            Field::Bool(yes) => (*yes).into(),
            Field::Byte(n) => (*n).into(),
            Field::Short(n) => (*n).into(),
            Field::Int(n) => (*n).into(),
            Field::Long(n) => (*n).into(),
            Field::UByte(n) => (*n).into(),
            Field::UShort(n) => (*n).into(),
            Field::UInt(n) => (*n).into(),
            Field::ULong(n) => (*n).into(),
            Field::Float(x) => short_float(*x),
            Field::Double(x) => float(*x),
            Field::Str(text) => text.as_str().into(),
            Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
            Field::Date(days) => date(i64::from(*days)),
            Field::TimestampMillis(at) => moment(jiff::Timestamp::from_millisecond(*at)),
            Field::TimestampMicros(at) => moment(jiff::Timestamp::from_microsecond(*at)),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            _ => Value::Null,
        }
    }
}
