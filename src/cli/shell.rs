//! `lumos completions` and `lumos man`: what a shell and `man` want to know of the command line.

use super::Cli;
use super::output::say;
use crate::base::files;
use crate::{Error, Result};
use clap::CommandFactory;
use std::path::PathBuf;

/// Print what a shell needs to complete commands and flags
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos completions bash > ~/.local/share/bash-completion/completions/lumos
  lumos completions zsh > ~/.zfunc/_lumos                   with `fpath+=~/.zfunc` before `compinit`
  lumos completions fish > ~/.config/fish/completions/lumos.fish")]
pub struct Completions {
    /// Shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Write a manual page of every command
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos man ~/.local/share/man/man1                         then: man lumos-train")]
pub struct Man {
    /// Folder, made where it is missing; pages of the same names are replaced
    out: PathBuf,
}

pub fn completions(args: &Completions) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lumos", &mut text);
    say(String::from_utf8_lossy(&text).trim_end())
}

pub fn man(args: &Man) -> Result<()> {
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out, "create"))?;
    let mut root = Cli::command();
    root.build();
    let mut count = 0;
    pages(&root, &mut |command| {
        let mut page = Vec::new();
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
        let path = args.out.join(format!("{name}.1"));
        clap_mangen::Man::new(command.clone()).render(&mut page).map_err(Error::io(&path, "write"))?;
        count += 1;
        files::write_file(&path, &page)
    })?;
    say(format!("{count} pages in {}", args.out.display()))
}

/// Gives `each` a command and every one below it, `help` left out.
fn pages(command: &clap::Command, each: &mut impl FnMut(&clap::Command) -> Result<()>) -> Result<()> {
    each(command)?;
    command.get_subcommands().filter(|c| c.get_name() != "help").try_for_each(|c| pages(c, each))
}
