//! Doors for fuzzing: what reads the words of people, models and endpoints, and files of views. None of these may panic or run for long.

use std::path::Path;
#[cfg(feature = "endpoint")]
use std::time::SystemTime;

#[cfg(feature = "endpoint")]
use super::served::reply;
use super::text::{Matcher, Scratch, Template, Values, answer_lines, one_line, words};
use super::{journal, pack};
use crate::data::{Dataset, ItemText};

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
#[cfg(feature = "endpoint")]
pub fn answer(bytes: &[u8]) {
    if let Ok(answer) = reply::parse(bytes) {
        let _ = answer_lines(&answer.text, 20);
    }
    let text = String::from_utf8_lossy(bytes);
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let _ = reply::retry_after(first, Some(rest), SystemTime::UNIX_EPOCH);
}

/// A file of answers that a batch run has written.
#[cfg(feature = "endpoint")]
pub fn answers(bytes: &[u8]) {
    super::served::batch::fuzz(bytes);
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

/// The data set that `stored` and `journal` read views of.
pub fn world() -> Dataset {
    let tokens = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
    Dataset {
        name: "world".into(),
        fingerprint: "f00d".into(),
        user_tokens: tokens(3),
        item_tokens: tokens(8),
        offsets: vec![0, 3, 7, 12],
        items: vec![0, 1, 2, 3, 4, 5, 6, 7, 0, 2, 4, 6],
        catalogue: vec![ItemText::default(); 8],
        groups: None,
        cuts: None,
        released: None,
        altered: String::new(),
    }
}

/// A `views.safetensors` of [`world`] behind its checksum.
pub fn stored(bytes: &[u8]) {
    let data = world();
    let Ok(views) = pack::decode(bytes, &data) else { return };
    assert_eq!(views.users.len(), data.users());
    let inside = |items: &[u32]| items.iter().all(|i| (*i as usize) < data.item_count());
    assert!(views.users.iter().all(|v| inside(&v.future) && inside(&v.paraphrase) && v.counterfactuals.iter().all(|c| inside(c))));
    for user in 0..data.users() {
        let _ = super::inspect(&data, &views, user);
    }
    assert_eq!(pack::encode(&views).and_then(|bytes| pack::decode(&bytes, &data)), Ok(views));
}

/// A journal of views: records with their checksums, and the body of one record behind them.
pub fn journal(bytes: &[u8]) {
    let data = world();
    for contents in [journal::Contents::parse(bytes), Some(journal::Contents::of_body(bytes))] {
        let Some(mut contents) = contents else { continue };
        let _ = contents.count();
        for (_, made) in contents.views(Path::new("journal"), TABLE, data.users(), data.item_count()).unwrap_or_default() {
            assert!(made.sequence.iter().all(|i| (*i as usize) < data.item_count()));
        }
    }
}

/// Name of the table in [`a_journal`].
const TABLE: &str = "0123456789abcdef";

/// A journal with views of two users of [`world`] and a sum; and the body of one of its records.
pub fn a_journal() -> [Vec<u8>; 2] {
    journal::example(TABLE)
}
