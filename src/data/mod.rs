//! Real and synthetic histories: reading, filtering, splitting, storing. Knows nothing of devices or models.
//!
//! Item and user ids inside the crate are dense indices from 0; there is no padding id.

mod dataset;

pub use dataset::*;
