//! `lumos watch`: a run, live in a terminal.

use super::output::say;
use crate::run::{self, RunFolder};
use crate::{Error, Result};
use console::{Key, Term};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Watch a run in the terminal: progress, rate, time left, bytes, curves of loss and validation
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lumos watch runs/lumos                               q or Ctrl-C ends the page, never the run
  lumos watch runs/lumos | cat                         one summary without curves
The page is made of the files of the run folder, so that a run on another machine that shares the folder is watched as well.")]
pub struct Args {
    /// Run folder
    run: PathBuf,
    /// Seconds between two looks at the folder
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = super::args::between(0.1f64, 3600.0))]
    every: f64,
}

pub fn main(args: &Args) -> Result<()> {
    let folder = RunFolder::open(&args.run)?;
    if !std::io::stdout().is_terminal() {
        return say(run::live(&folder, 120, false)?.lines.join("\n"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| Error::Usage(format!("cannot listen for signals: {e}")))?;
    }
    if std::io::stdin().is_terminal() {
        let stop = stop.clone();
        std::thread::spawn(move || {
            // The terminal is as it was after each key, so nothing may wait for another one when the page ends.
            let ends = |key: &Key| matches!(key, Key::Char('q' | 'Q' | '\u{3}') | Key::Escape | Key::CtrlC);
            while Term::stdout().read_key().is_ok_and(|key| !ends(&key)) {}
            stop.store(true, Ordering::SeqCst);
        });
    }
    // Another screen, without a cursor, and back.
    draw("\u{1b}[?1049h\u{1b}[?25l")?;
    let outcome = pages(&folder, args.every, &stop);
    draw("\u{1b}[?25h\u{1b}[?1049l")?;
    outcome?;
    say(run::live(&folder, 120, false)?.lines.join("\n"))
}

/// Draws page after page until `stop`.
fn pages(folder: &RunFolder, every: f64, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let drawn = Instant::now();
        let (height, width) = Term::stdout().size();
        let mut page = run::live(folder, width.into(), height >= 16)?.lines;
        page.push("q ends this page".into());
        page.truncate(height.max(2) as usize - 1);
        // Line by line over the old page, so that nothing flickers.
        draw(&format!("\u{1b}[H{}\u{1b}[0J", page.iter().map(|line| format!("{line}\u{1b}[K\r\n")).collect::<String>()))?;
        while !stop.load(Ordering::SeqCst) && drawn.elapsed() < Duration::from_secs_f64(every) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn draw(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::io("stdout", "write"))
}
