//! Public data sets from their owners' sites: which there are, and getting one that is whole.
//!
//! A file is downloaded beside its place as `NAME.part` and goes on there after a cut, where the server still has the same version of it. It is moved to its
//! place once length and checksum are right. `NAME.fetched.json` keeps what was received, so that a file without a published checksum can be
//! compared the next time.

mod download;
mod known;
mod received;

pub use download::Patience;
pub use known::{KnownFile, KnownSet, known_set, known_sets};
pub use received::Received;

use super::prepare::Progress;
use crate::base::lock::Lock;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// A file of a set in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    /// Where it lies.
    pub path: PathBuf,
    /// What was received, now or earlier.
    pub received: Received,
    /// Whether it was there before.
    pub reused: bool,
    /// Whether the owner has published a checksum, which it then has.
    pub verified: bool,
}

/// Puts the files of `set` into the folder `dir`, those that are there already left as they are. `from` is a folder of a server that has the files
/// under their names, in the place of the owner's addresses. The caller has shown the terms and had them accepted.
///
/// # Errors
/// [`Error::Io`] where no whole file came in spite of `patience`, [`Error::Mismatch`] where what came, or what lies there, is another file than was wanted.
pub fn fetch(set: &KnownSet, dir: &Path, from: Option<&str>, patience: &Patience, progress: &Progress) -> Result<Vec<Fetched>> {
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    let mut all = Vec::new();
    for file in &set.files {
        let path = dir.join(&file.name);
        let _lock = Lock::take(&Lock::beside(&path), &format!("download {}", path.display()))?;
        if path.exists() {
            all.push(received::there(file, &path)?);
            continue;
        }
        let url = from.map_or_else(|| file.url.clone(), |base| format!("{}/{}", base.trim_end_matches('/'), file.name));
        let part = dir.join(format!("{}.part", file.name));
        let received = download::whole(file, &url, &part, patience, progress)?;
        // First what it is, so that no file is ever without.
        received.write(&path)?;
        std::fs::rename(&part, &path).map_err(Error::io(&path, "write"))?;
        download::forget(&part);
        all.push(Fetched { path, received, reused: false, verified: file.md5.is_some() });
    }
    Ok(all)
}
