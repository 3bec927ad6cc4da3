//! The manifest of a prepared data set: where it came from, how it was made, what is in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::columns::listed;
use super::filter::Removed;
use super::reader::{RawData, SourceNotes};
use super::repeats::Dropped;
use super::stats::Stats;
use crate::base::clean;
use crate::base::files::sha256_hex;
use crate::config::DataSettings;

/// Version of the folder's layout, of the preparation and of the synthetic world. Raised whenever equal settings would
/// give other bits.
pub const FORMAT_VERSION: u32 = 2;

/// Version of a folder with groups of users, which programs that know none refuse. A folder without groups keeps [`FORMAT_VERSION`].
pub const GROUPED_VERSION: u32 = 3;

/// Version of a folder with another split than leave-one-out, with groups where the settings name their column.
pub const SPLIT_VERSION: u32 = 4;

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
    /// [`FORMAT_VERSION`]; [`GROUPED_VERSION`] where users have groups; [`SPLIT_VERSION`] where they are split otherwise than by leave-one-out.
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
    /// What the reader found in the sources.
    pub source_notes: SourceNotes,
    /// What `data.duplicates` and `data.repeats` dropped before filtering.
    pub dropped: Dropped,
    /// What the other filters removed.
    #[serde(default, skip_serializing_if = "Removed::is_empty")]
    pub removed: Removed,
    /// Statistics after filtering.
    pub stats: Stats,
}

impl Manifest {
    /// What a user should know of the preparation, a line each: what was dropped, which columns were read, how much of the
    /// catalogue fits.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let source = &self.source_notes;
        notes.extend(source.recognised.iter().map(|text| format!("format: {text}")));
        if source.bad_rows > 0 {
            let first = source.first_bad_row.as_deref().unwrap_or_default();
            notes.push(format!("bad rows: {} were skipped (data.max_bad_rows); the first: {first}", source.bad_rows));
        }
        if source.below_rating > 0 {
            let least = self.settings.min_rating;
            notes.push(format!("ratings: {} rows below {least} were left out (data.min_rating)", source.below_rating));
        }
        let Dropped { duplicates, repeats } = self.dropped;
        let rows = self.raw.interactions;
        if duplicates > 0 {
            notes.push(format!(
                "duplicates: {duplicates} of {rows} rows have user, item and time of an earlier row and were dropped; data.duplicates=keep \
                 keeps them"
            ));
        }
        if repeats > 0 {
            let kind = self.settings.repeats.name();
            notes.push(format!("repeats: {repeats} of {rows} interactions return to an item and were dropped (data.repeats={kind})"));
        }
        notes.extend(self.removed.notes());
        if !self.source_notes.unused.is_empty() {
            notes.push(format!("interactions: columns not used: {}", listed(&self.source_notes.unused)));
        }
        let Some(catalogue) = &self.source_notes.catalogue else { return notes };
        let from = |name: &Option<String>, key: &str| match name {
            Some(name) => format!("from `{}`", clean::id(name)),
            None => format!("none (data.{key} names a column)"),
        };
        let mut line = format!(
            "catalogue: titles {}, categories {}",
            from(&catalogue.title, "title_column"),
            from(&catalogue.category, "category_column")
        );
        if !catalogue.unused.is_empty() {
            line.push_str(&format!("; columns not used: {}", listed(&catalogue.unused)));
        }
        notes.push(line);
        // Less than half may well be so; it may as well be the catalogue of another version of the data set.
        if 2 * catalogue.matched < self.raw.items {
            notes.push(format!(
                "catalogue: only {} of {} items have a row in it ({} of its {} rows fit an item)",
                catalogue.matched, self.raw.items, catalogue.matched, catalogue.rows
            ));
        }
        notes
    }
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
        same.title_column = default.title_column;
        same.category_column = default.category_column;
        same.brand_column = default.brand_column;
        same.also_bought_column = default.also_bought_column;
        same.rating_column = default.rating_column;
        same.separator = default.separator;
        same.max_bad_rows = default.max_bad_rows;
    }
    same
}

/// Settings that earlier versions had not, at their defaults, as they stand in the text of all settings.
const LATER: &[&str] = &[
    ", group_column: \"\"",
    ", rating_column: \"\"",
    ", separator: \"\"",
    ", max_bad_rows: 0",
    ", min_rating: 0.0",
    ", from: \"\"",
    ", until: \"\"",
    ", first_users: 0",
    ", split: LeaveOneOut",
    ", validation_share: 0.1",
    ", test_share: 0.1",
    ", synth_tastes: 3",
    ", synth_drift: 0.6666667",
    ", synth_skew: 2",
    ", synth_noise: 0.0",
];

/// What `ARCHIVE.zip/FILE` names inside of the archive; empty for any other path.
pub(super) fn member(path: &Path) -> String {
    let text = path.to_string_lossy();
    let at = text.to_ascii_lowercase().find(".zip/");
    at.map_or(String::new(), |at| text[at + 4..].to_owned())
}

/// SHA-256 over the format version, [`identity`] and the sources' checksums, in hex.
pub(super) fn fingerprint(settings: &DataSettings, reads_files: bool, inter: Option<&SourceFile>, items: Option<&SourceFile>) -> String {
    let sum = |file: Option<&SourceFile>| file.map_or("none".to_owned(), |f| f.sha256.clone() + &member(&f.path));
    let same = identity(settings, reads_files);
    // Settings that came later are left out at their defaults, so that what was made before keeps its fingerprint.
    let same = LATER.iter().fold(format!("{same:?}"), |text, field| text.replacen(field, "", 1));
    let text = format!("lumos data set {FORMAT_VERSION}\ninter {}\nitems {}\n{same}\n", sum(inter), sum(items));
    sha256_hex(text.as_bytes())
}
