//! Views of all users of a data set.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::generator::{Generator, PublicCatalogue, Request, generator};
use super::statistics::{self, Statistics};
use super::{UserViews, Views};
use crate::config::{GeneratorKind, ViewSettings};
use crate::data::Dataset;
use crate::{Error, Result, parallel};

/// More appended items or neighbours than this are a slip of the pen.
const MOST_ITEMS: u32 = 1000;
/// The same for counterfactual sequences.
const MOST_SEQUENCES: u32 = 64;

/// Refuses settings out of range.
///
/// # Errors
/// [`Error::Setting`] with the key and the range.
pub fn validate(settings: &ViewSettings) -> Result<()> {
    let ranges = [
        ("future_min", settings.future_min, 1, MOST_ITEMS),
        ("future_max", settings.future_max, settings.future_min, MOST_ITEMS),
        ("counterfactuals", settings.counterfactuals, 1, MOST_SEQUENCES),
        ("neighbours", settings.neighbours, 1, MOST_ITEMS),
    ];
    for (key, value, low, high) in ranges {
        if !(low..=high).contains(&value) {
            return Err(Error::setting(format!("views.{key}"), format!("{value} is out of range; use {low} to {high}")));
        }
    }
    for (key, value) in [("substitute", settings.substitute), ("reorder", settings.reorder)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::setting(format!("views.{key}"), format!("{value} is out of range; use a share from 0 to 1")));
        }
    }
    Ok(())
}

/// Views of every user of `data`; none at all for the generator `none`. `threads` 0 means all cores and changes no result.
/// `progress` is told what is done, of how much, from any thread.
///
/// # Errors
/// [`Error::Setting`] for settings out of range, and whatever the generator reports.
pub fn build(data: &Dataset, settings: &ViewSettings, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Views> {
    Ok(run(data, settings, threads, progress, false)?.0)
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
    run(data, settings, threads, progress, true)
}

fn run(
    data: &Dataset,
    settings: &ViewSettings,
    threads: usize,
    progress: &(dyn Fn(u64, u64) + Sync),
    measure: bool,
) -> Result<(Views, Statistics)> {
    validate(settings)?;
    if settings.generator == GeneratorKind::None {
        return Ok(Default::default());
    }
    let begin = Instant::now();
    let threads = if threads == 0 { parallel::default_threads() } else { threads };
    let (items, users) = (data.item_count() as u64, data.users() as u64);
    progress(0, items + users);
    let counts = data.train_counts();
    let public = PublicCatalogue::new(&data.catalogue, &counts, settings, threads, &|done| progress(done, items + users))?;
    let Some(generator) = generator(settings, &public) else { return Ok(Default::default()) };
    let views = generate_all(generator.as_ref(), data, threads, &|done| progress(items + done, items + users))?;
    progress(items + users, items + users);
    let mut statistics = Statistics::default();
    if measure {
        statistics = statistics::measure(data, &public, &views);
        statistics.notes = generator.notes();
        statistics.seconds = begin.elapsed().as_secs_f64();
    }
    Ok((views, statistics))
}

/// Asks `generator` for all users, in batches. The only place where a data set and a generator meet: what goes over is the
/// user's index and training items.
fn generate_all(generator: &dyn Generator, data: &Dataset, threads: usize, done: &(dyn Fn(u64) + Sync)) -> Result<Views> {
    let users = data.users();
    let batch = generator.batch_size().max(1);
    let finished = AtomicU64::new(0);
    let batches = parallel::map(threads, users.div_ceil(batch), 1, |index| {
        let range = index * batch..users.min((index + 1) * batch);
        let requests: Vec<Request> = range.map(|user| Request { user: user as u32, history: data.train(user) }).collect();
        let made = generator.generate_batch(&requests);
        done(finished.fetch_add(requests.len() as u64, Ordering::Relaxed) + requests.len() as u64);
        made
    });
    let users: Vec<UserViews> = batches.into_iter().flatten().collect::<Result<_>>()?;
    Ok(Views { users })
}
