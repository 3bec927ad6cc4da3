//! Recommendations for every user of a run's data set.

use super::folder::RunFolder;
use super::pipeline::threads;
use super::score::open_trained;
use super::team::Team;
use super::{Devices, Observer};
use crate::config::methods::{self, Family};
use crate::config::{Settings, Validated};
use crate::data::{Dataset, Split};
use crate::eval::{ListFigures, Lists};
use crate::{Result, eval};
use std::sync::Arc;

/// Users whose lists are in memory at a time.
const BATCH: usize = 4096;

/// Most models that work side by side, each with weights of its own.
const LANES: usize = 16;

/// Items with their scores, best first.
pub type List = Vec<(u32, f32)>;

/// Whose lists are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Checkpoint, `best` or `last`.
    pub name: &'a str,
    /// Users, in the order of the lists.
    pub users: &'a [u32],
    /// Items of a list.
    pub k: usize,
    /// Lists for what stands before each user's target of this split, none for a user without one; nothing for whole histories.
    pub split: Option<Split>,
}

impl Wanted<'_> {
    /// The history that the list of `user` is for.
    fn history<'d>(&self, data: &'d Dataset, user: u32) -> &'d [u32] {
        match self.split {
            Some(split) => data.input_and_target(user as usize, split).map_or(&[], |(input, _)| input),
            None => data.sequence(user as usize),
        }
    }
}

/// What the lists of the users of `split` are like, at each cut-off of `eval.k`: lists for what stands before the target, under the checkpoint `name`.
///
/// # Errors
/// Those of [`recommend_all`].
pub fn list_figures(
    folder: &RunFolder,
    settings: &Validated<Settings>,
    data: &Arc<Dataset>,
    (name, split): (&str, Split),
    observer: &dyn Observer,
) -> Result<Vec<(u32, ListFigures)>> {
    let counts = data.train_counts();
    let mut lists: Vec<(u32, Lists)> = settings.eval.k.iter().map(|&k| (k, Lists::new(&counts))).collect();
    let users: Vec<u32> = (0..data.users() as u32).filter(|&user| data.input_and_target(user as usize, split).is_some()).collect();
    let k = settings.eval.k.iter().max().map_or(0, |&k| k as usize).min(data.item_count());
    let wanted = Wanted { name, users: &users, k, split: Some(split) };
    recommend_all(folder, settings, data, &wanted, observer, &mut |_, list| {
        lists.iter_mut().for_each(|(k, lists)| lists.add(list.iter().take(*k as usize).map(|(item, _)| *item)));
        Ok(())
    })?;
    Ok(lists.into_iter().map(|(k, lists)| (k, lists.figures())).collect())
}

/// What is done with a user's list, best item first.
pub type Each<'a> = dyn FnMut(u32, &[(u32, f32)]) -> Result<()> + 'a;

/// Calls `each` with the `k` best items of each of `users`, in their order, as [`super::recommend`] gives them for the
/// user's history.
///
/// # Errors
/// Those of [`super::recommend`], and those of `each`.
pub fn recommend_all(
    folder: &RunFolder,
    settings: &Validated<Settings>,
    data: &Arc<Dataset>,
    wanted: &Wanted,
    observer: &dyn Observer,
    each: &mut Each,
) -> Result<()> {
    let Wanted { name, users, k, .. } = *wanted;
    let mask = settings.eval.mask;
    if methods::find(&settings.method)?.family == Family::Baseline {
        let scores: Vec<f32> = data.train_counts().into_iter().map(|count| count as f32).collect();
        return users.iter().try_for_each(|&user| each(user, &eval::best_items(&scores, mask.masked(wanted.history(data, user)), k)));
    }
    // Private weights of users may lie on disk, under a name that one model alone may use.
    let shared = Settings::default().federation.shared.len();
    let private = settings.federation.personal > 0.0 || settings.federation.shared.len() < shared;
    let lanes = if private { 1 } else { threads(settings).clamp(1, LANES).min(users.len().max(1)) };
    // Each list is one history's: lanes share the users, so a model needs no threads of its own.
    let single = settings.clone().with(|s| s.threads = if lanes > 1 { 1 } else { s.threads })?;
    let mut models = Vec::with_capacity(lanes);
    for _ in 0..lanes {
        let mut device = Devices::default().to_rank(&single, "cpu")?;
        models.push(open_trained(folder, name, &single, data, &mut device)?.0);
    }
    let mut done = 0;
    for batch in users.chunks(BATCH) {
        let share = batch.len().div_ceil(lanes);
        let lists = |model: &mut Team, users: &[u32]| -> Result<Vec<List>> {
            users.iter().map(|&user| model.recommend(Some(user), wanted.history(data, user), k)).collect()
        };
        let all: Vec<Result<Vec<List>>> = std::thread::scope(|scope| {
            let work: Vec<_> =
                models.iter_mut().zip(batch.chunks(share)).map(|(model, users)| scope.spawn(move || lists(model, users))).collect();
            work.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        for (users, lists) in batch.chunks(share).zip(all) {
            for (&user, list) in users.iter().zip(lists?) {
                each(user, &list)?;
            }
        }
        done += batch.len();
        observer.stage("recommending", done as u64, users.len() as u64);
    }
    observer.stage_end("recommending");
    Ok(())
}
