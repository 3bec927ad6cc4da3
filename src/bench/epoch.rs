//! How long an epoch, a federated round and an evaluation take on a data set.

use crate::Result;
use crate::base::parallel;
use crate::config::{Effective, Settings, Validated};
use crate::data::{self, Split};
use crate::federation::Trainer;
use crate::run::{self, Observer};
use crate::settings::load;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What to measure.
#[derive(Clone, Debug)]
pub struct EpochBench {
    /// Folders of prepared data sets.
    pub data: Vec<PathBuf>,
    /// Methods.
    pub methods: Vec<String>,
    /// Further settings, `KEY=VALUE`.
    pub sets: Vec<String>,
    /// Timed rounds; one more runs first.
    pub rounds: u32,
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct EpochFigures {
    /// Data set.
    pub data: String,
    /// Method.
    pub method: String,
    /// Users.
    pub users: usize,
    /// Items.
    pub items: usize,
    /// Training interactions.
    pub interactions: usize,
    /// Clients of a round; 1 for a centralised method, whose round is an epoch.
    pub clients: u64,
    /// Median of the seconds of a round.
    pub round_seconds: f64,
    /// Seconds of a full ranking of all users.
    pub rank_seconds: f64,
    /// Threads of both.
    pub threads: usize,
}

fn settings(bench: &EpochBench, dir: &Path, method: &str) -> Result<Effective> {
    let sets: Vec<String> = bench.sets.iter().cloned().chain([format!("method={method}")]).collect();
    load(None, &sets)?.on_prepared(dir, &data::load_manifest(dir)?.settings)
}

fn measure(settings: &Validated<Settings>, dir: &Path, rounds: u32, observer: &dyn Observer) -> Result<EpochFigures> {
    let (data, dir) = run::open_data(dir, settings, observer)?;
    let prepared = run::prepare_on(settings, data, dir, observer)?;
    let data = prepared.data.clone();
    let mut trainer = Trainer::new(settings, data.clone(), prepared.views)?;
    let clients = trainer.round()?.clients;
    let mut seconds = (0..rounds).map(|_| Ok(trainer.round()?.seconds)).collect::<Result<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    let users: Vec<u32> = (0..data.users() as u32).collect();
    let begun = Instant::now();
    trainer.rank(Split::Test, &users, &|_, _| ())?;
    Ok(EpochFigures {
        data: data.name.clone(),
        method: settings.method.clone(),
        users: data.users(),
        items: data.item_count(),
        interactions: (0..data.users()).map(|user| data.train(user).len()).sum(),
        clients,
        round_seconds: seconds[seconds.len() / 2],
        rank_seconds: begun.elapsed().as_secs_f64(),
        threads: parallel::threads(settings.threads as usize),
    })
}

/// A row for each data set and method.
///
/// # Errors
/// Those of settings, data and training.
pub fn epochs(bench: &EpochBench, observer: &dyn Observer) -> Result<Vec<EpochFigures>> {
    let mut rows = Vec::new();
    for dir in &bench.data {
        for method in &bench.methods {
            rows.push(measure(&settings(bench, dir, method)?.settings, dir, bench.rounds.max(1), observer)?);
        }
    }
    Ok(rows)
}
