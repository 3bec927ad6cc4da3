//! From interactions in file order to packed sequences: duplicates, repeats, k-core, time order, length limits, renumbering.
//!
//! Order of the steps: only the first users (`data.first_users`); the range of times (`data.from`, `data.until`); each user's interactions sorted by time (stable, so ties keep the file's order); duplicate rows dropped
//! (`data.duplicates`), then repeated items (`data.repeats`), so that the k-core counts what is left; the k-core; users below the minimum
//! length dropped; only the last `max_length` kept; users and items numbered by first appearance in the file among the interactions that
//! are left. Dropping short users may leave an item below `k`; it is not filtered again.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::dataset::{Dataset, ItemText, UserGroups};
use super::reader::RawData;
use super::repeats::{Dropped, drop_repeated};
use super::split::{self, Moments};
use super::times::Times;
use crate::base::clean;
use crate::config::DataSettings;
use crate::{Error, Result};

/// The filtered data set, its times, and what only the raw rows can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// Sequences and catalogue; name and fingerprint still empty.
    pub dataset: Dataset,
    /// Time of every packed interaction `[N]`, where the source has times.
    pub times: Option<Times>,
    /// What `data.duplicates` and `data.repeats` dropped.
    pub dropped: Dropped,
    /// What the other filters removed.
    pub removed: Removed,
}

/// Rows that each filter removed, those that came before it left aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Removed {
    /// `data.first_users`: rows of later users.
    pub later_users: u64,
    /// `data.from` and `data.until`.
    pub out_of_range: u64,
    /// `data.k_core`.
    pub k_core: u64,
    /// `data.min_length`: rows of short users.
    pub short: u64,
    /// `data.max_length`: older rows of long users.
    pub long: u64,
    /// `data.split`: rows of users without a training item.
    pub untrained: u64,
}

impl Removed {
    /// Whether nothing was removed.
    pub(super) fn is_empty(&self) -> bool {
        *self == Removed::default()
    }

    /// A line for each filter that removed something.
    pub(super) fn notes(&self) -> Vec<String> {
        let all = [
            (self.later_users, "first users: {} rows of later users were left out (data.first_users)"),
            (self.out_of_range, "times: {} rows outside of the range were left out (data.from, data.until)"),
            (self.k_core, "k-core: {} rows of users or items with fewer interactions were left out (data.k_core)"),
            (self.short, "short users: {} rows were left out (data.min_length)"),
            (self.long, "long users: {} older rows were left out (data.max_length)"),
            (self.untrained, "split: {} rows of users without a training item were left out (data.split)"),
        ];
        all.iter().filter(|(rows, _)| *rows > 0).map(|(rows, text)| text.replacen("{}", &rows.to_string(), 1)).collect()
    }
}

/// Refuses limits that no data set could meet.
pub(super) fn check_limits(settings: &DataSettings) -> Result<()> {
    if settings.min_length < 3 {
        let message = format!("{} is too small: leave-one-out takes two items of each user, so 3 is the least", settings.min_length);
        return Err(Error::setting("data.min_length", message));
    }
    if settings.max_length != 0 && settings.max_length < 3 {
        let message = format!("{} is too small: 3 is the least, 0 keeps everything", settings.max_length);
        return Err(Error::setting("data.max_length", message));
    }
    Ok(())
}

/// Applies the settings' treatment of duplicates and repeats, k-core and length limits to `raw`.
///
/// # Errors
/// [`Error::Setting`] where a limit is out of range, duplicates are refused or nothing is left.
pub fn filter(raw: RawData, settings: &DataSettings) -> Result<Filtered> {
    check_limits(settings)?;
    let mut by_user = Index::new(&raw.users, raw.user_tokens.len());
    by_user.sort(raw.times.as_ref());
    let mut keep = vec![true; raw.users.len()];
    let mut removed = Removed::default();
    select(&raw, settings, &mut keep, &mut removed)?;
    let dropped = drop_repeated(&raw, &by_user, &mut keep, settings)?;
    let before = left(&keep);
    k_core(&raw, &by_user, &mut keep, settings.k_core);
    removed.k_core = before - left(&keep);
    (removed.short, removed.long) = limit_lengths(&by_user, &mut keep, settings);
    let moments = split::moments(&raw, &keep, settings)?;
    let users = (0..raw.user_tokens.len()).map(|user| by_user.rows(user));
    removed.untrained = split::drop_untrained(&raw, users, &mut keep, moments, settings);
    if !keep.iter().any(|k| *k) {
        return Err(nothing_left(&raw, dropped, settings));
    }
    let (mut dataset, times) = pack(raw, &keep, by_user, moments, settings)?;
    if let Some(groups) = &mut dataset.groups {
        groups.column.clone_from(&settings.group_column);
    }
    Ok(Filtered { dataset, times, dropped, removed })
}

/// Takes out of `keep` what lies outside of the first users and the range of times.
fn select(raw: &RawData, settings: &DataSettings, keep: &mut [bool], removed: &mut Removed) -> Result<()> {
    if settings.first_users > 0 {
        let users = raw.users.iter().zip(keep.iter_mut()).filter(|(user, _)| **user >= settings.first_users);
        users.for_each(|(_, keep)| *keep = false);
        removed.later_users = keep.len() as u64 - left(keep);
    }
    for (key, text, after) in [("data.from", &settings.from, true), ("data.until", &settings.until, false)] {
        if text.is_empty() {
            continue;
        }
        let Some(times) = &raw.times else {
            let message = format!("is `{}`, and the interactions have no times; leave it empty", clean::id(text));
            return Err(Error::setting(key, message));
        };
        let bound = times.bound(text).map_err(|message| Error::setting(key, message))?;
        let before = left(keep);
        keep.iter_mut().enumerate().for_each(|(row, keep)| *keep &= times.before(row, bound) != after);
        removed.out_of_range += before - left(keep);
    }
    Ok(())
}

/// Rows that are still there.
fn left(keep: &[bool]) -> u64 {
    keep.iter().filter(|keep| **keep).count() as u64
}

fn nothing_left(raw: &RawData, dropped: Dropped, settings: &DataSettings) -> Error {
    let (users, rows) = (raw.user_tokens.len(), raw.users.len());
    let before = match (dropped.duplicates, dropped.repeats) {
        (0, 0) => String::new(),
        (duplicates, repeats) => format!(", of which {duplicates} duplicate rows and {repeats} repeats were dropped"),
    };
    // Whoever names a column of whole histories sees every user once.
    let remedy = match users == rows {
        true => "each user has a single row: give each interaction a row",
        false => "lower the limits",
    };
    let (k, min) = (settings.k_core, settings.min_length);
    let message =
        format!("no user is left of {users} users and {rows} interactions{before} (data.k_core={k}, data.min_length={min}); {remedy}");
    Error::setting("data.min_length", message)
}

/// Takes out of `keep` what does not belong to the k-core of the rows in it: every user and every item has at least `k` of them.
///
/// The k-core is unique, so the order of removal does not matter: those who fall below `k` wait on a stack, and each
/// interaction is removed once.
fn k_core(raw: &RawData, by_user: &Index, keep: &mut [bool], k: u32) {
    if k <= 1 {
        return;
    }
    let (users, items) = (&raw.users, &raw.items);
    let (n_users, n_items) = (raw.user_tokens.len(), raw.item_tokens.len());
    let by_item = Index::new(items, n_items);
    let degree = |rows: &[u32]| rows.iter().filter(|r| keep[**r as usize]).count() as u32;
    let mut user_degree: Vec<u32> = (0..n_users).map(|u| degree(by_user.rows(u))).collect();
    let mut item_degree: Vec<u32> = (0..n_items).map(|i| degree(by_item.rows(i))).collect();
    let mut stack: Vec<(bool, u32)> = Vec::new();
    stack.extend((0..n_users as u32).filter(|u| user_degree[*u as usize] < k).map(|u| (true, u)));
    stack.extend((0..n_items as u32).filter(|i| item_degree[*i as usize] < k).map(|i| (false, i)));
    while let Some((is_user, id)) = stack.pop() {
        let rows = if is_user { by_user.rows(id as usize) } else { by_item.rows(id as usize) };
        for &row in rows {
            let row = row as usize;
            if !std::mem::replace(&mut keep[row], false) {
                continue;
            }
            let (other, degree) = if is_user {
                (items[row], &mut item_degree[items[row] as usize])
            } else {
                (users[row], &mut user_degree[users[row] as usize])
            };
            *degree -= 1;
            // Pushed at the one step from `k` to `k - 1`, so never twice.
            if *degree == k - 1 {
                stack.push((!is_user, other));
            }
        }
    }
}

/// Rows by owner: rows of `o` are `order[starts[o]..starts[o + 1]]`, in file order until they are sorted.
pub(super) struct Index {
    starts: Vec<usize>,
    order: Vec<u32>,
}

impl Index {
    fn new(owners: &[u32], n: usize) -> Index {
        let mut starts = vec![0usize; n + 1];
        for &o in owners {
            starts[o as usize + 1] += 1;
        }
        for o in 0..n {
            starts[o + 1] += starts[o];
        }
        let mut next = starts.clone();
        let mut order = vec![0u32; owners.len()];
        for (row, &o) in owners.iter().enumerate() {
            order[next[o as usize]] = row as u32;
            next[o as usize] += 1;
        }
        Index { starts, order }
    }

    pub fn rows(&self, owner: usize) -> &[u32] {
        &self.order[self.starts[owner]..self.starts[owner + 1]]
    }

    /// Puts the rows of each owner in time order; ties, and everything where there are no times, keep the order of the file.
    fn sort(&mut self, times: Option<&Times>) {
        let Some(times) = times else { return };
        for owner in self.starts.windows(2) {
            self.order[owner[0]..owner[1]].sort_by(|a, b| times.compare(*a as usize, *b as usize));
        }
    }
}

/// `keep` loses short users and all but the last `max_length` rows of the long ones; how many rows each of the two takes.
fn limit_lengths(by_user: &Index, keep: &mut [bool], settings: &DataSettings) -> (u64, u64) {
    let (mut short, mut long) = (0, 0);
    let mut kept: Vec<u32> = Vec::new();
    for user in 0..by_user.starts.len() - 1 {
        kept.clear();
        kept.extend(by_user.rows(user).iter().copied().filter(|r| keep[*r as usize]));
        let drop = match settings.max_length as usize {
            _ if kept.len() < settings.min_length as usize => kept.len(),
            0 => 0,
            max => kept.len().saturating_sub(max),
        };
        match drop == kept.len() {
            true => short += drop as u64,
            false => long += drop as u64,
        }
        for row in &kept[..drop] {
            keep[*row as usize] = false;
        }
    }
    (short, long)
}

/// Renumbers users and items by first appearance among the kept rows and packs the sequences.
fn pack(
    raw: RawData,
    keep: &[bool],
    by_user: Index,
    moments: Option<Moments>,
    settings: &DataSettings,
) -> Result<(Dataset, Option<Times>)> {
    const NONE: u32 = u32::MAX;
    let mut new_item = vec![NONE; raw.item_tokens.len()];
    let mut seen_user = vec![false; raw.user_tokens.len()];
    let (mut user_order, mut item_order) = (Vec::new(), Vec::new());
    for row in (0..keep.len()).filter(|r| keep[*r]) {
        let (user, item) = (raw.users[row] as usize, raw.items[row] as usize);
        if !std::mem::replace(&mut seen_user[user], true) {
            user_order.push(user);
        }
        if new_item[item] == NONE {
            new_item[item] = item_order.len() as u32;
            item_order.push(item);
        }
    }
    let total = keep.iter().filter(|k| **k).count();
    let mut dataset = Dataset { offsets: Vec::with_capacity(user_order.len() + 1), ..Dataset::default() };
    let mut packed = Vec::with_capacity(total);
    dataset.offsets.push(0);
    for &user in &user_order {
        packed.extend(by_user.rows(user).iter().copied().filter(|r| keep[*r as usize]));
        dataset.offsets.push(packed.len() as u64);
    }
    dataset.cuts = split::cuts(&raw, &packed, &dataset.offsets, moments, settings)?;
    dataset.items = packed.iter().map(|row| new_item[raw.items[*row as usize] as usize]).collect();
    let times = raw.times.as_ref().map(|all| all.select(&packed));
    dataset.groups = raw.groups.as_ref().map(|groups| {
        let values: Vec<&str> = user_order.iter().map(|&user| groups.name(user)).collect();
        UserGroups::new(&groups.column, &values)
    });
    let (mut user_tokens, mut item_tokens, mut catalogue) = (raw.user_tokens, raw.item_tokens, raw.catalogue);
    dataset.user_tokens = user_order.iter().map(|u| std::mem::take(&mut user_tokens[*u])).collect();
    dataset.item_tokens = item_order.iter().map(|i| std::mem::take(&mut item_tokens[*i])).collect();
    dataset.catalogue = item_order
        .iter()
        .map(|&i| {
            let text = std::mem::take(&mut catalogue[i]);
            let own = new_item[i];
            let mut met = HashSet::new();
            // An item is not its own companion, and a companion counts once.
            let bought = text.also_bought.iter().map(|b| new_item[*b as usize]).filter(|b| *b != NONE && *b != own && met.insert(*b));
            ItemText { also_bought: bought.collect(), ..text }
        })
        .collect();
    Ok((dataset, times))
}
