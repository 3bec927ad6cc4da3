//! `lumos recommend`: the top K for a user or a history.

use super::args::Which;
use super::interrupt;
use super::output::{say, say_json};
use super::progress::Progress;
use super::table::table_with;
use crate::base::clean;
use crate::base::names;
use crate::config;
use crate::run::{self, RunFolder};
use crate::{Error, Result, data::Dataset};
use std::path::PathBuf;
use std::sync::Arc;

/// Recommend the next items for a user of the data set or for any history
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos recommend runs/first --user 196
  lumos recommend runs/first --history B004756YJA,B004ZT0SSG -k 5
  lumos recommend runs/first --history 'Salt, Pepper' --history Sugar      ids with commas: one flag an item
  lumos recommend runs/first --history '[\"Salt, Pepper\", \"Sugar\"]'       or a JSON list
  lumos recommend runs/first --all --out lists.csv -k 20                    every user; lists.jsonl: one JSON object a user; lists.parquet
Users and items go by the names of the source data. What the run's eval.mask hides is left out, as in its evaluation: \"history\"
(default) leaves out what the user has met, \"none\" nothing. A run of popularity lists the items met most often in training.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    #[command(flatten)]
    input: Input,
    /// File to write with --all: .csv, .jsonl or (feature parquet) .parquet
    #[arg(long, value_name = "FILE", requires = "all")]
    out: Option<PathBuf>,
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

/// Whose history, or which.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// User, by its name in the source data; its whole history is the input
    #[arg(long, value_name = "TOKEN")]
    user: Option<String>,
    /// Items by their names in the source data, oldest first: one item, several with commas between them, or a JSON list; may be repeated
    #[arg(long, value_name = "ITEMS")]
    history: Vec<String>,
    /// Every user of the data set, by its whole history, into the file that --out names
    #[arg(long, requires = "out")]
    all: bool,
}

/// The items that one value of `--history` names: an item that is called so, else a JSON list, else what stands between commas.
fn items(value: &str, tokens: &[String]) -> Result<Vec<u32>> {
    let whole = value.trim();
    if let Some(item) = tokens.iter().position(|t| t == value || t == whole) {
        return Ok(vec![item as u32]);
    }
    let names: Vec<String> = if whole.starts_with('[') {
        let wanted =
            |why: &dyn std::fmt::Display| Error::Usage(format!("--history: is no JSON list of items, such as '[\"a\", \"b\"]' ({why})"));
        let list: Vec<serde_json::Value> = serde_json::from_str(whole).map_err(|e| wanted(&e))?;
        let name = |entry| match entry {
            serde_json::Value::String(name) => Ok(name),
            serde_json::Value::Number(name) => Ok(name.to_string()),
            other => Err(wanted(&format!("it holds {other}"))),
        };
        list.into_iter().map(name).collect::<Result<_>>()?
    } else {
        whole.split(',').map(|name| name.trim().to_string()).collect()
    };
    if names.is_empty() {
        return Err(Error::Usage("--history: is an empty list; name at least one item".into()));
    }
    names.iter().map(|name| find("item", "--history", name, tokens)).collect()
}

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
    interrupt::end_at_the_first()?;
    let folder = RunFolder::open(&args.run)?;
    let settings = folder.settings()?;
    let progress = Progress::new(true);
    let data = Arc::new(run::load_run_data(&folder, &settings, &progress)?);
    drop(progress);
    if args.k == 0 || args.k as usize > data.item_count() {
        return Err(Error::Usage(format!("-k: is {}, wanted 1 to {}, the number of items", args.k, data.item_count())));
    }
    if let Some(out) = &args.out {
        return super::recommend_all::main(&folder, args.checkpoint, &settings, &data, args.k as usize, out, args.json);
    }
    let (user, history) = match &args.input.user {
        Some(token) => {
            let user = find("user", "--user", token, &data.user_tokens)?;
            (Some(user), data.sequence(user as usize).to_vec())
        }
        None => {
            let named = args.input.history.iter().map(|value| items(value, &data.item_tokens)).collect::<Result<Vec<_>>>()?;
            (None, named.concat())
        }
    };
    let top = run::recommend(&folder, args.checkpoint.name(), &settings, &data, user, &history, args.k as usize)?;
    if args.json {
        let list: Vec<_> = top
            .iter()
            .map(|(item, score)| serde_json::json!({ "item": data.item_tokens[*item as usize], "title": data.catalogue[*item as usize].title, "score": config::tidy((*score).into()) }))
            .collect();
        return say_json(&serde_json::json!({ "user": args.input.user, "history": history.len(), "items": list }));
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

#[cfg(test)]
mod tests {
    use super::items;

    #[test]
    fn a_history_is_an_item_a_list_with_commas_or_json() {
        let tokens: Vec<String> = ["50", "181", "Salt, Pepper", "Salt", "[1]", "1"].map(String::from).to_vec();
        let items = |value: &str| items(value, &tokens);
        assert_eq!(items("50,181, 1").unwrap(), [0, 1, 5]);
        assert_eq!(items("Salt, Pepper").unwrap(), [2], "an item that is called so comes first");
        assert_eq!(items("[1]").unwrap(), [4]);
        assert_eq!(items(r#"["Salt, Pepper", 50, "Salt"]"#).unwrap(), [2, 0, 3]);
        assert_eq!(items(" 181 ").unwrap(), [1]);
        for (bad, part) in [
            ("50,,181", "no item ``"),
            ("[50", "JSON"),
            ("[[1]]", "JSON"),
            ("[]", "empty"),
            ("", "no item ``"),
            ("Salt,Pepper", "`Pepper`"),
        ] {
            let message = items(bad).unwrap_err().to_string();
            assert!(message.contains(part) && message.starts_with("--history"), "{bad}: {message}");
        }
    }
}
