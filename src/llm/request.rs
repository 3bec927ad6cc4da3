//! What an engine is asked for and what it gives back.

use super::constraint::Constraint;
use super::sample::{Key, Sampling};
use crate::Result;
use serde::Serialize;

/// Room of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Texts written side by side.
    pub slots: usize,
    /// Positions of the cache, shared prefixes included; 0: 1024 a slot, or the longest sequence where that is shorter.
    pub cache_tokens: usize,
    /// Rows of a step, more or less: prompts are cut to fit; 0: as many as keep the device busy.
    pub step_tokens: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { slots: 64, cache_tokens: 0, step_tokens: 0 }
    }
}

/// One text asked for.
pub struct Request {
    /// Tokens of the prompt, whole: a shared prefix is found by itself.
    pub prompt: Vec<u32>,
    /// Most tokens to write.
    pub max_new: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whose draws.
    pub key: Key,
    /// Tokens that end the text; not part of it.
    pub stop: Vec<u32>,
    /// What may be written; anything where `None`.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// A stop token.
    Stop,
    /// As many tokens as were allowed.
    Length,
    /// The constraint has all it wanted.
    Complete,
}

/// A finished text.
#[derive(Debug)]
pub struct Text {
    /// What was written, without the stop token.
    pub tokens: Vec<u32>,
    /// Items named, in order; empty without a constraint.
    pub items: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A request's end.
#[derive(Debug)]
pub struct Done {
    /// Number of the request, from 0 in the order given.
    pub index: usize,
    /// The text, or why there is none. One request's failure is its own.
    pub outcome: Result<Text>,
}

/// What a generation took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Texts finished.
    pub texts: u64,
    /// Requests refused.
    pub refused: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens that a shared prefix saved.
    pub shared_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
    /// Of these, tokens that a constraint left no choice about: they were computed with others or not at all.
    pub forced_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Rows computed.
    pub rows: u64,
    /// Seconds, all in all.
    pub seconds: f64,
    /// Of these, spent on finding allowed tokens.
    pub constraint_seconds: f64,
    /// Mean seconds from a request's admission to its first token.
    pub first_token_seconds: f64,
    /// Most blocks of the cache in use, as a share.
    pub cache_use: f64,
    /// Rows computed for padding, as a share: packed batches have none.
    pub padded_rows: f64,
    /// Keys looked at beyond a sequence's end (blocks of the cache are whole), as a share.
    pub padded_keys: f64,
}

/// What writes texts, wherever it computes.
pub trait Generate {
    /// Computes the keys and values of `tokens` once, for all requests whose prompts begin so. Gives the tokens computed.
    ///
    /// # Errors
    /// Where the cache has no room for it.
    fn share(&mut self, tokens: &[u32]) -> Result<usize>;
    /// Forgets all shared prefixes.
    fn forget(&mut self);
    /// The logits of each token of `texts` at its place after `start`, all texts one after another: how likely they are, up to what all tokens of a
    /// place share.
    ///
    /// # Errors
    /// The device's; where a text does not fit the model or the cache.
    fn logits_of(&mut self, start: &[u32], texts: &[Vec<u32>]) -> Result<Vec<f32>>;
    /// How likely each of `texts` is after `start`, as the log of its probability: the sum over its tokens, each against the whole vocabulary.
    ///
    /// # Errors
    /// As [`Generate::logits_of`].
    fn log_likelihoods(&mut self, start: &[u32], texts: &[Vec<u32>]) -> Result<Vec<f64>>;
    /// Writes a text for every request and gives `on_done` each as it ends, in no promised order. Requests are taken as they are
    /// needed, a few hundred ahead. An error of `on_done` stops the generation.
    ///
    /// # Errors
    /// The device's, and those of `on_done`; a request's own failure is reported with the request.
    fn generate(&mut self, requests: &mut dyn Iterator<Item = Request>, on_done: &mut dyn FnMut(Done) -> Result<()>) -> Result<Report>;
}
