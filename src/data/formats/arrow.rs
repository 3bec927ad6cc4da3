//! Arrow's IPC files (Feather version 2) and streams, feature `parquet`: a row is one interaction, its columns those that the settings name. Plain or
//! packed by lz4 or zstd, texts also as dictionaries.

use crate::Result;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::reader::{RawData, Reader};
use crate::data::source::Source;

/// First bytes of a file; a stream has none of its own.
pub(super) const MAGIC: &[u8] = b"ARROW1";

/// Reader of Arrow's IPC files and streams.
pub struct Arrow;

impl Reader for Arrow {
    fn name(&self) -> &'static str {
        "arrow"
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

/// Names of the columns of an Arrow file.
#[cfg(feature = "parquet")]
pub(super) fn names(source: &mut Source) -> Result<Vec<String>> {
    use super::columnar::Columns;
    Ok(rows::Table::open(source)?.names())
}

/// Names of the columns of an Arrow file, which this build cannot read.
#[cfg(not(feature = "parquet"))]
pub(super) fn names(_: &mut Source) -> Result<Vec<String>> {
    Err(missing())
}

#[cfg(not(feature = "parquet"))]
fn missing() -> crate::Error {
    crate::Error::setting("data.format", "`arrow` is not in this build; build with `--features parquet`, or write the file as CSV")
}

#[cfg(feature = "parquet")]
mod rows {
    use std::collections::VecDeque;
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom};
    use std::path::{Path, PathBuf};

    use arrow_array::RecordBatch;
    use arrow_buffer::Buffer;
    use arrow_ipc::convert::try_fb_to_schema;
    use arrow_ipc::reader::{FileDecoder, read_footer_length};
    use arrow_ipc::{Block, MessageHeader, root_as_footer, root_as_message};
    use arrow_schema::SchemaRef;

    use super::super::arrow_values::{Cell, cells, reads};
    use super::MAGIC;
    use crate::base::guard::guarded;
    use crate::base::{clean, memory};
    use crate::data::Progress;
    use crate::data::formats::columnar::Columns;
    use crate::data::formats::keyed::{Each, Rows};
    use crate::data::formats::objects::Fields;
    use crate::data::reader::data_error;
    use crate::data::source::Source;
    use crate::{Error, Result};

    /// Marks the length of a message; older writers leave it out.
    const MARK: [u8; 4] = [0xff; 4];

    /// A file and the columns of it that are read.
    pub(super) struct Table {
        path: PathBuf,
        messages: Messages,
        schema: SchemaRef,
        decoder: Option<FileDecoder>,
        /// Places of the columns that are read.
        read: Vec<usize>,
    }

    /// The messages of a file in the order in which they are decoded.
    struct Messages {
        file: File,
        size: u64,
        next: Next,
    }

    /// Where the next message lies.
    enum Next {
        /// Where the end of the file says: first dictionaries, then rows.
        Blocks(VecDeque<Block>),
        /// Behind the one before.
        At(u64),
    }

    /// Why a message cannot be read.
    type Reason = String;

    impl Messages {
        /// `length` bytes from `at` on.
        fn bytes(&mut self, at: u64, length: u64) -> std::result::Result<Vec<u8>, Reason> {
            if at.checked_add(length).is_none_or(|end| end > self.size) {
                return Err("it is cut".into());
            }
            // Never more than the file has.
            let mut bytes = vec![0; usize::try_from(length).map_err(|e| e.to_string())?];
            self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut bytes)).map_err(|e| e.to_string())?;
            Ok(bytes)
        }

        /// The message of a stream at `at`: bytes of its head, and of all before its body. Nothing at the end.
        fn head(&mut self, at: u64) -> std::result::Result<Option<(Vec<u8>, u64)>, Reason> {
            if at >= self.size {
                return Ok(None);
            }
            let start = self.bytes(at, (self.size - at).min(8))?;
            let (length, before) = match start.strip_prefix(&MARK) {
                Some(length) => (length, 8),
                None => (&start[..start.len().min(4)], 4),
            };
            let length: [u8; 4] = length.try_into().map_err(|_| "it is cut")?;
            match u64::from(u32::from_le_bytes(length)) {
                0 => Ok(None),
                length => Ok(Some((self.bytes(at + before, length)?, before + length))),
            }
        }

        /// The next message as the decoder takes it; nothing at the end.
        fn next(&mut self) -> std::result::Result<Option<(Block, Buffer)>, Reason> {
            let block = match &mut self.next {
                Next::Blocks(blocks) => match blocks.pop_front() {
                    Some(block) => block,
                    None => return Ok(None),
                },
                Next::At(at) => {
                    let at = *at;
                    let Some((head, before)) = self.head(at)? else { return Ok(None) };
                    let message = root_as_message(&head).map_err(|e| e.to_string())?;
                    let body = u64::try_from(message.bodyLength()).map_err(|_| "a message has less than no bytes")?;
                    self.next = Next::At(at.checked_add(before).and_then(|at| at.checked_add(body)).ok_or("it is cut")?);
                    let before = i32::try_from(before).map_err(|_| "a message is too long")?;
                    Block::new(at.cast_signed(), before, body.cast_signed())
                }
            };
            let long = |n: i64| u64::try_from(n).map_err(|_| "a message has less than no bytes");
            let (head, body) = (long(block.metaDataLength().into())?, long(block.bodyLength())?);
            let bytes = self.bytes(long(block.offset())?, head.checked_add(body).ok_or("it is cut")?)?;
            Ok(Some((block, Buffer::from_vec(bytes))))
        }
    }

    /// The description of a message, which begins with its length.
    fn described(head: &[u8]) -> std::result::Result<arrow_ipc::Message<'_>, Reason> {
        let rest = head.strip_prefix(&MARK).unwrap_or(head);
        root_as_message(rest.get(4..).ok_or("it is cut")?).map_err(|e| e.to_string())
    }

    /// Refuses a message whose packed columns would not fit into memory; says whether it is a dictionary, and nothing for what holds no values.
    fn checked(path: &Path, block: &Block, bytes: &[u8]) -> Result<Option<bool>> {
        let fail = |why: &dyn std::fmt::Display| unreadable(path, why);
        let (head, body) = bytes.split_at_checked(block.metaDataLength() as usize).ok_or_else(|| fail(&"it is cut"))?;
        let message = described(head).map_err(|why| fail(&why))?;
        let (batch, dictionary) = match message.header_type() {
            MessageHeader::DictionaryBatch => (message.header_as_dictionary_batch().and_then(|d| d.data()), true),
            MessageHeader::RecordBatch => (message.header_as_record_batch(), false),
            _ => return Ok(None),
        };
        let batch = batch.ok_or_else(|| fail(&"a message has no values"))?;
        if batch.compression().is_some() {
            let length = |at: i64| Some(i64::from_le_bytes(body.get(usize::try_from(at).ok()?..)?.get(..8)?.try_into().ok()?));
            let buffers = batch.buffers();
            let lengths = buffers.iter().flatten().filter(|buffer| buffer.length() > 0);
            let mut all = lengths.map(|buffer| length(buffer.offset()).map_or(0, |n| u64::try_from(n).unwrap_or(0)));
            let sum = all.try_fold(0u64, |sum, n| sum.checked_add(n));
            memory::check(&format!("{}, unpacked", path.display()), sum, "write it in smaller batches, or fetch it again")?;
        }
        Ok(Some(dictionary))
    }

    fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Error {
        // A library's message may quote what it has found.
        let why = clean::line(&why.to_string(), 200);
        data_error(path, 0, format!("is no Arrow file or stream that can be read ({why}); fetch or write it again"))
    }

    /// Messages, schema and decoder of the file.
    fn begin(path: &Path, file: File) -> Result<(Messages, SchemaRef, FileDecoder)> {
        let fail = |why: &dyn std::fmt::Display| unreadable(path, why);
        let size = file.metadata().map_err(Error::io(path, "read"))?.len();
        let mut messages = Messages { file, size, next: Next::At(0) };
        let start = messages.bytes(0, size.min(8)).map_err(|why| fail(&why))?;
        if start.starts_with(b"FEA1") {
            return Err(data_error(path, 0, "is a Feather file of version 1; write it as version 2"));
        }
        if !start.starts_with(MAGIC) {
            let (head, before) = messages.head(0).map_err(|why| fail(&why))?.ok_or_else(|| fail(&"it is empty"))?;
            let message = root_as_message(&head).map_err(|why| fail(&why))?;
            let schema = message.header_as_schema().ok_or_else(|| fail(&"it does not begin with its columns"))?;
            let schema = SchemaRef::new(try_fb_to_schema(schema).map_err(|why| fail(&why))?);
            messages.next = Next::At(before);
            return Ok((messages, schema.clone(), FileDecoder::new(schema, message.version())));
        }
        let end = size.checked_sub(10).ok_or_else(|| fail(&"it is cut"))?;
        let tail: [u8; 10] = messages.bytes(end, 10).map_err(|why| fail(&why))?.try_into().map_err(|_| fail(&"it is cut"))?;
        let length = read_footer_length(tail).map_err(|why| fail(&why))? as u64;
        let at = end.checked_sub(length).ok_or_else(|| fail(&"it is cut"))?;
        let footer = messages.bytes(at, length).map_err(|why| fail(&why))?;
        let footer = root_as_footer(&footer).map_err(|why| fail(&why))?;
        let schema = footer.schema().ok_or_else(|| fail(&"it does not name its columns"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(fail(&"its numbers are big-endian"));
        }
        let schema = SchemaRef::new(try_fb_to_schema(schema).map_err(|why| fail(&why))?);
        let blocks: VecDeque<Block> =
            footer.dictionaries().iter().flatten().chain(footer.recordBatches().iter().flatten()).copied().collect();
        // Blocks that lie over each other would be more rows than the file has bytes.
        let length = |block: &Block| u64::try_from(block.bodyLength()).ok()?.checked_add(u64::try_from(block.metaDataLength()).ok()?);
        if blocks.iter().try_fold(0u64, |sum, block| sum.checked_add(length(block)?)).is_none_or(|sum| sum > size) {
            return Err(fail(&"its parts are longer than the whole"));
        }
        messages.next = Next::Blocks(blocks);
        Ok((messages, schema.clone(), FileDecoder::new(schema, footer.version())))
    }

    impl Columns for Table {
        fn open(source: &mut Source) -> Result<Table> {
            let (path, file) = (source.path().to_path_buf(), source.on_disk()?);
            let (messages, schema, decoder) = guarded(|| begin(&path, file)).map_err(|why| unreadable(&path, &why))??;
            Ok(Table { path, messages, schema, decoder: Some(decoder), read: Vec::new() })
        }

        fn names(&self) -> Vec<String> {
            self.schema.fields().iter().map(|field| field.name().clone()).collect()
        }

        fn keep(&mut self, places: &[usize]) -> Result<()> {
            if let Some(field) = places.iter().map(|at| self.schema.field(*at)).find(|field| !reads(field.data_type())) {
                let (name, kind) = (clean::id(field.name()), clean::id(&field.data_type().to_string()));
                let message =
                    format!("column `{name}` has the type {kind}, which is not read; write it as texts, numbers, dates or moments");
                return Err(data_error(&self.path, 0, message));
            }
            self.read = places.to_vec();
            self.decoder = self.decoder.take().map(|decoder| decoder.with_projection(places.to_vec()));
            Ok(())
        }
    }

    impl Rows for Table {
        fn path(&self) -> &Path {
            &self.path
        }

        fn each(&mut self, stage: &str, progress: &Progress, row: &mut Each) -> Result<()> {
            let Some(mut decoder) = self.decoder.take() else { return Ok(()) };
            let (path, size) = (&self.path, self.messages.size);
            let fail = |why: &dyn std::fmt::Display| unreadable(path, why);
            let messages = &mut self.messages;
            let (mut number, mut done) = (0, 0);
            let work = || -> Result<()> {
                while let Some((block, bytes)) = messages.next().map_err(|why| fail(&why))? {
                    match checked(path, &block, &bytes)? {
                        None => return Err(fail(&"it holds a message of another kind")),
                        Some(true) => decoder.read_dictionary(&block, &bytes).map_err(|why| fail(&why))?,
                        Some(false) => {
                            if let Some(batch) = decoder.read_record_batch(&block, &bytes).map_err(|why| fail(&why))? {
                                give(&batch, &mut number, row)?;
                            }
                        }
                    }
                    done += bytes.len() as u64;
                    progress(stage, done.min(size), size);
                }
                Ok(())
            };
            guarded(work).map_err(|why| unreadable(path, &why))??;
            progress(stage, size, size);
            Ok(())
        }
    }

    /// Gives the rows of `batch`, the first of which is number `number + 1`.
    fn give(batch: &RecordBatch, number: &mut u64, row: &mut Each) -> Result<()> {
        let schema = batch.schema();
        let columns: Vec<(&str, Cell)> = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .filter_map(|(field, column)| Some((field.name().as_str(), cells(&**column)?)))
            .collect();
        for at in 0..batch.num_rows() {
            *number += 1;
            row(*number, Ok(columns.iter().map(|(name, cell)| ((*name).to_owned(), cell(at))).collect::<Fields>()))?;
        }
        Ok(())
    }
}
