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
    pub fn open(path: &Path, round: u64) -> Result<MetricsFile> {
        let mut kept = Vec::new();
        if path.exists() {
            let text = std::fs::read(path).map_err(Error::io(path, "read"))?;
            let mut rounds = 0;
            for line in String::from_utf8_lossy(&text).lines() {
                match serde_json::from_str::<serde_json::Value>(line).ok().and_then(|v| v.get("round")?.as_u64()) {
                    Some(r) if r <= round => {
                        kept.extend_from_slice(line.as_bytes());
                        kept.push(b'\n');
                        rounds = r;
                    }
                    // Beyond the checkpoint, or a line that was being written when the program died.
                    _ => break,
                }
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
        let mut text = serde_json::to_vec(line).map_err(|e| Error::mismatch(&self.path, format!("cannot write a line: {e}")))?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path, "append to"))
    }

    /// Makes every line durable; called before a checkpoint, which must never hold a round that this file lacks.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io(&self.path, "write"))
    }
}

/// Every whole line of a metrics file, in order.
pub fn read_lines(path: &Path) -> Result<Vec<serde_json::Value>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_checkpoint_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"round\":1}\n{\"round\":2}\n{\"round\":3}\n{\"rou").unwrap();
        drop(MetricsFile::open(&path, 2).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"round\":1}\n{\"round\":2}\n");
        assert!(MetricsFile::open(&path, 5).err().unwrap().to_string().contains("round 2"));
        assert!(MetricsFile::open(&folder.path().join("none"), 1).is_err());
        drop(MetricsFile::open(&path, 0).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
