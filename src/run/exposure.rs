//! What users are shown of the items that an attack promotes, among the scores of a validation or a test.

use super::result::Scores;
use crate::Result;
use crate::config::Settings;
use crate::data::{Dataset, Sought, Split, Target};
use crate::eval::{exposure, strangers};
use crate::federation::attacks::promoted;
use serde_json::json;

/// Adds to `scores` of `users` in `split` the exposure of the promoted items, where there are any: `ER@K`, the share of users to whom an item is new
/// and who have it among the first K; `target_rank`, its mean rank; `target_pairs`, how many pairs of an item and a user these are means over.
/// `rank` gives the ranks of users.
///
/// # Errors
/// For a target that the data set lacks; where ranking fails.
pub(super) fn add_exposure(
    settings: &Settings,
    data: &Dataset,
    split: Split,
    users: &[u32],
    scores: &mut Scores,
    mut rank: impl FnMut(Sought, &[u32]) -> Result<Vec<u32>>,
) -> Result<()> {
    let targets = promoted(settings, data)?;
    if targets.is_empty() {
        return Ok(());
    }
    let mut ranks = Vec::new();
    for item in targets {
        let users = strangers(data, split, item, users);
        ranks.extend(rank(Sought { split, target: Target::Item(item) }, &users)?);
    }
    let found = exposure(&ranks, &settings.eval.k);
    scores.extend(found.rate.iter().map(|(k, rate)| (format!("ER@{k}"), json!(rate))));
    scores.insert("target_rank".into(), json!(found.mean_rank));
    scores.insert("target_pairs".into(), json!(found.pairs));
    Ok(())
}
