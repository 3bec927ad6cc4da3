//! `lumos data`: prepare, stats, synth.

use super::args::{ConfigArgs, between};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::pairs;
use crate::base::clean;
use crate::base::names;
use crate::config::{self, Duplicates, Repeats, Settings};
use crate::data::{self, Dropped, Stats, UserGroups};
use crate::run::{self, Observer};
use crate::settings;
use crate::{Error, Result};
use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Read, filter and store histories; look at what is stored
#[derive(Subcommand)]
pub enum Command {
    Prepare(Box<Prepare>),
    Stats(StatsArgs),
    Synth(Synth),
    Build(FromConfig),
}

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
    /// Rows that cannot be read are skipped up to this number [default: 0, the first one is an error]
    #[arg(long, value_name = "N", value_parser = between::<u64>(0, i64::MAX as u64))]
    max_bad_rows: Option<u64>,
    /// Replace a prepared data set that is in the folder; other files in it are kept
    #[arg(long)]
    overwrite: bool,
}

/// Formats that read files.
const FORMATS: [&str; 12] =
    ["auto", "recbole", "csv", "mind", "amazon", "movielens", "sasrec", "s3rec", "p5", "unisrec", "rechorus", "jsonl"];

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

/// The setting `key` as a text, quoted, so that no character of it is taken for TOML.
fn text(key: &str, value: &str) -> String {
    format!("data.{key}={}", toml::Value::String(value.to_string()))
}

/// Prepare the data set that a configuration file describes, unless it is up to date
///
/// Into data.dir; without it into data/<name> under the working folder or, where a data set that was made otherwise lies there, into
/// data/<name>-<key> beside it.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lumos data build configs/ml-100k.toml --set data.k_core=10")]
pub struct FromConfig {
    #[command(flatten)]
    config: ConfigArgs,
    /// Replace a data set that was made otherwise or is damaged; other files in the folder are kept
    #[arg(long)]
    overwrite: bool,
}

/// Show the statistics of a prepared folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lumos data stats data/ml-100k --json")]
pub struct StatsArgs {
    /// Folder of a prepared data set
    dir: PathBuf,
    /// One JSON object with users, items, interactions and the rest
    #[arg(long)]
    json: bool,
}

/// Make a synthetic world: a catalogue with titles and categories, users whose tastes drift
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lumos data synth --users 5000 --items 2000 --out data/world")]
pub struct Synth {
    /// Users
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    users: Option<u32>,
    /// Items
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    items: Option<u32>,
    /// Mean interactions of a user
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    mean_length: Option<f32>,
    /// Seed
    #[arg(long, value_name = "N", value_parser = between::<u64>(0, i64::MAX as u64))]
    seed: Option<u64>,
    /// `site`: keep the site of each user as its group, for federation.clients = "column"; empty keeps none
    #[arg(long, value_name = "NAME")]
    group_column: Option<String>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace a prepared data set that is in the folder; other files in it are kept
    #[arg(long)]
    overwrite: bool,
}

pub fn main(command: &Command) -> Result<()> {
    interrupt::end_at_the_first()?;
    match command {
        Command::Prepare(args) => prepare(args),
        Command::Stats(args) => show(args),
        Command::Synth(args) => synth(args),
        Command::Build(args) => {
            let progress = Progress::new(false);
            let effective = args.config.load()?;
            let (data, _) = run::prepare_data(&effective.settings, args.overwrite, &progress)?;
            run::returning_notice(&effective, &data).iter().for_each(|text| progress.warn(text));
            Ok(())
        }
    }
}

fn setting<T: std::fmt::Display>(key: &str, value: &Option<T>) -> Option<String> {
    value.as_ref().map(|v| format!("data.{key}={v}"))
}

fn path(key: &str, path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::Usage(format!("--{key}: `{}` is not UTF-8; rename the file", path.display())))?;
    Ok(self::text(key, text))
}

/// A name for the data set out of the folder's: characters that a name must not have become dashes.
fn name_of(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let clean: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    clean.trim_start_matches('.').to_string()
}

fn prepare(args: &Prepare) -> Result<()> {
    let mut sets = vec![format!("data.format={}", args.format), path("inter", &args.inter)?];
    sets.extend(columns(&args.columns)?);
    for (key, value) in
        [("separator", &args.separator), ("rating_column", &args.rating_column), ("from", &args.from), ("until", &args.until)]
    {
        sets.extend(value.as_ref().map(|value| text(key, value)));
    }
    sets.extend(setting("min_rating", &args.min_rating));
    sets.extend(setting("first_users", &args.first_users));
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

fn synth(args: &Synth) -> Result<()> {
    let mut sets = vec!["data.format=synthetic".to_string(), format!("data.name={}", name_of(&args.out))];
    sets.extend(setting("synth_users", &args.users));
    sets.extend(setting("synth_items", &args.items));
    sets.extend(setting("synth_mean_length", &args.mean_length));
    sets.extend(setting("synth_seed", &args.seed));
    sets.extend(setting("group_column", &args.group_column));
    store(&settings::load(None, &sets).map_err(in_flags)?.settings, &args.out, args.overwrite).map(|_| ())
}

/// Flags of settings that have another name or no default; every other flag is called as its setting is, with dashes.
const FLAGS: &[(&str, &str)] = &[
    ("data.inter", "--inter"),
    ("data.items", "--items"),
    ("data.synth_users", "--users"),
    ("data.synth_items", "--items"),
    ("data.synth_mean_length", "--mean-length"),
    ("data.synth_seed", "--seed"),
    ("data.dir", "--out"),
];

/// `text` with settings called as the flags that were used for them.
fn with_flags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("data.") {
        let length = 5 + rest[at + 5..].find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len() - at - 5);
        let (before, key) = (&rest[..at], &rest[at..at + length]);
        out.push_str(before);
        match FLAGS.iter().find(|(setting, _)| *setting == key) {
            Some((_, flag)) => out.push_str(flag),
            None if config::flat(&Settings::default()).is_ok_and(|all| all.contains_key(key)) => {
                out.push_str(&format!("--{}", key[5..].replace('_', "-")));
            }
            None => out.push_str(key),
        }
        rest = &rest[at + length..];
    }
    out + rest
}

/// An error about settings, in terms of flags.
fn in_flags(error: Error) -> Error {
    match error {
        Error::Setting { key, message } => Error::Usage(format!("{}: {}", with_flags(&key), with_flags(&message))),
        Error::Data { path, line, message } => Error::Data { path, line, message: with_flags(&message) },
        other => other,
    }
}

fn store(settings: &Settings, out: &Path, overwrite: bool) -> Result<Stats> {
    let progress = Progress::new(false);
    let report = |what: &str, done, total| progress.stage(what, done, total);
    let manifest = data::prepare(&settings.data, out, overwrite, &report).map_err(in_flags)?;
    drop(progress);
    for note in manifest.notes() {
        say(with_flags(&note))?;
    }
    say(lines(&manifest.stats, manifest.dropped))?;
    say(format!("prepared in {}", out.display()))?;
    Ok(manifest.stats)
}

/// The statistics of a prepared folder.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    stats: Stats,
    dropped: Dropped,
    /// Users of each group, where the folder has groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<BTreeMap<String, u64>>,
}

fn show(args: &StatsArgs) -> Result<()> {
    let dataset = data::load(&args.dir)?;
    let stats = data::stats_with_times(&dataset, data::load_times(&args.dir)?.as_ref());
    let dropped = data::load_manifest(&args.dir)?.dropped;
    let groups = dataset.groups.as_ref();
    if args.json {
        let groups = groups.map(|of| of.names.iter().cloned().zip(of.sizes()).collect());
        return say_json(&Shown { stats, dropped, groups });
    }
    say(lines(&stats, dropped))?;
    groups.map_or(Ok(()), |of| say(group_lines(of)))
}

/// The groups of users, largest first.
fn group_lines(groups: &UserGroups) -> String {
    let mut sizes: Vec<(&String, u64)> = groups.names.iter().zip(groups.sizes()).collect();
    sizes.sort_by_key(|(name, size)| (std::cmp::Reverse(*size), *name));
    let rows = sizes.iter().map(|(name, size)| format!("  {}: {size} users", clean::id(name)));
    let head = format!("{} groups by `{}`:", groups.names.len(), clean::id(&groups.column));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

fn lines(s: &Stats, dropped: Dropped) -> String {
    let share = |n: u64| format!("{n} ({:.1} %)", 100.0 * n as f64 / s.items.max(1) as f64);
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
    let and_dropped = |left: String, gone: u64| if gone == 0 { left } else { format!("{left}, {gone} dropped") };
    pairs(&[
        ("users", s.users.to_string()),
        ("items", s.items.to_string()),
        ("interactions", s.interactions.to_string()),
        ("density", format!("{:.6}", s.density)),
        ("length min / median / mean / max", format!("{} / {} / {:.2} / {}", s.min_length, s.median_length, s.mean_length, s.max_length)),
        ("items with a title", share(s.items_with_title)),
        ("items with categories", share(s.items_with_categories)),
        ("items with also-bought items", share(s.items_with_also_bought)),
        ("repeated items", and_dropped(s.repeats.to_string(), dropped.repeats)),
        ("duplicate rows", and_dropped(or_unknown(s.duplicates.map(|n| n.to_string())), dropped.duplicates)),
        ("times", s.time_unit.map_or("none", |unit| unit.name()).to_string()),
        ("neighbours on one day", or_unknown(s.same_day.map(|x| format!("{:.1} %", 100.0 * x)))),
        ("popularity Gini", format!("{:.3}", s.gini)),
    ])
}
