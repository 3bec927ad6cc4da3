//! Files that are either whole or not there.

use super::unfinished::{self, Unfinished};
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::NamedTempFile;

/// SHA-256 of `bytes` in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes `bytes` to a temporary file beside `path`, flushes it to the disk and renames it, so that a reader never sees half a file
/// and a crash leaves the old one.
///
/// # Errors
/// [`Error::Io`] where it cannot be written; nothing is left of the new file then.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let (file, _unfinished) = written(path, bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        sync_folder(path)
    };
    write().map_err(Error::io(path, "write"))
}

/// [`write_file`] for what can be made again: a reader never sees half a file, but nothing waits for the disk.
///
/// # Errors
/// As [`write_file`].
pub fn write_scratch(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let (file, _unfinished) = written(path, bytes)?;
        file.persist(path).map(drop).map_err(std::io::Error::from)
    };
    write().map_err(Error::io(path, "write"))
}

/// A temporary file with `bytes` beside `path`, with the permissions of any new file.
fn written(path: &Path, bytes: &[u8]) -> std::io::Result<(NamedTempFile, Unfinished)> {
    let mut prefix = path.file_name().unwrap_or_default().to_os_string();
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    let unfinished = Unfinished::at(file.path());
    file.write_all(bytes)?;
    Ok((file, unfinished))
}

/// A long file that is written piece by piece and is there once it is whole.
pub struct Growing {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    _unfinished: Unfinished,
}

impl Growing {
    /// Begins a file beside `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be made.
    pub fn begin(path: &Path) -> Result<Growing> {
        let (file, unfinished) = written(path, &[]).map_err(Error::io(path, "write"))?;
        Ok(Growing { path: path.to_path_buf(), file: BufWriter::new(file), _unfinished: unfinished })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails; nothing is left of it then.
    pub fn finish(self) -> Result<()> {
        let Growing { path, file, _unfinished } = self;
        let end = || {
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            sync_folder(&path)
        };
        end().map_err(Error::io(&path, "write"))
    }
}

/// Makes a rename durable. Only Unix can open a folder for that.
#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// A temporary folder beside its target. It vanishes unless it is put in place, and while it lives it is locked, so that another process
/// can tell it from one whose writer was killed.
pub struct Draft {
    path: PathBuf,
    _lock: Option<File>,
    _unfinished: Option<Unfinished>,
}

impl Draft {
    /// A new draft of the folder `target`, whose parent is made where it is missing. Drafts of dead writers are removed.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be made.
    pub fn of(target: &Path) -> Result<Draft> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        let prefix = format!(".{}-draft-", target.file_name().map(|n| n.to_string_lossy()).unwrap_or_default());
        sweep(parent, &prefix);
        let path = parent.join(format!("{prefix}{}-{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).map_err(Error::io(&path, "create"))?;
        let lock = File::open(&path).ok().filter(|f| f.try_lock().is_ok());
        let unfinished = Some(Unfinished::at(&path));
        Ok(Draft { path, _lock: lock, _unfinished: unfinished })
    }

    /// Writes the file `name` in the draft and flushes it to the disk.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path.join(name);
        let mut file = File::create(&path).map_err(Error::io(&path, "create"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io(&path, "write"))
    }

    /// Puts the draft in the place of the folder `target`, whose files named in `ours` give way. Other files of it stay; a symbolic link
    /// to a folder stays one, and the folder it leads to is replaced.
    ///
    /// Without other files that is one rename, so that a reader sees the old folder or the new one. With them the files are renamed one by
    /// one, the last of `ours` last: it must be the one without which the folder is not taken for whole.
    ///
    /// # Errors
    /// [`Error::Io`] where a rename fails; the old folder is then put back.
    pub fn replace(self, target: &Path, ours: &[&str]) -> Result<()> {
        let _whole = unfinished::hold();
        let Ok(target) = fs::canonicalize(target) else {
            return fs::rename(&self.path, target).and_then(|()| sync_folder(target)).map_err(Error::io(target, "put in place"));
        };
        let target = target.as_path();
        let entries = fs::read_dir(target).map_err(Error::io(target, "open as a folder"))?;
        let names: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
        let same_disk = target.parent() == fs::canonicalize(&self.path).ok().as_deref().and_then(Path::parent);
        if same_disk && names.iter().all(|n| ours.iter().any(|o| n == o)) {
            return self.exchange(target);
        }
        let last = ours.last().map(|name| target.join(name));
        last.iter().try_for_each(|path| match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "replace")(e)),
            _ => Ok(()),
        })?;
        for name in ours {
            let (from, to) = (self.path.join(name), target.join(name));
            // A link may lead to another disk, where a rename cannot reach.
            match fs::rename(&from, &to) {
                Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => {
                    write_file(&to, &fs::read(&from).map_err(Error::io(&from, "read"))?)?;
                }
                other => other.map_err(Error::io(&to, "put in place"))?,
            }
        }
        Ok(())
    }

    /// A rename cannot replace a full folder: the old one steps aside, and comes back where the new one cannot take its place.
    fn exchange(&self, target: &Path) -> Result<()> {
        let old = Draft { path: self.path.with_extension("old.tmp"), _lock: None, _unfinished: None };
        fs::rename(target, &old.path).map_err(Error::io(target, "move away"))?;
        fs::rename(&self.path, target).and_then(|()| sync_folder(target)).map_err(|e| {
            // If even that fails, the first error is the one worth reporting.
            let _ = fs::rename(&old.path, target);
            Error::io(target, "put in place")(e)
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing is left to do where removal fails; the next writer sweeps again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes drafts whose writer was killed.
fn sweep(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let dead = || File::open(entry.path()).is_ok_and(|f| f.try_lock().is_ok());
        if name.starts_with(prefix) && name.ends_with(".tmp") && dead() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
