//! The messages of a rank other than 0: lines of a file of its own beside the run that it works for.

use crate::base::{clean, clock};
use parking_lot::Mutex;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The log of one rank: `rank-N.log` in the folder of the run under way. Without a run, and on a machine that does not see the folder, lines are
/// dropped.
#[derive(Debug, Default)]
pub struct RankLog(Mutex<Option<PathBuf>>);

impl RankLog {
    /// Lines of `rank` go into `folder` from now on; with nothing they have no file.
    pub fn open(&self, folder: Option<&Path>, rank: usize) {
        *self.0.lock() = folder.map(|folder| folder.join(format!("rank-{rank}.log")));
    }

    /// One line with the time; whether it was written.
    pub fn line(&self, text: &str) -> bool {
        let file = self.0.lock().clone();
        // Opened for each line: lines are few, and one must be on the disk when a launcher kills this process.
        let write = |path: PathBuf| -> std::io::Result<()> {
            let line = format!("{} {}\n", clock::now(), clean::message(text));
            OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
        };
        file.is_some_and(|path| write(path).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_into_the_folder_while_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = RankLog::default();
        assert!(!log.line("before"));
        log.open(Some(folder.path()), 3);
        assert!(log.line("one\u{1b}[2J") && log.line("two"));
        log.open(None, 3);
        assert!(!log.line("after"));
        let text = std::fs::read_to_string(folder.path().join("rank-3.log")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("one") && lines[1].ends_with(" two"), "{text}");
        assert!(!text.contains('\u{1b}'));
        log.open(Some(&folder.path().join("not there")), 3);
        assert!(!log.line("lost"));
    }
}
