//! Other splits than leave-one-out: by time over all users, or by shares of each user's sequence. Either leaves a user several items of a split, in a row.

use super::dataset::{Cuts, Dataset, Split};
use super::reader::RawData;
use super::times::Times;
use crate::config::{DataSettings, SplitRule};
use crate::{Error, Result};

/// Two moments, as rows whose times they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    validation: usize,
    test: usize,
}

/// The moments of `data.split = "time"` among the rows that `keep` leaves: the shares of them that lie behind are the settings'. `None` for
/// another split.
///
/// # Errors
/// [`Error::Setting`] where there are no times.
pub(super) fn moments(raw: &RawData, keep: &[bool], settings: &DataSettings) -> Result<Option<Moments>> {
    if settings.split != SplitRule::Time {
        return Ok(None);
    }
    let Some(times) = &raw.times else {
        return Err(Error::setting("data.split", "is `time`, and the interactions have no times; `ratio` and `leave-one-out` need none"));
    };
    let mut rows: Vec<usize> = (0..keep.len()).filter(|row| keep[*row]).collect();
    rows.sort_by(|a, b| times.compare(*a, *b));
    if rows.is_empty() {
        return Ok(None);
    }
    let at = |behind: f32| rows[((rows.len() as f64 * (1.0 - f64::from(behind))) as usize).min(rows.len() - 1)];
    Ok(Some(Moments { validation: at(settings.validation_share + settings.test_share), test: at(settings.test_share) }))
}

/// Training items of a user with `rows` in time order, and the places of the two targets.
fn cut(raw: &RawData, rows: &[u32], moments: Option<Moments>, settings: &DataSettings) -> [u32; 3] {
    let n = rows.len() as u32;
    let place = |at: u32, end: u32| if at < end { at } else { Cuts::NONE };
    if let (Some(moments), Some(times)) = (moments, &raw.times) {
        let first = |moment: usize| rows.partition_point(|row| times.compare(*row as usize, moment).is_lt()) as u32;
        let (validation, test) = (first(moments.validation), first(moments.test));
        return [validation, place(validation, test), place(test, n)];
    }
    let share = |share: f32| ((n as f32 * share).round() as u32).max(1);
    let test = n.saturating_sub(share(settings.test_share));
    let validation = test.saturating_sub(share(settings.validation_share));
    [validation, place(validation, test), place(test, n)]
}

/// Takes users without a training item out of `keep`; how many rows that are.
pub(super) fn drop_untrained<'r>(
    raw: &RawData,
    users: impl Iterator<Item = &'r [u32]>,
    keep: &mut [bool],
    moments: Option<Moments>,
    settings: &DataSettings,
) -> u64 {
    if settings.split == SplitRule::LeaveOneOut {
        return 0;
    }
    let mut dropped = 0;
    for rows in users {
        let kept: Vec<u32> = rows.iter().copied().filter(|row| keep[*row as usize]).collect();
        if !kept.is_empty() && cut(raw, &kept, moments, settings)[0] == 0 {
            kept.iter().for_each(|row| keep[*row as usize] = false);
            dropped += kept.len() as u64;
        }
    }
    dropped
}

/// The cuts of the packed sequences, whose rows are `packed[offsets[u]..offsets[u + 1]]`; `None` for leave-one-out.
///
/// # Errors
/// [`Error::Setting`] where no user is left with a target to validate or to test on.
pub(super) fn cuts(
    raw: &RawData,
    packed: &[u32],
    offsets: &[u64],
    moments: Option<Moments>,
    settings: &DataSettings,
) -> Result<Option<Cuts>> {
    if settings.split == SplitRule::LeaveOneOut {
        return Ok(None);
    }
    let mut cuts = Cuts::default();
    for bounds in offsets.windows(2) {
        let [train, validation, test] = cut(raw, &packed[bounds[0] as usize..bounds[1] as usize], moments, settings);
        cuts.train.push(train);
        cuts.validation.push(validation);
        cuts.test.push(test);
    }
    for (part, places) in [("validation", &cuts.validation), ("test", &cuts.test)] {
        if places.iter().all(|at| *at == Cuts::NONE) {
            let message =
                format!("is `{}`, which leaves no user with training items a {part} item; raise data.{part}_share", settings.split.name());
            return Err(Error::setting("data.split", message));
        }
    }
    Ok(Some(cuts))
}

/// Share of the training interactions that are later than the median test item. `times` are those of the packed interactions.
pub fn trained_after_test(data: &Dataset, times: &Times) -> f64 {
    let place = |user: usize, at: usize| data.offsets[user] as usize + at;
    let target = |user: usize| data.input_and_target(user, Split::Test).map(|(input, _)| place(user, input.len()));
    let mut tests: Vec<usize> = (0..data.users()).filter_map(target).collect();
    tests.sort_by(|a, b| times.compare(*a, *b));
    let Some(&median) = tests.get(tests.len() / 2) else { return 0.0 };
    let training = (0..data.users()).flat_map(|user| (0..data.train(user).len()).map(move |at| place(user, at)));
    let (mut all, mut later) = (0u64, 0u64);
    for row in training {
        all += 1;
        later += u64::from(times.compare(row, median).is_gt());
    }
    later as f64 / all.max(1) as f64
}
