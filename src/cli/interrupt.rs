//! Ctrl-C, and the signals by which a batch system announces the end of a job: the first lets the round, or the views under way, end; the
//! second ends the program at once. Files are whole either way, for each is renamed into place when it is complete. A command that has nothing
//! to save ends at the first.

use super::output;
use crate::base::unfinished;
use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
/// Whether the first signal ends the program.
static AT_ONCE: AtomicBool = AtomicBool::new(false);
/// Whether signals are passed over in silence: another process decides, and speaks.
static QUIET: AtomicBool = AtomicBool::new(false);
/// Number of the first signal; 0 before it.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Starts to listen; the flag is set by the first signal.
///
/// # Errors
/// [`Error::Usage`] where the system does not let us.
pub fn listen() -> Result<&'static AtomicBool> {
    start().map_err(|e| Error::Usage(format!("cannot listen for signals: {e}")))?;
    Ok(&STOP)
}

/// For a command that has nothing to save: the first signal ends the program, with a message and without what is half-written.
///
/// # Errors
/// As for [`listen`].
pub fn end_at_the_first() -> Result<()> {
    AT_ONCE.store(true, Ordering::SeqCst);
    listen().map(drop)
}

/// For a process that works for another one: the flag is set without a word.
///
/// # Errors
/// As for [`listen`].
pub fn listen_quietly() -> Result<&'static AtomicBool> {
    QUIET.store(true, Ordering::SeqCst);
    listen()
}

/// Ends the program from the thread that listens.
fn leave() -> ! {
    unfinished::remove_all();
    output::complain(&Error::Interrupted("what was half-written is removed; run the same command again".into()));
    signal_hook::low_level::exit(exit_code().into())
}

#[cfg(unix)]
fn start() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    /// `timeout` signals its child and then its group, so that the child has the same signal twice.
    const ECHO: Duration = Duration::from_millis(100);
    // By default a write beyond `ulimit -f` kills; handled, it fails and is reported as any other.
    signal_hook::flag::register(SIGXFSZ, Arc::default())?;
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGUSR1])?;
    let work = move || {
        let mut first: Option<(i32, Instant)> = None;
        for signal in signals.forever() {
            match first {
                Some((before, when)) if before == signal && when.elapsed() < ECHO => {}
                // Rank 0 ends the work, at its first signal or at its second.
                Some(_) if QUIET.load(Ordering::SeqCst) => {}
                Some(_) => signal_hook::low_level::exit(128 + signal),
                None => {
                    first = Some((signal, Instant::now()));
                    SIGNAL.store(signal, Ordering::SeqCst);
                    STOP.store(true, Ordering::SeqCst);
                    if AT_ONCE.load(Ordering::SeqCst) {
                        leave();
                    }
                    let (name, again) = match signal {
                        SIGTERM => ("SIGTERM", "a second signal stops at once"),
                        SIGUSR1 => ("SIGUSR1", "a second signal stops at once"),
                        _ => ("Ctrl-C", "press it again to stop at once"),
                    };
                    if QUIET.load(Ordering::SeqCst) {
                        continue;
                    }
                    output::remark(&format!("{name}: stopping once what is under way is saved; {again}"));
                }
            }
        }
    };
    std::thread::Builder::new().name("lumos-signals".into()).spawn(work).map(drop)
}

/// Ctrl-C alone, and without a word: nothing else can be heard here.
#[cfg(not(unix))]
fn start() -> std::io::Result<()> {
    use signal_hook::consts::SIGINT;
    use std::sync::Arc;
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, flag.clone())?;
    signal_hook::flag::register(SIGINT, flag.clone())?;
    let work = move || {
        while !flag.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        STOP.store(true, Ordering::SeqCst);
        if AT_ONCE.load(Ordering::SeqCst) {
            leave();
        }
    };
    std::thread::Builder::new().name("lumos-signals".into()).spawn(work).map(drop)
}

/// Whether a signal came since [`listen`].
pub fn pressed() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Exit code by which a batch system learns that what was under way is saved and is to be started again (`EX_TEMPFAIL`).
const AGAIN: u8 = 75;
/// Number of SIGINT, which a person sends.
const INTERRUPT: i32 = 2;

/// The exit code of a program that was asked to end: 128 and the number of the signal; 75 where a batch system asked, or several processes
/// are at work. Any of them may have had the signal.
pub fn exit_code() -> u8 {
    match SIGNAL.load(Ordering::SeqCst) {
        signal if signal != INTERRUPT && (crate::cluster::in_batch_job() || super::ranks::together()) => AGAIN,
        0 => 130,
        signal => u8::try_from(128 + signal).unwrap_or(130),
    }
}

/// Adds to an interruption, or to the failure of a device, how to go on: the same command, with `flag` where it is not there yet.
pub fn how_to_resume(error: Error, flag: Option<&str>) -> Error {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let go_on = |what: String| format!("{what}; go on with: {}", command_line(words.collect(), flag));
    match error {
        Error::Interrupted(what) => Error::Interrupted(go_on(what)),
        Error::Stopped { source, saved } => Error::Stopped { source, saved: go_on(saved) },
        other => other,
    }
}

/// `lumos` with `words` and `flag` as a shell takes them.
pub fn command_line(mut words: Vec<String>, flag: Option<&str>) -> String {
    if let Some(flag) = flag.filter(|flag| !words.iter().any(|w| w == flag)) {
        // Behind `--` it would be taken for a file.
        let place = words.iter().position(|w| w == "--").unwrap_or(words.len());
        words.insert(place, flag.into());
    }
    words.insert(0, "lumos".into());
    // No word of a command line holds a zero byte, which is all that cannot be quoted.
    words.iter().map(|word| shlex::try_quote(word).unwrap_or(word.into())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn a_shell_reads_the_words_that_were_given() {
        let words =
            ["train", "my runs/a b.toml", "--out", "it's", "--set", "data.name=\"$HOME `x`\"", "", "line\nend", "ünï", "*", "~/x", "!1"];
        let words: Vec<String> = words.map(String::from).to_vec();
        let line = command_line(words.clone(), Some("--resume"));
        assert!(line.starts_with("lumos train ") && line.ends_with(" --resume"), "{line}");
        let expected = [&["lumos".to_string()], &words[..], &["--resume".to_string()]].concat();
        assert_eq!(shlex::split(&line).unwrap(), expected);
        #[cfg(unix)]
        {
            let script = format!("set -- {line}; printf '%s\\037' \"$@\"");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let seen = String::from_utf8(output.stdout).unwrap();
            assert_eq!(seen.strip_suffix('\u{1f}').unwrap().split('\u{1f}').collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn plain_words_stay_plain_and_the_flag_is_given_once() {
        let line = |words: &[&str]| command_line(words.iter().map(|w| w.to_string()).collect(), Some("--resume"));
        assert_eq!(line(&["train", "c.toml", "--out", "runs/a"]), "lumos train c.toml --out runs/a --resume");
        assert_eq!(line(&["train", "--resume", "c.toml"]), "lumos train --resume c.toml");
        assert_eq!(line(&["train", "--", "c.toml"]), "lumos train --resume -- c.toml");
    }
}
