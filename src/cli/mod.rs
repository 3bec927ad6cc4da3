//! The command line: one file a sub-command, no logic of its own.
//!
//! Tables and JSON go to stdout; progress goes to stderr: bars where that is a terminal, else a line now and then. Exit codes: 0 done, 1 an error, 2 a wrong
//! command line, 130, 143 or 138 stopped by Ctrl-C, SIGTERM or SIGUSR1; 75 in place of the last two in a batch job and with several processes: what was
//! under way is saved, start it again.

mod args;
mod bench;
mod bench_cluster;
mod bench_data;
mod bench_defence;
#[cfg(feature = "llm")]
mod bench_generate;
mod bench_ground;
mod compare;
mod config;
mod data;
#[cfg(feature = "endpoint")]
mod data_fetch;
mod data_prepare;
mod doctor;
mod eval;
mod export;
#[cfg(feature = "llm")]
mod generate;
mod gpu_check;
mod import;
mod interrupt;
mod log;
mod methods;
mod output;
mod plot;
mod privacy;
mod progress;
mod ranks;
mod recommend;
mod recommend_all;
mod report;
mod reproduce;
mod run;
mod runs;
mod shell;
mod sweep;
mod table;
mod train;
mod views;
#[cfg(feature = "endpoint")]
mod views_batch;
mod views_inject;
mod views_list;
mod views_score;
mod watch;

use crate::Error;
use crate::base::clean;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Federated sequential recommendation: from raw histories to a trained and tested model.
#[derive(Parser)]
#[command(name = "lumos", version, propagate_version = true, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lumos run configs/quickstart.toml                          everything, on a small synthetic world
  lumos run configs/amazon-beauty.toml                       the same on real data
  lumos train configs/ml-100k.toml --set method=fed-sasrec --out runs/twin
  lumos eval runs/twin --split test --json
  lumos recommend runs/twin --user 196 -k 5
  lumos plot runs/twin runs/lumos --x visits --out curves.svg
  lumos config configs/ml-100k.toml --set local.lr=0.005     what would be used, and where it comes from

Every sub-command has its own --help with examples.";

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    #[command(subcommand)]
    Data(data::Command),
    #[command(subcommand)]
    Views(views::Command),
    Train(train::Args),
    Eval(eval::Args),
    Compare(compare::Args),
    Plot(plot::Args),
    Report(report::Args),
    Runs(runs::Args),
    Watch(watch::Args),
    Sweep(sweep::Args),
    #[command(subcommand)]
    Privacy(privacy::Command),
    Recommend(recommend::Args),
    Reproduce(reproduce::Args),
    Export(export::Args),
    Import(import::Args),
    #[cfg(feature = "llm")]
    Generate(generate::Args),
    Config(config::Args),
    Methods(methods::Args),
    Doctor(doctor::Args),
    Completions(shell::Completions),
    Man(shell::Man),
    GpuCheck(gpu_check::Args),
    #[command(subcommand)]
    Bench(bench::Command),
}

/// Runs the program on its command line.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

/// Runs the program on `words`, of which the first is its name; gives the exit code.
pub fn run(words: impl IntoIterator<Item = OsString>) -> u8 {
    let command = match Cli::try_parse_from(words) {
        Ok(cli) => cli.command,
        Err(error) => return refuse(&error),
    };
    match ranks::meet(&command) {
        Ok(None) => {}
        Ok(Some(code)) => return code,
        Err(error) => return finish(Err(error)),
    }
    let code = perform(command);
    ranks::leave();
    code
}

/// Whether `words`, without the program's name, are a command line that the program takes; nothing is done.
///
/// # Errors
/// What is wrong with it.
pub fn takes(words: impl IntoIterator<Item = String>) -> Result<(), String> {
    Cli::try_parse_from(std::iter::once("lumos".to_string()).chain(words)).map(drop).map_err(|e| e.render().to_string())
}

/// Runs a command of a process alone, or of rank 0; gives the exit code.
fn perform(command: Command) -> u8 {
    let outcome = match command {
        // Its exit code says whether the GPU passed.
        Command::GpuCheck(args) => return finish(gpu_check::main(&args)),
        Command::Run(args) => run::main(&args),
        Command::Data(command) => data::main(&command),
        Command::Views(command) => views::main(&command),
        Command::Train(args) => train::main(&args),
        Command::Eval(args) => eval::main(&args),
        Command::Compare(args) => compare::main(&args),
        Command::Plot(args) => plot::main(&args),
        Command::Report(args) => report::main(&args),
        Command::Runs(args) => runs::main(&args),
        Command::Watch(args) => watch::main(&args),
        Command::Sweep(args) => sweep::main(&args),
        Command::Privacy(command) => privacy::main(&command),
        Command::Recommend(args) => recommend::main(&args),
        #[cfg(feature = "llm")]
        Command::Generate(args) => generate::main(&args),
        Command::Reproduce(args) => reproduce::main(&args),
        Command::Export(args) => export::main(&args),
        Command::Import(args) => import::main(&args),
        Command::Config(args) => config::main(&args),
        Command::Methods(args) => methods::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Completions(args) => shell::completions(&args),
        Command::Man(args) => shell::man(&args),
        Command::Bench(command) => bench::main(&command),
    };
    finish(outcome.map(|()| 0))
}

/// Prints what is wrong with a command line, or shows the help that was asked for; gives the exit code.
fn refuse(error: &clap::Error) -> u8 {
    let plain = error.render().to_string();
    // Words of a command line are foreign as well: a script may have them from a file.
    if error.use_stderr() && clean::message(&plain) != plain {
        output::remark(plain.trim_end());
    } else {
        // Where stderr is closed, the exit code is all there is.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

/// The exit code of an outcome; an error is printed.
fn finish(outcome: Result<u8, Error>) -> u8 {
    match outcome {
        Ok(code) => code,
        // The reader of our output went away (`lumos ... | head`): nothing is wrong, and there is no reader for a message.
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            output::complain(&error);
            // Who waited for another process and was asked to end has been interrupted as well.
            let asked = matches!(error, Error::Interrupted(_)) || matches!(error, Error::InUse { .. }) && interrupt::pressed();
            if asked { interrupt::exit_code() } else { 1 }
        }
    }
}
