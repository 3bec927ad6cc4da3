//! How likely a model finds the titles of a catalogue without a user, and what that adds to its choice among them.
//!
//! A model that may write nothing but titles prefers those that are short, frequent in its texts or begin as lists do, whoever asks. Calibrated
//! choice (ours) draws a title by how much likelier the user makes it: in proportion to `p(title | user) / p(title | no user)`, where all titles
//! are equally likely before. Token by token, with the titles below a child as likely as they are without a user, that is
//! `n(child) p(child | user) / p(child | no user)` with `n` the titles below it. The denominators of the two softmaxes over the children
//! are the same for all of them, so the logits suffice: what is added to a child's logit is `T ln n - logit without a user`, with T the
//! temperature, which then divides it. At temperature 0 the token of the largest quotient is taken.

use super::request::Generate;
use super::trie::{Place, TitleTrie};
use crate::Result;
use crate::base::sealed;
use sha2::{Digest, Sha256};
use std::path::Path;

const MAGIC: &[u8; 8] = b"LUMPRIO1";

/// Titles whose logits are computed between two reports of progress.
const PART: usize = 256;

/// Logits of all titles' tokens after a prompt without a user.
#[derive(Debug, PartialEq)]
pub struct Prior {
    /// One for each token of a title and one for its end, in the trie's order: [`TitleTrie::offset`].
    logits: Vec<f32>,
    offsets: Vec<u32>,
}

impl Prior {
    /// The logits of the titles of `trie` after `start`, each ended by `separator`.
    ///
    /// # Errors
    /// The engine's; an interruption.
    pub fn compute(engine: &mut dyn Generate, trie: &TitleTrie, separator: u32, start: &[u32]) -> Result<Prior> {
        let places: Vec<Place> = trie.places().collect();
        let mut logits = Vec::with_capacity(trie.token_count() + trie.len());
        for part in places.chunks(PART) {
            let titles: Vec<Vec<u32>> = part
                .iter()
                .map(|place| {
                    let mut tokens = trie.title(*place);
                    tokens.push(separator);
                    tokens
                })
                .collect();
            logits.extend(engine.logits_of(start, &titles)?);
        }
        Ok(Prior { logits, offsets: offsets(trie) })
    }

    /// The same, read from `folder` where it was computed before, else computed and stored there. `model` is the digest of the model's files.
    ///
    /// # Errors
    /// As [`Prior::compute`]; and where the folder cannot be written. A damaged file is made again.
    pub fn cached(folder: &Path, model: &str, engine: &mut dyn Generate, trie: &TitleTrie, separator: u32, start: &[u32]) -> Result<Prior> {
        let mut sha = Sha256::new();
        sha.update(model);
        start.iter().chain([&separator]).for_each(|token| sha.update(token.to_le_bytes()));
        for place in trie.places() {
            sha.update(u32::MAX.to_le_bytes());
            trie.title(place).iter().for_each(|token| sha.update(token.to_le_bytes()));
        }
        let key = sha.finalize();
        let path = folder.join(format!("titles-{}.prior", hex::encode(&key[..8])));
        let numbers = trie.token_count() + trie.len();
        let read = std::fs::read(&path).ok();
        if let Some(logits) = read.and_then(|bytes| floats(sealed::body(&bytes, MAGIC, &key)?, numbers)) {
            return Ok(Prior { logits, offsets: offsets(trie) });
        }
        let prior = Prior::compute(engine, trie, separator, start)?;
        let mut bytes = sealed::begin(MAGIC, &key, 4 * numbers);
        bytes.extend(prior.logits.iter().flat_map(|x| x.to_le_bytes()));
        sealed::write(&path, bytes)?;
        Ok(prior)
    }

    /// What is added to the logit of the token number `depth` of the title at `place`, under which `titles` titles may be named.
    pub fn bias(&self, place: Place, depth: usize, titles: usize, temperature: f32) -> f32 {
        let logit = self.logits[self.offsets[place.index()] as usize + depth];
        temperature * (titles as f32).ln() - logit
    }
}

fn offsets(trie: &TitleTrie) -> Vec<u32> {
    trie.places().map(|place| trie.offset(place) as u32).collect()
}

/// The `n` numbers of a body, if there are as many.
fn floats(body: &[u8], n: usize) -> Option<Vec<f32>> {
    let (numbers, rest) = body.as_chunks::<4>();
    (rest.is_empty() && numbers.len() == n).then(|| numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
}
