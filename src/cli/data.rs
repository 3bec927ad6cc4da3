//! `lumos data`: prepare, fetch, stats, synth.

use super::args::{ConfigArgs, between};
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::pairs;
use crate::base::{clean, files, parallel};
use crate::config::{self, Settings, SplitRule};
use crate::data::{self, Dropped, Stats, UserGroups};
use crate::run::{self, Observer};
use crate::settings;
use crate::{Error, Result};
use clap::Subcommand;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Read, filter and store histories; look at what is stored
#[derive(Subcommand)]
pub enum Command {
    Prepare(Box<super::data_prepare::Prepare>),
    #[cfg(feature = "endpoint")]
    Fetch(super::data_fetch::Fetch),
    Stats(StatsArgs),
    Synth(Synth),
    Build(FromConfig),
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
#[command(after_help = "\
Examples:
  lumos data synth --users 5000 --items 2000 --out data/world
  lumos data synth --tastes 1 --drift 0 --noise 0.2 --out data/steady
Beside the data set lies truth.json: every user's tastes, every item's group, and the HR@K and NDCG@K that a ranker which knows the world comes to on the
last items: what no model can exceed, but by chance.")]
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
    /// Categories in a user's taste, 1 to 16 [default: 3]
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    tastes: Option<u32>,
    /// How likely a category of a taste gives way to another one along the history, 0 to 1 [default: 2/3]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    drift: Option<f32>,
    /// How much a few items and categories are preferred, 1 (not at all) to 8 [default: 2]
    #[arg(long, value_name = "N", value_parser = between::<u32>(0, u32::MAX))]
    skew: Option<u32>,
    /// Share of the steps that are any item, 0 to 1 [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    noise: Option<f32>,
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
        Command::Prepare(args) => super::data_prepare::main(args),
        #[cfg(feature = "endpoint")]
        Command::Fetch(args) => super::data_fetch::main(args),
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

pub(super) fn setting<T: std::fmt::Display>(key: &str, value: &Option<T>) -> Option<String> {
    value.as_ref().map(|v| format!("data.{key}={v}"))
}

pub(super) fn path(key: &str, path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::Usage(format!("--{key}: `{}` is not UTF-8; rename the file", path.display())))?;
    Ok(self::text(key, text))
}

/// The setting `key` as a text, quoted, so that no character of it is taken for TOML.
pub(super) fn text(key: &str, value: &str) -> String {
    format!("data.{key}={}", toml::Value::String(value.to_string()))
}

/// A name for the data set out of the folder's: characters that a name must not have become dashes.
pub(super) fn name_of(out: &Path) -> String {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let clean: String = name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    clean.trim_start_matches('.').to_string()
}

fn synth(args: &Synth) -> Result<()> {
    let mut sets = vec!["data.format=synthetic".to_string(), format!("data.name={}", name_of(&args.out))];
    sets.extend(setting("synth_users", &args.users));
    sets.extend(setting("synth_items", &args.items));
    sets.extend(setting("synth_mean_length", &args.mean_length));
    sets.extend(setting("synth_seed", &args.seed));
    sets.extend(setting("synth_tastes", &args.tastes));
    sets.extend(setting("synth_drift", &args.drift));
    sets.extend(setting("synth_skew", &args.skew));
    sets.extend(setting("synth_noise", &args.noise));
    sets.extend(setting("group_column", &args.group_column));
    let settings = settings::load(None, &sets).map_err(in_flags)?.settings;
    store(&settings, &args.out, args.overwrite)?;
    let truth = data::synthetic_truth(&settings.data, &settings.eval.k, parallel::threads(0)).map_err(in_flags)?;
    let path = args.out.join("truth.json");
    let text = serde_json::to_vec(&truth).map_err(|e| Error::Usage(format!("cannot write JSON: {e}")))?;
    files::write_file(&path, &text)?;
    let best = truth.oracle.expected.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(", ");
    say(format!("truth in {}; a ranker that knows the world comes to {best}", path.display()))
}

/// Flags of settings that have another name or no default; every other flag is called as its setting is, with dashes.
const FLAGS: &[(&str, &str)] = &[
    ("data.inter", "--inter"),
    ("data.items", "--items"),
    ("data.synth_users", "--users"),
    ("data.synth_items", "--items"),
    ("data.synth_mean_length", "--mean-length"),
    ("data.synth_seed", "--seed"),
    ("data.synth_tastes", "--tastes"),
    ("data.synth_drift", "--drift"),
    ("data.synth_skew", "--skew"),
    ("data.synth_noise", "--noise"),
    ("data.dir", "--out"),
];

/// `text` with settings called as the flags that were used for them.
pub(super) fn with_flags(text: &str) -> String {
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
pub(super) fn in_flags(error: Error) -> Error {
    match error {
        Error::Setting { key, message } => Error::Usage(format!("{}: {}", with_flags(&key), with_flags(&message))),
        Error::Data { path, line, message } => Error::Data { path, line, message: with_flags(&message) },
        other => other,
    }
}

pub(super) fn store(settings: &Settings, out: &Path, overwrite: bool) -> Result<Stats> {
    let progress = Progress::new(false);
    let report = |what: &str, done, total| progress.stage(what, done, total);
    let manifest = data::prepare(&settings.data, out, overwrite, &report).map_err(in_flags)?;
    drop(progress);
    for note in manifest.notes() {
        say(with_flags(&note))?;
    }
    say(lines(&manifest.stats, manifest.dropped))?;
    if let Some(note) = leak(settings, out)? {
        say(note)?;
    }
    say(format!("prepared in {}", out.display()))?;
    Ok(manifest.stats)
}

/// Where leave-one-out trains on what lies behind test items of others: how much of it.
fn leak(settings: &Settings, out: &Path) -> Result<Option<String>> {
    let Some(times) = data::load_times(out)?.filter(|_| settings.data.split == SplitRule::LeaveOneOut) else { return Ok(None) };
    let dataset = data::load(out)?;
    let share = data::trained_after_test(&dataset, &times);
    Ok((share >= 0.01).then(|| {
        format!(
            "split: leave-one-out; {:.0} % of the training interactions are later than half of the test items, so that a model may know what came \
             after them. --split time cuts all users at the same moments",
            100.0 * share
        )
    }))
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
