//! The defence benchmark: what each defence adds to a round of the reference shape.

use super::{RoundBench, median, settings, world};
use crate::Result;
use crate::config::Validated;
use crate::federation::Trainer;
use crate::federation::rules::{self, Needs, Role};
use serde::Serialize;

/// What one defence adds to a round. Seconds are medians over the timed rounds, of which each is run with and without the defence in turn.
#[derive(Clone, Debug, Serialize)]
pub struct DefenceFigures {
    /// Entry of `defence.name`.
    pub defence: String,
    /// Whether the server has to have all updates of the round at once.
    pub all_updates: bool,
    /// Seconds of a round without it.
    pub plain_s: f64,
    /// Seconds of a round with it.
    pub round_s: f64,
    /// Seconds that it adds: the median of the differences between the two rounds of each turn.
    pub added_s: f64,
    /// Seconds of cores in a round without it, where the system tells: what a busy machine does not stretch.
    pub plain_core_s: Option<f64>,
    /// Seconds of cores that it adds.
    pub added_core_s: Option<f64>,
}

/// Seconds of cores that the threads of this process have had; nothing where the system does not tell.
fn core_seconds() -> Option<f64> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 / 1e9)
}

/// Seconds and seconds of cores of the next round of `trainer`.
fn round(trainer: &mut Trainer) -> Result<[f64; 2]> {
    let before = core_seconds();
    let seconds = trainer.round()?.seconds;
    Ok([seconds, before.zip(core_seconds()).map_or(f64::NAN, |(before, after)| after - before)])
}

/// Every defence of LUMOS, by name.
pub fn all() -> Vec<String> {
    rules::KINDS.iter().filter(|kind| kind.role == Role::Defence).map(|kind| kind.name.to_string()).collect()
}

/// Measures each of `defences`, entries of `defence.name`, on the CPU.
///
/// # Errors
/// [`crate::Error::Setting`] for an entry that is none, and where a round fails.
pub fn run(bench: &RoundBench, defences: &[String], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Vec<DefenceFigures>> {
    let (data, views) = world(bench);
    let plain = Validated::new(settings(bench))?;
    let defended = defences.iter().map(|name| {
        let mut settings = settings(bench);
        settings.defence.name.clone_from(name);
        Validated::new(settings)
    });
    let defended = defended.collect::<Result<Vec<_>>>()?;
    let mut figures = Vec::new();
    for (done, (name, settings)) in defences.iter().zip(defended).enumerate() {
        progress(done as u64, defences.len() as u64);
        let all_updates = rules::asked(&settings)?.iter().any(|rule| rule.needs() == Needs::All);
        let mut without = Trainer::new(plain.clone(), data.clone(), views.clone())?;
        let mut with = Trainer::new(settings, data.clone(), views.clone())?;
        let mut turns = Vec::new();
        for turn in 0..=bench.rounds {
            let both = [round(&mut without)?, round(&mut with)?];
            // The first turn gets the memory.
            if turn > 0 {
                turns.push(both);
            }
        }
        let of = |f: fn(&[[f64; 2]; 2]) -> f64| median(turns.iter().map(f).collect());
        let known = |seconds: f64| Some(seconds).filter(|seconds| seconds.is_finite());
        figures.push(DefenceFigures {
            defence: name.clone(),
            all_updates,
            plain_s: of(|t| t[0][0]),
            round_s: of(|t| t[1][0]),
            added_s: of(|t| t[1][0] - t[0][0]),
            plain_core_s: known(of(|t| t[0][1])),
            added_core_s: known(of(|t| t[1][1] - t[0][1])),
        });
    }
    progress(defences.len() as u64, defences.len() as u64);
    Ok(figures)
}
