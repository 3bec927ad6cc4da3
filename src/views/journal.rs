//! Views while they are made: a crash-safe table of finished ones, so that a build that is killed goes on where it was.
//!
//! One `redb` file for each (data set, generator), one table for each recipe of a view, one row a user. A thread writes whatever
//! has been finished since its last commit, each commit durable: slow generators lose nothing that was finished, quick ones are not
//! held up. Finished views leave for `views.safetensors`, which is small, immutable and read by numpy; the journal of a costly
//! generator stays, so that a changed setting makes anew only what it concerns.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::generator::{Counts, Made};
use crate::{Error, Result};

/// How often another process is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);
/// Views written by one commit at most, so that a quick generator's memory stays bounded.
const COMMIT: usize = 1 << 16;
/// Numbers of [`Counts`] before a row's items.
const HEAD: usize = 5;
/// What is added to the name of the seconds of a build for the tokens of its prompts and of its answers.
pub(super) const PROMPT: &str = "-prompt-tokens";
pub(super) const OUTPUT: &str = "-output-tokens";
/// Table of sums over all starts of a build by recipe: seconds, tokens, joules.
const SPENT: TableDefinition<&str, f64> = TableDefinition::new("spent");

/// An open journal; the file is locked to this process.
pub(super) struct Journal {
    path: PathBuf,
    base: Database,
}

/// A finished view on its way to the file.
pub(super) struct Row {
    /// Which table.
    pub table: String,
    /// User.
    pub user: u32,
    /// The view.
    pub made: Made,
}

impl Journal {
    /// Opens the journal at `path`, made where it is missing; waits while another process has it.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Mismatch`] where it is no journal.
    pub(super) fn open(path: &Path) -> Result<Journal> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        loop {
            match Database::create(path) {
                Ok(base) => return Ok(Journal { path: path.to_path_buf(), base }),
                Err(DatabaseError::DatabaseAlreadyOpen) => std::thread::sleep(POLL),
                Err(e) => return Err(failed(path, e.into())),
            }
        }
    }

    /// The folder that the journal lies in.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// The finished views in `table`, by user. Rows that do not fit `users` and `items` are an error.
    pub(super) fn read(&self, table: &str, users: usize, items: usize) -> Result<HashMap<u32, Made>> {
        let fail = |e: redb::Error| failed(&self.path, e);
        let read = self.base.begin_read().map_err(|e| fail(e.into()))?;
        let table = match read.open_table(TableDefinition::<u32, &[u8]>::new(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
            Err(e) => return Err(fail(e.into())),
        };
        let mut all = HashMap::new();
        for row in table.iter().map_err(|e| fail(e.into()))? {
            let (user, bytes) = row.map_err(|e| fail(e.into()))?;
            let made = decode(bytes.value(), items).filter(|_| (user.value() as usize) < users);
            let made =
                made.ok_or_else(|| Error::mismatch(&self.path, format!("is damaged (row of user {}); remove the file", user.value())))?;
            all.insert(user.value(), made);
        }
        Ok(all)
    }

    /// A sum kept under `name`; 0 where there is none.
    pub(super) fn spent(&self, name: &str) -> Result<f64> {
        let fail = |e: redb::Error| failed(&self.path, e);
        let read = self.base.begin_read().map_err(|e| fail(e.into()))?;
        match read.open_table(SPENT) {
            Ok(table) => Ok(table.get(name).map_err(|e| fail(e.into()))?.map_or(0.0, |v| v.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok(0.0),
            Err(e) => Err(fail(e.into())),
        }
    }

    /// Adds to the sum under `name`.
    pub(super) fn spend(&self, name: &str, more: f64) -> Result<()> {
        self.commit(&[], name, more)
    }

    /// Writes rows until the channel ends, and adds the wall time that passes to the sum under `seconds`, the tokens of the rows to
    /// those of [`PROMPT`] and [`OUTPUT`] beside it. After an error `stop` is set and rows are thrown away.
    pub(super) fn write(&self, rows: mpsc::Receiver<Row>, seconds: &str, stop: &AtomicBool) -> Result<()> {
        let mut outcome = Ok(());
        let mut last = Instant::now();
        while let Ok(first) = rows.recv() {
            let mut batch = vec![first];
            while batch.len() < COMMIT
                && let Ok(next) = rows.try_recv()
            {
                batch.push(next);
            }
            if outcome.is_ok() {
                let now = Instant::now();
                outcome = self.commit(&batch, seconds, (now - last).as_secs_f64());
                last = now;
                stop.store(outcome.is_err(), Ordering::Relaxed);
            }
        }
        outcome.and_then(|()| self.commit(&[], seconds, last.elapsed().as_secs_f64()))
    }

    fn commit(&self, batch: &[Row], sum: &str, more: f64) -> Result<()> {
        let fail = |e: redb::Error| failed(&self.path, e);
        let tokens = |of: fn(&Counts) -> u32| batch.iter().map(|row| f64::from(of(&row.made.counts))).sum::<f64>();
        let sums = [
            (sum.to_owned(), more),
            (format!("{sum}{PROMPT}"), tokens(|c| c.prompt_tokens)),
            (format!("{sum}{OUTPUT}"), tokens(|c| c.output_tokens)),
        ];
        let mut order: Vec<&Row> = batch.iter().collect();
        order.sort_by(|a, b| (&a.table, a.user).cmp(&(&b.table, b.user)));
        let write = self.base.begin_write().map_err(|e| fail(e.into()))?;
        for rows in order.chunk_by(|a, b| a.table == b.table) {
            let mut table = write.open_table(TableDefinition::<u32, &[u8]>::new(&rows[0].table)).map_err(|e| fail(e.into()))?;
            for row in rows {
                table.insert(row.user, encode(&row.made).as_slice()).map_err(|e| fail(e.into()))?;
            }
        }
        {
            let mut table = write.open_table(SPENT).map_err(|e| fail(e.into()))?;
            for (name, more) in sums.iter().filter(|(_, more)| *more != 0.0) {
                let before = table.get(name.as_str()).map_err(|e| fail(e.into()))?.map_or(0.0, |v| v.value());
                table.insert(name.as_str(), before + more).map_err(|e| fail(e.into()))?;
            }
        }
        write.commit().map_err(|e| fail(e.into()))
    }

    /// Closes the journal and removes its file.
    pub(super) fn remove(self) -> Result<()> {
        let Journal { path, base } = self;
        drop(base);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, "remove")(e)),
            _ => Ok(()),
        }
    }
}

fn encode(made: &Made) -> Vec<u8> {
    let Counts { lines, grounded, own, prompt_tokens, output_tokens } = made.counts;
    let head = [lines, grounded, own, prompt_tokens, output_tokens];
    head.iter().chain(&made.sequence).flat_map(|v| v.to_le_bytes()).collect()
}

fn decode(bytes: &[u8], items: usize) -> Option<Made> {
    let (words, []) = bytes.as_chunks::<4>() else { return None };
    let words: Vec<u32> = words.iter().map(|w| u32::from_le_bytes(*w)).collect();
    let (&[lines, grounded, own, prompt_tokens, output_tokens], sequence) = words.split_first_chunk::<HEAD>()?;
    let counts = Counts { lines, grounded, own, prompt_tokens, output_tokens };
    sequence.iter().all(|i| (*i as usize) < items).then(|| Made { sequence: sequence.to_vec(), counts })
}

fn failed(path: &Path, e: redb::Error) -> Error {
    match e {
        redb::Error::Io(source) => Error::Io { path: path.to_path_buf(), action: "use as a journal of views", source },
        other => Error::mismatch(
            path,
            format!("cannot be used as a journal of views ({other}); remove the file, and what it holds is made again"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: &str, user: u32, sequence: &[u32]) -> Row {
        let counts = Counts { lines: user, grounded: 2, own: 1, prompt_tokens: 9, output_tokens: 8 };
        Row { table: table.into(), user, made: Made { sequence: sequence.to_vec(), counts } }
    }

    fn put(journal: &Journal, rows: Vec<Row>) {
        let (send, receive) = mpsc::channel();
        rows.into_iter().for_each(|r| send.send(r).unwrap());
        drop(send);
        journal.write(receive, "seconds", &AtomicBool::new(false)).unwrap();
    }

    #[test]
    fn rows_come_back_by_table_and_sums_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/views.redb");
        let journal = Journal::open(&path).unwrap();
        assert!(journal.read("a", 9, 9).unwrap().is_empty() && journal.spent("x").unwrap() == 0.0);
        put(&journal, vec![row("a", 3, &[1, 2]), row("b", 3, &[]), row("a", 1, &[8])]);
        put(&journal, vec![row("a", 1, &[7])]);
        journal.spend("x", 1.5).unwrap();
        drop(journal);
        let journal = Journal::open(&path).unwrap();
        let found = journal.read("a", 9, 9).unwrap();
        assert_eq!((found.len(), &found[&1], &found[&3]), (2, &row("a", 1, &[7]).made, &row("a", 3, &[1, 2]).made));
        assert_eq!(journal.read("b", 9, 9).unwrap().len(), 1);
        journal.spend("x", 2.0).unwrap();
        assert_eq!(journal.spent("x").unwrap(), 3.5);
        for (users, items) in [(3, 9), (9, 7)] {
            assert!(matches!(journal.read("a", users, items), Err(Error::Mismatch { .. })), "rows of another data set");
        }
        journal.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_journal_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.redb");
        std::fs::write(&path, vec![b'x'; 10_000]).unwrap();
        let message = Journal::open(&path).err().unwrap().to_string();
        assert!(message.contains("notes.redb") && path.exists(), "{message}");
    }
}
