//! `lumos recommend`: the top K for a user or a history.

use super::args::Which;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::table_with;
use crate::base::clean;
use crate::config::names;
use crate::run::{self, Devices, RunFolder};
use crate::views::Views;
use crate::{Error, Result, data::Dataset};
use std::path::PathBuf;

/// Recommend the next items for a user of the data set or for any history
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos recommend runs/first --user 196
  lumos recommend runs/first --history B004756YJA,B004ZT0SSG -k 5
Users and items go by the names of the source data. What a user has met is left out.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    /// User, by its name in the source data; its whole history is the input
    #[arg(long, value_name = "TOKEN", required_unless_present = "history", conflicts_with = "history")]
    user: Option<String>,
    /// Items by their names in the source data, oldest first
    #[arg(long, value_name = "TOKEN,TOKEN", value_delimiter = ',')]
    history: Vec<String>,
    /// How many
    #[arg(short, long, default_value_t = 10, value_name = "K")]
    k: u32,
    /// Which checkpoint
    #[arg(long, value_enum, default_value = "best")]
    checkpoint: Which,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Columns of a title that are shown.
const TITLE: usize = 70;

/// Index of `token` among `tokens`, or a message with the nearest one.
fn find(what: &str, flag: &str, token: &str, tokens: &[String]) -> Result<u32> {
    let found = tokens.iter().position(|t| t == token).map(|i| i as u32);
    found.ok_or_else(|| {
        let hint = names::hint(token, tokens.iter().map(String::as_str));
        Error::Usage(format!("{flag}: the data set has no {what} `{}`{hint}", clean::id(token)))
    })
}

fn title(data: &Dataset, item: u32) -> String {
    match data.catalogue.get(item as usize).map(|t| t.title.trim()) {
        Some(title) if !title.is_empty() => clean::line(title, TITLE),
        _ => "(no title)".to_string(),
    }
}

fn token(data: &Dataset, item: u32) -> String {
    data.item_tokens.get(item as usize).map_or(String::new(), |t| clean::id(t))
}

pub fn main(args: &Args) -> Result<()> {
    let folder = RunFolder::open(&args.run)?;
    let settings = folder.settings()?;
    let progress = Progress::new(true);
    let data = run::load_run_data(&folder, &settings, &progress)?;
    drop(progress);
    let (user, history) = match &args.user {
        Some(token) => {
            let user = find("user", "--user", token, &data.user_tokens)?;
            (Some(user), data.sequence(user as usize).to_vec())
        }
        None => (None, args.history.iter().map(|t| find("item", "--history", t.trim(), &data.item_tokens)).collect::<Result<Vec<u32>>>()?),
    };
    if args.k == 0 || args.k as usize > data.item_count() {
        return Err(Error::Usage(format!("-k: is {}, wanted 1 to {}, the number of items", args.k, data.item_count())));
    }
    let views = Views::default();
    // One history is encoded before a GPU has as much as started.
    let mut device = Devices::default().to_rank(&settings, "cpu")?;
    let (mut trainer, _) = run::open_trained(&folder, args.checkpoint.name(), &settings, &data, &views, &mut device)?;
    let top = trainer.recommend(user, &history, args.k as usize)?;
    if args.json {
        let list: Vec<_> = top
            .iter()
            .map(|(item, score)| serde_json::json!({ "item": data.item_tokens[*item as usize], "title": data.catalogue[*item as usize].title, "score": score }))
            .collect();
        return say_json(&serde_json::json!({ "user": args.user, "history": history.len(), "items": list }));
    }
    let latest = &history[history.len().saturating_sub(5)..];
    say(format!("history: {} items, the latest {}:", history.len(), latest.len()))?;
    for &item in latest {
        say(format!("  {}  {}", token(&data, item), title(&data, item)))?;
    }
    let rows: Vec<Vec<String>> = top
        .iter()
        .enumerate()
        .map(|(i, (item, score))| vec![format!("{}", i + 1), format!("{score:.3}"), token(&data, *item), title(&data, *item)])
        .collect();
    say(table_with(&["", "score", "item", "title"], &rows, |column| column > 1))
}
