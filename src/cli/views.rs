//! `lumos views`: build, inspect, compare, score.

use super::args::Overrides;
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::{table, table_with};
use super::views_list::folder_named;
use crate::base::{clean, json};
use crate::config::{Settings, Validated};
use crate::data::Dataset;
use crate::run::Observer;
use crate::settings;
use crate::views::{Comparison, Figures, Manifest, Overlap, Pair};
use crate::{Error, Result, data, run, views};
use clap::Subcommand;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Make the views of every history, look at some, or compare two generators
#[derive(Subcommand)]
pub enum Command {
    Build(Build),
    Inspect(Inspect),
    Compare(Compare),
    #[cfg(feature = "endpoint")]
    ExportRequests(super::views_batch::Export),
    #[cfg(feature = "endpoint")]
    ImportAnswers(super::views_batch::Import),
    Score(super::views_score::Args),
    Inject(super::views_inject::Args),
    List(super::views_list::List),
}

/// A configuration file, or a prepared data set and settings.
#[derive(clap::Args)]
pub struct Source {
    /// Configuration file (TOML), such as configs/quickstart.toml
    #[arg(required_unless_present = "data")]
    pub config: Option<PathBuf>,
    /// Folder of a prepared data set, instead of the one that the configuration describes
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub over: Overrides,
}

/// Make the views that a configuration asks for, unless they are up to date
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos views build configs/quickstart.toml --set views.counterfactuals=2
  lumos views build --data data/ml-100k --set views.generator=llm --set views.llm.model=models/qwen --users 100 --json
  lumos views build --data data/ml-100k --set views.generator=served --set views.served.url=http://localhost:8000/v1 \\
      --set views.served.model=qwen
A build that ends early, by Ctrl-C, SIGTERM or SIGUSR1 (exit codes 130, 143, 138) or otherwise, goes on where it was when the same
command is given again.")]
pub struct Build {
    #[command(flatten)]
    source: Source,
    /// Only the first N users, in a folder of their own: to try a generator
    #[arg(long, value_name = "N")]
    users: Option<usize>,
    /// One JSON object as the last line instead of a table
    #[arg(long)]
    json: bool,
}

/// Show a user's history and its three views as titles
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lumos views inspect configs/quickstart.toml\n  lumos views inspect configs/ml-100k.toml --user 196")]
pub struct Inspect {
    #[command(flatten)]
    source: Source,
    /// Only the first N users, as in `lumos views build --users N`
    #[arg(long, value_name = "N")]
    users: Option<usize>,
    /// User, by its name in the source data [default: the first]
    #[arg(long, value_name = "TOKEN")]
    user: Option<String>,
}

/// Show side by side what two generators made for the same users
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  lumos views compare data/ml-100k-views/FOLDER data/ml-100k-views/OTHER --show 5
The folders are those that `lumos views build` and `lumos views list` name. Likeness is the mean cosine of an item and the items of the history: good
futures and paraphrases are about as like it as its own items are among themselves, good counterfactuals are not.")]
pub struct Compare {
    /// Folder of views, or their name in `lumos views list`
    a: PathBuf,
    /// Folder or name of other views of the same data set
    b: PathBuf,
    /// Folder of the data set [default: DATA where the views lie in DATA-views]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// This many users, item by item
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "json")]
    show: usize,
    /// One JSON object instead of tables
    #[arg(long)]
    json: bool,
}

pub fn main(command: &Command) -> Result<()> {
    match command {
        Command::Build(args) => build(args),
        Command::Inspect(args) => inspect(args),
        Command::Compare(args) => compare(args),
        #[cfg(feature = "endpoint")]
        Command::ExportRequests(args) => super::views_batch::export(args),
        #[cfg(feature = "endpoint")]
        Command::ImportAnswers(args) => super::views_batch::import(args),
        Command::List(args) => super::views_list::main(args),
        Command::Score(args) => super::views_score::main(args),
        Command::Inject(args) => super::views_inject::main(args),
    }
}

/// Looks at what is known before views are made.
type Before<'a> = &'a dyn Fn(&Validated<Settings>, &Dataset, &Path, &Progress) -> Result<()>;

/// Settings, data and views of `source`.
fn prepare(source: &Source, users: Option<usize>, json: bool, before: Before<'_>) -> Result<(Validated<Settings>, run::Prepared)> {
    let settings = settings::load(source.config.as_deref(), &source.over.sets()?)?.settings;
    if !run::needs_views(&settings) {
        let message = format!("method `{}` uses no views; choose one that does (`lumos methods`)", settings.method);
        return Err(Error::Usage(message));
    }
    if users == Some(0) {
        return Err(Error::Usage("--users 0 asks for nothing; give a number from 1 on".into()));
    }
    let progress = Progress::new(json);
    let (data, dir) = match &source.data {
        Some(dir) => run::open_data(dir, &settings, &progress)?,
        None => run::prepare_data(&settings, false, &progress)?,
    };
    before(&settings, &data, &dir, &progress)?;
    let prepared = match (&source.data, users) {
        (None, None) => run::prepare_on(&settings, data, dir, &progress)?,
        _ => run::prepare_views(&settings, data, dir, users, &progress)?,
    };
    Ok((settings, prepared))
}

/// What `lumos views build --json` ends with.
#[derive(Serialize)]
struct Summary<'a> {
    users: u64,
    grounded_share: Option<f64>,
    own_share: Option<f64>,
    prompt_tokens_per_s: Option<f64>,
    output_tokens_per_s: Option<f64>,
    device: &'a str,
    dtype: Option<&'a str>,
    generator: &'a str,
    model: Option<&'a str>,
    lines: Option<u64>,
    prompt_tokens: Option<u64>,
    output_tokens: Option<u64>,
    failed: u64,
    without_views: u64,
    seconds: f64,
    reused: bool,
    folder: String,
}

fn build(args: &Build) -> Result<()> {
    interrupt::listen()?;
    let (_, prepared) =
        prepare(&args.source, args.users, args.json, &|_, _, _, _| Ok(())).map_err(|e| interrupt::how_to_resume(e, None))?;
    let dir = prepared.views_dir.clone().unwrap_or_default();
    let manifest = views::load_manifest(&dir)?;
    if args.json {
        let g = manifest.generation.as_ref();
        return say_json(&Summary {
            users: manifest.statistics.users,
            grounded_share: g.map(|g| g.grounded_share),
            own_share: g.map(|g| g.own_share),
            prompt_tokens_per_s: g.and_then(|g| g.prompt_tokens_per_s),
            output_tokens_per_s: g.and_then(|g| g.output_tokens_per_s),
            device: g.map_or("cpu", |g| &g.provenance.device),
            dtype: g.map(|g| g.provenance.dtype.as_str()),
            generator: &manifest.generator,
            model: g.map(|g| g.provenance.model.as_str()),
            lines: g.map(|g| g.lines),
            prompt_tokens: g.map(|g| g.prompt_tokens),
            output_tokens: g.map(|g| g.output_tokens),
            failed: manifest.failures.len() as u64,
            without_views: manifest.statistics.without_views,
            seconds: g.map_or(manifest.statistics.seconds, |g| g.seconds),
            reused: prepared.views_reused,
            folder: dir.display().to_string(),
        });
    }
    let rows: Vec<String> = figures(&manifest)?.iter().map(|(name, value)| format!("{name:30} {}", clean::line(value, 1000))).collect();
    say(rows.join("\n"))
}

/// Figures of a manifest, and who failed.
pub fn figures(manifest: &Manifest) -> Result<Vec<(String, String)>> {
    let fail = |e: serde_json::Error| Error::Usage(format!("cannot show the figures: {e}"));
    let mut rows = Vec::new();
    for value in [json::value(&manifest.statistics).map_err(fail)?, json::value(&manifest.generation).map_err(fail)?] {
        rows.extend(value.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.to_string())));
    }
    for failure in manifest.failures.iter().take(5) {
        rows.push((format!("fell back to {}", manifest.fallback), format!("user {}: {}", failure.user, failure.reason)));
    }
    if manifest.failures.len() > 5 {
        rows.push((
            format!("fell back to {}", manifest.fallback),
            format!("{} more users; see manifest.json", manifest.failures.len() - 5),
        ));
    }
    Ok(rows)
}

fn inspect(args: &Inspect) -> Result<()> {
    let user = |data: &Dataset| args.user.as_ref().map_or(Ok(0), |token| views::user_matching(data, token));
    let (_, prepared) = prepare(&args.source, args.users, false, &|settings, data, dir, progress| {
        let user = user(data)?;
        if let Some(n) = args.users.filter(|n| *n <= user) {
            return Err(Error::Usage(format!("this user is number {}; --users {n} has the views of the first {n} alone", user + 1)));
        }
        if run::views_made(settings, data, dir, args.users)? {
            return Ok(());
        }
        let (name, users) = (settings.views.generator.name(), args.users.unwrap_or(usize::MAX).min(data.users()));
        if args.users.is_some() || !views::costly(&settings.views) {
            progress.note(&format!("views {name}: there are none yet; those of {users} users are made now"));
            return Ok(());
        }
        // A look at one user must not start hours of work.
        Err(Error::Usage(format!(
            "there are no views of `{}` by `{name}` yet, and a language model would have to write those of {users} users; have that done with \
             `{}`, or look at the first users alone with `--users {}`",
            data.name,
            build_command(&args.source),
            user + 1
        )))
    })?;
    let user = user(&prepared.data)?;
    say(views::inspect(&prepared.data, &prepared.views, user)?.trim_end())
}

/// The command that builds the views of `source`.
fn build_command(source: &Source) -> String {
    let path = |path: &PathBuf| path.display().to_string();
    let mut words: Vec<String> = vec!["views".into(), "build".into()];
    words.extend(source.config.as_ref().map(path));
    let over = &source.over;
    let mut flag = |name: &str, value: Option<String>| words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    flag("--data", source.data.as_ref().map(path));
    over.method_file.iter().for_each(|file| flag("--method-file", Some(path(file))));
    over.set.iter().for_each(|set| flag("--set", Some(set.clone())));
    flag("--threads", over.threads.map(|n| n.to_string()));
    flag("--device", over.device.clone());
    flag("--seed", over.seed.map(|n| n.to_string()));
    interrupt::command_line(words, None)
}

fn compare(args: &Compare) -> Result<()> {
    let (a, b) = (folder_named(&args.a)?, folder_named(&args.b)?);
    let dir = match &args.data {
        Some(dir) => dir.clone(),
        None => data_dir(&a)?,
    };
    let data = data::load(&dir)?;
    let pair = Pair::load(&data, &a, &b)?;
    let found = views::compare(&data, &pair)?;
    if args.json {
        return say_json(&found);
    }
    say(clean::lines(&summary(&found)))?;
    for user in spread(&pair.common(), args.show) {
        say("")?;
        say(side_by_side(&data, &pair, user)?)?;
    }
    Ok(())
}

/// The data set beside whose views `folder` lies.
pub(super) fn data_dir(folder: &Path) -> Result<PathBuf> {
    let whole = folder.canonicalize().map_err(Error::io(folder, "open as a folder"))?;
    let parent = whole.parent().and_then(|p| Some((p, p.file_name()?.to_str()?.strip_suffix("-views")?)));
    match parent {
        Some((parent, name)) if !name.is_empty() => Ok(parent.with_file_name(name)),
        _ => Err(Error::mismatch(folder, "does not lie in a folder named after its data set; name that one with --data")),
    }
}

/// `n` of `users`, evenly spread.
fn spread(users: &[usize], n: usize) -> Vec<usize> {
    let n = n.min(users.len());
    (0..n).map(|i| users[i * users.len() / n]).collect()
}

fn summary(found: &Comparison) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let share = |x: Option<f64>| x.map_or("-".to_string(), |x| format!("{x:.4}"));
    let mut row = |name: &str, a: String, b: String| rows.push(vec![name.to_string(), a, b]);
    row("model", found.a.model.clone().unwrap_or("-".into()), found.b.model.clone().unwrap_or("-".into()));
    row("users with views", found.a.users.to_string(), found.b.users.to_string());
    row("grounded lines", share(found.a.grounded_share), share(found.b.grounded_share));
    row("own lines", share(found.a.own_share), share(found.b.own_share));
    let views = [
        ("future", &found.a.future, &found.b.future),
        ("paraphrase", &found.a.paraphrase, &found.b.paraphrase),
        ("counterfactual", &found.a.counterfactual, &found.b.counterfactual),
    ];
    type Show = fn(&Figures) -> String;
    let shown: [(&str, Show); 7] = [
        ("new items a user", |f| format!("{:.2}", f.new_items)),
        ("distinct items", |f| f.distinct_items.to_string()),
        ("share of the catalogue", |f| format!("{:.4}", f.catalogue_share)),
        ("category entropy (bits)", |f| format!("{:.3}", f.category_entropy)),
        ("likeness to the history", |f| format!("{:.4}", f.likeness_to_history)),
        ("shared narrow category", |f| format!("{:.4}", f.shared_category)),
        ("popularity", |f| format!("{:.2}", f.popularity)),
    ];
    for (view, a, b) in views {
        for (name, show) in shown {
            row(&format!("{view}: {name}"), show(a), show(b));
        }
    }
    let mut text = format!(
        "{}: {} users have both; their histories' own likeness is {:.4}\nA  {} ({})\nB  {} ({})\n\n",
        found.data, found.users, found.likeness_history, found.a.generator, found.a.folder, found.b.generator, found.b.folder
    );
    text += &table(&["", "A", "B"], &rows);
    let both = |name: &str, o: Overlap| vec![name.to_string(), format!("{:.4}", o.jaccard), format!("{:.4}", o.same)];
    let rows = [both("future", found.future), both("paraphrase", found.paraphrase), both("counterfactual", found.counterfactual)];
    text += "\n\n";
    text += &table(&["A and B", "common items (Jaccard)", "same sequence"], &rows);
    text
}

/// The views of one user in two columns.
fn side_by_side(data: &Dataset, pair: &Pair, user: usize) -> Result<String> {
    let [a, b] = [0, 1].map(|side: usize| views::inspect(data, &pair.views[side], user));
    let (a, b) = (a?, b?);
    let (left, right): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    // Both begin with the user and the history, which are shown once; sections are lined up by their blank lines.
    let sections =
        |lines: &[&str]| lines.split(|l| l.is_empty()).map(|s| s.iter().map(|l| l.to_string()).collect::<Vec<_>>()).collect::<Vec<_>>();
    let (left, right) = (sections(&left), sections(&right));
    let mut text = left.iter().take(2).map(|s| s.join("\n")).collect::<Vec<_>>().join("\n");
    for place in 2..left.len().max(right.len()) {
        let empty = Vec::new();
        let (l, r) = (left.get(place).unwrap_or(&empty), right.get(place).unwrap_or(&empty));
        let cell = |lines: &[String], i: usize| lines.get(i).cloned().unwrap_or_default();
        let rows: Vec<Vec<String>> = (1..l.len().max(r.len())).map(|i| vec![cell(l, i), cell(r, i)]).collect();
        text += "\n\n";
        text += &table_with(&[&format!("A {}", cell(l, 0)), &format!("B {}", cell(r, 0))], &rows, |_| true);
    }
    Ok(text)
}
