//! What was received of a file, and whether a file still is that.

use super::Fetched;
use super::known::KnownFile;
use crate::base::files::write_file;
use crate::{Error, Result};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file was when it was received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// Address that it was asked for at; empty for a file that was there before.
    pub url: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 in hex.
    pub sha256: String,
    /// MD5 in hex, which owners publish.
    pub md5: String,
}

/// Where the record of the file at `path` lies.
fn record(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.fetched.json"))
}

impl Received {
    /// What the file at `path` is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn of(path: &Path, url: &str) -> Result<Received> {
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let (mut md5, mut sha, mut bytes, mut buffer) = (Md5::new(), Sha256::new(), 0, vec![0; 1 << 16]);
        loop {
            let n = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
            if n == 0 {
                break;
            }
            md5.update(&buffer[..n]);
            sha.update(&buffer[..n]);
            bytes += n as u64;
        }
        Ok(Received { url: url.into(), bytes, sha256: hex::encode(sha.finalize()), md5: hex::encode(md5.finalize()) })
    }

    /// Why this is not `file`; nothing where it may be.
    pub(super) fn differs(&self, file: &KnownFile) -> Option<String> {
        if let Some(bytes) = file.bytes.filter(|bytes| *bytes != self.bytes) {
            return Some(format!("has {} bytes where {bytes} are known", self.bytes));
        }
        let md5 = file.md5.as_ref().filter(|md5| !md5.eq_ignore_ascii_case(&self.md5))?;
        Some(format!("has the MD5 {} where the owner has published {md5}", self.md5))
    }

    /// Keeps it beside the file at `path`.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Usage(format!("cannot write JSON: {e}")))?;
        write_file(&record(path), format!("{text}\n").as_bytes())
    }
}

/// The file that is at `path` already.
///
/// # Errors
/// [`Error::Mismatch`] where it is not `file`, or is not any more what was received.
pub(super) fn there(file: &KnownFile, path: &Path) -> Result<Fetched> {
    let now = Received::of(path, "")?;
    let refuse = |why: String| Err(Error::mismatch(path, format!("is there already and {why}; move it away to fetch it anew")));
    if let Some(why) = now.differs(file) {
        return refuse(why);
    }
    let kept = std::fs::read(record(path)).ok().map(|text| serde_json::from_slice::<Received>(&text));
    let received = match kept {
        Some(Ok(kept)) if kept.sha256 == now.sha256 => kept,
        Some(Ok(kept)) => return refuse(format!("has the SHA-256 {}, and {} was received", now.sha256, kept.sha256)),
        Some(Err(e)) => return refuse(format!("the record of what was received is damaged ({e})")),
        // A file of another origin: the published checksum is enough.
        None if file.md5.is_some() => now,
        None => return refuse("nothing says where it is from (no checksum is published, and it was not fetched here)".into()),
    };
    Ok(Fetched { path: path.to_path_buf(), received, reused: true, verified: file.md5.is_some() })
}
