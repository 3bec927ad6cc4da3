//! A user's history and views as text that one can read.

use std::fmt::Write;

use super::Views;
use crate::base::clean;
use crate::base::names;
use crate::data::{Dataset, ItemText};
use crate::{Error, Result};

/// Columns of a title and of a category that are shown.
const TITLE: usize = 46;
const CATEGORY: usize = 22;

/// The history of `user` and its views, item by item. `+` marks what a future appends, `~` what a paraphrase puts in another
/// item's place, `<>` what it moves, `x` what a counterfactual puts there.
///
/// # Errors
/// [`Error::Usage`] where there is no such user or no views of it.
pub fn inspect(data: &Dataset, views: &Views, user: usize) -> Result<String> {
    if user >= data.users() {
        return Err(Error::Usage(format!("user {user} does not exist; `{}` has users 0 to {}", data.name, data.users().saturating_sub(1))));
    }
    let Some(found) = views.get(user) else {
        return Err(Error::Usage(format!("user {user} has no views; build some with a generator other than `none`")));
    };
    let history = data.train(user);
    let mut out = String::new();
    let token = data.user_tokens.get(user).map_or("", String::as_str);
    let _ = writeln!(out, "user {} (index {user}) of {}, {} training items", clean::id(token), data.name, history.len());
    section(&mut out, data, "history", history, |_, _| "");
    let appended = found.future.len().saturating_sub(history.len());
    let title = format!("future: {appended} appended");
    section(&mut out, data, &title, found.future.get(history.len()..).unwrap_or_default(), |_, _| "+");
    let mark = |place: usize, item: u32| match (history.get(place) == Some(&item), history.contains(&item)) {
        (true, _) => "",
        (false, true) => "<>",
        (false, false) => "~",
    };
    let count = |wanted: &str| found.paraphrase.iter().enumerate().filter(|(place, item)| mark(*place, **item) == wanted).count();
    let title = format!("paraphrase: {} replaced (~), {} moved (<>)", count("~"), count("<>"));
    section(&mut out, data, &title, &found.paraphrase, mark);
    for (index, sequence) in found.counterfactuals.iter().enumerate() {
        let number = if found.counterfactuals.len() > 1 { format!(" {}", index + 1) } else { String::new() };
        section(&mut out, data, &format!("counterfactual{number}"), sequence, |_, _| "x");
    }
    Ok(out)
}

fn section<'m>(out: &mut String, data: &Dataset, title: &str, items: &[u32], mark: impl Fn(usize, u32) -> &'m str) {
    let _ = writeln!(out, "\n{title}");
    for (place, &item) in items.iter().enumerate() {
        let text = data.catalogue.get(item as usize);
        let token = data.item_tokens.get(item as usize).map_or("", String::as_str);
        let name = text.map(|t| t.title.as_str()).filter(|t| !t.trim().is_empty()).unwrap_or(token);
        let name = clean::line(name.trim(), TITLE);
        let pad = " ".repeat(TITLE.saturating_sub(clean::columns(&name)));
        let line = format!("{:>3} {:<2} {name}{pad}  {}", place + 1, mark(place, item), category(text));
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The two narrowest categories.
fn category(text: Option<&ItemText>) -> String {
    let all = text.map(|t| t.categories.as_slice()).unwrap_or_default();
    let narrow: Vec<String> = all[all.len().saturating_sub(2)..].iter().map(|c| clean::line(c.trim(), CATEGORY)).collect();
    narrow.join(" > ")
}

/// The index of the user with this token.
///
/// # Errors
/// [`Error::Usage`] with the nearest token where there is none.
pub fn user_matching(data: &Dataset, token: &str) -> Result<usize> {
    if let Some(user) = data.user_tokens.iter().position(|t| t == token) {
        return Ok(user);
    }
    let hint = names::hint(token, data.user_tokens.iter().map(String::as_str));
    Err(Error::Usage(format!("--user: data set `{}` has no user `{}`{hint}", data.name, clean::id(token))))
}
