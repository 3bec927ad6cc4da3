//! Progress on stderr: bars where it is a terminal, else lines of a long run; notes on stdout, unless that is kept for JSON.

use super::log::Log;
use super::output;
use crate::cluster;
use crate::config::methods;
use crate::federation::RoundReport;
use crate::run::Observer;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::{Mutex, MutexGuard};
use std::io::IsTerminal;

/// An observer that draws.
pub struct Progress {
    terminal: bool,
    /// Lines instead of bars.
    log: Option<Log>,
    notes: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The bar of the current step with the step's name.
    step: Option<(String, ProgressBar)>,
    rounds: Option<ProgressBar>,
    /// Local steps, in `unit`, and seconds of training so far.
    work: (f64, f64),
    unit: &'static str,
    loss: f64,
    best: String,
}

impl Progress {
    /// With `json`, nothing but JSON may go to stdout, so notes are dropped and warnings go to stderr.
    pub fn new(json: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        Progress { terminal, log: if terminal { None } else { Log::new() }, notes: !json, state: Mutex::default() }
    }

    /// Writes while no bar is drawn.
    fn beside_bars(&self, write: impl FnOnce()) {
        let state = self.state();
        match (&state.rounds, &state.step) {
            (Some(bar), _) | (None, Some((_, bar))) => bar.suspend(write),
            (None, None) => write(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panicked while drawing leaves a bar, nothing worse.
        self.state.lock()
    }
}

fn bar(total: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    // The templates are constants; one that does not parse would only look plainer.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // A bar that cannot be drawn is no error of the run.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    bar.with_style(style.with_key("rate", rate))
}

impl Observer for Progress {
    fn stopped(&self) -> bool {
        super::interrupt::pressed()
    }

    fn ranks(&self) -> Option<&dyn cluster::Reduce> {
        super::ranks::others()
    }

    fn stage(&self, name: &str, done: u64, total: u64) {
        cluster::worked();
        if let Some(log) = &self.log {
            log.stage(name, done, total);
        }
        if !self.terminal {
            return;
        }
        let mut state = self.state();
        if let Some(rounds) = &state.rounds {
            rounds.set_message(format!("{name} {} %", 100 * done / total.max(1)));
            return;
        }
        if state.step.as_ref().is_none_or(|(n, _)| n != name) {
            if let Some((_, old)) = state.step.take() {
                old.finish_and_clear();
            }
            let template = "{msg:12} {bar:30} {human_pos}/{human_len} {rate} left {eta}";
            state.step = Some((name.to_string(), bar(total, template).with_message(name.to_string())));
        }
        if let Some((_, bar)) = &state.step {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn stage_end(&self, _name: &str) {
        if let Some(log) = &self.log {
            log.stage_end();
        }
        if let Some((_, bar)) = self.state().step.take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        if self.notes {
            self.beside_bars(|| {
                // A reader that went away is noticed when the result is written.
                let _ = output::say(text);
            });
        }
    }

    fn warn(&self, text: &str) {
        if self.notes {
            self.note(text);
        } else {
            self.beside_bars(|| output::remark(text));
        }
    }

    fn training(&self, method: &str, done: u64, rounds: u64) {
        if let Some(log) = &self.log {
            log.training(method, done, rounds);
        }
        if self.terminal {
            let template = "{prefix:12} {bar:30} round {pos}/{len} left {eta}  {msg}";
            let bar = bar(rounds, template).with_prefix(method.to_string()).with_position(done);
            bar.reset_eta();
            *self.state() = State { rounds: Some(bar), unit: methods::steps_unit(method), ..State::default() };
        }
    }

    fn in_round(&self, done: u64, total: u64) {
        cluster::worked();
        if let Some(log) = &self.log {
            log.in_round(done, total);
        }
        if self.terminal {
            let state = self.state();
            if let Some(bar) = &state.rounds {
                bar.set_message(format!("{} {:3} %", state.line(), 100 * done / total.max(1)));
            }
        }
    }

    fn round(&self, report: &RoundReport) {
        if let Some(log) = &self.log {
            log.round(report);
        }
        if self.terminal {
            let mut state = self.state();
            state.work.0 += report.client_epochs as f64;
            state.work.1 += report.seconds;
            state.loss = report.rec_loss;
            if let Some(bar) = &state.rounds {
                bar.set_position(report.round);
                bar.set_message(state.line());
            }
        }
    }

    fn evaluated(&self, metric: &str, value: f64, best: bool) {
        if let Some(log) = &self.log {
            log.evaluated(metric, value, best);
        }
        if self.terminal && best {
            self.state().best = format!("best {metric} {value:.4}");
        }
    }

    fn trained(&self) {
        if let Some(log) = &self.log {
            log.trained();
        }
        if let Some(bar) = self.state().rounds.take() {
            bar.finish_and_clear();
        }
    }
}

impl State {
    fn line(&self) -> String {
        if self.work.1 <= 0.0 {
            return String::new();
        }
        format!("{:.0} {}/s  loss {:.4}  {}", self.work.0 / self.work.1, self.unit, self.loss, self.best)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stage_end("");
        self.trained();
    }
}
