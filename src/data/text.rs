//! Small text work on catalogue fields: outer quotes, HTML entities, lists.

use std::borrow::Cow;

/// A field without the outer quotes that a CSV writer put around it (inner quotes doubled). A field whose quotes do not
/// fit that pattern is text and stays as it is.
pub(super) fn unquote(field: &str) -> Cow<'_, str> {
    let field = field.trim();
    let Some(inner) = field.strip_prefix('"').and_then(|f| f.strip_suffix('"')) else { return Cow::Borrowed(field) };
    if !inner.contains('"') {
        return Cow::Borrowed(inner);
    }
    let single = inner.replace("\"\"", "\u{0}");
    if single.contains('"') { Cow::Borrowed(field) } else { Cow::Owned(single.replace('\u{0}', "\"")) }
}

/// A readable title: outer quotes gone, the commonest HTML entities resolved, blanks trimmed.
pub(super) fn clean(field: &str) -> String {
    let text = unquote(field);
    if !text.contains('&') {
        return text.trim().to_owned();
    }
    let mut out = text.into_owned();
    // `&amp;` last, so that a doubly escaped `&amp;lt;` is resolved once only.
    for (entity, plain) in [("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&apos;", "'"), ("&lt;", "<"), ("&gt;", ">")] {
        out = out.replace(entity, plain);
    }
    out.replace("&nbsp;", " ").replace("&amp;", "&").trim().to_owned()
}

/// How a list without quotes is cut.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum ListStyle {
    /// At blanks (`token_seq`).
    Blanks,
    /// At `|`, else the whole field is one entry.
    Bars,
}

/// The entries of a list: quoted entries with commas between them (`'a', "b's"`, brackets optional), else entries cut as
/// `style` says. Empty entries are dropped.
pub(super) fn list(field: &str, style: ListStyle) -> Vec<String> {
    let outer = unquote(field);
    let text = outer.trim();
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text).trim();
    let entries: Vec<String> = match quoted_list(text) {
        Some(entries) => entries,
        None if style == ListStyle::Blanks => text.split_whitespace().map(str::to_owned).collect(),
        None => text.split('|').map(str::to_owned).collect(),
    };
    entries.into_iter().map(|e| clean(&e)).filter(|e| !e.is_empty()).collect()
}

/// `'a', "b"` as its entries; `None` where the text is not wholly of that form. A backslash escapes the next character.
fn quoted_list(text: &str) -> Option<Vec<String>> {
    let mut chars = text.chars().peekable();
    let mut entries = Vec::new();
    loop {
        let quote = chars.next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut entry = String::new();
        loop {
            match chars.next()? {
                '\\' => entry.push(chars.next()?),
                c if c == quote => break,
                c => entry.push(c),
            }
        }
        entries.push(entry);
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        match chars.next() {
            None => return Some(entries),
            Some(',') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            Some(_) => return None,
        }
    }
}

/// Joins `parts` with `|`; a `|` or `\` inside a part gets a backslash before it.
pub(super) fn join_bars(parts: &[String]) -> String {
    let escaped: Vec<String> = parts.iter().map(|p| p.replace('\\', "\\\\").replace('|', "\\|")).collect();
    escaped.join("|")
}

/// Undoes [`join_bars`] (no entries for empty text).
pub(super) fn split_bars(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = parts.len() - 1;
        match c {
            '|' => parts.push(String::new()),
            '\\' => parts[last].extend(chars.next()),
            c => parts[last].push(c),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_quotes_go_only_where_they_are_a_writers() {
        assert_eq!(unquote("\"a \"\"b\"\" c\""), "a \"b\" c");
        assert_eq!(unquote("\"a\" and \"b\""), "\"a\" and \"b\"");
        assert_eq!(unquote("\""), "\"");
        assert_eq!(unquote("\"- "), "\"-");
    }

    #[test]
    fn lists_of_every_style() {
        let words = |s: &[&str]| s.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        assert_eq!(list("'Beauty', 'Hair Care', 'Gels & Lotions'", ListStyle::Blanks), words(&["Beauty", "Hair Care", "Gels & Lotions"]));
        assert_eq!(list("\"'Beauty', \"\"Women's\"\", 'Eau'\"", ListStyle::Blanks), words(&["Beauty", "Women's", "Eau"]));
        assert_eq!(list("['a, b', 'c']", ListStyle::Bars), words(&["a, b", "c"]));
        assert_eq!(list("Animation Children's Comedy", ListStyle::Blanks), words(&["Animation", "Children's", "Comedy"]));
        assert_eq!(list("Home & Garden|Pots", ListStyle::Bars), words(&["Home & Garden", "Pots"]));
        assert_eq!(list("", ListStyle::Blanks), words(&[]));
        assert_eq!(list("'broken", ListStyle::Bars), words(&["'broken"]));
    }

    #[test]
    fn bars_round_trip() {
        for parts in [vec![], vec!["a|b".to_string(), "c\\".into(), "\\|".into()], vec!["x".into()]] {
            assert_eq!(split_bars(&join_bars(&parts)), parts);
        }
    }

    #[test]
    fn entities_become_characters() {
        assert_eq!(clean(" Salt &amp; Pepper 5&quot; "), "Salt & Pepper 5\"");
        assert_eq!(clean("&amp;lt;"), "&lt;");
    }
}
