//! From interactions in file order to packed sequences: k-core, time order, length limits, renumbering.
//!
//! Order of the steps: k-core; users below the minimum length dropped; each user's interactions sorted by time (stable, so
//! ties keep the file's order); only the last `max_length` kept; users and items numbered by first appearance in the file
//! among the interactions that are left. Dropping short users may leave an item below `k`; it is not filtered again.
//! An interaction that occurs twice counts twice and is kept twice.

use std::collections::HashSet;

use super::dataset::{Dataset, ItemText};
use super::reader::RawData;
use crate::config::DataSettings;
use crate::{Error, Result};

/// The filtered data set, its times, and what only the raw rows can tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// Sequences and catalogue; name and fingerprint still empty.
    pub dataset: Dataset,
    /// Time of every packed interaction `[N]`, where the source has times.
    pub times: Option<Vec<f64>>,
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

/// Applies the settings' k-core and length limits to `raw`.
///
/// # Errors
/// [`Error::Setting`] where a limit is out of range or nothing is left.
pub fn filter(raw: RawData, settings: &DataSettings) -> Result<Filtered> {
    check_limits(settings)?;
    let mut keep = k_core(&raw.users, &raw.items, raw.user_tokens.len(), raw.item_tokens.len(), settings.k_core);
    let rows = sort_by_user(&raw, &mut keep, settings);
    if !keep.iter().any(|k| *k) {
        let message = format!(
            "no user is left of {} users and {} interactions (k_core {}, min_length {}); lower the limits",
            raw.user_tokens.len(),
            raw.users.len(),
            settings.k_core,
            settings.min_length
        );
        return Err(Error::setting("data.min_length", message));
    }
    Ok(pack(raw, &keep, rows))
}

/// Which interactions belong to the k-core `[N]`: every user and every item in it has at least `k` of them.
///
/// The k-core is unique, so the order of removal does not matter: those who fall below `k` wait on a stack, and each
/// interaction is removed once.
fn k_core(users: &[u32], items: &[u32], n_users: usize, n_items: usize, k: u32) -> Vec<bool> {
    let mut keep = vec![true; users.len()];
    if k <= 1 {
        return keep;
    }
    let by_user = Index::new(users, n_users);
    let by_item = Index::new(items, n_items);
    let mut user_degree: Vec<u32> = (0..n_users).map(|u| by_user.rows(u).len() as u32).collect();
    let mut item_degree: Vec<u32> = (0..n_items).map(|i| by_item.rows(i).len() as u32).collect();
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
    keep
}

/// Rows by owner: rows of `o` are `order[starts[o]..starts[o + 1]]`, in file order.
struct Index {
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

    fn rows(&self, owner: usize) -> &[u32] {
        &self.order[self.starts[owner]..self.starts[owner + 1]]
    }
}

/// Rows by user in time order; `keep` loses short users and all but the last `max_length` of the long ones.
fn sort_by_user(raw: &RawData, keep: &mut [bool], settings: &DataSettings) -> Index {
    let mut index = Index::new(&raw.users, raw.user_tokens.len());
    let mut kept: Vec<u32> = Vec::new();
    for user in 0..raw.user_tokens.len() {
        let rows = &mut index.order[index.starts[user]..index.starts[user + 1]];
        if let Some(times) = &raw.times {
            rows.sort_by(|a, b| times[*a as usize].total_cmp(&times[*b as usize]));
        }
        kept.clear();
        kept.extend(rows.iter().copied().filter(|r| keep[*r as usize]));
        let drop = match settings.max_length as usize {
            _ if kept.len() < settings.min_length as usize => kept.len(),
            0 => 0,
            max => kept.len().saturating_sub(max),
        };
        for row in &kept[..drop] {
            keep[*row as usize] = false;
        }
    }
    index
}

/// Renumbers users and items by first appearance among the kept rows and packs the sequences.
fn pack(raw: RawData, keep: &[bool], rows: Index) -> Filtered {
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
    let mut dataset = Dataset { offsets: Vec::with_capacity(user_order.len() + 1), items: Vec::with_capacity(total), ..Dataset::default() };
    let mut times = raw.times.as_ref().map(|_| Vec::with_capacity(total));
    dataset.offsets.push(0);
    for &user in &user_order {
        for row in rows.rows(user).iter().map(|r| *r as usize).filter(|r| keep[*r]) {
            dataset.items.push(new_item[raw.items[row] as usize]);
            if let (Some(out), Some(all)) = (times.as_mut(), raw.times.as_ref()) {
                out.push(all[row]);
            }
        }
        dataset.offsets.push(dataset.items.len() as u64);
    }
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
    Filtered { dataset, times }
}
