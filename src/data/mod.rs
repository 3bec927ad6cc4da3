//! Real and synthetic histories: reading, filtering, splitting, storing. Knows nothing of devices or models.
//!
//! Item and user ids inside the crate are dense indices from 0; there is no padding id.
//!
//! The way of a data set: a [`Reader`] turns source files into a [`RawData`]; `filter` drops duplicates and repeats, applies
//! the k-core and the length limits and packs the sequences; [`prepare()`] writes the folder and [`load`] reads it back.
//! [`find_or_prepare`] does whichever of the two is due.

mod builder;
mod check;
mod columns;
mod counts;
mod csv;
mod dataset;
mod date;
#[cfg(feature = "endpoint")]
mod fetch;
mod filter;
pub mod formats;
pub mod fuzz;
mod manifest;
mod noise;
mod pairs;
mod prepare;
mod reader;
mod recbole;
mod repeats;
mod rows;
mod source;
mod split;
mod stats;
mod store;
mod synth;
mod text;
mod times;
mod unpack;
mod zip;

pub use builder::{CatalogueRow, RawBuilder};
pub use check::{check, check_noise};
pub use counts::{contribution, with_counts};
pub use dataset::*;
#[cfg(feature = "endpoint")]
pub use fetch::{Fetched, KnownFile, KnownSet, Patience, Received, fetch, known_set, known_sets};
pub use filter::{Filtered, Removed, filter};
pub use manifest::{FORMAT_VERSION, GROUPED_VERSION, Manifest, RawStats, SPLIT_VERSION, SourceFile};
pub use noise::{disturbed, noisy_fingerprint, with_exchanged_titles};
pub use pairs::{PAIR_BYTES, PairCounts, PairWeights};
pub use prepare::{Found, Progress, Steps, find_or_prepare, prepare, prepared_dir};
pub use reader::{CatalogueNotes, RawData, Reader, SourceNotes, reader, reader_names, register_reader};
pub use repeats::Dropped;
pub use source::{MAX_LINE, Source, resolve_source};
pub use split::trained_after_test;
pub use stats::{Stats, stats, stats_with_times};
pub use store::{load, load_manifest, load_times};
pub use synth::{Oracle, Truth, synthetic_truth, synthetic_world};
pub use times::{TimeUnit, TimeValues, Times};
