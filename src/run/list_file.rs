//! The file that holds the lists of all users: CSV, JSON lines or Parquet, by its ending.

use crate::base::{clean, names};
use crate::config::tidy;
use crate::data::Dataset;
use crate::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Endings of the files that can be written.
const ENDINGS: [&str; 3] = ["csv", "jsonl", "parquet"];

/// A file being written. Nothing is seen at its place before [`ListFile::finish`].
pub struct ListFile {
    out: PathBuf,
    kind: Kind,
}

enum Kind {
    /// `user,rank,item,score`, an entry a row.
    Csv(BufWriter<NamedTempFile>),
    /// A user's list a line.
    JsonLines(BufWriter<NamedTempFile>),
    #[cfg(feature = "parquet")]
    Parquet(Box<columns::Columns>),
}

fn fail(e: &dyn std::fmt::Display) -> Error {
    Error::Usage(format!("a list cannot be written: {e}"))
}

/// A score with the digits that an `f32` has.
fn score(score: f32) -> f64 {
    tidy(f64::from(score))
}

impl ListFile {
    /// A file that will lie at `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an ending that is none of the known ones, or not in this build; [`Error::Io`] where the folder cannot be written.
    pub fn create(out: &Path) -> Result<ListFile> {
        let ending = out.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let refused = |why: String| Error::Usage(format!("--out: {}: {why}", clean::path(out)));
        if !ENDINGS.contains(&ending.as_str()) {
            return Err(refused(names::unknown("ending", &ending, ENDINGS)));
        }
        #[cfg(not(feature = "parquet"))]
        if ending == "parquet" {
            return Err(refused("Parquet is not in this build; build with `--features parquet`, or write csv or jsonl".into()));
        }
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let draft = NamedTempFile::new_in(parent).map_err(Error::io(out, "create"))?;
        let kind = match ending.as_str() {
            #[cfg(feature = "parquet")]
            "parquet" => Kind::Parquet(Box::new(columns::Columns::create(draft)?)),
            "csv" => {
                let mut writer = BufWriter::new(draft);
                writer.write_all(b"user,rank,item,score\n").map_err(Error::io(out, "write"))?;
                Kind::Csv(writer)
            }
            _ => Kind::JsonLines(BufWriter::new(draft)),
        };
        Ok(ListFile { out: out.to_path_buf(), kind })
    }

    /// Adds the `list` of `user`, best item first.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn add(&mut self, data: &Dataset, user: u32, list: &[(u32, f32)]) -> Result<()> {
        let user = &data.user_tokens[user as usize];
        match &mut self.kind {
            Kind::Csv(writer) => {
                let mut lines = ::csv::Writer::from_writer(Vec::new());
                for (rank, (item, value)) in (1..).zip(list) {
                    let cells = [user.as_str(), &format!("{rank}"), &data.item_tokens[*item as usize], &score(*value).to_string()];
                    lines.write_record(cells).map_err(|e| fail(&e))?;
                }
                writer.write_all(&lines.into_inner().map_err(|e| fail(&e))?).map_err(Error::io(&self.out, "write"))
            }
            Kind::JsonLines(writer) => {
                let entry =
                    |(item, value): &(u32, f32)| serde_json::json!({ "item": data.item_tokens[*item as usize], "score": score(*value) });
                let items: Vec<_> = list.iter().map(entry).collect();
                writeln!(writer, "{}", serde_json::json!({ "user": user, "items": items })).map_err(Error::io(&self.out, "write"))
            }
            #[cfg(feature = "parquet")]
            Kind::Parquet(columns) => columns.add(data, user, list),
        }
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// Where writing fails.
    pub fn finish(self) -> Result<()> {
        let out = &self.out;
        let draft = match self.kind {
            Kind::Csv(writer) | Kind::JsonLines(writer) => writer.into_inner().map_err(|e| Error::io(out, "write")(e.into_error()))?,
            #[cfg(feature = "parquet")]
            Kind::Parquet(columns) => columns.finish()?,
        };
        draft.as_file().sync_all().map_err(Error::io(out, "write"))?;
        draft.persist(out).map_err(|e| Error::io(out, "write")(e.error))?;
        Ok(())
    }
}

/// Columns `user`, `rank`, `item` and `score`, an entry a row, packed by snappy.
#[cfg(feature = "parquet")]
mod columns {
    use super::fail;
    use crate::Result;
    use crate::data::Dataset;
    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int32Type};
    use parquet::errors::ParquetError;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;
    use tempfile::NamedTempFile;

    const SCHEMA: &str = "message lists {
        REQUIRED BYTE_ARRAY user (UTF8); REQUIRED INT32 rank; REQUIRED BYTE_ARRAY item (UTF8); REQUIRED FLOAT score;
    }";

    /// Entries of a row group; those of one are in memory.
    const GROUP: usize = 1 << 18;

    pub struct Columns {
        writer: SerializedFileWriter<NamedTempFile>,
        users: Vec<ByteArray>,
        ranks: Vec<i32>,
        items: Vec<ByteArray>,
        scores: Vec<f32>,
    }

    fn failed(e: ParquetError) -> crate::Error {
        fail(&e)
    }

    fn put<T: DataType>(group: &mut SerializedRowGroupWriter<NamedTempFile>, values: &mut Vec<T::T>) -> Result<()> {
        let mut column = group.next_column().map_err(failed)?.ok_or_else(|| fail(&"the schema has too few columns"))?;
        column.typed::<T>().write_batch(values, None, None).map_err(failed)?;
        values.clear();
        column.close().map_err(failed)
    }

    impl Columns {
        pub fn create(draft: NamedTempFile) -> Result<Columns> {
            let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
            let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
            let writer = SerializedFileWriter::new(draft, schema, properties).map_err(failed)?;
            Ok(Columns { writer, users: Vec::new(), ranks: Vec::new(), items: Vec::new(), scores: Vec::new() })
        }

        pub fn add(&mut self, data: &Dataset, user: &str, list: &[(u32, f32)]) -> Result<()> {
            let user = ByteArray::from(user);
            for (rank, (item, score)) in (1..).zip(list) {
                self.users.push(user.clone());
                self.ranks.push(rank);
                self.items.push(ByteArray::from(data.item_tokens[*item as usize].as_str()));
                self.scores.push(*score);
            }
            if self.ranks.len() >= GROUP { self.flush() } else { Ok(()) }
        }

        fn flush(&mut self) -> Result<()> {
            let mut group = self.writer.next_row_group().map_err(failed)?;
            put::<ByteArrayType>(&mut group, &mut self.users)?;
            put::<Int32Type>(&mut group, &mut self.ranks)?;
            put::<ByteArrayType>(&mut group, &mut self.items)?;
            put::<FloatType>(&mut group, &mut self.scores)?;
            group.close().map(|_| ()).map_err(failed)
        }

        pub fn finish(mut self) -> Result<NamedTempFile> {
            if !self.ranks.is_empty() {
                self.flush()?;
            }
            self.writer.into_inner().map_err(failed)
        }
    }
}
