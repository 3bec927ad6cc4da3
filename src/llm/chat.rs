//! Conversations as a model was trained on them: its chat template, and text that others wrote stays inside its place.
//!
//! A catalogue's titles are untrusted: one may say `<|im_start|>system`. Such text is made harmless before the template sees it,
//! and the finished prompt is counted: it must hold exactly the control tokens of the same prompt without that text.

use super::tokenizer::{Control, Tokenizer};
use crate::{Error, Result};
use minijinja::{Environment, ErrorKind, Value, context};
use std::path::{Path, PathBuf};

/// A piece of a message.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Written by us: a prompt file.
    Ours(&'a str),
    /// Text that others wrote: a title, a category.
    Theirs(&'a str),
}

/// One turn of a conversation.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// What is said.
    pub content: Vec<Piece<'a>>,
}

/// How a folder's model wants conversations written.
pub struct Chat {
    path: PathBuf,
    /// The template; `None` for a model that was not trained on conversations.
    template: Option<String>,
    bos: String,
    eos: String,
}

struct Turn<'a> {
    role: &'a str,
    content: String,
}

impl Turn<'_> {
    fn value(&self) -> Value {
        Value::from_pairs([("role", self.role), ("content", &self.content)])
    }
}

/// What `tokenizer_config.json` calls `key`; nothing where it does not say.
fn word(tokenizer: &Tokenizer, key: &str) -> String {
    let value = tokenizer.config.get(key);
    value.and_then(|v| v.as_str().or_else(|| v.get("content")?.as_str())).unwrap_or_default().to_owned()
}

/// Work that a template may do: many times what any published one needs.
const FUEL: u64 = 1_000_000;
/// Bytes of the longest template that is read, and of the longest prompt that it may write.
const MOST_TEMPLATE: usize = 1 << 20;
const MOST_PROMPT: usize = 1 << 24;

/// Takes what a template writes, up to a limit.
struct Written(Vec<u8>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_PROMPT {
            return Err(std::io::Error::other(format!("it writes more than {MOST_PROMPT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Chat {
    /// Reads `chat_template.jinja`, or the template in `tokenizer_config.json`.
    ///
    /// # Errors
    /// Where a template is there and cannot be read or parsed.
    pub fn read(folder: &Path, tokenizer: &Tokenizer) -> Result<Chat> {
        let file = folder.join("chat_template.jinja");
        if !file.is_file() {
            return Chat::of(&folder.join("tokenizer_config.json"), tokenizer);
        }
        let text = std::fs::read_to_string(&file).map_err(Error::io(&file, "read"))?;
        Chat::new(file, Some(text), word(tokenizer, "bos_token"), word(tokenizer, "eos_token"))
    }

    /// With the template in the `tokenizer_config.json` of `tokenizer`, which was read from `path`.
    ///
    /// # Errors
    /// Where a template is there and cannot be parsed.
    pub(super) fn of(path: &Path, tokenizer: &Tokenizer) -> Result<Chat> {
        let template = tokenizer.config.get("chat_template").and_then(|t| {
            let named = |name: &str| t.as_array()?.iter().find(|e| e.get("name").and_then(|n| n.as_str()) == Some(name))?.get("template");
            t.as_str().or_else(|| named("default")?.as_str())
        });
        Chat::new(path.into(), template.map(str::to_owned), word(tokenizer, "bos_token"), word(tokenizer, "eos_token"))
    }

    /// With a template read from `path`, and the model's first and last token of a text.
    ///
    /// # Errors
    /// Where the template cannot be parsed.
    pub(super) fn new(path: PathBuf, template: Option<String>, bos: String, eos: String) -> Result<Chat> {
        let chat = Chat { path, template, bos, eos };
        if let Some(template) = &chat.template {
            if template.len() > MOST_TEMPLATE {
                let message = format!("the chat template has {} bytes, {MOST_TEMPLATE} is the most", template.len());
                return Err(Error::mismatch(&chat.path, message));
            }
            chat.environment()?.template_from_str(template).map_err(|e| chat.failed(&e))?;
        }
        Ok(chat)
    }

    /// Whether the model has a template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    fn failed(&self, e: &minijinja::Error) -> Error {
        Error::mismatch(&self.path, format!("the chat template fails: {}", super::shown(&e.to_string())))
    }

    fn environment(&self) -> Result<Environment<'_>> {
        let mut env = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| self.failed(&e))?);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        // Templates date the conversation with it. A prompt must not change from day to day.
        env.add_function("strftime_now", |_format: String| String::new());
        Ok(env)
    }

    fn render(&self, template: &str, turns: &[Turn<'_>]) -> Result<String> {
        let env = self.environment()?;
        let values = context! { messages => turns.iter().map(Turn::value).collect::<Vec<_>>(), add_generation_prompt => true, bos_token => self.bos.as_str(), eos_token => self.eos.as_str(), enable_thinking => false };
        let mut written = Written(Vec::new());
        let done = env.template_from_str(template).and_then(|t| t.render_captured_to(&values, &mut written).map(drop));
        match done {
            Ok(()) => {
                let text = String::from_utf8_lossy(&written.0).into_owned();
                // Some templates pass over a system turn in silence.
                let said = |text: &str| turns.first().is_none_or(|t| text.contains(t.content.trim()));
                match folded(turns).filter(|_| !said(&text)) {
                    Some(folded) => Ok(self.render(template, &folded).ok().filter(|text| said(text)).unwrap_or(text)),
                    None => Ok(text),
                }
            }
            // Gemma and early Mistral templates refuse a system turn.
            Err(e) => folded(turns).map_or_else(|| Err(self.failed(&e)), |folded| self.render(template, &folded)),
        }
    }

    /// The prompt's text, ready for the answer; messages one after another where the model has no template.
    fn text(&self, messages: &[Message<'_>], tokenizer: &Tokenizer, theirs: bool) -> Result<String> {
        let turns: Vec<Turn<'_>> = messages
            .iter()
            .map(|m| {
                let pieces = m.content.iter().map(|p| match p {
                    Piece::Ours(text) => (*text).to_owned(),
                    Piece::Theirs(text) if theirs => harmless(text, tokenizer),
                    Piece::Theirs(_) => String::new(),
                });
                Turn { role: m.role, content: pieces.collect() }
            })
            .collect();
        match &self.template {
            Some(template) => self.render(template, &turns),
            None => Ok(turns.into_iter().map(|t| t.content).collect::<Vec<_>>().join("\n")),
        }
    }

    /// A conversation of a system and a user turn as text, up to where the answer begins: what a template puts there can be seen.
    ///
    /// # Errors
    /// Where the template fails.
    pub fn sample(&self, tokenizer: &Tokenizer) -> Result<String> {
        let turn = |role| Message { role, content: vec![Piece::Ours("...")] };
        self.text(&[turn("system"), turn("user")], tokenizer, true)
    }

    /// Tokens of a conversation up to where the answer begins.
    ///
    /// # Errors
    /// Where the template fails, or foreign text would have become a control token.
    pub fn prompt(&self, messages: &[Message<'_>], tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        // A template writes its own first token.
        let encode = |text: &str| match &self.template {
            Some(_) => tokenizer.encode(text, Control::Token),
            None => tokenizer.encode_whole(text, Control::Token),
        };
        let tokens = encode(&self.text(messages, tokenizer, true)?)?;
        let bare = encode(&self.text(messages, tokenizer, false)?)?;
        // Characters that the tokenizer does not know become a token that is harmless and counts as special.
        let unknown = tokenizer.unknown();
        let is_control = |t: &u32| tokenizer.is_special(*t) && Some(*t) != unknown;
        let control = |tokens: &[u32]| tokens.iter().copied().filter(is_control).collect::<Vec<_>>();
        if control(&tokens) != control(&bare) {
            let message = "a title or category would have become a control token of the model; leave the item out".to_owned();
            return Err(Error::Usage(message));
        }
        Ok(tokens)
    }
}

/// The turns with the system's text at the head of the first user turn; `None` where there is none to put there.
fn folded<'a>(turns: &[Turn<'a>]) -> Option<Vec<Turn<'a>>> {
    match turns {
        [system, user, rest @ ..] if system.role == "system" && user.role == "user" => {
            let mut folded = vec![Turn { role: "user", content: format!("{}\n\n{}", system.content, user.content) }];
            folded.extend(rest.iter().map(|t| Turn { role: t.role, content: t.content.clone() }));
            Some(folded)
        }
        _ => None,
    }
}

/// `text` on one line, without control characters, and with a blank inside whatever is written like a control token.
pub fn harmless(text: &str, tokenizer: &Tokenizer) -> String {
    let blank = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for word in text.split(blank).filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    // Breaking one token can complete another, so until none is left; every pass separates characters that stood together.
    while let Some((at, length)) = tokenizer.special().iter().find_map(|(_, s)| {
        let first = s.chars().next()?.len_utf8();
        (s.len() > first).then(|| out.find(s.as_str()).map(|at| (at, first)))?
    }) {
        out.insert(at + length, ' ');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(template: &str) -> Result<String> {
        let tokenizer = Tokenizer::of_bytes()?;
        let chat = Chat::new("chat_template.jinja".into(), Some(template.into()), "<s>".into(), "</s>".into())?;
        let turn = |role, words| Message { role, content: vec![Piece::Ours(words)] };
        tokenizer.decode(&chat.prompt(&[turn("system", "Name items."), turn("user", "After A?")], &tokenizer)?)
    }

    #[test]
    fn a_system_turn_that_a_template_refuses_or_drops_leads_the_user_turn() {
        let turns = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";
        assert_eq!(text(turns).unwrap(), "[system:Name items.][user:After A?]");
        let folded = "[user:Name items.\n\nAfter A?]";
        let refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        assert_eq!(text(&format!("{refuses}{turns}")).unwrap(), folded);
        let drops = turns.replace("in messages", "in messages if m.role != 'system'");
        assert_eq!(text(&drops).unwrap(), folded);
        let message = text("{{ raise_exception('never') }}").unwrap_err().to_string();
        assert!(message.contains("chat template fails") && message.contains("never"), "{message}");
    }

    #[test]
    fn a_template_ends_whatever_it_does() {
        for template in [
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{% for i in range(99999) %}{{ 'x' * 99999999 }}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ] {
            assert!(text(template).is_err(), "{template}");
        }
        let long = "x".repeat(MOST_TEMPLATE + 1);
        assert!(text(&long).unwrap_err().to_string().contains(&MOST_TEMPLATE.to_string()));
        assert!(text(&format!("{}{}{}", "{{ ", "(".repeat(10_000), " }}")).is_err());
    }
}
