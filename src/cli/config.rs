//! `lumos config`: the effective settings and where each came from.

use super::args::Overrides;
use super::output::{say, say_json};
use crate::{Result, config, settings};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Show every setting with its value and where it came from
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos config                                              defaults and the default method's preset
  lumos config configs/quickstart.toml --set method=sasrec
  lumos config configs/ml-100k.toml --json
  lumos config --explain loss.tau                           what a setting means; a section explains all of its own
Later layers win: default, file, method, the file's [methods.<name>] table, command line.")]
pub struct Args {
    /// Configuration file (TOML)
    config: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
    /// One JSON object instead of TOML
    #[arg(long)]
    json: bool,
    /// Say what a setting means, its default and the names that it accepts; of a section, all of its settings
    #[arg(long, value_name = "KEY", conflicts_with_all = ["config", "json"])]
    explain: Option<String>,
}

pub fn main(args: &Args) -> Result<()> {
    if let Some(key) = &args.explain {
        return explain(key);
    }
    let effective = settings::load(args.config.as_deref(), &args.over.sets()?)?;
    if !args.json {
        return say(effective.to_toml()?.trim_end());
    }
    let values = config::flat(&effective.settings)?;
    let entry = |(key, origin): (&String, &config::Origin)| (key.clone(), json!({ "value": values.get(key), "origin": origin.name() }));
    say_json(&Value::Object(effective.origins.iter().map(entry).collect::<Map<_, _>>()))
}

/// Prints what docs/settings.md says of a key or a section.
fn explain(key: &str) -> Result<()> {
    const PAGE: &str = include_str!("../../docs/settings.md");
    let section: String = PAGE.split("\n## ").filter(|part| part.lines().next() == Some(key)).collect();
    if !section.is_empty() {
        return say(section.trim_end());
    }
    config::Schema::new()?.kind(key, "--explain")?;
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with(&format!("- **`{key}`**")));
    let first = lines.next().unwrap_or_default();
    let names = lines.take_while(|line| line.starts_with("  "));
    say([first].into_iter().chain(names).collect::<Vec<_>>().join("\n").trim_start_matches("- "))
}
