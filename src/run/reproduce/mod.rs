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
use super::lanes::{Warnings, side_by_side};
use super::picture::write_picture;
use super::pipeline::prepare;
use super::train::{Job, train};
use super::{Observer, RunFolder};
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
    /// Whether what is not finished is trained; otherwise the documents hold what is.
    pub train: bool,
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
    data: &'p str,
    seed: u64,
    effective: Effective,
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

    /// Every run on `data`, with its settings.
    fn runs<'a>(&'a self, data: &'a str) -> Result<Vec<Planned<'a>>> {
        let config = self.config(data)?;
        let seeds = |row: &PlanRow| if row.once { &self.plan.seeds[..1] } else { &self.plan.seeds[..] };
        let all = self.plan.rows.iter().flat_map(|row| seeds(row).iter().map(move |&seed| (row, seed)));
        let planned = all.map(|(row, seed)| {
            let folder = self.out.join("runs").join(short(data)).join(format!("{}-{seed}", row.name));
            Ok(Planned { row, data, seed, effective: self.effective(&config, row, seed)?, folder })
        });
        planned.collect()
    }

    fn effective(&self, config: &Path, row: &PlanRow, seed: u64) -> Result<Effective> {
        let method = row.method.as_ref().unwrap_or(&row.name);
        let mut sets = vec![format!("method={method}"), format!("seed={seed}")];
        if self.jobs > 1 {
            sets.push(format!("threads={}", (parallel::threads(0) / self.jobs).max(1)));
        }
        sets.extend(row.set.iter().chain(self.sets).cloned());
        settings::load(Some(config), &sets)
    }

    /// Trains the run that stands at `place`, such as "3 of 12", unless it is finished or another process trains it.
    fn train(&self, run: &Planned, place: &str, observer: &dyn Observer) -> Result<()> {
        let seed = if run.row.once { String::new() } else { format!(", seed {}", run.seed) };
        let name = format!("run {place}: {}, {}{seed}", short(run.data), run.row.name);
        if self.stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted(format!("before {name}; finished runs are kept")));
        }
        let settings = &run.effective.settings;
        if RunFolder::at(&run.folder).finished(settings)?.is_some() {
            observer.note(&format!("{name}: was finished already"));
            return Ok(());
        }
        let claim = match Claim::take(&run.folder, Start::Either) {
            Err(Error::InUse { .. }) => {
                observer.note(&format!("{name}: another process trains it; left to it"));
                return Ok(());
            }
            claim => claim?,
        };
        let quiet = Warnings(observer);
        let (device, observer): (_, &dyn Observer) = if self.jobs > 1 {
            // Runs side by side have a device each.
            (Devices::default().to_train(settings)?, &quiet)
        } else {
            observer.note(&name);
            (self.devices.lock().to_train(settings)?, observer)
        };
        let prepared = prepare(settings, observer)?;
        train(&Job { effective: &run.effective, prepared: &prepared, device: &device, out: &claim, stop: self.stop }, observer)?;
        if self.jobs > 1 {
            quiet.0.note(&format!("{name}: finished"));
        }
        Ok(())
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
    let nothing = || Error::Usage(format!("--no-train: no run of the table is finished in {}", request.out.display()));
    if !request.train && !request.out.is_dir() {
        return Err(nothing());
    }
    std::fs::create_dir_all(request.out).map_err(Error::io(request.out, "create"))?;
    // Every configuration before anything is trained, so that a typing error is said at once.
    let planned = plan.data.iter().map(|data| request.runs(data)).collect::<Result<Vec<_>>>()?;
    if !request.train {
        let document = collect(request, &planned)?;
        return if document.parts.iter().all(|part| part.tables.is_empty()) { Err(nothing()) } else { write(request, document, observer) };
    }
    // Once, and not by all at a time.
    for run in planned.iter().filter_map(|runs| runs.first()).filter(|_| request.jobs > 1) {
        prepare(&run.effective.settings, observer)?;
    }
    let work: Vec<&Planned> = planned.iter().flatten().collect();
    let place = |at: usize| format!("{} of {}", at + 1, work.len());
    let outcome = side_by_side(request.jobs, &work, |at, run| request.train(run, &place(at), observer));
    let document = collect(request, &planned).and_then(|document| write(request, document, observer));
    outcome.and(document)
}

fn write(request: &Request, document: Document, observer: &dyn Observer) -> Result<Document> {
    for (ending, text) in document.forms() {
        write_file(&request.out.join(format!("{}.{ending}", request.plan.name)), text.as_bytes())?;
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
    Ok(document)
}

/// The document of the runs that are finished.
fn collect(request: &Request, planned: &[Vec<Planned>]) -> Result<Document> {
    let plan = request.plan;
    let mut parts = Vec::new();
    for runs in planned {
        let mut rows: Vec<RowRuns> = Vec::new();
        for run in runs {
            if rows.last().is_none_or(|row| row.name != run.row.name) {
                rows.push(RowRuns { name: run.row.name.clone(), runs: Vec::new(), missing: Vec::new(), once: run.row.once });
            }
            let row = rows.last_mut().expect("a row was added");
            match RunFolder::at(&run.folder).finished(&run.effective.settings) {
                Ok(Some(result)) => row.runs.push((run.seed, run.folder.clone(), result)),
                Ok(None) => row.missing.push(run.seed),
                // Training has said it.
                Err(_) if request.train => row.missing.push(run.seed),
                Err(error) => return Err(error),
            }
        }
        parts.push(figures::part(plan, short(runs[0].data), &rows)?);
    }
    Ok(Document { title: plan.title.clone(), about: plan.about.clone(), command: request.command.to_string(), parts })
}
