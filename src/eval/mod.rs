//! Evaluation by full ranking: metrics from ranks, popularity, paired comparison. Knows nothing of devices or
//! models: it works on ranks, 1 for the best and 0 for a user without a target in the split.

mod metrics;
mod paired;
mod popularity;
mod rank;

pub use metrics::{Metric, Metrics, SelectMetric, metrics};
pub use paired::{Paired, paired, paired_seeds};
pub use popularity::popularity_ranks;
pub use rank::rank_of;
