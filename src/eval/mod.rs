//! Evaluation by full ranking: metrics from ranks, popularity, paired comparison, tables. Knows nothing of devices or
//! models: it works on ranks, 1 for the best and 0 for a user without a target in the split.

mod exposure;
mod metrics;
mod paired;
mod popularity;
mod rank;
mod table;

pub use exposure::{coverage_at, exposure_at};
pub use metrics::{Metric, Metrics, SelectMetric, metrics};
pub use paired::{Paired, paired, paired_seeds};
pub use popularity::popularity_ranks;
pub use rank::rank_of;
pub use table::{TableRow, markdown_table, text_table};
