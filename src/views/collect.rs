//! Takes views as a generator finishes them, and hands them to a journal.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::generator::{Failed, Generator, Job, Made, Sink, ViewKind};
use super::journal::{Journal, Row};
use crate::Result;

/// What is finished so far.
pub(super) struct State {
    /// Views by user, then by part.
    pub slots: Vec<Option<Made>>,
    /// Why users have none; the first reason of each.
    pub failed: BTreeMap<u32, Failed>,
    /// Of these, users who were asked.
    pub asked_failed: usize,
    pub done: u64,
}

/// Takes views as they are finished.
pub(super) struct Collector<'a> {
    /// Items of the catalogue.
    pub items: u64,
    pub jobs: &'a [Job<'a>],
    pub parts: &'a [ViewKind],
    pub tables: &'a [String],
    pub progress: &'a (dyn Fn(u64) + Sync),
    pub most_failed: usize,
    pub rows: Option<mpsc::Sender<Row>>,
    pub stop: AtomicBool,
    pub wish: &'a (dyn Fn() -> bool + Sync),
    pub note: &'a (dyn Fn(&str) + Sync),
    pub state: Mutex<State>,
}

impl Collector<'_> {
    /// Refuses a view of items that the catalogue does not have: a training would look for their rows.
    fn in_catalogue(&self, part: ViewKind, made: Made) -> Result<Made, Failed> {
        let Some(item) = made.sequence.iter().find(|item| u64::from(**item) >= self.items) else { return Ok(made) };
        let reason = format!("the {} names item {item}, and the catalogue has {}", part.name(), self.items);
        Err(Failed { reason, asked: true, counts: made.counts })
    }

    pub fn into_state(self) -> State {
        self.state.into_inner()
    }

    /// Runs `generator` while another thread writes what is finished into `journal`.
    pub fn run_into(mut self, journal: &Journal, generator: &dyn Generator, threads: usize, spent: &str) -> Result<(State, Result<()>)> {
        let (send, receive) = mpsc::channel();
        self.rows = Some(send);
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || journal.write(receive, spent, stop));
            let linked = Linked { collector: &self, stop };
            let outcome = generator.run(self.jobs, threads, &linked);
            // The channel ends here, and the writer with it.
            let state = self.into_state();
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((state, outcome))
        })
    }
}

/// A collector that also stops where the journal does.
struct Linked<'a> {
    collector: &'a Collector<'a>,
    stop: &'a AtomicBool,
}

impl Sink for Linked<'_> {
    fn done(&self, job: usize, part: ViewKind, made: Result<Made, Failed>) {
        self.collector.done(job, part, made);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.collector.stopped()
    }

    fn note(&self, text: &str) {
        self.collector.note(text);
    }
}

impl Sink for Collector<'_> {
    fn done(&self, job: usize, part: ViewKind, made: Result<Made, Failed>) {
        let user = self.jobs[job].request.user;
        let made = made.and_then(|made| self.in_catalogue(part, made));
        let place = self.parts.iter().position(|p| *p == part).unwrap_or_default();
        if let (Some(rows), Ok(made)) = (&self.rows, &made) {
            // A writer that has ended has reported its error by now.
            let _ = rows.send(Row { table: self.tables[place].clone(), user, made: made.clone() });
        }
        let mut state = self.state.lock();
        match made {
            Ok(made) => state.slots[user as usize * self.parts.len() + place] = Some(made),
            Err(failed) => {
                if failed.asked && state.failed.get(&user).is_none_or(|f| !f.asked) {
                    state.asked_failed += 1;
                }
                let first = state.failed.entry(user).or_insert_with(|| failed.clone());
                // What was asked and failed says more than what could not be asked.
                if failed.asked && !first.asked {
                    *first = failed;
                }
                if state.asked_failed > self.most_failed {
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
        }
        state.done += 1;
        let done = state.done;
        drop(state);
        (self.progress)(done);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || (self.wish)()
    }

    fn note(&self, text: &str) {
        (self.note)(text);
    }
}
