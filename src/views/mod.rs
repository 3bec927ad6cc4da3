//! The three synthetic views of a history and the generators that write them. Knows nothing of devices or models.
//!
//! What a view may depend on: the public catalogue, how often each item occurs in training items (as far as
//! `privacy.counts` lets it be known), the settings, the user's number and the user's own training items. A [`Generator`] is handed nothing else,
//! so a view cannot have seen a validation or test item.
//!
//! Item indices follow the order of the source file, in which a user's next items often stand side by side. So nothing here
//! may prefer an item for its index: ties are broken by a hash of it (`mix`).

mod account;
mod batch;
mod build;
mod catalogue;
mod check;
mod codebook;
mod collect;
mod compare;
mod features;
mod follows;
#[doc(hidden)]
pub mod fuzz;
mod generator;
mod generators;
mod ground;
mod ground_bench;
mod inspect;
mod journal;
#[cfg(feature = "llm")]
mod llm;
mod named;
mod neighbours;
mod pack;
mod pool;
mod popularity;
mod random;
mod ranks;
mod recipe;
mod score;
#[cfg(feature = "endpoint")]
pub mod served;
mod statistics;
mod store;
pub mod text;
#[cfg(feature = "llm")]
mod titles;
mod transitions;

pub use account::{Failure, Generation, Provenance};
pub use batch::Batch;
pub use build::{Built, Options, build, build_with, build_with_statistics};
pub use check::check;
pub use compare::{Comparison, Figures, Overlap, Pair, Side, compare};
pub use features::{Features, Profile};
pub use generator::{Counts, Failed, Generator, Job, Made, PublicCatalogue, Request, Sink, ViewKind, future_length, stream};
pub use generators::{BuildGenerator, GeneratorEntry, Reads, generator, register as register_generator};
pub use ground::Ground;
pub use ground_bench::{GroundBench, GroundFigures, Outcome, Scored, Timed, bench_ground};
pub use inspect::{inspect, user_matching};
pub use named::{Named, named};
pub use neighbours::Neighbours;
pub(crate) use pack::{decode, encode};
pub use popularity::Popularity;
pub use ranks::{Helpers, help};
pub use score::{Hits, Score, score};
pub use statistics::Statistics;
pub use store::{
    FORMAT_VERSION, Manifest, costly, ensure, ensure_with, is_made, journaled, load, load_manifest, save, store_dir, store_dir_of_first,
};

/// The views of one user. Every sequence is in item indices, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserViews {
    /// The history continued by a few plausible next items (history included).
    pub future: Vec<u32>,
    /// The same intent in other items, same length as the history.
    pub paraphrase: Vec<u32>,
    /// Sequences that this user would not produce, same length as the history; one or more.
    pub counterfactuals: Vec<Vec<u32>>,
}

/// Views of every user, in user order; empty where a run uses none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Views {
    /// One entry a user `[U]`, or none at all.
    pub users: Vec<UserViews>,
}

impl UserViews {
    /// One of the views, if it is there.
    pub fn part(&self, part: ViewKind) -> Option<&[u32]> {
        match part {
            ViewKind::Future => Some(&self.future),
            ViewKind::Paraphrase => Some(&self.paraphrase),
            ViewKind::Counterfactual(index) => self.counterfactuals.get(index as usize).map(Vec::as_slice),
        }
    }
}

impl Views {
    /// The views of `user`, if any were made.
    pub fn get(&self, user: usize) -> Option<&UserViews> {
        self.users.get(user)
    }
}

/// A fixed hash of two numbers: an order of items that is independent of their place in the source file.
fn mix(a: u32, b: u32) -> u32 {
    // The finaliser of SplitMix64: a tie can concern thousands of items, so the hash has to be cheap.
    let mut z = (u64::from(a) << 32 | u64::from(b)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}
