//! Rows that occur twice and items that a user meets again: what is dropped, and how much of it.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::filter::Index;
use super::reader::RawData;
use crate::base::clean;
use crate::config::{DataSettings, Duplicates, Repeats};
use crate::{Error, Result};

/// Interactions that were dropped before any filtering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Rows with the user, the item and the time of an earlier row (`data.duplicates`).
    pub duplicates: u64,
    /// Interactions with an item that the user had met before (`data.repeats`).
    pub repeats: u64,
}

/// Takes duplicates and then repeats out of `keep`, as `settings` say. `by_user` holds the rows in time order. Without times each row has
/// a place of its own, so none is a duplicate.
///
/// # Errors
/// [`Error::Setting`] where duplicates are met and refused.
pub(super) fn drop_repeated(raw: &RawData, by_user: &Index, keep: &mut [bool], settings: &DataSettings) -> Result<Dropped> {
    let mut dropped = Dropped::default();
    if settings.duplicates != Duplicates::Keep {
        let (count, first) = drop_duplicates(raw, by_user, keep);
        if let Some(pair) = first.filter(|_| settings.duplicates == Duplicates::Refuse) {
            return Err(refusal(raw, count, pair));
        }
        dropped.duplicates = count;
    }
    let mut met = HashSet::new();
    for user in 0..raw.user_tokens.len() {
        let mut last = None;
        met.clear();
        for &row in by_user.rows(user).iter().filter(|_| settings.repeats != Repeats::Keep) {
            let (row, item) = (row as usize, raw.items[row as usize]);
            if !keep[row] {
                continue;
            }
            let again = match settings.repeats {
                Repeats::Keep => false,
                Repeats::First => !met.insert(item),
                Repeats::Consecutive => last.replace(item) == Some(item),
            };
            keep[row] = !again;
            dropped.repeats += u64::from(again);
        }
    }
    Ok(dropped)
}

/// Takes every row out of `keep` that has user, item and time of an earlier one; how many those are, and the first of them in the file
/// behind the row that it repeats.
fn drop_duplicates(raw: &RawData, by_user: &Index, keep: &mut [bool]) -> (u64, Option<(u32, u32)>) {
    let Some(times) = &raw.times else { return (0, None) };
    let (mut count, mut first): (u64, Option<(u32, u32)>) = (0, None);
    let mut met: HashMap<u32, u32> = HashMap::new();
    for user in 0..raw.user_tokens.len() {
        for run in by_user.rows(user).chunk_by(|a, b| times.key(*a as usize) == times.key(*b as usize)).filter(|run| run.len() > 1) {
            met.clear();
            for &row in run {
                let earlier = *met.entry(raw.items[row as usize]).or_insert(row);
                if earlier == row {
                    continue;
                }
                keep[row as usize] = false;
                count += 1;
                if first.is_none_or(|(_, least)| row < least) {
                    first = Some((earlier, row));
                }
            }
        }
    }
    (count, first)
}

/// The error for `count` duplicates, of which the second row of the pair is the first in the file.
fn refusal(raw: &RawData, count: u64, (earlier, row): (u32, u32)) -> Error {
    let line = |row: u32| raw.first_line.map(|first| first + u64::from(row));
    let place = match (line(row), line(earlier)) {
        (Some(row), Some(earlier)) => format!("line {row} repeats line {earlier}"),
        _ => format!("interaction {} repeats interaction {}", u64::from(row) + 1, u64::from(earlier) + 1),
    };
    let row = row as usize;
    let time = raw.times.as_ref().map_or(String::new(), |t| t.show(row));
    let rows = if count == 1 { "row is a duplicate" } else { "rows are duplicates" };
    let message = format!(
        "{count} {rows} (same user, item and time): {place} (user `{}`, item `{}`, time {time}). Remove them from the file, or let \
         data.duplicates=drop keep the first of each, data.duplicates=keep all of them",
        clean::id(&raw.user_tokens[raw.users[row] as usize]),
        clean::id(&raw.item_tokens[raw.items[row] as usize])
    );
    Error::setting("data.duplicates", message)
}
