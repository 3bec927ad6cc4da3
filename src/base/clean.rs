//! Foreign text on a terminal: ids, titles, headers, file names and words of a server cannot move the cursor, turn the reading direction,
//! hide, break a line or flood the screen.

use std::path::Path;
use unicode_width::UnicodeWidthChar;

/// Columns of an id, a header or a value that a message quotes.
const QUOTED: usize = 60;

/// Characters of a word in a message, and of a message.
const WORD: usize = 400;
const MESSAGE: usize = 8000;

/// Stands for a control character, so that a reader sees that there is something.
const MARK: char = '\u{fffd}';

/// `text` on one line of at most `width` columns; what is longer ends with an ellipsis. Cleaning it again changes nothing.
pub fn line(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len().min(4 * width.min(1024)));
    // Marks that combine take no column, so characters are counted as well.
    let (mut columns, most) = (0, width.saturating_mul(4));
    for (count, c) in cleaned(text).map(|c| if c == '\n' { ' ' } else { c }).enumerate() {
        columns += c.width().unwrap_or(0);
        if columns > width || count >= most {
            return cut(out, width);
        }
        out.push(c);
    }
    out
}

/// `text` with its last character replaced until it fits `width` columns with an ellipsis.
fn cut(mut text: String, width: usize) -> String {
    if width == 0 {
        return String::new();
    }
    while columns(&text) >= width || text.chars().count() >= width.saturating_mul(4) || text.ends_with(' ') {
        text.pop();
    }
    text.push('\u{2026}');
    text
}

/// An id, a header or a value as a message quotes it: one line, cut.
pub fn id(text: &str) -> String {
    line(text, QUOTED)
}

/// A path on one line, whole: it may have to be copied.
pub fn path(path: &Path) -> String {
    line(&path.to_string_lossy(), usize::MAX)
}

/// A whole message or table: its line breaks are meant, everything else is cleaned.
pub fn lines(text: &str) -> String {
    cleaned(text).collect()
}

/// A message, whose line breaks are meant: cleaned, and neither a word in it nor the whole floods the screen.
pub fn message(text: &str) -> String {
    let short = lines(text).split_inclusive([' ', '\n']).map(word).collect::<String>();
    if short.chars().count() <= MESSAGE { short } else { short.chars().take(MESSAGE).chain(['\u{2026}']).collect() }
}

/// A word with the blank or line break behind it, cut where it is longer than any word of ours or most paths.
fn word(text: &str) -> String {
    if text.chars().count() <= WORD {
        return text.to_string();
    }
    let end = text.chars().last().filter(|c| c.is_whitespace());
    line(text, WORD).trim_end().chars().chain(end).collect()
}

/// Columns that cleaned text takes on a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// Characters of `text` with line breaks as `\n`, other white space as blanks, control characters as [`MARK`] and without
/// [`hidden`] ones. Joiners between characters beyond ASCII stay: Persian, Indic scripts and emoji are written with them.
fn cleaned(text: &str) -> impl Iterator<Item = char> + '_ {
    let (mut chars, mut last) = (text.chars().peekable(), ' ');
    std::iter::from_fn(move || {
        loop {
            let c = chars.next()?;
            let joins = |c: char| !c.is_ascii() && !c.is_control() && !c.is_whitespace() && !hidden(c) && c != MARK;
            let shown = match c {
                '\n' => c,
                '\u{200c}' | '\u{200d}' if joins(last) && chars.peek().is_some_and(|next| joins(*next)) => c,
                c if hidden(c) => continue,
                '\t' => ' ',
                c if c.is_control() => MARK,
                c if c.is_whitespace() => ' ',
                c => c,
            };
            last = shown;
            return Some(shown);
        }
    })
}

/// Whether `c` has no shape of its own and changes how others read: Unicode's category Cf, line and paragraph separators, fillers and
/// Mongolian selectors.
pub fn hidden(c: char) -> bool {
    matches!(u32::from(c), 0xAD | 0x34F | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x890 | 0x891 | 0x8E2 | 0x115F | 0x1160 | 0x17B4 | 0x17B5
        | 0x180B..=0x180F | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFFB | 0x110BD
        | 0x110CD | 0x13430..=0x1343F | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_moves_hides_or_floods() {
        assert_eq!(id("<b>i29</b>\u{1b}]0;pwned\u{7}"), "<b>i29</b>\u{fffd}]0;pwned\u{fffd}");
        assert_eq!(id("\u{1b}[31mRED\u{9b}0m"), "\u{fffd}[31mRED\u{fffd}0m");
        assert_eq!(id("a\rOVERWRITE\n\tx\u{85}\u{2028}y"), "a\u{fffd}OVERWRITE  x\u{fffd}y");
        assert_eq!(id("\u{202e}evil\u{202c} so\u{ad}ap\u{feff} \u{e0041}"), "evil soap ");
        assert_eq!(line(&"A".repeat(3000), 10), "AAAAAAAAA\u{2026}");
        assert!(line(&"e\u{301}".repeat(3000), 10).chars().count() <= 40, "marks that combine take no column");
        assert!(line(&"\u{301}".repeat(3000), 10).chars().count() <= 40);
        assert_eq!(line("abc def", 5), "abc\u{2026}");
        assert_eq!(line("abc", 3), "abc");
        assert_eq!((line("abc", 1), line("abc", 0)), ("\u{2026}".into(), String::new()));
        assert_eq!(lines("one\ntwo\r\n\u{1b}[2J"), "one\ntwo\u{fffd}\n\u{fffd}[2J");
        assert_eq!(message("a\n\u{1b} b"), "a\n\u{fffd} b");
        assert_eq!(message(&format!("no `{}` here", "x".repeat(3000))).chars().count(), 400 + 8);
        assert!(message(&"word ".repeat(3000)).chars().count() <= 8001);
        assert_eq!(path(Path::new("data/a\nb\u{1b}c")), "data/a b\u{fffd}c");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(columns("日本語"), 6);
        assert_eq!(line("日本語タイトル", 7), "日本語\u{2026}");
        assert_eq!(line("日本語タイトル", 8), "日本語\u{2026}");
        assert_eq!(line("日本語", 6), "日本語");
    }

    #[test]
    fn scripts_that_join_keep_their_joiners() {
        for word in ["می\u{200c}خواهم", "क\u{94d}\u{200d}ष", "👩\u{200d}👩\u{200d}👧"] {
            assert_eq!(id(word), word);
        }
        assert_eq!(id("a\u{200d}b\u{200c}é\u{200d}"), "abé");
        assert_eq!(id("é\u{200d}\u{200d}é"), "é\u{200d}é", "a row of joiners is one");
    }

    proptest! {
        #[test]
        fn any_text_is_a_line(text in "(?s:.){0,60}|[a\u{301}\u{200d}\u{202e}\u{1b}\n é日]{0,60}", width in 0usize..40) {
            let one = line(&text, width);
            prop_assert!(columns(&one) <= width && one.chars().count() <= 4 * width);
            prop_assert!(!one.chars().any(|c| c.is_control() || c == '\n'), "{one:?}");
            let bare: Vec<char> = one.chars().filter(|c| hidden(*c)).collect();
            prop_assert!(bare.iter().all(|c| "\u{200c}\u{200d}".contains(*c)), "{one:?}");
            prop_assert_eq!(&line(&one, width), &one);
            prop_assert!(!lines(&text).chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
