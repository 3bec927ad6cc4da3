//! Evaluation by full ranking: metrics from ranks, popularity, paired comparison. Knows nothing of devices or
//! models: it works on ranks, 1 for the best, [`MISS`] for a target that may not be recommended and 0 for a user without a target in
//! the split.

mod check;
mod exposure;
mod holm;
mod lists;
mod mask;
mod metrics;
mod paired;
mod popularity;
mod rank;
mod several;

pub use check::{check, fits, select};
pub use exposure::{Exposure, check_targets, exposure, strangers, targets};
pub use holm::holm;
pub use lists::{ListFigures, Lists};
pub use mask::{MISS, ReturningTargets, best_items, rank_from_count};
pub use metrics::{Metric, Metrics, SelectMetric, metrics};
pub use paired::{Paired, interval, paired, paired_seeds};
pub use popularity::{popularity_items, popularity_ranks};
pub use rank::rank_of;
pub use several::{SEVERAL, several};
