//! Source files as streams: finding, recognising, unpacking, reading line by line, checksums on the way.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use sha2::{Digest, Sha256};

use super::manifest::SourceFile;
use super::reader::data_error;
use super::unpack::Packing;
use crate::{Error, Result};

/// Most bytes of one line, or of one record of a CSV file: memory must not follow what a broken or hostile file takes for a line.
pub const MAX_LINE: usize = 1 << 20;

/// Bytes that are looked at to tell what a file is: enough for some lines ([`Source::peek`]).
const HEAD: u64 = 1 << 16;

/// First bytes of files that are mistaken for data, and what to do.
const LOOKALIKES: &[(&[u8], &str)] = &[
    (b"version https://git-lfs.github.com/spec/", "this is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"),
    (b"<!DOCTYPE", "this is a web page, not the data; download the file itself"),
    (b"<html", "this is a web page, not the data; download the file itself"),
];

/// A source as a stream of its unpacked bytes.
pub struct Source {
    /// All but the stream.
    pub(super) state: State,
    content: BufReader<Box<dyn Read>>,
    /// The unpacked bytes as a file, once they were asked for.
    #[cfg(feature = "parquet")]
    disk: Option<File>,
}

/// What a source is and how far it was read.
pub(super) struct State {
    /// Where it was found.
    pub path: PathBuf,
    packing: Packing,
    /// Change time as in [`SourceFile`].
    modified: u64,
    /// Packed bytes of the whole source, for progress; 0 where that is unknown.
    size: u64,
    meter: Rc<RefCell<Meter>>,
}

/// What went through a stream before it was unpacked.
#[derive(Default)]
struct Meter {
    bytes: u64,
    hash: Sha256,
}

struct Metered<R>(R, Rc<RefCell<Meter>>);

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(out)?;
        let mut meter = self.1.borrow_mut();
        meter.bytes += n as u64;
        meter.hash.update(&out[..n]);
        Ok(n)
    }
}

impl State {
    /// Packed bytes read so far and at all.
    pub fn progress(&self) -> (u64, u64) {
        let done = self.meter.borrow().bytes;
        (done, self.size.max(done))
    }

    /// An error met while reading.
    pub fn fail(&self, error: io::Error) -> Error {
        match self.packing.name() {
            None => Error::io(&self.path, "read")(error),
            Some(what) if self.packing == Packing::Zip && error.kind() == io::ErrorKind::InvalidData => {
                data_error(&self.path, 0, format!("{what}: {error}"))
            }
            Some(what) => data_error(&self.path, 0, format!("not a whole {what} file ({error}); fetch it again")),
        }
    }

    /// The error for a line or record that is longer than [`MAX_LINE`].
    pub fn too_long(&self, line: u64) -> Error {
        data_error(
            &self.path,
            line,
            format!("more than {MAX_LINE} bytes without an end; this is no table of rows, or a quote is not closed"),
        )
    }
}

impl Source {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, and those of [`Source::from_stream`].
    pub fn open(path: &Path) -> Result<Source> {
        let (archive, member) = archive_and_member(path);
        let (size, modified) = size_and_time(archive)?;
        let file = File::open(archive).map_err(Error::io(archive, "open"))?;
        let mut source = Source::unpacked(path, file, member.as_deref())?;
        (source.state.size, source.state.modified) = (size, modified);
        Ok(source)
    }

    /// The source `packed`, called `path` in messages; gzip, zstd and zip are known by their first bytes or by the ending of `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Data`] where it is something else, such as a Git LFS pointer.
    pub fn from_stream(path: &Path, packed: impl Read + 'static) -> Result<Source> {
        Source::unpacked(path, packed, None)
    }

    fn unpacked(path: &Path, packed: impl Read + 'static, member: Option<&str>) -> Result<Source> {
        let meter = Rc::new(RefCell::new(Meter::default()));
        let mut packed = BufReader::with_capacity(1 << 16, Metered(packed, meter.clone()));
        let mut head = Vec::new();
        packed.by_ref().take(HEAD).read_to_end(&mut head).map_err(Error::io(path, "read"))?;
        if let Some((_, what)) = LOOKALIKES.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(data_error(path, 1, *what));
        }
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        let packing = if head.is_empty() { Packing::Plain } else { Packing::of(&head, &ending) };
        let content = BufReader::with_capacity(1 << 16, packing.open(io::Cursor::new(head).chain(packed), member));
        let state = State { path: path.to_path_buf(), packing, modified: 0, size: 0, meter };
        Ok(Source {
            state,
            content,
            #[cfg(feature = "parquet")]
            disk: None,
        })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.state.path
    }

    /// Its unpacked bytes.
    pub fn content(&mut self) -> &mut dyn BufRead {
        &mut self.content
    }

    /// The first unpacked bytes, without taking them: at most some 64 KiB, fewer than are there where the stream hands on fewer.
    ///
    /// # Errors
    /// As for reading.
    pub fn peek(&mut self) -> Result<&[u8]> {
        let state = &self.state;
        self.content.fill_buf().map_err(|e| state.fail(e))
    }

    /// Its unpacked bytes as a file, for a format that is not read from front to back: itself where it is not packed, else a temporary copy.
    ///
    /// # Errors
    /// As for reading, and [`Error::Io`] where there is no room for the copy.
    #[cfg(feature = "parquet")]
    pub(super) fn on_disk(&mut self) -> Result<File> {
        let path = &self.state.path;
        if self.disk.is_none() && self.state.packing == Packing::Plain && self.state.size > 0 {
            self.disk = Some(File::open(path).map_err(Error::io(path, "open"))?);
        }
        if self.disk.is_none() {
            let mut copy = tempfile::tempfile().map_err(Error::io(std::env::temp_dir(), "create a file in"))?;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match self.content.read(&mut buffer).map_err(|e| self.state.fail(e))? {
                    0 => break,
                    n => io::Write::write_all(&mut copy, &buffer[..n]).map_err(Error::io(std::env::temp_dir(), "write to"))?,
                }
            }
            self.disk = Some(copy);
        }
        let disk = self.disk.as_ref().and_then(|disk| disk.try_clone().ok());
        disk.ok_or_else(|| Error::io(path, "open")(io::Error::other("the file cannot be opened twice")))
    }

    /// What it is, and its unpacked bytes.
    pub(super) fn parts(&mut self) -> (&State, &mut dyn BufRead) {
        (&self.state, &mut self.content)
    }

    /// The next line into `buffer`, without its line end; false at the end of the source. `line` is its number.
    pub(super) fn read_line(&mut self, line: u64, buffer: &mut Vec<u8>) -> Result<bool> {
        buffer.clear();
        // One more than the limit, so that a line of exactly that length with its line end passes.
        let read = (&mut self.content).take(MAX_LINE as u64 + 1).read_until(b'\n', buffer);
        let n = read.map_err(|e| self.state.fail(e))?;
        if buffer.last() == Some(&b'\n') {
            buffer.pop();
        } else if n > MAX_LINE {
            return Err(self.state.too_long(line));
        }
        if buffer.last() == Some(&b'\r') {
            buffer.pop();
        }
        Ok(n > 0)
    }

    /// What the source was: to be asked when it was read to its end; what is left is read now.
    ///
    /// # Errors
    /// As for reading.
    pub fn finish(mut self) -> Result<SourceFile> {
        io::copy(&mut self.content, &mut io::sink()).map_err(|e| self.state.fail(e))?;
        let State { path, modified, meter, .. } = self.state;
        let meter = meter.borrow();
        Ok(SourceFile { path, bytes: meter.bytes, modified, sha256: hex(meter.hash.clone()) })
    }
}

fn hex(hash: Sha256) -> String {
    hex::encode(hash.finalize())
}

/// SHA-256 of the file at `path`, in hex.
pub(super) fn checksum(path: &Path) -> Result<String> {
    let meter = Rc::new(RefCell::new(Meter::default()));
    let path = archive_and_member(path).0;
    let mut file = Metered(File::open(path).map_err(Error::io(path, "open"))?, meter.clone());
    io::copy(&mut file, &mut io::sink()).map_err(Error::io(path, "read"))?;
    let hash = meter.borrow().hash.clone();
    Ok(hex(hash))
}

/// Where `path` is: as it is when absolute; else under the working folder, `$LUMOS_DATA`, `../shared/data`, in this order.
///
/// # Errors
/// [`Error::Mismatch`] that lists every place looked at.
pub fn resolve_source(path: &Path) -> Result<PathBuf> {
    let mut looked = vec![path.to_path_buf()];
    if path.is_relative() {
        if let Some(root) = std::env::var_os("LUMOS_DATA").filter(|v| !v.is_empty()) {
            looked.push(Path::new(&root).join(path));
        }
        looked.push(Path::new("../shared/data").join(path));
    }
    if let Some(found) = looked.iter().find(|p| archive_and_member(p).0.exists()) {
        return Ok(found.clone());
    }
    let list: Vec<String> = looked.iter().map(|p| p.display().to_string()).collect();
    let remedy = "give the full path or set LUMOS_DATA to the folder of the data sets";
    Err(Error::mismatch(path, format!("there is no such file: looked for {}; {remedy}", list.join(", "))))
}

/// A zip archive and the file in it that `ARCHIVE.zip/FOLDER/FILE` names; any other path as it is.
fn archive_and_member(path: &Path) -> (&Path, Option<String>) {
    let is_archive = |p: &&Path| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("zip")) && p.is_file();
    match path.ancestors().skip(1).find(is_archive) {
        Some(archive) => {
            let inside = path.strip_prefix(archive).unwrap_or(path);
            let parts: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            (archive, Some(parts.join("/")))
        }
        None => (path, None),
    }
}

/// Size and change time (nanoseconds since 1970) of a file: a cheap sign of whether it changed.
pub(super) fn size_and_time(path: &Path) -> Result<(u64, u64)> {
    let path = archive_and_member(path).0;
    let meta = fs::metadata(path).map_err(Error::io(path, "read"))?;
    let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos() as u64);
    Ok((meta.len(), time))
}
