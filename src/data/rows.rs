//! The lines of a text file without a header, as the readers of such formats take them.

use std::borrow::Cow;

use super::prepare::Progress;
use super::reader::data_error;
use super::source::Source;
use crate::Result;

/// Lines between two reports of progress.
const REPORT: u64 = 1 << 16;

/// How the bytes of a line become text.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Encoding {
    /// UTF-8; other bytes are an error of their line.
    Utf8,
    /// UTF-8 where a line is that, else latin-1, in which each byte is a character: the older MovieLens files.
    Latin1,
}

/// Calls `row(number, line)` for every line that is not blank; a line that cannot be read is given as its error.
///
/// # Errors
/// Those of the stream, and what `row` refuses.
pub(super) fn each_line(
    source: &mut Source,
    encoding: Encoding,
    stage: &str,
    progress: &Progress,
    mut row: impl FnMut(u64, Result<&str>) -> Result<()>,
) -> Result<()> {
    let path = source.path().to_path_buf();
    let mut buffer = Vec::new();
    let mut number = 1;
    while source.read_line(number, &mut buffer)? {
        let bytes = if number == 1 { buffer.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&buffer) } else { &buffer[..] };
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Borrowed(text)),
            Err(_) if encoding == Encoding::Latin1 => Ok(Cow::Owned(bytes.iter().map(|b| char::from(*b)).collect())),
            Err(_) => Err(data_error(&path, number, "the line is not UTF-8; convert the file (for example with iconv)")),
        };
        match text {
            Ok(text) if text.trim().is_empty() => {}
            Ok(text) => row(number, Ok(&text))?,
            Err(error) => row(number, Err(error))?,
        }
        if number.is_multiple_of(REPORT) {
            let (done, total) = source.state.progress();
            progress(stage, done, total);
        }
        number += 1;
    }
    let (_, total) = source.state.progress();
    progress(stage, total, total);
    Ok(())
}

/// Exactly `N` fields of a line.
pub(super) fn fields<'t, const N: usize>(line: &'t str, separator: &str) -> Option<[&'t str; N]> {
    let mut parts = line.split(separator);
    let mut out = [""; N];
    for slot in &mut out {
        *slot = parts.next()?.trim();
    }
    parts.next().is_none().then_some(out)
}
