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
Later layers win: default, file, method, the file's [methods.<name>] table, command line.")]
pub struct Args {
    /// Configuration file (TOML)
    config: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
    /// One JSON object instead of TOML
    #[arg(long)]
    json: bool,
}

pub fn main(args: &Args) -> Result<()> {
    let effective = settings::load(args.config.as_deref(), &args.over.sets()?)?;
    if !args.json {
        return say(effective.to_toml()?.trim_end());
    }
    let values = config::flat(&effective.settings)?;
    let entry = |(key, origin): (&String, &config::Origin)| (key.clone(), json!({ "value": values.get(key), "origin": origin.name() }));
    say_json(&Value::Object(effective.origins.iter().map(entry).collect::<Map<_, _>>()))
}
