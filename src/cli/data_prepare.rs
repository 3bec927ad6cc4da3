//! `lumos data prepare`: source files as one folder.

use super::args::between;
use super::data::{in_flags, name_of, path, setting, store, text, with_flags};
use super::output::say;
use crate::base::{clean, names};
use crate::config::{Duplicates, Repeats, SplitRule};
use crate::{Error, Result, data, run, settings};
use clap::builder::PossibleValuesParser;
use std::path::PathBuf;

/// Prepare source files as one folder
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos data prepare --format recbole --inter ml-100k/ml-100k.inter --items ml-100k/ml-100k.item --out data/ml-100k
  lumos data prepare --format mind --inter behaviors.tsv --items news.tsv --out data/mind
  lumos data prepare --format auto --inter ml-1m.zip/ml-1m/ratings.dat --items ml-1m.zip/ml-1m/movies.dat --out data/ml-1m
  lumos data prepare --format csv --inter log.txt --separator '|' --columns user=who,item=what,time=when --out data/log
  lumos data prepare --format csv --inter log.csv.gz --user-column who --item-column what --time-column when --out data/log --k-core 5
Times are numbers (seconds, milliseconds, microseconds or nanoseconds since 1970, recognised by their size, or positions) or ISO dates and
date-times; --time-column '' takes the rows in the order of the file. Duplicates are dropped first, then repeats, then the k-core is formed.
Relative paths are looked up from the working folder, then under $LUMOS_DATA, then under ../shared/data. gzip, zstd
and zip are read as they are; a file of an archive is ARCHIVE.zip/FILE. `auto` recognises the interactions by their content and says as what.")]
pub struct Prepare {
    /// Source format
    #[arg(long, value_parser = PossibleValuesParser::new(FORMATS))]
    format: String,
    /// Interactions file
    #[arg(long, value_name = "FILE")]
    inter: PathBuf,
    /// Catalogue file
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Name of the data set [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
    /// Users and items with fewer interactions go, until none is left; 0 keeps all
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    k_core: Option<u32>,
    /// Users with fewer interactions go
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    min_length: Option<u32>,
    /// Most interactions of a user, the last ones; 0 keeps all
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    max_length: Option<u32>,
    /// Name of the user column
    #[arg(long, value_name = "NAME")]
    user_column: Option<String>,
    /// Name of the item column
    #[arg(long, value_name = "NAME")]
    item_column: Option<String>,
    /// Name of the time column; empty keeps the order of the file
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Name of the catalogue's column with the titles [default: title, movie_title or name]
    #[arg(long, value_name = "NAME")]
    title_column: Option<String>,
    /// Name of the catalogue's column with the categories [default: categories, category, class, genres or genre]
    #[arg(long, value_name = "NAME")]
    category_column: Option<String>,
    /// Name of the catalogue's column with the brand [default: brand]
    #[arg(long, value_name = "NAME")]
    brand_column: Option<String>,
    /// Name of the catalogue's column with the items often bought together [default: also_bought]
    #[arg(long, value_name = "NAME")]
    also_bought_column: Option<String>,
    /// Name of the column with the group (silo, site) of a user, for federation.clients = "column"; empty reads none
    #[arg(long, value_name = "NAME")]
    group_column: Option<String>,
    /// Rows with the user, the item and the time of an earlier row [default: drop]
    #[arg(long, value_parser = PossibleValuesParser::new(Duplicates::NAMES))]
    duplicates: Option<String>,
    /// Items that a user comes back to: all stay, the first one alone, or all but those that follow themselves [default: keep]
    #[arg(long, value_parser = PossibleValuesParser::new(Repeats::NAMES))]
    repeats: Option<String>,
    /// Columns by what they hold: user, item, time, title, categories, brand, also_bought, group, rating
    #[arg(long, value_name = "WHAT=NAME,...")]
    columns: Vec<String>,
    /// What separates the columns of a CSV file: one character, or `tab` [default: a comma]
    #[arg(long, value_name = "CHARACTER")]
    separator: Option<String>,
    /// Name of the column with the ratings, for --min-rating [default: rating, overall or stars]
    #[arg(long, value_name = "NAME")]
    rating_column: Option<String>,
    /// Interactions with a lower rating go; 0 keeps all
    #[arg(long, value_name = "X")]
    min_rating: Option<f32>,
    /// Interactions before this date or number go
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Interactions at this date or number and after it go
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the first N users of the file stay; 0 keeps all
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    first_users: Option<u32>,
    /// Which interactions are trained, validated and tested on [default: leave-one-out]
    #[arg(long, value_parser = PossibleValuesParser::new(SplitRule::NAMES))]
    split: Option<String>,
    /// Share of the interactions (time) or of each user's (ratio) that is validated on [default: 0.1]
    #[arg(long, value_name = "X")]
    validation_share: Option<f32>,
    /// Share of them that is tested on [default: 0.1]
    #[arg(long, value_name = "X")]
    test_share: Option<f32>,
    /// Rows that cannot be read are skipped up to this number [default: 0, the first one is an error]
    #[arg(long, value_name = "N", value_parser = between::<u64>(0, i64::MAX as u64))]
    max_bad_rows: Option<u64>,
    /// Replace a prepared data set that is in the folder; other files in it are kept
    #[arg(long)]
    overwrite: bool,
}

/// Formats that read files.
const FORMATS: [&str; 14] =
    ["auto", "recbole", "csv", "mind", "amazon", "movielens", "sasrec", "s3rec", "p5", "unisrec", "rechorus", "jsonl", "parquet", "arrow"];

/// What `--columns` can name, and the setting of each.
const COLUMNS: [(&str, &str); 9] = [
    ("user", "user_column"),
    ("item", "item_column"),
    ("time", "time_column"),
    ("title", "title_column"),
    ("categories", "category_column"),
    ("brand", "brand_column"),
    ("also_bought", "also_bought_column"),
    ("group", "group_column"),
    ("rating", "rating_column"),
];

/// The settings that `--columns` stands for.
fn columns(given: &[String]) -> Result<Vec<String>> {
    let mut sets = Vec::new();
    for part in given.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty()) {
        let (what, name) = part
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--columns: `{}` is no WHAT=NAME, such as user=reviewer", clean::id(part))))?;
        let (_, key) = COLUMNS.iter().find(|(known, _)| *known == what.trim()).ok_or_else(|| {
            Error::Usage(format!("--columns: {}", names::unknown("column", what.trim(), COLUMNS.iter().map(|(known, _)| *known))))
        })?;
        sets.push(text(key, name.trim()));
    }
    Ok(sets)
}

pub fn main(args: &Prepare) -> Result<()> {
    let mut sets = vec![format!("data.format={}", args.format), path("inter", &args.inter)?];
    sets.extend(columns(&args.columns)?);
    for (key, value) in
        [("separator", &args.separator), ("rating_column", &args.rating_column), ("from", &args.from), ("until", &args.until)]
    {
        sets.extend(value.as_ref().map(|value| text(key, value)));
    }
    sets.extend(setting("min_rating", &args.min_rating));
    sets.extend(setting("first_users", &args.first_users));
    sets.extend(setting("split", &args.split));
    sets.extend(setting("validation_share", &args.validation_share));
    sets.extend(setting("test_share", &args.test_share));
    sets.extend(setting("max_bad_rows", &args.max_bad_rows));
    sets.push(format!("data.name={}", args.name.clone().unwrap_or_else(|| name_of(&args.out))));
    if let Some(items) = &args.items {
        sets.push(path("items", items)?);
    }
    sets.extend(setting("k_core", &args.k_core));
    sets.extend(setting("min_length", &args.min_length));
    sets.extend(setting("max_length", &args.max_length));
    sets.extend(setting("user_column", &args.user_column));
    sets.extend(setting("item_column", &args.item_column));
    sets.extend(setting("time_column", &args.time_column));
    sets.extend(setting("title_column", &args.title_column));
    sets.extend(setting("category_column", &args.category_column));
    sets.extend(setting("brand_column", &args.brand_column));
    sets.extend(setting("also_bought_column", &args.also_bought_column));
    sets.extend(setting("group_column", &args.group_column));
    sets.extend(setting("duplicates", &args.duplicates));
    sets.extend(setting("repeats", &args.repeats));
    let effective = settings::load(None, &sets).map_err(in_flags)?;
    let stats = store(&effective.settings, &args.out, args.overwrite)?;
    if stats.repeats == 0 {
        return Ok(());
    }
    run::returning_notice(&effective, &data::load(&args.out)?).map_or(Ok(()), |note| say(with_flags(&note)))
}
