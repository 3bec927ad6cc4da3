//! Prompt files: a system and a user part with named places.
//!
//! A place is written `{name}`; a literal brace is written twice. What is put into a place is never read again, and it stays
//! known who wrote it, so that nothing in a title can open a place or pass for a part of the template.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::base::names;
use crate::{Error, Result};

/// The places that every template has.
const COMMON: [&str; 2] = ["history", "count"];
/// The further place of a paraphrase's template.
const REPLACE: &str = "replace";

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Written by the template's author.
    Ours(String),
    /// Text that others wrote (a title, a category), on one line; see [`one_line`](super::one_line).
    Theirs(String),
}

impl Piece {
    /// The text of the piece.
    pub fn text(&self) -> &str {
        match self {
            Piece::Ours(text) | Piece::Theirs(text) => text,
        }
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Standing instructions.
    System,
    /// The question.
    User,
}

impl Role {
    /// Its name in a conversation.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
        }
    }
}

/// A turn of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Vec<Piece>,
}

impl Message {
    /// The whole turn as text.
    pub fn text(&self) -> String {
        self.content.iter().map(Piece::text).collect()
    }
}

/// What goes into the places of a template.
#[derive(Clone, Debug, Default)]
pub struct Values<'a> {
    /// Lines of the history, oldest first.
    pub history: &'a [String],
    /// Lines of the items to be replaced.
    pub replace: &'a [String],
    /// How many items to name.
    pub count: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Fragment {
    Text(String),
    Place(String),
}

/// One view's prompt file.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    system: Vec<Fragment>,
    user: Vec<Fragment>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    system: String,
    user: String,
}

impl Template {
    /// Reads the text of a prompt file; `name` is for messages, `replaces` says whether it has the place `{replace}`.
    ///
    /// # Errors
    /// [`Error::Data`] for broken TOML, an unknown or missing place, or a lone brace.
    pub fn parse(name: &Path, text: &str, replaces: bool) -> Result<Template> {
        let fail = |line: u64, message: String| Error::Data { path: name.to_path_buf(), line, message };
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |s| 1 + text.as_bytes()[..s.start].iter().filter(|b| **b == b'\n').count() as u64);
            fail(line, format!("is no prompt file: {}; it needs `system` and `user`, both text", e.message().trim()))
        })?;
        let places: Vec<&str> = COMMON.into_iter().chain(replaces.then_some(REPLACE)).collect();
        let parse = |key: &str, text: &str| parts(text.trim(), &places).map_err(|why| fail(0, format!("`{key}`: {why}")));
        let made = Template { system: parse("system", &file.system)?, user: parse("user", &file.user)? };
        for needed in &places {
            let there = made.system.iter().chain(&made.user).any(|p| matches!(p, Fragment::Place(name) if name == needed));
            if !there {
                return Err(fail(0, format!("the place {{{needed}}} is missing; a prompt without it could not be answered")));
            }
        }
        if made.system.iter().any(|p| matches!(p, Fragment::Place(_))) {
            return Err(fail(
                0,
                "`system` has a place; put it into `user`, so that all prompts of a view begin alike and share their start".into(),
            ));
        }
        Ok(made)
    }

    /// The conversation for `values`.
    pub fn messages(&self, values: &Values<'_>) -> Vec<Message> {
        let turn = |role, parts: &[Fragment]| Message { role, content: fill(parts, values) };
        [turn(Role::System, &self.system), turn(Role::User, &self.user)].into_iter().filter(|m| !m.content.is_empty()).collect()
    }
}

fn fill(parts: &[Fragment], values: &Values<'_>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let list = |pieces: &mut Vec<Piece>, lines: &[String]| {
        for (i, line) in lines.iter().enumerate() {
            pieces.push(Piece::Ours(if i == 0 { "- " } else { "\n- " }.into()));
            pieces.push(Piece::Theirs(line.clone()));
        }
    };
    for part in parts {
        match part {
            Fragment::Text(text) => pieces.push(Piece::Ours(text.clone())),
            Fragment::Place(name) => match name.as_str() {
                "count" => pieces.push(Piece::Ours(values.count.to_string())),
                REPLACE => list(&mut pieces, values.replace),
                _ => list(&mut pieces, values.history),
            },
        }
    }
    pieces
}

fn parts(text: &str, places: &[&str]) -> std::result::Result<Vec<Fragment>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => plain.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => plain.push('}'),
            '}' => return Err("a `}` without a `{` before it; write `}}` for a literal brace".into()),
            '{' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        Some('}') => break,
                        Some(c) if c != '{' && c != '\n' => name.push(c),
                        _ => return Err(format!("`{{{name}` is not closed by `}}`; write `{{{{` for a literal brace")),
                    }
                }
                if !places.contains(&name.as_str()) {
                    return Err(names::unknown("place", &name, places.iter().copied()));
                }
                if !plain.is_empty() {
                    parts.push(Fragment::Text(std::mem::take(&mut plain)));
                }
                parts.push(Fragment::Place(name));
            }
            c => plain.push(c),
        }
    }
    if !plain.is_empty() {
        parts.push(Fragment::Text(plain));
    }
    Ok(parts)
}

/// The prompts of all views, and a hash of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompts {
    templates: [Template; 3],
    hashes: [String; 3],
}

/// File names and embedded texts, in the order of [`Prompts`].
const FILES: [(&str, &str); 3] = [
    ("future", include_str!("../../../configs/prompts/future.toml")),
    ("paraphrase", include_str!("../../../configs/prompts/paraphrase.toml")),
    ("counterfactual", include_str!("../../../configs/prompts/counterfactual.toml")),
];

impl Prompts {
    /// The files in `folder`, or the embedded ones.
    ///
    /// # Errors
    /// [`Error::Io`] where a file is missing, [`Error::Data`] where one is wrong.
    pub fn read(folder: Option<&Path>) -> Result<Prompts> {
        let mut templates = Vec::new();
        let mut hashes = Vec::new();
        for (view, (name, embedded)) in FILES.into_iter().enumerate() {
            let path = folder.unwrap_or(Path::new("configs/prompts")).join(format!("{name}.toml"));
            let text = match folder {
                Some(_) => {
                    let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
                    let message = || Error::Data { path: path.clone(), line: 0, message: "is not UTF-8 text; save it as UTF-8".into() };
                    String::from_utf8(bytes).map_err(|_| message())?
                }
                None => embedded.to_owned(),
            };
            let template = Template::parse(&path, &text, view == 1)?;
            // Of what is said, not of the file: comments and blank lines around a part change no view.
            let digest = Sha256::digest(format!("{template:?}").as_bytes());
            hashes.push(hex::encode(&digest[..8]));
            templates.push(template);
        }
        match (templates.try_into(), hashes.try_into()) {
            (Ok(templates), Ok(hashes)) => Ok(Prompts { templates, hashes }),
            _ => Err(Error::Usage("a view has no prompt".into())),
        }
    }

    /// The template of a view.
    pub fn of(&self, part: crate::views::ViewKind) -> &Template {
        &self.templates[place(part)]
    }

    /// Hash of a view's template, in hex.
    pub fn hash(&self, part: crate::views::ViewKind) -> &str {
        &self.hashes[place(part)]
    }
}

fn place(part: crate::views::ViewKind) -> usize {
    match part {
        crate::views::ViewKind::Future => 0,
        crate::views::ViewKind::Paraphrase => 1,
        crate::views::ViewKind::Counterfactual(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "system = \"Say {{x}}.\"\nuser = '''\nAfter\n{history}\nname {count}.\n'''";

    fn refusal(text: &str, replaces: bool) -> String {
        Template::parse(Path::new("p.toml"), text, replaces).unwrap_err().to_string()
    }

    #[test]
    fn places_are_filled_once() {
        let template = Template::parse(Path::new("p.toml"), GOOD, false).unwrap();
        let history = vec!["a {count}".to_string(), "{history}".into()];
        let made = template.messages(&Values { history: &history, count: 3, ..Default::default() });
        assert_eq!((made[0].role, made[0].text().as_str()), (Role::System, "Say {x}."));
        assert_eq!((made[1].role, made[1].text().as_str()), (Role::User, "After\n- a {count}\n- {history}\nname 3."));
        let theirs: Vec<&str> = made[1].content.iter().filter(|p| matches!(p, Piece::Theirs(_))).map(Piece::text).collect();
        assert_eq!(theirs, ["a {count}", "{history}"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, parts) in [
            ("system = \"\"\nuser = \"{histroy} {count}\"", &["histroy", "did you mean `history`"][..]),
            ("system = \"\"\nuser = \"{history}\"", &["{count}", "missing"]),
            ("system = \"\"\nuser = \"{history} {count} }\"", &["`}`"]),
            ("system = \"\"\nuser = \"{history} {count\"", &["not closed"]),
            ("system = \"{count}\"\nuser = \"{history} {count}\"", &["`system` has a place"]),
            ("system = \"\"\nuser = \"{history} {count} {replace}\"", &["replace"]),
            ("system = \"\"", &["user"]),
            ("system = \"\"\nuser = \"{history} {count}\"\nassistant = \"\"", &["assistant"]),
            ("system = \"\"\n\nuser = ", &["p.toml:3"]),
        ] {
            let message = refusal(text, false);
            assert!(parts.iter().all(|p| message.contains(p)), "{message}");
        }
        assert!(refusal(GOOD, true).contains("{replace}"));
    }

    #[test]
    fn embedded_prompts_are_whole_and_folders_replace_them() {
        let own = Prompts::read(None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in FILES {
            std::fs::write(folder.path().join(format!("{name}.toml")), format!("# mine\n{text}\n")).unwrap();
        }
        assert_eq!(Prompts::read(Some(folder.path())).unwrap(), own, "a comment changes no hash");
        std::fs::write(folder.path().join("future.toml"), GOOD).unwrap();
        let other = Prompts::read(Some(folder.path())).unwrap();
        use crate::views::ViewKind;
        assert_ne!(other.hash(ViewKind::Future), own.hash(ViewKind::Future));
        assert_eq!(other.hash(ViewKind::Paraphrase), own.hash(ViewKind::Paraphrase));
        std::fs::remove_file(folder.path().join("paraphrase.toml")).unwrap();
        assert!(Prompts::read(Some(folder.path())).unwrap_err().to_string().contains("paraphrase.toml"));
    }
}
