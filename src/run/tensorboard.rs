//! TensorBoard's event files: scalars of a run as `tensorboard --logdir RUNS` reads them.
//!
//! A file is a sequence of TFRecords: length `u64`, its checksum, the bytes, their checksum, all little-endian; checksums are CRC-32C,
//! rotated and shifted ("masked"). The bytes are the protocol buffer `Event`: wall_time (1, double), step (2, varint), then one of
//! file_version (3, string), summary (5) or session_log (7). A summary holds values (1), each a tag (1, string) and a simple_value
//! (2, float). Fields and formats: tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer.h.
//!
//! Every start of a run writes a file of its own. On resume the records behind the checkpoint are cut from the older files, and the new
//! one begins with a session log, by which a TensorBoard that is running forgets them as well.

use super::hparams::END;
use crate::base::files::write_file;
use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Begins the tags of a test.
pub(super) const TEST: &str = "test/";

/// Begins the name of an event file.
const PREFIX: &str = "events.out.tfevents.";

/// An event file that is being written.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// A new file in `folder` for what comes after `round`; records beyond it in older files go.
    pub fn open(folder: &Path, round: u64) -> Result<Events> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        let mut older: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "read"))? {
            let path = entry.map_err(Error::io(folder, "read"))?.path();
            if path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(PREFIX) && !n.ends_with(".tmp")) {
                older.push(path);
            }
        }
        for path in &older {
            cut(path, round)?;
        }
        // Readers take files in the order of their names: seconds, then a counter.
        let seconds = now() as u64;
        let name = |n: usize| folder.join(format!("{PREFIX}{seconds:010}.lumos.{n:03}"));
        let path = (0..).map(name).find(|p| !p.exists()).unwrap_or_else(|| name(0));
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path, "create"))?;
        let mut events = Events { path, file };
        events.put(0, 3, b"brain.Event:2")?;
        if round > 0 {
            // SessionLog.status (1) = START (1).
            events.put(round + 1, 7, &[0x08, 0x01])?;
        }
        Ok(events)
    }

    /// Appends scalars of one step. A value that is not finite is left out, for no reader draws it.
    pub fn scalars(&mut self, step: u64, scalars: &[(String, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars.iter().filter(|(_, v)| v.is_finite()) {
            let mut one = Vec::new();
            bytes(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &one);
        }
        if summary.is_empty() { Ok(()) } else { self.put(step, 5, &summary) }
    }

    /// Appends a summary that is made already.
    pub fn summary(&mut self, step: u64, summary: &[u8]) -> Result<()> {
        self.put(step, 5, summary)
    }

    /// One event with one field beside time and step.
    fn put(&mut self, step: u64, field: u8, value: &[u8]) -> Result<()> {
        let mut event = vec![1 << 3 | 1];
        event.extend(now().to_le_bytes());
        event.push(2 << 3);
        varint(&mut event, step);
        bytes(&mut event, field, value);
        // In one call, so that a reader meets whole records.
        self.file.write_all(&record(&event)).map_err(Error::io(&self.path, "append to"))
    }
}

pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A length-delimited field.
pub(super) fn bytes(to: &mut Vec<u8>, field: u8, value: &[u8]) {
    to.push(field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend(value);
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// Keeps the whole records of a file up to `round`. The test of a run that goes on is not its test any more, so it goes too: it stands
/// at the round that was the best, which another may be at the end.
fn cut(path: &Path, round: u64) -> Result<()> {
    let all = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let (mut kept, mut at) = (Vec::new(), 0);
    while let Some(data) = next(&all[at..]) {
        let whole = data.len() + 16;
        if step(data).is_some_and(|step| step <= round) && !is_test(data) {
            kept.extend_from_slice(&all[at..at + whole]);
        }
        at += whole;
    }
    if kept.len() == all.len() { Ok(()) } else { write_file(path, &kept) }
}

/// The data of the record that `file` begins with, if that is whole and undamaged.
fn next(file: &[u8]) -> Option<&[u8]> {
    let (length, rest) = file.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let n = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let data = rest.get(..n)?;
    (*sum == masked(length) && rest.get(n..n.checked_add(4)?)? == masked(data)).then_some(data)
}

/// The step of an event that this program wrote.
fn step(event: &[u8]) -> Option<u64> {
    let step = take_varint(event.get(10..)?)?.0;
    (event[0] == 9 && event[9] == 16).then_some(step)
}

/// Whether an event that this program wrote holds the scalars of a test, or says that the run has ended.
fn is_test(event: &[u8]) -> bool {
    let field = |bytes: &[u8], number: u8| {
        let inside = bytes.strip_prefix(&[number << 3 | 2])?;
        take_varint(inside).map(|(_, rest)| rest.to_vec())
    };
    let after_step = event.get(10..).and_then(take_varint).map(|(_, rest)| rest);
    let first_tag = after_step.and_then(|rest| field(&field(&field(rest, 5)?, 1)?, 1));
    first_tag.is_some_and(|tag| tag.starts_with(TEST.as_bytes()) || tag.starts_with(END.as_bytes()))
}

/// A number in the protocol's own form, and what follows it.
fn take_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i as u32).min(63);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_format() {
        // The standard check value of CRC-32C, and the header of a record of 24 bytes as TensorFlow's own writer begins its files.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn steps_are_read_back() {
        for value in [0u64, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut event = vec![9; 9];
            event.push(16);
            varint(&mut event, value);
            event.push(3 << 3 | 2);
            assert_eq!(step(&event), Some(value));
        }
        assert_eq!(step(&[9; 9]), None);
        assert_eq!(step(&[0x80; 40]), None);
    }

    #[test]
    fn the_test_of_a_run_that_goes_on_is_cut_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::open(folder.path(), 0).unwrap();
        events.scalars(300, &[("loss/test/x".into(), 0.5), ("test/HR@5".into(), 0.5)]).unwrap();
        let before = std::fs::read(&events.path).unwrap();
        events.scalars(300, &[("test/HR@5".into(), 0.5), ("test/HR@10".into(), 0.6)]).unwrap();
        let path = events.path.clone();
        cut(&path, 400).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!is_test(&[]) && !is_test(&[9; 12]));
    }

    #[test]
    fn a_damaged_end_is_cut_and_nothing_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::open(folder.path(), 0).unwrap();
        for step in 1..=3 {
            events.scalars(step, &[("a".into(), 0.5), ("b".into(), f64::NAN)]).unwrap();
        }
        let path = events.path.clone();
        let whole = std::fs::read(&path).unwrap();
        for n in [whole.len() - 1, whole.len() - 5, whole.len() - 20] {
            std::fs::write(&path, &whole[..n]).unwrap();
            cut(&path, 9).unwrap();
            let left = std::fs::read(&path).unwrap();
            let last = next(&whole[left.len()..]).unwrap();
            assert!(whole.starts_with(&left) && step(last) == Some(3), "cut to {} bytes", left.len());
        }
        std::fs::write(&path, &whole).unwrap();
        cut(&path, 1).unwrap();
        let left = std::fs::read(&path).unwrap();
        assert_eq!(step(next(&whole[left.len()..]).unwrap()), Some(2));
    }
}
