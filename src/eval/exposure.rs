//! Beyond accuracy: who is shown an item, and how much of the catalogue is shown at all.

use crate::{Error, Result};

/// ER@K of one item: the share of users who have not met it and see it among their first `k`. `ranks_of_target` holds the
/// rank of that same item for every user, 0 for a user who has met it (left out). `None` where every user has met it.
pub fn exposure_at(ranks_of_target: &[u32], k: u32) -> Option<f64> {
    let strangers = ranks_of_target.iter().filter(|&&r| r > 0).count();
    let shown = ranks_of_target.iter().filter(|&&r| r > 0 && r <= k).count();
    (strangers > 0).then(|| shown as f64 / strangers as f64)
}

/// Coverage@K: the share of a catalogue of `items` that occurs among the first `k` of at least one list. Lists hold item
/// indices, best first, and may be shorter than `k`.
///
/// Errors: an empty catalogue, or an index outside of it.
pub fn coverage_at<'a>(lists: impl IntoIterator<Item = &'a [u32]>, k: u32, items: usize) -> Result<f64> {
    if items == 0 {
        return Err(Error::Usage("coverage of an empty catalogue is undefined; prepare a data set with items".into()));
    }
    let mut seen = vec![false; items];
    for (user, list) in lists.into_iter().enumerate() {
        for &item in list.iter().take(k as usize) {
            let entry = seen.get_mut(item as usize).ok_or_else(|| {
                let message = format!("list {user} recommends item {item}, but the catalogue ends at {}; use lists", items - 1);
                Error::Usage(message + " and catalogue of one data set")
            })?;
            *entry = true;
        }
    }
    Ok(seen.iter().filter(|&&s| s).count() as f64 / items as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exposure_looks_only_at_users_who_have_not_met_the_item() {
        assert_eq!(exposure_at(&[1, 0, 20, 21, 0, 500], 20), Some(0.5));
        assert_eq!(exposure_at(&[1, 2], 1), Some(0.5));
        assert_eq!(exposure_at(&[0, 0], 20), None);
        assert_eq!(exposure_at(&[], 20), None);
    }

    #[test]
    fn coverage_counts_an_item_once_and_only_the_first_k() {
        let lists = [vec![0, 1, 2], vec![1, 3, 9], vec![1]];
        let cover = |k| coverage_at(lists.iter().map(Vec::as_slice), k, 10).unwrap();
        assert_eq!([0, 1, 2, 3, 50].map(cover), [0.0, 0.2, 0.3, 0.5, 0.5]);
        assert_eq!(coverage_at([], 5, 10).unwrap(), 0.0);
    }

    #[test]
    fn coverage_refuses_what_does_not_fit() {
        let e = coverage_at([[0, 10].as_slice()], 5, 10).unwrap_err().to_string();
        assert!(e.contains("item 10") && e.contains("list 0"), "{e}");
        assert!(coverage_at([], 5, 0).is_err());
    }
}
