//! `metrics.jsonl`: one JSON object a round, appended; cut back to a checkpoint's round on resume.

use super::watch::GpuSpan;
use crate::federation::RoundReport;
use crate::{Error, Result};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line: the round's report, with the validation that followed it, if any.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The round.
    #[serde(flatten)]
    pub report: RoundReport,
    /// Energy of the machine's processors in the round in joules, where they count it and the counters may be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_joules: Option<f64>,
    /// GPU telemetry of the rounds since the last line that has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpan>,
    /// Validation metrics by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid: Option<serde_json::Value>,
    /// Whether this validation is the best so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<bool>,
}

/// The open file.
pub(super) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file to append after `round`; what was written beyond it (by a run that was killed) goes.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with the number of a damaged line, and where a round up to `round` is missing.
    pub fn open(path: &Path, round: u64) -> Result<MetricsFile> {
        let mut kept = Vec::new();
        if path.exists() {
            let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
            let text = String::from_utf8_lossy(&bytes);
            let (mut lines, mut rounds) = (Lines::of(path, &text), 0);
            while rounds < round {
                let Some((line, value)) = lines.next().transpose()? else { break };
                let at = value.get("round").and_then(serde_json::Value::as_u64);
                if at != Some(rounds + 1) {
                    return Err(lines.damaged(&format!("it is not that of round {}", rounds + 1)));
                }
                kept.extend_from_slice(line.as_bytes());
                kept.push(b'\n');
                rounds += 1;
            }
            if rounds < round {
                let message = format!("ends at round {rounds}, but the checkpoint stands at round {round}; restore the file or train anew");
                return Err(Error::mismatch(path, message));
            }
        } else if round > 0 {
            return Err(Error::mismatch(path, format!("is missing, but the checkpoint stands at round {round}; restore it or train anew")));
        }
        crate::base::files::write_file(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "open"))?;
        Ok(MetricsFile { path: path.to_path_buf(), file })
    }

    /// Appends one line.
    pub fn append(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line).map_err(|e| Error::mismatch(&self.path, format!("cannot write a line: {e}")))?;
        let text = with_sum(text.strip_suffix('}').unwrap_or(&text)) + "\n";
        self.file.write_all(text.as_bytes()).map_err(Error::io(&self.path, "append to"))
    }

    /// Makes every line durable; called before a checkpoint, which must never hold a round that this file lacks.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path, "write"))
    }
}

/// Between an object and its checksum.
const SUM: &str = ",\"crc32c\":\"";

/// A line from `open`, a JSON object without its last brace: the checksum becomes the last key, the CRC-32C of `open` in hex.
fn with_sum(open: &str) -> String {
    format!("{open}{SUM}{:08x}\"}}", crc32c::crc32c(open.as_bytes()))
}

/// The lines of a metrics file with their objects. A last line without its line end, which the program was writing when it died, is left out.
struct Lines<'t> {
    path: &'t Path,
    rest: &'t str,
    /// Number of the line that was read last.
    number: u64,
    /// Whether a line had a checksum: from there on each one needs it. Earlier versions wrote none.
    summed: bool,
}

impl<'t> Lines<'t> {
    fn of(path: &'t Path, text: &'t str) -> Lines<'t> {
        Lines { path, rest: text, number: 0, summed: false }
    }

    fn damaged(&self, why: &str) -> Error {
        let remedy = "restore the file from a copy, or train a new run";
        Error::mismatch(self.path, format!("line {} is damaged ({why}); {remedy}", self.number))
    }

    fn object(&mut self, line: &str) -> Result<serde_json::Value> {
        match line.rsplit_once(SUM) {
            Some((open, _)) if line != with_sum(open) => return Err(self.damaged("its checksum differs")),
            Some(_) => self.summed = true,
            None if self.summed => return Err(self.damaged("it has no checksum")),
            None => {}
        }
        serde_json::from_str(line).map_err(|_| self.damaged("it is no JSON object"))
    }
}

impl<'t> Iterator for Lines<'t> {
    type Item = Result<(&'t str, serde_json::Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (line, rest) = self.rest.split_once('\n')?;
        (self.rest, self.number) = (rest, self.number + 1);
        Some(self.object(line).map(|value| (line, value)))
    }
}

/// The object of every whole line of a metrics file, in order.
///
/// # Errors
/// [`Error::Io`] where it cannot be read, [`Error::Mismatch`] with the number of a damaged line.
pub fn read_lines(path: &Path) -> Result<Vec<serde_json::Value>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8_lossy(&bytes);
    Lines::of(path, &text).map(|line| line.map(|(_, value)| value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(round: u64) -> String {
        with_sum(&format!("{{\"round\":{round},\"device\":{{\"kernels\":1}}")) + "\n"
    }

    #[test]
    fn lines_beyond_the_checkpoint_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text: String = (1..4).map(line).collect();
        std::fs::write(&path, text + "{\"rou").unwrap();
        drop(MetricsFile::open(&path, 2).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), line(1) + &line(2));
        assert!(MetricsFile::open(&path, 5).err().unwrap().to_string().contains("round 2"));
        assert!(MetricsFile::open(&folder.path().join("none"), 1).is_err());
        drop(MetricsFile::open(&path, 0).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn lines_of_earlier_versions_are_read_and_gone_on_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let text = "{\"round\":1}\n{\"round\":2}\n".to_string() + &line(3);
        std::fs::write(&path, &text).unwrap();
        drop(MetricsFile::open(&path, 3).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        assert_eq!(read_lines(&path).unwrap().len(), 3);
        // One without a checksum behind one that has it has lost it.
        std::fs::write(&path, text + "{\"round\":4}\n").unwrap();
        assert!(read_lines(&path).unwrap_err().to_string().contains("line 4 is damaged"));
    }

    #[test]
    fn every_flipped_bit_is_found_and_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let whole: Vec<u8> = (1..4).map(line).collect::<String>().into();
        let (first, second) = (line(1).len(), line(2).len());
        for bit in 8 * first..8 * (first + second - 1) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            for error in [read_lines(&path).unwrap_err(), MetricsFile::open(&path, 3).err().unwrap()] {
                assert!(error.to_string().contains("line 2 is damaged"), "bit {bit}: {error}");
            }
        }
    }
}
