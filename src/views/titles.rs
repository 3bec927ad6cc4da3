//! The lines of a catalogue as a local model may write them: their tokens, the mark that begins a line, how likely they are without a user.

use super::generator::ViewKind;
use crate::llm::{Control, EngineOptions, ItemLines, Model, Prior, TitleTrie};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;

/// The mark of a list.
const MARK: &str = "-";

/// Cache of the engine that computes priors, in tokens: some sixteen titles side by side behind a prompt.
const TOKENS: usize = 4096;

/// Lines that a model is held to.
pub(super) struct Titles {
    trie: Arc<TitleTrie>,
    /// Ends a line.
    separator: u32,
    /// Begins a line.
    mark: Vec<u32>,
    /// Tokens of the longest line and its end.
    longest: usize,
    /// Tokens that nineteen lines of twenty do not exceed, end included.
    usual: usize,
    /// Where lines and priors are kept.
    cache: Option<PathBuf>,
    /// Of the three kinds of view, where lines are calibrated.
    priors: Option<[OnceLock<Arc<Prior>>; 3]>,
}

impl Titles {
    /// The lines `[n]` of a catalogue for `model`, which was read from `path`.
    pub fn new(lines: &[&str], model: &Model, path: &Path, (marked, calibrated): (bool, bool), cache: Option<&Path>) -> Result<Titles> {
        let tokens = |text: &str| model.tokenizer.encode(text, Control::Text);
        // What is written for a line's end stands last: some tokenizers put a blank before it.
        let separator = tokens("\n")?.last().copied();
        let separator =
            separator.ok_or_else(|| Error::mismatch(path, "the tokenizer has no line end; use views.llm.grounding=retrieval"))?;
        let mut mark = Vec::new();
        if marked {
            let line = tokens(&format!("\n{MARK}"))?;
            mark.extend(line.iter().rposition(|token| *token == separator).map_or(&[][..], |end| &line[end + 1..]));
            if mark.is_empty() {
                return Err(Error::mismatch(path, "the tokenizer has no token for a list's `-`; use views.llm.list_mark=false"));
            }
        }
        let sign = if marked { MARK } else { "" };
        let trie = match cache {
            Some(folder) => TitleTrie::cached(folder, lines, &model.tokenizer, separator, sign)?.0,
            None => TitleTrie::build(lines, &model.tokenizer, separator, sign)?,
        };
        let mut lengths: Vec<usize> = trie.places().map(|place| trie.title(place).len() + mark.len() + 1).collect();
        lengths.sort_unstable();
        let at = |share: f64| lengths.get((share * lengths.len().saturating_sub(1) as f64) as usize).copied().unwrap_or(1);
        Ok(Titles {
            longest: at(1.0),
            usual: at(0.95),
            separator,
            mark,
            trie: Arc::new(trie),
            cache: cache.map(Path::to_path_buf),
            priors: calibrated.then(Default::default),
        })
    }

    /// Most tokens of `count` lines. One line may be the longest; that all are would take most of the room for what does not happen. A text that
    /// ends for want of room has the items that it named until then.
    pub fn most(&self, count: usize) -> usize {
        self.longest + (count - 1) * self.usual
    }

    /// Whether lines are calibrated, and the prior of some kind of view is not there yet.
    pub fn wants_priors(&self) -> bool {
        self.priors.as_ref().is_some_and(|priors| priors.iter().any(|prior| prior.get().is_none()))
    }

    /// Computes how likely lines are after `prompt`, that of a kind of view without a user, or reads it where it was computed before. `digest` is
    /// that of the model's files.
    pub fn compute_prior(&self, part: ViewKind, model: &Model, digest: &str, mut prompt: Vec<u32>) -> Result<()> {
        let Some(prior) = self.priors.as_ref().map(|priors| &priors[kind(part)]).filter(|prior| prior.get().is_none()) else {
            return Ok(());
        };
        prompt.extend(&self.mark);
        let cache_tokens = TOKENS.max(2 * (prompt.len() + self.longest).next_multiple_of(crate::llm::BLOCK));
        let mut engine = model.engine(EngineOptions { slots: 1, cache_tokens, ..Default::default() })?;
        let made = match &self.cache {
            Some(folder) => Prior::cached(folder, digest, &mut *engine, &self.trie, self.separator, &prompt)?,
            None => Prior::compute(&mut *engine, &self.trie, self.separator, &prompt)?,
        };
        // Whoever was first has the same numbers.
        let _ = prior.set(Arc::new(made));
        Ok(())
    }

    /// What may be written as an answer of `count` lines for `part`, none of them in `closed`, drawn with `temperature`.
    pub fn constraint(&self, part: ViewKind, count: usize, closed: &[u32], temperature: f32) -> ItemLines {
        let lines = ItemLines::new(Arc::clone(&self.trie), count, self.separator, closed).marked(&self.mark);
        match self.priors.as_ref().and_then(|priors| priors[kind(part)].get()) {
            Some(prior) => lines.calibrated(Arc::clone(prior), temperature),
            None => lines,
        }
    }
}

/// Place of the prompt of a kind of view: all counterfactuals have one.
fn kind(part: ViewKind) -> usize {
    match part {
        ViewKind::Future => 0,
        ViewKind::Paraphrase => 1,
        ViewKind::Counterfactual(_) => 2,
    }
}
