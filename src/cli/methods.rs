//! `lumos methods`: the presets.

use super::output::{say, say_json};
use super::table::table;
use crate::Result;
use crate::config::methods;
use std::path::PathBuf;

/// List the methods, or show what one of them sets and where each choice comes from
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos methods
  lumos methods lumos            what it sets; each choice is the paper's, second-hand, or ours
  lumos methods --method-file mine.toml mine
  lumos methods --json")]
pub struct Args {
    /// A method
    name: Option<String>,
    /// File of a method of your own, known by the file's name; may be repeated
    #[arg(long, value_name = "FILE")]
    method_file: Vec<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    args.method_file.iter().try_for_each(|file| methods::register_file(file).map(|_| ()))?;
    let chosen = match &args.name {
        Some(name) => vec![methods::find(name)?],
        None => methods::all()?,
    };
    if args.json {
        let list: Vec<_> = chosen
            .iter()
            .map(|m| {
                let choices = m.all_choices()?;
                Ok(serde_json::json!({ "name": m.name, "family": m.family, "summary": m.summary, "paper": m.paper, "choices": choices }))
            })
            .collect::<Result<_>>()?;
        return say_json(&serde_json::json!({ "methods": list }));
    }
    if args.name.is_none() {
        let width = chosen.iter().map(|m| m.name.len()).max().unwrap_or(0);
        return chosen.iter().try_for_each(|m| say(format!("{:width$}  {:11}  {}", m.name, m.family.name(), m.summary)));
    }
    for method in chosen {
        say(format!("{}: {}\n{}; {}\n", method.name, method.summary, method.paper, method.family.name()))?;
        let rows: Vec<Vec<String>> = method.all_choices()?.into_iter().map(|c| vec![c.key, c.value, c.whose.name().to_string()]).collect();
        say(table(&["setting", "value", "chosen by"], &rows))?;
    }
    Ok(())
}
