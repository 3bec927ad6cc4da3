//! From a line of free text to a line of the catalogue: by words, or by meaning where a sentence encoder is given.

use std::path::Path;

use super::text::{Matcher, Scratch};
use crate::config::{TextSettings, tidy};
use crate::{Error, Result};

#[cfg(feature = "llm")]
use super::text::words;
#[cfg(feature = "llm")]
use crate::llm::embed::{Encoder, TitleVectors};

/// Matches lines to a catalogue's.
pub struct Ground {
    way: Likeness,
    threshold: f32,
}

enum Likeness {
    /// BM25.
    Words(Box<Matcher>),
    #[cfg(feature = "llm")]
    Meaning(Box<Meaning>),
}

#[cfg(feature = "llm")]
struct Meaning {
    titles: TitleVectors,
    /// Lines by their words: equal ones need no encoder, whatever their case and marks.
    exact: std::collections::HashMap<String, u32>,
    folder: std::path::PathBuf,
    hash: String,
}

impl Ground {
    /// Over `lines` `[L]` of a catalogue. `threads` (0: all cores) and `cache`, a folder for vectors, are for an encoder.
    ///
    /// # Errors
    /// Where the encoder's folder cannot be used.
    pub fn new(lines: &[String], settings: &TextSettings, threads: usize, cache: Option<&Path>) -> Result<Ground> {
        match settings.encoder() {
            None => Ok(Ground { way: Likeness::Words(Box::new(Matcher::new(lines))), threshold: settings.threshold }),
            Some(folder) => Ground::by_meaning(lines, settings, folder, threads, cache),
        }
    }

    #[cfg(feature = "llm")]
    fn by_meaning(lines: &[String], settings: &TextSettings, folder: &Path, threads: usize, cache: Option<&Path>) -> Result<Ground> {
        let named = |e: Error| Error::setting("views.text.embedder", e.to_string());
        let encoder = Encoder::load(folder, threads).map_err(named)?;
        let hash = super::recipe::encoder_hash(folder)?.unwrap_or_default();
        let (titles, _) = TitleVectors::new(encoder, &hash, &settings.embed_prefix, lines, cache)?;
        let mut exact = std::collections::HashMap::with_capacity(lines.len());
        for (i, line) in lines.iter().enumerate() {
            exact.entry(bag(line)).or_insert(i as u32);
        }
        let meaning = Meaning { titles, exact, folder: folder.into(), hash };
        Ok(Ground { way: Likeness::Meaning(Box::new(meaning)), threshold: settings.embed_threshold })
    }

    #[cfg(not(feature = "llm"))]
    fn by_meaning(_: &[String], _: &TextSettings, _: &Path, _: usize, _: Option<&Path>) -> Result<Ground> {
        Err(Error::setting("views.text.embedder", "a sentence encoder is not in this build; build with `--features llm`"))
    }

    /// For each of `texts` the catalogue's line most like it and the likeness, 1 for equal words; of equals the one with the lowest
    /// number. `None` for a text without words, or without a word that any line has.
    ///
    /// # Errors
    /// Where the encoder cannot express a text.
    pub fn nearest(&self, texts: &[String], scratch: &mut Scratch) -> Result<Vec<Option<(u32, f32)>>> {
        match &self.way {
            Likeness::Words(matcher) => Ok(texts.iter().map(|text| matcher.best(text, |_| true, scratch)).collect()),
            #[cfg(feature = "llm")]
            Likeness::Meaning(meaning) => meaning.nearest(texts),
        }
    }

    /// [`Ground::nearest`] where it is like enough.
    ///
    /// # Errors
    /// As [`Ground::nearest`].
    pub fn lines(&self, texts: &[String], scratch: &mut Scratch) -> Result<Vec<Option<u32>>> {
        let near = self.nearest(texts, scratch)?;
        Ok(near.into_iter().map(|found| found.filter(|(_, likeness)| *likeness >= self.threshold).map(|(line, _)| line)).collect())
    }

    /// For the manifest.
    pub fn describe(&self) -> String {
        let threshold = tidy(self.threshold.into());
        match &self.way {
            Likeness::Words(_) => format!("BM25, likeness of at least {threshold}"),
            #[cfg(feature = "llm")]
            Likeness::Meaning(m) => format!("embeddings by {} (SHA-256 {}), cosine of at least {threshold}", m.folder.display(), m.hash),
        }
    }
}

/// The words of a line, by which two are equal.
#[cfg(feature = "llm")]
fn bag(line: &str) -> String {
    words(line).collect::<Vec<_>>().join(" ")
}

#[cfg(feature = "llm")]
impl Meaning {
    fn nearest(&self, texts: &[String]) -> Result<Vec<Option<(u32, f32)>>> {
        let mut found: Vec<Option<(u32, f32)>> = vec![None; texts.len()];
        let mut open = Vec::new();
        for (i, text) in texts.iter().enumerate() {
            let bag = bag(text);
            match self.exact.get(&bag) {
                _ if bag.is_empty() => (),
                Some(line) => found[i] = Some((*line, 1.0)),
                None => open.push(i),
            }
        }
        let asked: Vec<String> = open.iter().map(|i| texts[*i].clone()).collect();
        for (i, best) in open.into_iter().zip(self.titles.best(&asked)?) {
            // Equal words alone are 1: what rounding leaves above it is not.
            found[i] = best.map(|(line, cosine)| (line, cosine.min(1.0)));
        }
        Ok(found)
    }
}
