//! Where stderr is no terminal, a log file gets a line now and then that says where a long run is. A short run prints none.
//!
//! The first line comes after a third of `LUMOS_PROGRESS_S` seconds (30 where it is not set), the next ones that many seconds apart; with
//! 0 there are none.

use super::output;
use crate::federation::RoundReport;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Seconds between two lines where nothing else is said.
const SECONDS: f64 = 30.0;

/// Writes the lines.
pub struct Log {
    start: Instant,
    every: f64,
    /// When the next line is due, in milliseconds after the start. Looked at by every thread, so it needs no lock.
    due: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<Step>,
    rounds: Option<Rounds>,
}

/// A step of preparation or evaluation.
struct Step {
    name: String,
    /// When it was first seen, and how much of it was done by then.
    start: Instant,
    first: u64,
}

/// Training under way.
struct Rounds {
    method: String,
    /// Rounds that were there at the start, are done, are to be done.
    first: u64,
    done: u64,
    total: u64,
    start: Instant,
    loss: Option<f64>,
    validation: String,
}

impl Log {
    /// With what the environment says; none where it wants no lines.
    pub fn new() -> Option<Log> {
        let every = match std::env::var("LUMOS_PROGRESS_S") {
            Err(_) => SECONDS,
            Ok(text) => match text.trim().parse::<f64>() {
                Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => seconds.min(1e9),
                _ => {
                    output::remark(&format!("LUMOS_PROGRESS_S is `{text}`, not a number of seconds; {SECONDS} is used"));
                    SECONDS
                }
            },
        };
        let log = |due| Log { start: Instant::now(), every, due: AtomicU64::new(due), state: Mutex::default() };
        (every > 0.0).then(|| log((every * 1000.0 / 3.0) as u64))
    }

    fn with(&self, change: impl FnOnce(&mut State)) {
        // A thread that panicked leaves a line unwritten, nothing worse.
        change(&mut self.state.lock());
    }

    /// Writes what `line` gives, if it is time for a line.
    fn maybe(&self, line: impl FnOnce(&State) -> Option<String>) {
        let now = self.start.elapsed();
        if (now.as_millis() as u64) < self.due.load(Relaxed) {
            return;
        }
        self.with(|state| {
            // Another thread may have been quicker.
            let now_ms = now.as_millis() as u64;
            if now_ms < self.due.load(Relaxed) {
                return;
            }
            if let Some(text) = line(state) {
                self.due.store(now_ms + (self.every * 1000.0) as u64, Relaxed);
                output::remark(&format!("[{}] {text}", words(now)));
            }
        });
    }

    /// `done` of `total` of the step `name`.
    pub fn stage(&self, name: &str, done: u64, total: u64) {
        let known = |state: &State| state.rounds.is_some() || state.step.as_ref().is_some_and(|s| s.name == name);
        // The start of a step is noted; its course costs a look at the clock.
        if done == 0 || self.start.elapsed().as_millis() as u64 >= self.due.load(Relaxed) {
            self.with(|state| {
                if !known(state) {
                    state.step = Some(Step { name: name.to_string(), start: Instant::now(), first: done });
                }
            });
        }
        self.maybe(|state| {
            let percent = 100 * done / total.max(1);
            if let Some(rounds) = &state.rounds {
                return Some(format!("{}; {name} {percent} %", rounds.line(0.0)));
            }
            let step = state.step.as_ref()?;
            let left = left(step.start.elapsed(), done.saturating_sub(step.first) as f64, total.saturating_sub(done) as f64);
            Some(format!("{name}: {done} of {total} ({percent} %){left}"))
        });
    }

    /// The step has ended.
    pub fn stage_end(&self) {
        self.with(|state| state.step = None);
    }

    /// Training begins after `done` of `total` rounds.
    pub fn training(&self, method: &str, done: u64, total: u64) {
        self.with(|state| {
            let (method, start) = (method.to_string(), Instant::now());
            state.rounds = Some(Rounds { method, first: done, done, total, start, loss: None, validation: String::new() });
        });
    }

    /// `done` of `total` clients of the round under way.
    pub fn in_round(&self, done: u64, total: u64) {
        self.maybe(|state| Some(state.rounds.as_ref()?.line(done as f64 / total.max(1) as f64)));
    }

    /// A round has ended.
    pub fn round(&self, report: &RoundReport) {
        self.with(|state| {
            if let Some(rounds) = &mut state.rounds {
                (rounds.done, rounds.loss) = (report.round, Some(report.rec_loss));
            }
        });
        self.maybe(|state| Some(state.rounds.as_ref()?.line(0.0)));
    }

    /// A validation has ended.
    pub fn evaluated(&self, metric: &str, value: f64, best: bool) {
        self.with(|state| {
            if let Some(rounds) = &mut state.rounds {
                rounds.validation = format!("; validation {metric} {value:.4}{}", if best { " (best)" } else { "" });
            }
        });
    }

    /// Training has ended.
    pub fn trained(&self) {
        self.with(|state| state.rounds = None);
    }
}

impl Rounds {
    /// Where training is, with `part` of the next round done.
    fn line(&self, part: f64) -> String {
        let loss = self.loss.map_or(String::new(), |loss| format!("; loss {loss:.4}"));
        let done = (self.done - self.first.min(self.done)) as f64 + part;
        let left = left(self.start.elapsed(), done, self.total as f64 - self.done as f64 - part);
        format!("{}: round {} of {}{loss}{}{left}", self.method, self.done, self.total, self.validation)
    }
}

/// `; about 3 min left`, for `rest` where `done` took `spent`; nothing where nothing is done yet.
fn left(spent: Duration, done: f64, rest: f64) -> String {
    if done <= 0.0 || rest < 0.0 {
        return String::new();
    }
    format!("; about {} left", words(Duration::from_secs_f64((spent.as_secs_f64() * rest / done).min(1e9))))
}

/// `45 s`, `3 min 20 s`, `2 h 5 min`.
fn words(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_words() {
        let of = |s| words(Duration::from_secs(s));
        assert_eq!((of(0), of(59), of(200), of(7500)), ("0 s".into(), "59 s".into(), "3 min 20 s".into(), "2 h 5 min".into()));
        assert_eq!(left(Duration::from_secs(60), 0.0, 5.0), "");
        assert_eq!(left(Duration::from_secs(60), 2.0, 4.0), "; about 2 min 0 s left");
    }

    #[test]
    fn a_line_says_where_training_is() {
        let start = Instant::now();
        let mut rounds = Rounds { method: "lumos".into(), first: 10, done: 10, total: 60, start, loss: None, validation: String::new() };
        assert_eq!(rounds.line(0.0), "lumos: round 10 of 60");
        (rounds.done, rounds.loss) = (20, Some(5.25));
        rounds.validation = "; validation HR@20 0.1000 (best)".into();
        assert_eq!(rounds.line(0.0), "lumos: round 20 of 60; loss 5.2500; validation HR@20 0.1000 (best); about 0 s left");
    }
}
