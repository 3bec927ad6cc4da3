//! One process at a time: a lock of the operating system on a small file that names its owner.
//!
//! The lock is `flock` on Unix and `LockFileEx` on Windows, through [`File::try_lock`]. It ends with its process however that ends,
//! so that nothing has to be cleaned up after a kill; the file that is left behind then is taken over by the next owner.

use super::unfinished::Unfinished;
use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a waiting process asks again.
const POLL: Duration = Duration::from_millis(50);
/// How long a new owner may take to write its name.
const NAMING: Duration = Duration::from_millis(200);
/// Most that is read of a lock file.
const LONGEST: u64 = 400;

/// A lock that this process holds; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    _unfinished: Unfinished,
}

impl Lock {
    /// Takes the lock file `path` for `what`, such as `run folder runs/first`; refuses at once where another process has it.
    ///
    /// # Errors
    /// [`Error::InUse`] with the owner; [`Error::Io`] where the file cannot be made.
    pub fn take(path: &Path, what: &str) -> Result<Lock> {
        match attempt(path)? {
            Some(lock) => Ok(lock),
            None => Err(in_use(path, what)),
        }
    }

    /// Takes the lock file `path`; where another process has it, calls `waiting` once with its owner and waits until `stopped`.
    ///
    /// # Errors
    /// [`Error::InUse`] where `stopped` says so first; [`Error::Io`] where the file cannot be made.
    pub fn wait(path: &Path, what: &str, waiting: &dyn Fn(&str), stopped: &dyn Fn() -> bool) -> Result<Lock> {
        let mut noted = false;
        loop {
            if let Some(lock) = attempt(path)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut noted, true) {
                waiting(&format!("waiting: {}", in_use(path, what)));
            }
            if stopped() {
                return Err(in_use(path, what));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Whether a process has the lock file `path` now. Nothing is made or changed.
    pub fn is_held(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The lock file that guards the folder `target` while it is written: hidden and beside it.
    pub fn beside(target: &Path) -> PathBuf {
        let name = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        target.with_file_name(format!(".{name}.lock"))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is still held: whoever opened the file before finds another one under its name, and tries again.
        if cfg!(unix) {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = self.file.unlock();
    }
}

/// One attempt; `None` where another process has the lock.
fn attempt(path: &Path) -> Result<Option<Lock>> {
    loop {
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false);
        let mut file = open.open(path).map_err(Error::io(path, "lock"))?;
        match file.try_lock() {
            Ok(()) if !is_at(&file, path) => continue,
            Ok(()) => {
                // A lock without a name works as well, and the disk may be full.
                let _ = file.set_len(0).and_then(|()| file.write_all(owner().as_bytes()));
                return Ok(Some(Lock { file, path: path.to_path_buf(), _unfinished: Unfinished::at(path) }));
            }
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(Error::io(path, "lock")(e)),
        }
    }
}

/// Whether `file` still lies at `path`: its last owner may have removed it between opening and locking.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

/// `pid 12 on host since 2026-01-02T03:04:05Z`.
fn owner() -> String {
    format!("pid {} on {} since {}\n", std::process::id(), host(), super::clock::now())
}

/// Name of this machine.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).or_else(|| std::env::var("COMPUTERNAME").ok());
    name.map(|n| n.trim().to_string()).filter(|n| !n.is_empty()).unwrap_or_else(|| "an unnamed host".into())
}

/// The refusal, with what the owner wrote of itself.
fn in_use(path: &Path, what: &str) -> Error {
    let begun = Instant::now();
    loop {
        let mut text = String::new();
        // On Windows a locked file cannot be read; the refusal then names no owner.
        let _ = File::open(path).and_then(|f| f.take(LONGEST).read_to_string(&mut text));
        if text.ends_with('\n') || begun.elapsed() > NAMING {
            let line = text.lines().next().unwrap_or_default();
            let shown: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            let owner = if shown.is_empty() { "another process".to_string() } else { shown };
            return Error::InUse { what: what.to_string(), owner };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn the_second_is_refused_and_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, "run folder x").unwrap();
        let message = Lock::take(&path, "run folder x").unwrap_err().to_string();
        let pid = format!("pid {} on ", std::process::id());
        assert!(message.contains("run folder x") && message.contains("in use") && message.contains(&pid), "{message}");
        drop(first);
        Lock::take(&path, "run folder x").unwrap();
    }

    #[test]
    fn what_a_dead_owner_left_behind_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "pid 1 on elsewhere since yesterday, with a longer line than the next owner's will ever be in any case\n")
            .unwrap();
        let lock = Lock::take(&path, "x").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&format!("pid {}", std::process::id())) && text.lines().count() == 1, "{text}");
        drop(lock);
        assert!(!path.exists());
    }

    #[test]
    fn never_two_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let (inside, entered) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..200 {
                        let Ok(lock) = Lock::take(&path, "x") else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        entered.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(entered.into_inner() > 0);
    }

    #[test]
    fn waiting_names_the_owner_once_and_ends_with_the_lock_or_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = Lock::take(&path, "x").unwrap();
        let notes = parking_lot::Mutex::new(Vec::new());
        let note = |text: &str| notes.lock().push(text.to_string());
        assert!(matches!(Lock::wait(&path, "x", &note, &|| true), Err(Error::InUse { .. })));
        std::thread::scope(|s| {
            let waiting = s.spawn(|| Lock::wait(&path, "x", &note, &|| false).map(|_| ()));
            while notes.lock().len() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(first);
            waiting.join().unwrap().unwrap();
        });
        let notes = notes.into_inner();
        assert!(notes.len() == 2 && notes[1].contains(&format!("pid {}", std::process::id())), "{notes:?}");
    }
}
