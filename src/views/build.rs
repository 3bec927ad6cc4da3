//! Views of all users of a data set.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::account::{Failure, Generation, Spent, Totals};
use super::batch::Batch;
use super::catalogue::CatalogueGenerator;
use super::check::check;
use super::collect::{Collector, State};
use super::generator::{Failed, Generator, Job, Made, PublicCatalogue, Request, ViewKind};
use super::generators::generator;
use super::journal::{Journal, OUTPUT, PROMPT};
use super::ranks::{Helpers, Together};
use super::recipe::Recipes;
use super::statistics::{self, Statistics};
use super::{UserViews, Views};
use crate::base::files::sha256_hex;
use crate::base::parallel;
use crate::config::{Fallback, GeneratorKind, ViewSettings};
use crate::data::Dataset;
use crate::{Error, Result};

/// How to build.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Threads; 0 means all cores. Changes no result.
    pub threads: usize,
    /// Number of users, from the first on, that have views; the others have none.
    pub first: Option<usize>,
    /// Receives how much is done, of how much, from any thread.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Joules that the GPU has used since some moment, where it reports them.
    pub joules: &'a (dyn Fn() -> Option<f64> + Sync),
    /// Whether the build should end early: what is finished is kept where there is a journal.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// Receives what is worth a line: that another process is waited for, or what was damaged.
    pub note: &'a (dyn Fn(&str) + Sync),
    /// Questions and answers that pass through files.
    pub batch: Option<&'a dyn Batch>,
    /// Other processes that write views as well.
    pub helpers: Option<&'a dyn Helpers>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Options {
            threads: 0,
            first: None,
            progress: &|_, _| (),
            joules: &|| None,
            stopped: &|| false,
            note: &|_| (),
            batch: None,
            helpers: None,
        }
    }
}

/// Views and all that is on record of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Built {
    /// The views.
    pub views: Views,
    /// What can be said of them.
    pub statistics: Statistics,
    /// What a language model did.
    pub generation: Option<Generation>,
    /// Users for whom it gave none.
    pub failures: Vec<Failure>,
}

/// Views of every user of `data`; none at all for the generator `none`. `threads` 0 means all cores and changes no result.
/// `progress` is called with what is done and of how much, from any thread.
///
/// # Errors
/// [`Error::Setting`] for settings out of range, and whatever the generator reports.
pub fn build(data: &Dataset, settings: &ViewSettings, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Views> {
    Ok(run(data, settings, &Options { threads, progress, ..Default::default() }, None, false)?.views)
}

/// [`build`], and what can be said of the views.
///
/// # Errors
/// See [`build`].
pub fn build_with_statistics(
    data: &Dataset,
    settings: &ViewSettings,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Views, Statistics)> {
    let built = run(data, settings, &Options { threads, progress, ..Default::default() }, None, true)?;
    Ok((built.views, built.statistics))
}

/// [`build`] with everything on record.
///
/// # Errors
/// See [`build`].
pub fn build_with(data: &Dataset, settings: &ViewSettings, options: &Options<'_>) -> Result<Built> {
    run(data, settings, options, None, true)
}

/// Makes what is missing in `journal` and puts the views together.
pub(super) fn run(
    data: &Dataset,
    settings: &ViewSettings,
    options: &Options<'_>,
    journal: Option<&Journal>,
    measure: bool,
) -> Result<Built> {
    check(settings)?;
    if settings.generator == GeneratorKind::NONE {
        return Ok(Built::default());
    }
    let begin = Instant::now();
    let threads = parallel::threads(options.threads);
    let parts: Vec<ViewKind> = ViewKind::all(settings).collect();
    let users = options.first.unwrap_or(usize::MAX).min(data.users());
    let (items, total) = (data.item_count() as u64, data.item_count() as u64 + (users * parts.len()) as u64);
    (options.progress)(0, total);
    let counts = data.known_counts();
    let public = PublicCatalogue::of(data, settings, threads, &|done| (options.progress)(done, total))?;
    let recipes = match journal {
        Some(_) => Recipes::new(settings)?,
        None => None,
    };
    let cache = journal.and_then(Journal::folder);
    let generator = match options.batch {
        Some(batch) => {
            let all = recipes.as_ref().map_or_else(String::new, |r| r.all().join("-"));
            let study = sha256_hex(format!("{} {} {all}", data.views_fingerprint(), settings.seed).as_bytes());
            Some(batch.generator(&study[..12], &public, settings, threads, cache)?)
        }
        None => generator(settings, &public, threads, cache)?,
    };
    let Some(generator) = generator else { return Ok(Built::default()) };
    let generator = match options.helpers.filter(|_| options.batch.is_none()) {
        Some(helpers) => Box::new(Together { own: generator, helpers, data, settings }),
        None => generator,
    };
    let tables: Vec<String> = parts.iter().map(|p| recipes.as_ref().map_or_else(String::new, |r| r.table(*p))).collect();
    let spent = recipes.as_ref().map_or_else(String::new, |r| r.all().join("-"));
    let mut slots: Vec<Option<Made>> = vec![None; users * parts.len()];
    if let (Some(journal), Some(_)) = (journal, &recipes) {
        for (place, table) in tables.iter().enumerate() {
            for (user, made) in journal.read(table, data.users(), data.item_count())? {
                if (user as usize) < users {
                    slots[user as usize * parts.len() + place] = Some(made);
                }
            }
        }
    }
    let jobs = jobs(data, &parts, &mut slots);
    let joules = (options.joules)();
    let asked = (0..users).filter(|u| !data.train(*u).is_empty()).count();
    let collector = Collector {
        items,
        jobs: &jobs,
        parts: &parts,
        progress: &|done| (options.progress)(items + done, total),
        most_failed: (f64::from(settings.max_failed) * asked as f64) as usize,
        rows: None,
        stop: AtomicBool::new(false),
        wish: options.stopped,
        note: options.note,
        tables: &tables,
        state: Mutex::new(State {
            done: slots.iter().filter(|s| s.is_some()).count() as u64,
            slots,
            failed: BTreeMap::new(),
            asked_failed: 0,
        }),
    };
    if options.batch.is_some_and(|batch| batch.only_asks()) {
        return generator.run(&jobs, threads, &collector).map(|()| Built::default());
    }
    let asked_from = Instant::now();
    let (collected, outcome) = match journal {
        Some(journal) if recipes.is_some() => collector.run_into(journal, generator.as_ref(), threads, &spent)?,
        _ => {
            let outcome = generator.run(&jobs, threads, &collector);
            (collector.into_state(), outcome)
        }
    };
    outcome?;
    let all = (users * parts.len()) as u64;
    if collected.done < all && (options.stopped)() {
        let kept = if journal.is_some() { "are finished and kept" } else { "were finished" };
        return Err(Error::Interrupted(format!("{} of {all} views {kept}", collected.done)));
    }
    let seconds = asked_from.elapsed().as_secs_f64();
    let State { slots, failed, .. } = collected;
    refuse_many(settings, &failed, asked)?;
    let joules = joules.zip((options.joules)()).map(|(before, after)| after - before);
    let mut totals = Totals::default();
    slots.iter().flatten().for_each(|made| totals.add(&made.counts));
    failed.values().for_each(|f| totals.add(&f.counts));
    let views = assemble(data, settings, &counts, threads, &parts, slots, &failed)?;
    let failure =
        |(user, f): (&u32, &Failed)| Failure { user: data.user_tokens[*user as usize].clone(), reason: f.reason.clone(), asked: f.asked };
    let mut built = Built { views, failures: failed.iter().map(failure).collect(), ..Default::default() };
    if let Some(provenance) = generator.account() {
        // A GPU that stood by while the CPU computed has spent nothing on views.
        let joules = joules.filter(|_| provenance.device != "cpu");
        let mut lost = Totals::default();
        failed.values().for_each(|f| lost.add(&f.counts));
        let taken = match journal {
            Some(journal) if recipes.is_some() => {
                let of_joules = format!("{spent}-joules");
                journal.spend(&of_joules, joules.unwrap_or(0.0))?;
                // Tokens were counted when the rows were written.
                let tokens = |kind: &str, lost: u64| {
                    let name = format!("{spent}{kind}");
                    journal.spend(&name, lost as f64)?;
                    Ok::<f64, Error>(journal.spent(&name))
                };
                Spent {
                    seconds: journal.spent(&spent),
                    prompt_tokens: tokens(PROMPT, lost.prompt_tokens)?,
                    output_tokens: tokens(OUTPUT, lost.output_tokens)?,
                    joules: joules.map(|_| journal.spent(&of_joules)),
                }
            }
            // Without a journal every view was made by this start.
            _ => Spent { seconds, prompt_tokens: totals.prompt_tokens as f64, output_tokens: totals.output_tokens as f64, joules },
        };
        built.generation = Some(Generation::new(provenance, totals, taken));
    }
    (options.progress)(total, total);
    if measure {
        built.statistics = statistics::measure(data, &public, &built.views);
        built.statistics.notes = generator.notes();
        built.statistics.seconds = begin.elapsed().as_secs_f64();
    }
    Ok(built)
}

/// What is missing, user by user. Users without training items have empty views at once. The only place where a data set and a
/// generator meet: what goes over is the user's index and training items.
fn jobs<'a>(data: &'a Dataset, parts: &[ViewKind], slots: &mut [Option<Made>]) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for (user, slots) in slots.chunks_mut(parts.len()).enumerate() {
        let history = data.train(user);
        if history.is_empty() {
            slots.fill(Some(Made::default()));
            continue;
        }
        let missing: Vec<ViewKind> = parts.iter().zip(&*slots).filter(|(_, slot)| slot.is_none()).map(|(part, _)| *part).collect();
        if !missing.is_empty() {
            jobs.push(Job { request: Request { user: user as u32, history }, parts: missing });
        }
    }
    jobs
}

/// An error where more users failed than the settings allow.
fn refuse_many(settings: &ViewSettings, failed: &BTreeMap<u32, Failed>, users: usize) -> Result<()> {
    let asked: Vec<&Failed> = failed.values().filter(|f| f.asked).collect();
    if asked.len() as f64 <= f64::from(settings.max_failed) * users as f64 {
        return Ok(());
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    asked.iter().for_each(|f| *reasons.entry(f.reason.as_str()).or_default() += 1);
    let (reason, times) = reasons.into_iter().max_by_key(|(_, n)| *n).unwrap_or_default();
    Err(Error::Usage(format!(
        "views.generator=`{}` gave no views for {} of {users} users, more than views.max_failed = {} allows; what was finished is kept, and \
         the same command goes on from there. The commonest reason, {times} times: {reason}",
        settings.generator.name(),
        asked.len(),
        settings.max_failed
    )))
}

/// The views of all users, with what the settings put in the place of missing ones.
fn assemble(
    data: &Dataset,
    settings: &ViewSettings,
    counts: &[u32],
    threads: usize,
    parts: &[ViewKind],
    slots: Vec<Option<Made>>,
    failed: &BTreeMap<u32, Failed>,
) -> Result<Views> {
    let mut views = Views { users: vec![UserViews::default(); data.users()] };
    let mut slots = slots.into_iter();
    for view in views.users.iter_mut() {
        let own: Vec<Option<Made>> = slots.by_ref().take(parts.len()).collect();
        // With a part missing the user has failed and stands in `failed`; or is beyond the first ones, with no slots at all.
        let Some(mut own) = own.into_iter().map(|made| made.map(|m| m.sequence)).collect::<Option<Vec<_>>>().filter(|o| !o.is_empty())
        else {
            continue;
        };
        let counterfactuals: Vec<Vec<u32>> = own.drain(2..).filter(|c| !c.is_empty()).collect();
        let paraphrase = own.pop().unwrap_or_default();
        *view = UserViews { future: own.pop().unwrap_or_default(), paraphrase, counterfactuals };
    }
    if settings.fallback == Fallback::Catalogue && !failed.is_empty() {
        let plain = ViewSettings { generator: GeneratorKind::CATALOGUE, ..settings.clone() };
        let public = PublicCatalogue::new(&data.catalogue, counts, &plain, threads, &|_| ())?;
        let catalogue = CatalogueGenerator::new(&public, &plain);
        for &user in failed.keys() {
            views.users[user as usize] = catalogue.generate(user, data.train(user as usize))?;
        }
    }
    Ok(views)
}
