//! Evaluation by full ranking: metrics from ranks, popularity, paired comparison, tables. Knows nothing of devices or
//! models: it works on ranks, 1 for the best and 0 for a user without a target in the split.

mod metrics;
mod paired;
mod popularity;
mod table;

pub use metrics::{Metric, Metrics, SelectMetric, metrics};
pub use paired::{Paired, paired, paired_seeds};
pub use popularity::popularity_ranks;
pub use table::{TableRow, markdown_table, text_table};

/// The definition of a rank, kept plain: one more than the number of items that are neither the target nor masked and do
/// not score below it. Ties and NaN count against the model. The target is never masked, even where the history holds it:
/// a user may come back to an item, and a masked target could not be found by anyone.
pub fn rank_of(scores: &[f32], target: u32, masked: &[u32]) -> u32 {
    let threshold = scores[target as usize];
    let above = |&(i, s): &(usize, &f32)| {
        i as u32 != target && !masked.contains(&(i as u32)) && s.partial_cmp(&threshold).is_none_or(|o| o.is_ge())
    };
    1 + scores.iter().enumerate().filter(above).count() as u32
}
