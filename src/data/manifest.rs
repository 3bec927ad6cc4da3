//! The manifest of a prepared data set: where it came from, how it was made, what is in it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::reader::RawData;
use super::stats::Stats;
use crate::base::files::sha256_hex;
use crate::config::DataSettings;

/// Version of the folder's layout, of the preparation and of the synthetic world. Raised whenever equal settings would
/// give other bits.
pub const FORMAT_VERSION: u32 = 1;

/// A source file as it was when it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Where it was found.
    pub path: PathBuf,
    /// Size on disk.
    pub bytes: u64,
    /// Change time in nanoseconds since 1970; 0 where the file system has none.
    pub modified: u64,
    /// SHA-256 of the file on disk, in hex.
    pub sha256: String,
}

/// Counts of the source before anything was filtered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawStats {
    /// Users with an interaction.
    pub users: u64,
    /// Items with an interaction.
    pub items: u64,
    /// Interactions.
    pub interactions: u64,
}

impl RawStats {
    /// The counts of `raw`.
    pub fn of(raw: &RawData) -> RawStats {
        let count = |n: usize| n as u64;
        RawStats { users: count(raw.user_tokens.len()), items: count(raw.item_tokens.len()), interactions: count(raw.users.len()) }
    }
}

/// `manifest.json` of a prepared data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the program that wrote the folder.
    pub version: u32,
    /// Version of that program.
    pub program: String,
    /// Name of the data set.
    pub name: String,
    /// Fingerprint of the content: sources, settings that matter, format version.
    pub fingerprint: String,
    /// The settings it was made with.
    pub settings: DataSettings,
    /// Interactions file.
    pub inter: Option<SourceFile>,
    /// Catalogue file.
    pub items: Option<SourceFile>,
    /// Counts before filtering.
    pub raw: RawStats,
    /// Statistics after filtering.
    pub stats: Stats,
}

/// The settings that decide the content: neither names nor places nor what the format does not look at.
pub(super) fn identity(settings: &DataSettings, reads_files: bool) -> DataSettings {
    let default = DataSettings::default();
    let mut same = DataSettings { name: String::new(), inter: None, items: None, dir: None, ..settings.clone() };
    if reads_files {
        same.synth_users = default.synth_users;
        same.synth_items = default.synth_items;
        same.synth_mean_length = default.synth_mean_length;
        same.synth_seed = default.synth_seed;
    } else {
        same.user_column = default.user_column;
        same.item_column = default.item_column;
        same.time_column = default.time_column;
    }
    same
}

/// SHA-256 over the format version, [`identity`] and the sources' checksums, in hex.
pub(super) fn fingerprint(settings: &DataSettings, reads_files: bool, inter: Option<&SourceFile>, items: Option<&SourceFile>) -> String {
    let sum = |file: Option<&SourceFile>| file.map_or("none", |f| f.sha256.as_str()).to_owned();
    let same = identity(settings, reads_files);
    let text = format!("lumos data set {FORMAT_VERSION}\ninter {}\nitems {}\n{same:?}\n", sum(inter), sum(items));
    sha256_hex(text.as_bytes())
}
