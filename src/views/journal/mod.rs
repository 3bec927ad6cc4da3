//! Views while they are made: a file of finished ones, so that a build that is killed goes on where it was.
//!
//! One file for each (data set, generator), which is only ever appended to: a record for every view, with the table (a recipe of a
//! view) and the user that it belongs to, and a CRC-32C over all of it. A thread writes whatever has been finished since its last
//! commit, each commit durable: slow generators lose nothing that was finished, quick ones are not held up. A record that does not
//! match its checksum is left out and its view made again, so that damage costs time and changes no view. Finished views leave for
//! `views.safetensors`, which is small, immutable and read by numpy; the journal of a costly generator stays, so that a changed
//! setting makes anew only what it concerns.

mod contents;

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use super::generator::{Counts, Made};
use crate::base::files::write_file;
use crate::base::lock::Lock;
use crate::{Error, Result};
pub(super) use contents::{Contents, example};
use contents::{HEADER, put_sum, put_view};

/// Views written by one commit at most, so that a quick generator's memory stays bounded.
const COMMIT: usize = 1 << 16;
/// What is added to the name of the seconds of a build for the tokens of its prompts and of its answers.
pub(super) const PROMPT: &str = "-prompt-tokens";
pub(super) const OUTPUT: &str = "-output-tokens";

/// A finished view on its way to the file.
pub(super) struct Row {
    /// Which table.
    pub table: String,
    /// User.
    pub user: u32,
    /// The view.
    pub made: Made,
}

/// An open journal, locked to this process.
pub(super) struct Journal {
    path: PathBuf,
    /// The file and its length up to the last commit.
    file: Mutex<(File, u64)>,
    contents: Mutex<Contents>,
    _lock: Lock,
}

impl Journal {
    /// Opens the journal at `path`, made where it is missing. Where another process has it, calls `note` with the owner and waits until
    /// it is free or `stopped`. Damage is cut out, with a note.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be opened, [`Error::Mismatch`] where it is no journal, [`Error::InUse`] after a stop.
    pub(super) fn open(path: &Path, note: &dyn Fn(&str), stopped: &dyn Fn() -> bool) -> Result<Journal> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io(parent, "create"))?;
        }
        let lock = Lock::wait(&Lock::beside(path), &format!("store of views {}", path.display()), note, stopped)?;
        let contents = Contents::load(path)?;
        let length = std::fs::metadata(path).map_or(0, |m| m.len());
        let whole: usize = contents.whole.iter().map(Range::len).sum();
        if length != (HEADER.len() + whole) as u64 || contents.damaged > 0 {
            if contents.damaged > 0 {
                note(&format!("{}: {} damaged bytes are left out; the views in them are made again", path.display(), contents.damaged));
            }
            let old = if whole > 0 { std::fs::read(path).map_err(Error::io(path, "read"))? } else { Vec::new() };
            let kept = contents.whole.iter().flat_map(|range| old.get(range.clone()).unwrap_or_default());
            write_file(path, &HEADER.iter().chain(kept).copied().collect::<Vec<_>>())?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "open"))?;
        let length = file.metadata().map_err(Error::io(path, "open"))?.len();
        Ok(Journal { path: path.to_path_buf(), file: Mutex::new((file, length)), contents: Mutex::new(contents), _lock: lock })
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock()
    }

    /// The folder that the journal lies in.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Takes out the views in `table` that were finished when the journal was opened; see [`Contents::views`].
    pub(super) fn read(&self, table: &str, users: usize, items: usize) -> Result<HashMap<u32, Made>> {
        self.contents().views(&self.path, table, users, items)
    }

    /// A sum kept under `name`; 0 where there is none.
    pub(super) fn spent(&self, name: &str) -> f64 {
        self.contents().sums.get(name).copied().unwrap_or_default()
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
        let mut bytes = Vec::new();
        batch.iter().for_each(|row| put_view(&mut bytes, row));
        let tokens = |of: fn(&Counts) -> u32| batch.iter().map(|row| f64::from(of(&row.made.counts))).sum::<f64>();
        let sums = [
            (sum.to_owned(), more),
            (format!("{sum}{PROMPT}"), tokens(|c| c.prompt_tokens)),
            (format!("{sum}{OUTPUT}"), tokens(|c| c.output_tokens)),
        ];
        let sums = sums.into_iter().filter(|(_, more)| *more != 0.0).collect::<Vec<_>>();
        sums.iter().for_each(|(name, more)| put_sum(&mut bytes, name, *more));
        let mut held = self.file.lock();
        let (file, length) = &mut *held;
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|e| {
            // Half a record is passed over anyway when the journal is read.
            let _ = file.set_len(*length);
            Error::io(&self.path, "write")(e)
        })?;
        *length += bytes.len() as u64;
        let mut contents = self.contents();
        for (name, more) in sums {
            *contents.sums.entry(name).or_default() += more;
        }
        Ok(())
    }

    /// Closes the journal and removes its file.
    pub(super) fn remove(self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&self.path, "remove")(e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn open(path: &Path) -> Result<Journal> {
        Journal::open(path, &|_| (), &|| false)
    }

    fn row(table: &str, user: u32, sequence: &[u32]) -> Row {
        let counts = Counts { lines: user, grounded: 2, own: 1, prompt_tokens: 9, output_tokens: 8 };
        Row { table: table.into(), user, made: Made { sequence: sequence.to_vec(), counts } }
    }

    fn write(journal: &Journal, rows: Vec<Row>) {
        let (send, receive) = mpsc::channel();
        rows.into_iter().for_each(|r| send.send(r).unwrap());
        drop(send);
        journal.write(receive, "seconds", &AtomicBool::new(false)).unwrap();
    }

    #[test]
    fn rows_come_back_by_table_and_sums_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/views.journal");
        let journal = open(&path).unwrap();
        assert!(journal.read("a", 9, 9).unwrap().is_empty() && journal.spent("x") == 0.0);
        write(&journal, vec![row("a", 3, &[1, 2]), row("b", 3, &[]), row("a", 1, &[8])]);
        write(&journal, vec![row("a", 1, &[7])]);
        journal.spend("x", 1.5).unwrap();
        drop(journal);
        let journal = open(&path).unwrap();
        let found = journal.read("a", 9, 9).unwrap();
        assert_eq!((found.len(), &found[&1], &found[&3]), (2, &row("a", 1, &[7]).made, &row("a", 3, &[1, 2]).made));
        assert_eq!(journal.read("b", 9, 9).unwrap().len(), 1);
        journal.spend("x", 2.0).unwrap();
        assert_eq!(journal.spent("x"), 3.5);
        drop(journal);
        for (users, items) in [(3, 9), (9, 7)] {
            let journal = open(&path).unwrap();
            assert!(matches!(journal.read("a", users, items), Err(Error::Mismatch { .. })), "rows of another data set");
        }
        open(&path).unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_journal_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("notes", vec![b'x'; 10_000]), ("later", b"lumos-views-journal-2\n".to_vec())] {
            let path = folder.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            let message = open(&path).err().unwrap().to_string();
            assert!(message.contains(name) && message.contains("remove the file"), "{message}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    /// `good` with up to eight bits flipped, and cut short for every third seed; and the number of flips.
    fn spoil(good: &[u8], seed: u64) -> (Vec<u8>, usize) {
        let mut random = Stream::new(seed, Purpose::Cohort, 0, 0);
        let mut bytes = good.to_vec();
        let flips = 1 + random.below(8);
        for _ in 0..flips {
            let place = random.below(bytes.len() as u64) as usize;
            bytes[place] ^= 1 << random.below(8);
        }
        if seed.is_multiple_of(3) {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        (bytes, flips as usize)
    }

    /// Views of 40 users in two tables.
    fn forty(path: &Path) -> Vec<u8> {
        let journal = open(path).unwrap();
        for table in ["a", "b"] {
            write(&journal, (0..40).map(|user| row(table, user, &[user, user % 7, 3])).collect());
        }
        drop(journal);
        std::fs::read(path).unwrap()
    }

    /// Every view of `contents` is one of [`forty`]; gives their number.
    fn count(contents: &Contents) -> usize {
        for (table, rows) in contents.rows.iter().filter(|(table, _)| *table != "c") {
            for (user, made) in rows {
                assert_eq!(*made, row(table, *user, &[*user, user % 7, 3]).made, "{table} {user}");
            }
        }
        contents.rows.iter().filter(|(table, _)| *table != "c").map(|(_, rows)| rows.len()).sum()
    }

    #[test]
    fn damage_loses_views_and_changes_none() {
        let folder = tempfile::tempdir().unwrap();
        let good = forty(&folder.path().join("views.journal"));
        for seed in 0..3000 {
            let (bytes, flips) = spoil(&good, seed);
            let Some(contents) = Contents::parse(&bytes) else { continue };
            let read = count(&contents);
            if !seed.is_multiple_of(3) {
                assert!(read >= 80 - flips, "seed {seed}: the others are kept, {read} with {flips} flips");
                assert!(read == 80 || contents.damaged > 0 || flips == 1, "seed {seed}: damage is noticed");
            }
        }
    }

    #[test]
    fn a_build_goes_on_in_a_damaged_journal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("views.journal");
        let good = forty(&path);
        for seed in 0..30 {
            std::fs::write(&path, spoil(&good, seed).0).unwrap();
            let before = match Contents::load(&path) {
                Ok(contents) => contents,
                Err(error) => {
                    assert!(matches!(error, Error::Mismatch { .. }) && open(&path).is_err(), "seed {seed}: {error}");
                    continue;
                }
            };
            let notes = Mutex::new(Vec::new());
            let journal = Journal::open(&path, &|text| notes.lock().push(text.to_string()), &|| false).unwrap();
            let notes = notes.into_inner();
            assert_eq!(notes.len(), usize::from(before.damaged > 0), "seed {seed}: {notes:?}");
            assert!(notes.iter().all(|note| note.contains("views.journal") && note.contains("made again")), "{notes:?}");
            write(&journal, vec![row("c", 1, &[5])]);
            drop(journal);
            let after = Contents::load(&path).unwrap();
            assert_eq!((after.damaged, after.rows["c"][&1].sequence.as_slice()), (0, &[5][..]), "seed {seed}");
            assert_eq!(count(&after), count(&before), "seed {seed}");
        }
    }

    #[test]
    fn a_write_that_was_cut_short_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("views.journal");
        let journal = open(&path).unwrap();
        write(&journal, vec![row("a", 0, &[1]), row("a", 1, &[2, 3])]);
        drop(journal);
        let good = std::fs::read(&path).unwrap();
        let mut most = 0;
        for length in 0..good.len() {
            let contents = Contents::parse(&good[..length]).unwrap();
            assert_eq!(contents.damaged, 0, "cut at {length}");
            let rows = contents.rows.get("a").map_or(0, HashMap::len);
            assert!(rows >= most);
            most = rows;
        }
        assert_eq!(most, 2);
    }
}
