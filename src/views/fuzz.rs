//! Doors for fuzzing: what reads the words of people, models and endpoints. None of these may panic or run for long.

use std::path::Path;
use std::time::SystemTime;

use super::served::reply;
use super::text::{Matcher, Scratch, Template, Values, answer_lines, one_line, words};

/// A prompt file, filled with titles: they are parted by zero bytes.
pub fn prompt(bytes: &[u8]) {
    let mut parts = bytes.split(|b| *b == 0).map(|b| String::from_utf8_lossy(b).into_owned());
    let text = parts.next().unwrap_or_default();
    let titles: Vec<String> = parts.map(|t| one_line(&t, 80)).collect();
    for replaces in [false, true] {
        if let Ok(template) = Template::parse(Path::new("prompt.toml"), &text, replaces) {
            let made = template.messages(&Values { history: &titles, replace: &titles, count: titles.len() });
            made.iter().for_each(|message| drop(message.text()));
        }
    }
}

/// What an endpoint sends back: a completion, and as `Retry-After` and `Date`.
pub fn answer(bytes: &[u8]) {
    if let Ok(answer) = reply::parse(bytes) {
        let _ = answer_lines(&answer.text, 20);
    }
    let text = String::from_utf8_lossy(bytes);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = reply::retry_after(first, Some(rest), SystemTime::UNIX_EPOCH);
}

/// A catalogue, line by line up to the first zero byte, and an answer that is grounded in it.
pub fn grounding(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (catalogue, answer) = text.split_once('\0').unwrap_or((&text, &text));
    let lines: Vec<String> = catalogue.lines().take(100).map(|line| one_line(line, 120)).collect();
    let matcher = Matcher::new(&lines);
    let mut scratch = Scratch::default();
    for line in answer_lines(answer, 20) {
        let _ = (matcher.best(&line, |_| true, &mut scratch), words(&line).count());
    }
}
