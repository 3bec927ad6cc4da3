//! Federated training on the CPU: rounds, rules, chunks of a cohort, and the metrics.

#[path = "../common/data.rs"]
mod common;
#[path = "../common/ring.rs"]
mod ring;

mod chunks;
mod federation;
mod in_batch;
mod masked_items;
mod metrics;
mod real;
mod rules;
