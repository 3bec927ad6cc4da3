//! Tables of a paper: many runs as data, trained one after another or side by side, and their figures with means, spreads, intervals and tests.
//!
//! Each run has a folder of its own, `runs/DATA/ROW-SEED`. What is finished is reused and what was interrupted goes on, so that the same call
//! may be made again; the documents hold whatever is finished.

mod document;
mod figures;
mod plan;
mod plots;

pub use document::Document;
pub use plan::{Plan, PlanLine, PlanPlot, PlanRow, Published};

use super::chart;
use super::claim::{Claim, Start};
use super::device::Devices;
use super::folder::read_json;
use super::lanes::{Warnings, side_by_side};
use super::picture::write_picture;
use super::pipeline::prepare;
use super::train::{Job, train};
use super::{Observer, RunFolder, RunResult};
use crate::base::files::write_file;
use crate::base::parallel;
use crate::config::Effective;
use crate::{Error, Result, settings};
use figures::RowRuns;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What is asked for beside the plan.
pub struct Request<'a> {
    /// The table.
    pub plan: &'a Plan,
    /// Settings over those of every row, each `KEY=VALUE`.
    pub sets: &'a [String],
    /// Folder of runs and documents.
    pub out: &'a Path,
    /// The command that makes the table again, for the documents.
    pub command: &'a str,
    /// Runs that are trained side by side; 1 where several processes share each run.
    pub jobs: usize,
    /// Where runs are trained that are not side by side.
    pub devices: Mutex<Devices>,
    /// Set by whoever wants it to stop after the current round.
    pub stop: &'a AtomicBool,
}

/// A run of a table.
struct Planned<'p> {
    row: &'p PlanRow,
    seed: u64,
    folder: PathBuf,
}

impl Request<'_> {
    /// The configuration of `data`: a file, or one of LUMOS, which is written beside the runs.
    fn config(&self, data: &str) -> Result<PathBuf> {
        if data.ends_with(".toml") {
            return Ok(PathBuf::from(data));
        }
        let path = self.out.join(format!("{data}.toml"));
        write_file(&path, plan::data_config(data)?.as_bytes())?;
        Ok(path)
    }

    fn runs(&self, data: &str) -> Vec<Planned<'_>> {
        let seeds = |row: &PlanRow| if row.once { &self.plan.seeds[..1] } else { &self.plan.seeds[..] };
        let folder = |row: &PlanRow, seed: u64| self.out.join("runs").join(short(data)).join(format!("{}-{seed}", row.name));
        let all = self.plan.rows.iter().flat_map(|row| seeds(row).iter().map(move |&seed| (row, seed)));
        all.map(|(row, seed)| Planned { row, seed, folder: folder(row, seed) }).collect()
    }

    fn effective(&self, config: &Path, run: &Planned) -> Result<Effective> {
        let method = run.row.method.as_ref().unwrap_or(&run.row.name);
        let mut sets = vec![format!("method={method}"), format!("seed={}", run.seed)];
        if self.jobs > 1 {
            sets.push(format!("threads={}", (parallel::threads(0) / self.jobs).max(1)));
        }
        sets.extend(run.row.set.iter().chain(self.sets).cloned());
        settings::load(Some(config), &sets)
    }

    fn train(&self, data: &str, config: &Path, run: &Planned, observer: &dyn Observer) -> Result<RunResult> {
        if self.stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted(format!("before {} on {}; finished runs are kept", run.row.name, short(data))));
        }
        let effective = self.effective(config, run)?;
        let name = format!("{}: {} seed {}", short(data), run.row.name, run.seed);
        let claim = Claim::take(&run.folder, Start::Either)?;
        let quiet = Warnings(observer);
        let (device, observer): (_, &dyn Observer) = if self.jobs > 1 {
            // Runs side by side have a device each.
            (Devices::default().to_train(&effective.settings)?, &quiet)
        } else {
            observer.note(&name);
            (self.devices.lock().to_train(&effective.settings)?, observer)
        };
        let prepared = prepare(&effective.settings, observer)?;
        let result = train(&Job { effective: &effective, prepared: &prepared, device: &device, out: &claim, stop: self.stop }, observer)?;
        if self.jobs > 1 {
            quiet.0.note(&format!("{name}: finished"));
        }
        Ok(result)
    }
}

/// Name of a data set that may be given by its configuration file.
fn short(data: &str) -> &str {
    data.strip_suffix(".toml").map_or(data, |path| path.rsplit(['/', '\\']).next().unwrap_or(path))
}

/// Trains what is not finished yet and writes `NAME.md`, `.tex`, `.csv`, `.html` and the plan's pictures; gives the document.
///
/// # Errors
/// [`Error::Interrupted`] after a stop and those of a run, in each case after the documents of what is finished are written.
pub fn reproduce(request: &Request, observer: &dyn Observer) -> Result<Document> {
    let plan = request.plan;
    if request.jobs > 1 && request.devices.lock().several() {
        return Err(Error::Usage(format!("--jobs: is {}, must be 1 with several processes, which share every run", request.jobs)));
    }
    std::fs::create_dir_all(request.out).map_err(Error::io(request.out, "create"))?;
    // Every configuration before anything is trained, so that a typing error is said at once.
    let configs = plan.data.iter().map(|data| Ok((data, request.config(data)?))).collect::<Result<Vec<_>>>()?;
    let mut work = Vec::new();
    for (data, config) in &configs {
        let runs = request.runs(data);
        if let Some(run) = runs.first().filter(|_| request.jobs > 1) {
            // Once, and not by all at a time.
            prepare(&request.effective(config, run)?.settings, observer)?;
        }
        work.extend(runs.into_iter().map(|run| (data, config, run)));
    }
    let outcome = side_by_side(request.jobs, &work, |_, (data, config, run)| request.train(data, config, run, observer).map(drop));
    let document = collect(request)?;
    for (ending, text) in document.forms() {
        write_file(&request.out.join(format!("{}.{ending}", plan.name)), text.as_bytes())?;
    }
    for picture in document.parts.iter().flat_map(|part| &part.pictures) {
        let (path, svg) = (request.out.join(&picture.file), chart::document(&picture.svg));
        write_picture(&path, &svg)?;
        // A machine without fonts has the SVG all the same.
        if cfg!(feature = "png")
            && let Err(error) = write_picture(&path.with_extension("png"), &svg)
        {
            observer.note(&format!("left out: {error}"));
        }
    }
    outcome.map(|_| document)
}

/// The document of the runs that are finished.
fn collect(request: &Request) -> Result<Document> {
    let plan = request.plan;
    let mut parts = Vec::new();
    for data in &plan.data {
        let planned = request.runs(data);
        let mut rows = Vec::new();
        for row in &plan.rows {
            let mut runs = Vec::new();
            for run in planned.iter().filter(|run| run.row.name == row.name) {
                let path = RunFolder::at(&run.folder).result();
                if path.exists() {
                    runs.push((run.seed, run.folder.clone(), read_json(&path)?));
                }
            }
            rows.push(RowRuns { name: row.name.clone(), runs, once: row.once });
        }
        if rows.iter().any(|row| !row.runs.is_empty()) {
            parts.push(figures::part(plan, short(data), &rows)?);
        }
    }
    Ok(Document { title: plan.title.clone(), about: plan.about.clone(), command: request.command.to_string(), parts })
}
