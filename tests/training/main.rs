//! Federated training on the CPU: rounds, rules, chunks of a cohort, and the metrics.

#[path = "../common/data.rs"]
mod common;
#[path = "../common/foreign.rs"]
mod foreign;
#[path = "../common/ranks.rs"]
mod ranks;
#[path = "../common/ring.rs"]
mod ring;
#[path = "../common/cli.rs"]
mod sandbox;

mod calrec;
mod chunks;
mod federation;
mod gcl4sr;
mod in_batch;
mod kinds;
mod local_steps;
mod masked_items;
mod methods;
mod metrics;
mod negatives;
mod owned;
mod prefixes;
mod privacy;
mod ptf_fsr;
mod ranking_average;
mod real;
mod resumption;
mod rounds_of_ranks;
mod rules;
mod server;
mod transitions;
mod validated;
mod view_terms;
