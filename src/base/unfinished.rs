//! What this process has begun to write and not finished. A step that fails removes its own; a signal that ends the process in the middle of
//! a step has [`remove_all`].

use parking_lot::ReentrantMutex;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Paths = BTreeSet<PathBuf>;

/// Whoever holds it may list more.
static ALL: ReentrantMutex<RefCell<Paths>> = ReentrantMutex::new(RefCell::new(Paths::new()));

/// A file or folder that is removed if a signal ends the process while this value lives.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Lists `path`, which may not be there yet.
    pub fn at(path: &Path) -> Unfinished {
        ALL.lock().borrow_mut().insert(path.to_path_buf());
        Unfinished(path.to_path_buf())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        ALL.lock().borrow_mut().remove(&self.0);
    }
}

/// Holds off [`remove_all`] for as long as the value lives, so that a folder which takes several renames is put in place by all of them.
pub fn hold() -> impl Sized {
    ALL.lock()
}

/// Removes everything that is listed. From here on no thread begins, finishes or gives up anything: the process is about to end.
pub fn remove_all() {
    let all = ALL.lock();
    remove(&all.borrow());
    std::mem::forget(all);
}

fn remove(paths: &Paths) {
    for path in paths {
        // Another thread may be writing one more file into a folder at this moment.
        for _ in 0..3 {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            if removed.is_ok() || !path.exists() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_goes_and_what_was_finished_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("draft/deep")).unwrap();
        for name in ["draft/deep/file", "lock", "finished"] {
            fs::write(at(name), b"x").unwrap();
        }
        let listed = ["draft", "lock", "not there yet"].map(|name| Unfinished::at(&at(name)));
        drop(Unfinished::at(&at("finished")));
        let ours: Paths = ALL.lock().borrow().iter().filter(|path| path.starts_with(folder.path())).cloned().collect();
        assert_eq!(ours.len(), 3);
        remove(&ours);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["finished"]);
        drop(listed);
        assert!(!ALL.lock().borrow().iter().any(|path| path.starts_with(folder.path())));
    }
}
