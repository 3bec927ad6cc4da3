//! Where data comes from.

use crate::config::choices::*;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the data comes from and how it is prepared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// Name of the data set, used in tables and folder names.
    pub name: String,
    /// Source format: `recbole`, `csv`, `mind`, `amazon`, `movielens`, `sasrec`, `s3rec`, `p5`, `unisrec`, `rechorus`, `jsonl`,
    /// `parquet` and `arrow` (feature `parquet`), `synthetic`, or `auto`, which recognises the interactions file by its content.
    pub format: String,
    /// Interactions file (every format but `synthetic`). A relative path is looked up from the working folder, then under
    /// `$LUMOS_DATA`, then under `../shared/data`.
    pub inter: Option<PathBuf>,
    /// Catalogue file, optional.
    pub items: Option<PathBuf>,
    /// Folder of the prepared data set. Empty: `data/<name>` under the working folder.
    pub dir: Option<PathBuf>,
    /// Names of the user, item and time columns (`csv`); typed names without the type (`recbole`).
    pub user_column: String,
    /// See `user_column`.
    pub item_column: String,
    /// See `user_column`. Empty: file order.
    pub time_column: String,
    /// Name of the catalogue's column with the titles. Empty: `title`, `movie_title` or `name`.
    pub title_column: String,
    /// Name of the catalogue's column with the categories. Empty: `categories`, `category`, `class`, `genres` or `genre`.
    pub category_column: String,
    /// Name of the catalogue's column with the brand. Empty: `brand`.
    pub brand_column: String,
    /// Name of the catalogue's column with the items often bought together. Empty: `also_bought`.
    pub also_bought_column: String,
    /// Name of a column of the interactions file that says which group (silo, site) a user belongs to, for `federation.clients =
    /// "column"`; a synthetic world has `site`. Empty: no groups are read.
    pub group_column: String,
    /// Name of the column with the ratings, where `min_rating` asks for them. Empty: `rating`, `overall` or `stars`.
    pub rating_column: String,
    /// What separates the columns of a `csv` file: one character, or `tab`. Empty: a comma.
    pub separator: String,
    /// Rows that cannot be read are skipped up to this number; with one more the file is refused.
    pub max_bad_rows: u64,
    /// Interactions with a lower rating go; 0: all stay.
    pub min_rating: f32,
    /// Interactions before this date or number (in the unit of the file) go. Empty: all stay.
    pub from: String,
    /// Interactions at this date or number and after it go. Empty: all stay.
    pub until: String,
    /// Only the first users of the file stay, by first appearance; 0: all.
    pub first_users: u32,
    /// Which interactions are trained on, validated on and tested on.
    pub split: SplitRule,
    /// Share of the interactions (`time`) or of each user's (`ratio`) that is validated on.
    pub validation_share: f32,
    /// Share of them that is tested on.
    pub test_share: f32,
    /// Rows with the user, the item and the time of an earlier row. Without times there are none.
    pub duplicates: Duplicates,
    /// Items that a user comes back to (after `duplicates`, before the k-core).
    pub repeats: Repeats,
    /// Iterated k-core: users and items with fewer interactions are removed until none is left. 0: off.
    pub k_core: u32,
    /// Users with fewer interactions are dropped (after the k-core).
    pub min_length: u32,
    /// Most interactions of a user, the last ones; 0: all.
    pub max_length: u32,
    /// Synthetic world: number of users.
    pub synth_users: u32,
    /// Synthetic world: number of items.
    pub synth_items: u32,
    /// Synthetic world: mean interactions of a user.
    pub synth_mean_length: f32,
    /// Synthetic world: seed.
    pub synth_seed: u64,
    /// Synthetic world: categories in a user's taste.
    pub synth_tastes: u32,
    /// Synthetic world: how likely a category of a taste gives way to another one along the history; 0: tastes stay.
    pub synth_drift: f32,
    /// Synthetic world: how much a few items of a sub-category, and a few categories, are preferred to the others; 1: all are alike.
    pub synth_skew: u32,
    /// Synthetic world: share of the steps that are an item out of the whole catalogue, each alike.
    pub synth_noise: f32,
}

impl Default for DataSettings {
    fn default() -> Self {
        DataSettings {
            name: "synthetic".into(),
            format: "synthetic".into(),
            inter: None,
            items: None,
            dir: None,
            user_column: "user_id".into(),
            item_column: "item_id".into(),
            time_column: "timestamp".into(),
            title_column: String::new(),
            category_column: String::new(),
            brand_column: String::new(),
            also_bought_column: String::new(),
            group_column: String::new(),
            rating_column: String::new(),
            separator: String::new(),
            max_bad_rows: 0,
            min_rating: 0.0,
            from: String::new(),
            until: String::new(),
            first_users: 0,
            split: SplitRule::LeaveOneOut,
            validation_share: 0.1,
            test_share: 0.1,
            duplicates: Duplicates::Drop,
            repeats: Repeats::Keep,
            k_core: 0,
            min_length: 5,
            max_length: 0,
            synth_users: 2000,
            synth_items: 800,
            synth_mean_length: 12.0,
            synth_seed: 1,
            synth_tastes: 3,
            synth_drift: 2.0 / 3.0,
            synth_skew: 2,
            synth_noise: 0.0,
        }
    }
}
