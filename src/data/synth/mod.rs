//! A synthetic world: a readable catalogue and users whose tastes drift, of any size, without a table over pairs of items.
//!
//! Item `i` of `I` sits in leaf `i % L` of the category tree at popularity rank `i / L`, so every relation is arithmetic and
//! every draw takes constant time. A step of a history is, in this order:
//! * every [`EXPLORE`](world::EXPLORE)th interaction of the world: the next item of one walk over the whole catalogue, so that each item is met
//!   once enough interactions exist;
//! * with a share of `data.synth_noise`: an item of the whole catalogue, each alike;
//! * with [`FOLLOW`](world::FOLLOW) percent: one of the last item's three successors (what a sequential model can learn);
//! * else an item of the user's taste: one of `data.synth_tastes` categories, early ones giving way to late ones along the history (of which
//!   `data.synth_drift` says how many are other ones), a sub-category that this user prefers there, and a popular item in it (`data.synth_skew`).
//!
//! No user meets an item twice. Draws use only integers, products and sums, so the bits are the same on any machine and for
//! any number of threads.

mod names;
mod truth;
mod world;

pub use truth::{Oracle, Truth, synthetic_truth};

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::dataset::{ItemText, UserGroups};
use super::prepare::Progress;
use super::reader::{RawData, Reader};
use super::source::Source;
use super::times::{TimeValues, Times};
use crate::base::clean;
use crate::base::parallel;
use crate::config::DataSettings;
use crate::{Error, Result};
use names::CATEGORIES;
use world::World;
pub(super) use world::check_habits;

/// Users or items generated together.
const BLOCK: usize = 1024;

/// Reader of no file at all.
pub struct Synthetic;

impl Reader for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn reads_files(&self) -> bool {
        false
    }

    fn read(&self, settings: &DataSettings, _: Option<&mut Source>, _: Option<&mut Source>, progress: &Progress) -> Result<RawData> {
        synthetic_world(settings, parallel::threads(0), progress)
    }
}

/// The world of `settings.synth_*`, made by `threads` threads (which never change it).
///
/// # Errors
/// [`Error::Setting`] for sizes out of range.
pub fn synthetic_world(settings: &DataSettings, threads: usize, progress: &(dyn Fn(&str, u64, u64) + Sync)) -> Result<RawData> {
    let world = World::new(settings)?;
    let users = settings.synth_users as usize;
    let (lengths, starts) = lengths(&world, users);
    let total = starts[users];
    if total >= u64::from(u32::MAX) {
        let message = format!("a world of {total} interactions is too large; fewer users or a smaller mean length are needed");
        return Err(Error::setting("data.synth_users", message));
    }
    let done = AtomicU64::new(0);
    let blocks = parallel::map(threads, users.div_ceil(BLOCK), 1, |block| {
        let range = block * BLOCK..users.min((block + 1) * BLOCK);
        let (mut items, mut times) = (Vec::new(), Vec::new());
        let mut met = HashSet::new();
        for user in range.clone() {
            world.history(user as u64, lengths[user], starts[user], &mut met, &mut items, &mut times);
        }
        progress("making histories", done.fetch_add(range.len() as u64, Ordering::Relaxed) + range.len() as u64, users as u64);
        (items, times)
    });
    let mut raw = RawData { users: Vec::with_capacity(total as usize), items: Vec::with_capacity(total as usize), ..RawData::default() };
    let mut all_times = Vec::with_capacity(total as usize);
    for (items, times) in blocks {
        raw.items.extend(items);
        all_times.extend(times);
    }
    for (user, length) in lengths.iter().enumerate() {
        raw.users.extend(std::iter::repeat_n(user as u32, *length as usize));
    }
    raw.times = Some(Times::new(TimeValues::Integer(all_times)));
    raw.user_tokens = (0..users).map(user_token).collect();
    raw.groups = sites(&world, &raw, &starts, &settings.group_column)?;
    catalogue(&world, &mut raw, threads, progress);
    Ok(raw)
}

/// Length of every history, and its place among all interactions of the world `[users + 1]`.
fn lengths(world: &World, users: usize) -> (Vec<u32>, Vec<u64>) {
    let lengths: Vec<u32> = (0..users).map(|u| world.length(u as u64)).collect();
    let mut starts = Vec::with_capacity(users + 1);
    starts.push(0u64);
    for length in &lengths {
        starts.push(starts[starts.len() - 1] + u64::from(*length));
    }
    (lengths, starts)
}

/// The name of a user.
fn user_token(user: usize) -> String {
    format!("u{user:07}")
}

/// The name of an item.
fn item_token(item: u64) -> String {
    format!("i{item:07}")
}

/// The column of groups that a world has.
const SITE: &str = "site";

/// The site of each user, where `column` asks for it: the category of the user's first item, so that sites differ in taste and size.
fn sites(world: &World, raw: &RawData, starts: &[u64], column: &str) -> Result<Option<UserGroups>> {
    if column.is_empty() {
        return Ok(None);
    }
    if column != SITE {
        let message = format!("is `{}`; a synthetic world has one column of groups, `{SITE}`", clean::id(column));
        return Err(Error::setting("data.group_column", message));
    }
    let category = |&start: &u64| u64::from(raw.items[start as usize]) % world.leaves() / world.subs;
    let values: Vec<&str> = starts[..starts.len() - 1].iter().map(|start| CATEGORIES[category(start) as usize]).collect();
    Ok(Some(UserGroups::new(column, &values)))
}

/// Numbers the items met by first appearance and writes their texts.
fn catalogue(world: &World, raw: &mut RawData, threads: usize, progress: &Progress) {
    const NONE: u32 = u32::MAX;
    let mut index = vec![NONE; world.items as usize];
    let mut met: Vec<u32> = Vec::new();
    for item in &mut raw.items {
        let slot = &mut index[*item as usize];
        if *slot == NONE {
            *slot = met.len() as u32;
            met.push(*item);
        }
        *item = *slot;
    }
    raw.item_tokens = met.iter().map(|i| item_token(u64::from(*i))).collect();
    let done = AtomicU64::new(0);
    let blocks = parallel::map(threads, met.len().div_ceil(BLOCK), 1, |block| {
        let part = &met[block * BLOCK..met.len().min((block + 1) * BLOCK)];
        let texts: Vec<ItemText> = part
            .iter()
            .map(|&item| {
                let bought = world.also_bought(u64::from(item)).into_iter().map(|i| index[i as usize]).filter(|i| *i != NONE);
                ItemText { also_bought: bought.collect(), ..world.text(u64::from(item)) }
            })
            .collect();
        progress("making the catalogue", done.fetch_add(part.len() as u64, Ordering::Relaxed) + part.len() as u64, met.len() as u64);
        texts
    });
    raw.catalogue = blocks.into_iter().flatten().collect();
}
