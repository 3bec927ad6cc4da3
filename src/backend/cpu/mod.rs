//! The CPU backend: one worker trains one client at a time, start to end inside its cache, in an arena allocated once.

mod attend;
mod attention;
mod draws;
mod dropout;
mod gemm;
mod gradient;
mod gram;
mod gru;
mod in_batch;
mod labelled;
mod losses;
mod ops;
mod optim;
pub mod rank;
mod row_log;
mod rows;
mod shared_negatives;
pub mod simd;
mod softmax;
mod spread;
mod transpose;
mod visit;
mod worker;

pub use draws::{DRAWS, draws};
pub use dropout::drop_items_span;
pub use gemm::{GradSink, column_sums, linear, linear_from, linear_input, linear_weight};
pub use gradient::GradientAt;
pub use gram::{gram, inner};
pub use labelled::{dot, sigmoid};
pub use losses::{Group, info_nce};
pub use optim::{AdamStep, adam_span, pull_back, sum_of_squares};
pub use row_log::{BUCKET, RowLog};
pub use rows::NORM_EPS;
pub use transpose::transpose;
pub use visit::{Visit, Visited};
pub use worker::{Worker, WorkerShape};
