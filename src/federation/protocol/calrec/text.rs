//! Histories and items as tokens.
//!
//! An item is a line: a mark, its title with its narrowest categories, a line's end. A history is a heading and the lines of its items; what follows
//! it is the mark alone, so that the model goes on with an item.

use crate::config::TextSettings;
use crate::data::ItemText;
use crate::llm::{Control, Tokenizer};
use crate::views::text::{Matcher, Names};
use crate::{Error, Result};

/// What stands before the lines of a history.
const HEADING: &str = "Items in the order in which one person took them:\n";

/// The mark that begins a line.
const MARK: &str = "-";

/// The catalogue as lines of tokens.
pub struct Lines {
    heading: Vec<u32>,
    mark: Vec<u32>,
    /// A line's tokens after the mark, its end included `[I]`; empty for an item without a text.
    items: Vec<Vec<u32>>,
    /// Last token of a line.
    pub end: u32,
    /// Most items of a history.
    shown: usize,
    /// Most tokens of a history and what follows it.
    limit: usize,
    /// BM25 over the items' texts `[I]`.
    matcher: Matcher,
}

impl Lines {
    /// Lines of `catalogue` `[I]` for a model that takes `limit` tokens.
    ///
    /// # Errors
    /// [`Error::Setting`] where no item has a text, or the tokenizer cannot express a line's end.
    pub fn new(catalogue: &[ItemText], settings: &TextSettings, tokenizer: &Tokenizer, limit: usize) -> Result<Lines> {
        let names = Names::new(catalogue, settings);
        let texts: Vec<String> = (0..catalogue.len() as u32).map(|item| names.entry(item).unwrap_or_default()).collect();
        if texts.iter().all(String::is_empty) {
            let message =
                "method `calrec` reads titles and categories, and no item of this data set has any; prepare it with its item file";
            return Err(Error::setting("method", message));
        }
        let Some(end) = tokenizer.encode("\n", Control::Text)?.last().copied() else {
            return Err(Error::setting("views.llm.model", "its tokenizer has no token for a line's end"));
        };
        let line = |text: &String| {
            if text.is_empty() {
                return Ok(Vec::new());
            }
            let mut tokens = tokenizer.encode(&format!(" {text}"), Control::Text)?;
            tokens.truncate(limit / 4);
            tokens.push(end);
            Ok(tokens)
        };
        Ok(Lines {
            heading: tokenizer.encode_whole(HEADING, Control::Text)?,
            mark: tokenizer.encode(MARK, Control::Text)?,
            items: texts.iter().map(line).collect::<Result<_>>()?,
            end,
            shown: settings.history as usize,
            limit,
            matcher: Matcher::new(&texts),
        })
    }

    /// The tokens of `item` after the mark, its line's end included; empty where it has no text.
    pub fn item(&self, item: u32) -> &[u32] {
        &self.items[item as usize]
    }

    /// The mark and the tokens of `item`.
    pub fn line(&self, item: u32) -> Vec<u32> {
        [&self.mark[..], self.item(item)].concat()
    }

    /// Tokens before those of an item in its line.
    pub fn mark(&self) -> usize {
        self.mark.len()
    }

    /// The heading, the latest lines of `history` that leave room for `more` tokens, and the mark; and how many tokens the heading has.
    pub fn prompt(&self, history: &[u32], more: usize) -> (Vec<u32>, usize) {
        let room = self.limit.saturating_sub(self.heading.len() + self.mark.len() + more);
        let known = history.iter().rev().copied().filter(|item| !self.item(*item).is_empty());
        let mut taken = Vec::new();
        let mut tokens = 0;
        for item in known.take(self.shown) {
            tokens += self.mark.len() + self.item(item).len();
            if tokens > room {
                break;
            }
            taken.push(item);
        }
        let mut prompt = self.heading.clone();
        taken.iter().rev().for_each(|item| prompt.extend(self.line(*item)));
        prompt.extend(&self.mark);
        (prompt, self.heading.len())
    }

    /// Items by how much `text` says of each, best first (BM25; of equals the one with the lower number). Those without a word of it are left out.
    pub fn ranked(&self, text: &str) -> Vec<u32> {
        self.matcher.ranked(text)
    }
}
