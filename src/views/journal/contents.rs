//! The bytes of a journal: records of views and sums, each with a checksum, and how what is whole is found among damage.
//!
//! After [`HEADER`] come records, little-endian: [`MARK`], `u32` length of the body, `u32` checksum of length and body, the body. A
//! body is a kind (`u8`), a name (`u16` length, bytes) and then for a view the user (`u32`), its [`Counts`] and its items (`u32`
//! each), for a sum what was added to it (`f64`).

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::super::generator::{Counts, Made};
use super::Row;
use crate::{Error, Result};

/// Begins the file and names its format.
pub(super) const HEADER: &[u8] = b"lumos-views-journal-1\n";
/// Begins a record, so that the next one is found behind a damaged one.
const MARK: [u8; 4] = [0xF5, b'V', b'J', b'1'];
/// Bytes before a record's body: mark, length, checksum.
const FRAME: usize = 12;
/// Kind of a record that holds a view, and of one that holds a sum.
const VIEW: u8 = 0;
const SUM: u8 = 1;

/// What a journal holds.
#[derive(Debug, Default)]
pub(in crate::views) struct Contents {
    /// Views by table and user; the latest where one was written twice.
    pub(super) rows: HashMap<String, HashMap<u32, Made>>,
    /// Sums over all starts of a build by recipe: seconds, tokens, joules.
    pub(super) sums: HashMap<String, f64>,
    /// Where whole records lie.
    pub(super) whole: Vec<Range<usize>>,
    /// Bytes that belong to no whole record, the end of a write that was cut short left out.
    pub(super) damaged: usize,
}

impl Contents {
    /// Of the file at `path`; of an empty one where there is none.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Mismatch`] where it is no journal.
    pub(in crate::views) fn load(path: &Path) -> Result<Contents> {
        match std::fs::read(path) {
            Ok(bytes) => Contents::parse(&bytes).ok_or_else(|| {
                Error::mismatch(path, "is no journal of views that this program can read; remove the file, and what it held is made again")
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Contents::default()),
            Err(e) => Err(Error::io(path, "read")(e)),
        }
    }

    /// Of a file's bytes: every record that matches its checksum. `None` where they are no journal.
    pub(in crate::views) fn parse(bytes: &[u8]) -> Option<Contents> {
        let headed = bytes.starts_with(HEADER);
        // Shorter where the file was being made.
        let mut at = if headed || HEADER.starts_with(bytes) { HEADER.len().min(bytes.len()) } else { 0 };
        let mut contents = Contents::default();
        while at < bytes.len() {
            if let Some(body) = record(&bytes[at..]) {
                let end = at + FRAME + body.len();
                contents.take(body);
                match contents.whole.last_mut().filter(|last| last.end == at) {
                    Some(last) => last.end = end,
                    None => contents.whole.push(at..end),
                }
                at = end;
                continue;
            }
            let next = bytes[at + 1..].windows(MARK.len()).position(|w| w == MARK).map_or(bytes.len(), |n| at + 1 + n);
            if next < bytes.len() || !is_cut_short(&bytes[at..]) {
                contents.damaged += next - at;
            }
            at = next;
        }
        (headed || HEADER.starts_with(bytes) || !contents.whole.is_empty()).then_some(contents)
    }

    /// Adds a record. One of a kind that is not known is passed over.
    fn take(&mut self, body: &[u8]) {
        let Some((&kind, rest)) = body.split_first() else { return };
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { return };
        let Some((name, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else { return };
        let Ok(name) = std::str::from_utf8(name) else { return };
        if kind == VIEW
            && let Some((user, made)) = view(rest)
        {
            match self.rows.get_mut(name) {
                Some(table) => drop(table.insert(user, made)),
                None => drop(self.rows.insert(name.to_string(), HashMap::from([(user, made)]))),
            }
        } else if kind == SUM
            && let Ok(more) = rest.try_into()
        {
            *self.sums.entry(name.to_string()).or_default() += f64::from_le_bytes(more);
        }
    }

    /// Number of views.
    pub(in crate::views) fn count(&self) -> usize {
        self.rows.values().map(HashMap::len).sum()
    }

    /// Takes out the finished views in `table`, by user. Views that do not fit `users` and `items` are an error.
    pub(in crate::views) fn views(&mut self, path: &Path, table: &str, users: usize, items: usize) -> Result<HashMap<u32, Made>> {
        let found = self.rows.remove(table).unwrap_or_default();
        let fits = |(user, made): &(&u32, &Made)| (**user as usize) < users && made.sequence.iter().all(|i| (*i as usize) < items);
        match found.iter().find(|row| !fits(row)) {
            Some((user, _)) => Err(Error::mismatch(path, format!("holds views of another data set (row of user {user}); remove the file"))),
            None => Ok(found),
        }
    }
}

/// The body of the record at the start of `bytes`, where it is whole.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(&MARK)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (checksum(*length, body) == u32::from_le_bytes(*sum)).then_some(body)
}

/// Whether `bytes`, the end of a file, are the beginning of a record.
fn is_cut_short(bytes: &[u8]) -> bool {
    match bytes.strip_prefix(&MARK) {
        Some(rest) => rest.split_first_chunk::<4>().is_none_or(|(n, rest)| rest.len() < 4 + u32::from_le_bytes(*n) as usize),
        None => MARK.starts_with(bytes),
    }
}

fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length), body)
}

fn view(bytes: &[u8]) -> Option<(u32, Made)> {
    let (words, []) = bytes.as_chunks::<4>() else { return None };
    let words: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
    let (&[user, lines, grounded, own, prompt_tokens, output_tokens], sequence) = words.split_first_chunk::<6>()?;
    let counts = Counts { lines, grounded, own, prompt_tokens, output_tokens };
    Some((user, Made { sequence: sequence.to_vec(), counts }))
}

/// Adds the record of `row` to `out`.
pub(super) fn put_view(out: &mut Vec<u8>, row: &Row) {
    let Counts { lines, grounded, own, prompt_tokens, output_tokens } = row.made.counts;
    let head = [row.user, lines, grounded, own, prompt_tokens, output_tokens];
    put(out, VIEW, &row.table, head.iter().chain(&row.made.sequence).flat_map(|v| v.to_le_bytes()));
}

/// Adds the record of `more` for the sum under `name` to `out`.
pub(super) fn put_sum(out: &mut Vec<u8>, name: &str, more: f64) {
    put(out, SUM, name, more.to_le_bytes().into_iter());
}

/// Adds a record of `kind` under `name` to `out`.
fn put(out: &mut Vec<u8>, kind: u8, name: &str, rest: impl Iterator<Item = u8>) {
    let start = out.len();
    out.extend(MARK);
    out.extend([0; FRAME - MARK.len()]);
    out.push(kind);
    // Names are digests: a few dozen bytes.
    out.extend((name.len() as u16).to_le_bytes());
    out.extend(name.as_bytes());
    out.extend(rest);
    let length = ((out.len() - start - FRAME) as u32).to_le_bytes();
    let sum = checksum(length, &out[start + FRAME..]);
    out[start + 4..start + 8].copy_from_slice(&length);
    out[start + 8..start + FRAME].copy_from_slice(&sum.to_le_bytes());
}
