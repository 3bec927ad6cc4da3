//! `lumos views`: build, inspect.

use super::args::ConfigArgs;
use super::output::say;
use super::progress::Progress;
use crate::{Error, Result, run, views};
use clap::Subcommand;

/// Make the views of every history, or look at some
#[derive(Subcommand)]
pub enum Command {
    Build(Build),
    Inspect(Inspect),
}

/// Make the views that a configuration asks for, unless they are up to date
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lumos views build configs/quickstart.toml --set views.counterfactuals=2")]
pub struct Build {
    #[command(flatten)]
    config: ConfigArgs,
}

/// Show a user's history and its three views as titles
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  lumos views inspect configs/quickstart.toml\n  lumos views inspect configs/ml-100k.toml --user 196")]
pub struct Inspect {
    #[command(flatten)]
    config: ConfigArgs,
    /// User, by its name in the source data [default: the first]
    #[arg(long, value_name = "TOKEN")]
    user: Option<String>,
}

pub fn main(command: &Command) -> Result<()> {
    let config = match command {
        Command::Build(args) => &args.config,
        Command::Inspect(args) => &args.config,
    };
    let settings = config.load()?.settings;
    if !run::needs_views(&settings) {
        let message = format!("method `{}` uses no views; choose one that does (`lumos methods`)", settings.method);
        return Err(Error::Usage(message));
    }
    let progress = Progress::new(false);
    let prepared = run::prepare(&settings, &progress)?;
    drop(progress);
    let Command::Inspect(args) = command else {
        let figures = prepared.views_manifest.as_ref().and_then(|m| m.get("statistics")?.as_object().cloned()).unwrap_or_default();
        return figures.iter().try_for_each(|(name, value)| say(format!("{name:28} {value}")));
    };
    let user = match &args.user {
        Some(token) => views::user_matching(&prepared.data, token)?,
        None => 0,
    };
    say(views::inspect(&prepared.data, &prepared.views, user)?.trim_end())
}
