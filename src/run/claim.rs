//! Whose a run folder is: one process at a time trains in it.

use super::folder::RunFolder;
use super::pipeline::Prepared;
use crate::base::lock::Lock;
use crate::config::Effective;
use crate::{Error, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an owner is waited for: `lumos eval` is one while it writes ranks, which takes a moment.
const MOMENT: Duration = Duration::from_millis(300);
/// Times that a folder is made again which another process removed in between.
const TRIES: u32 = 3;

/// What a process means to do in a run folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Start a run; the folder holds none yet.
    New,
    /// Go on with the run that is there.
    Resume,
    /// Either, as it turns out.
    Either,
}

/// A run folder that this process owns until it is dropped.
#[derive(Debug)]
pub struct Claim {
    folder: RunFolder,
    /// Folders that were made for this claim, the deepest first.
    made: Vec<PathBuf>,
    lock: Option<Lock>,
}

impl Claim {
    /// Takes the folder at `root`, made where it is missing. Nothing is changed in a folder that is refused.
    ///
    /// # Errors
    /// [`Error::InUse`] with the owner where another process has it, [`Error::Mismatch`] where it does not fit `start` or holds other
    /// files, [`Error::Io`] where it cannot be made or locked.
    pub fn take(root: &Path, start: Start) -> Result<Claim> {
        let folder = RunFolder::at(root);
        let made: Vec<PathBuf> = root.ancestors().take_while(|f| !f.exists()).map(Path::to_path_buf).collect();
        if !made.is_empty() && start == Start::Resume {
            return Err(Error::mismatch(root, "there is no run to resume; leave --resume out to start one"));
        }
        // Before anything is written. An owner may be at work on its first files: then the lock decides.
        if made.is_empty() && folder.refuse_foreign().is_err() && !folder.lock().exists() {
            folder.refuse_foreign()?;
        }
        let lock = Some(lock(&folder)?);
        let claim = Claim { folder, made, lock };
        let begun = claim.folder.is_begun();
        if !begun {
            // Another process may have been quicker with its own files.
            claim.folder.refuse_foreign()?;
        }
        match start {
            Start::New if begun => Err(Error::mismatch(root, "holds a run already; pass --resume to continue it, or choose another --out")),
            Start::Resume if !begun => Err(Error::mismatch(root, "holds no run to resume; leave --resume out to start one")),
            _ => Ok(claim),
        }
    }

    /// The folder with a run of `effective` in it, new or to be continued, and whether it is continued.
    pub(super) fn begin(&self, effective: &Effective, prepared: &Prepared) -> Result<(&RunFolder, bool)> {
        let resumed = self.folder.is_begun();
        match resumed {
            true => self.folder.resume(effective, prepared)?,
            false => self.folder.create(effective, prepared)?,
        }
        Ok((&self.folder, resumed))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.lock.take());
        // Refused where something has come of a folder.
        let _ = self.made.iter().try_for_each(std::fs::remove_dir);
    }
}

/// The lock of `folder`, for all who write in it.
pub(super) fn lock(folder: &RunFolder) -> Result<Lock> {
    let root = folder.root();
    let (begun, mut tries) = (Instant::now(), 0);
    loop {
        let what = format!("run folder {}", root.display());
        let made = std::fs::create_dir_all(root).map_err(Error::io(root, "create"));
        match made.and_then(|()| Lock::wait(&folder.lock(), &what, &|_| (), &|| begun.elapsed() > MOMENT)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound && tries < TRIES => tries += 1,
            other => return other,
        }
    }
}
