//! Continuous batching: thousands of prompts through a fixed number of slots.
//!
//! Every step computes one packed batch: the next token of each slot that is writing, and as many prompt tokens of newcomers as fit.
//! A slot is refilled as soon as its text ends. The longest requests of a window are admitted first, so that the last slots do not
//! wait for one long text. The keys and values of a shared prefix are computed once; a request that begins with it names its blocks.
//!
//! None of this can be seen in a text: a row's numbers do not depend on its batch, and draws are keyed by user, view and position.

use super::blocks::Blocks;
use super::constraint::Constraint;
use super::cpu::Cpu;
use super::network::{BLOCK, Batch, Network, Ops};
use super::sample::{Key, Sampling, Scratch, choose};
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::time::Instant;

/// Room of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Texts written side by side.
    pub slots: usize,
    /// Positions of the cache, shared prefixes included; 0: 1024 a slot, or the longest sequence where that is shorter.
    pub cache_tokens: usize,
    /// Rows of a step, more or less: prompts are cut to fit.
    pub step_tokens: usize,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { slots: 64, cache_tokens: 0, step_tokens: 512 }
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
    /// Of these, spent on prompts (a step's time is split by its rows).
    pub prompt_seconds: f64,
    /// Of these, spent on what is written.
    pub output_seconds: f64,
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

struct Slot {
    index: usize,
    request: Request,
    blocks: Vec<u32>,
    /// Blocks at the start of the table that belong to a shared prefix.
    borrowed: usize,
    /// Positions whose keys and values are in the cache.
    done: usize,
    /// Tokens not yet computed.
    pending: Vec<u32>,
    output: Vec<u32>,
    /// Tokens already in prompt and text, sorted; kept only for a repetition penalty.
    seen: Vec<u32>,
    /// Tokens that may come next, where there is a constraint.
    allowed: Vec<u32>,
    admitted: Instant,
    /// Rows of the batch under way.
    rows: usize,
    /// Where its last row stands among the wanted ones, if the next token is to be chosen in this step.
    asks: Option<usize>,
    chosen: Option<u32>,
    /// Whether its first token was chosen.
    answered: bool,
    end: Option<Result<Finish>>,
    scratch: Scratch,
    logits: Vec<f32>,
}

impl Slot {
    fn new(index: usize, request: Request, blocks: Vec<u32>, borrowed: usize, reused: usize) -> Slot {
        let mut seen = Vec::new();
        if request.sampling.repetition_penalty != 1.0 {
            seen.clone_from(&request.prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        Slot {
            index,
            blocks,
            borrowed,
            done: reused,
            pending: request.prompt[reused..].to_vec(),
            output: Vec::new(),
            seen,
            allowed: Vec::new(),
            admitted: Instant::now(),
            rows: 0,
            asks: None,
            chosen: None,
            answered: false,
            end: None,
            scratch: Scratch::default(),
            logits: Vec::new(),
            request,
        }
    }

    /// Whether its prompt is still being computed.
    fn reads(&self) -> bool {
        self.done < self.request.prompt.len()
    }

    /// Whether so few tokens may come next that the logits of the others are not worth computing.
    fn is_narrow(&self, vocab: usize) -> bool {
        self.request.constraint.is_some() && self.allowed.len() <= vocab / 32
    }

    /// Chooses the next token from the logits of the allowed ones, or of all.
    fn choose(&mut self, logits: Option<&[f32]>) {
        let (sampling, key, position) = (&self.request.sampling, self.request.key, self.output.len() as u64);
        let narrow = self.request.constraint.is_some();
        if let (Some(all), true) = (logits, narrow) {
            self.logits.clear();
            self.logits.extend(self.allowed.iter().map(|t| all[*t as usize]));
        }
        self.chosen = match logits {
            Some(all) if !narrow => choose(sampling, 0.., all, &self.seen, key, position, &mut self.scratch),
            _ => choose(sampling, self.allowed.iter().copied(), &self.logits, &self.seen, key, position, &mut self.scratch),
        };
    }

    /// Takes the chosen token, and after it those that a constraint leaves no choice about. Gives the number of the latter.
    fn write(&mut self) -> u64 {
        let Some(token) = self.chosen.take() else {
            self.end = Some(Err(Error::Usage("the model gave no numbers for the next token; its weights are damaged or overflow".into())));
            return 0;
        };
        if self.request.constraint.is_none() && self.request.stop.contains(&token) {
            self.end = Some(Ok(Finish::Stop));
            return 0;
        }
        self.push(token);
        self.follow()
    }

    /// The request's end.
    fn finish(self, report: &mut Report) -> Done {
        let end = self.end.unwrap_or(Ok(Finish::Length));
        if end.is_ok() {
            report.texts += 1;
            report.output_tokens += self.output.len() as u64;
        } else {
            report.refused += 1;
        }
        let items = self.request.constraint.map_or(Vec::new(), |c| c.items().to_vec());
        Done { index: self.index, outcome: end.map(|finish| Text { tokens: self.output, items, finish }) }
    }

    fn push(&mut self, token: u32) {
        self.output.push(token);
        self.pending.push(token);
        if let Err(at) = self.seen.binary_search(&token)
            && self.request.sampling.repetition_penalty != 1.0
        {
            self.seen.insert(at, token);
        }
        if let Some(constraint) = &mut self.request.constraint {
            constraint.accept(token);
        }
        if self.output.len() == self.request.max_new {
            self.end = Some(Ok(Finish::Length));
        }
    }

    fn follow(&mut self) -> u64 {
        let mut forced = 0;
        loop {
            let Some(constraint) = &self.request.constraint else { return forced };
            constraint.allowed(&mut self.allowed);
            match self.allowed[..] {
                [] => {
                    self.end = Some(Ok(Finish::Complete));
                    return forced;
                }
                [only] if self.end.is_none() => {
                    self.push(only);
                    forced += 1;
                }
                _ => return forced,
            }
        }
    }
}

struct Prefix {
    tokens: Vec<u32>,
    blocks: Vec<u32>,
}

/// Generates texts with a model.
pub struct Engine<'m, O: Ops = Cpu> {
    network: &'m Network<O>,
    ops: &'m O,
    pool: &'m rayon::ThreadPool,
    max_len: usize,
    options: EngineOptions,
    cache: O::Cache,
    blocks: Blocks,
    prefixes: Vec<Prefix>,
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
    /// Writes a text for every request and tells `on_done` of each as it ends, in no promised order. Requests are taken as they are
    /// needed, a few hundred ahead. An error of `on_done` stops the generation.
    ///
    /// # Errors
    /// The device's, and those of `on_done`; a request's own failure is told with the request.
    fn generate(&mut self, requests: &mut dyn Iterator<Item = Request>, on_done: &mut dyn FnMut(Done) -> Result<()>) -> Result<Report>;
}

impl<'m, O: Ops> Engine<'m, O> {
    /// An engine for a network on any device.
    ///
    /// # Errors
    /// Where there are no slots or no room.
    pub fn on(
        network: &'m Network<O>,
        ops: &'m O,
        pool: &'m rayon::ThreadPool,
        max_len: usize,
        options: EngineOptions,
    ) -> Result<Engine<'m, O>> {
        if options.slots == 0 || options.step_tokens == 0 {
            return Err(Error::Usage("an engine needs at least one slot and one token a step".into()));
        }
        let tokens = if options.cache_tokens == 0 { options.slots * max_len.min(1024) } else { options.cache_tokens };
        let total = Blocks::needed(tokens);
        let cache = ops.cache(network.spec(), total)?;
        Ok(Engine { network, ops, pool, max_len, options, cache, blocks: Blocks::new(total), prefixes: Vec::new() })
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.network.spec().vocab;
        match tokens.iter().find(|t| **t as usize >= vocab) {
            Some(token) => Err(Error::Usage(format!("token {token} is beyond the model's {vocab} tokens"))),
            None => Ok(()),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        request.sampling.check()?;
        self.check_tokens(&request.prompt)?;
        if request.prompt.is_empty() || request.max_new == 0 {
            return Err(Error::Usage("a request needs a prompt and at least one token to write".into()));
        }
        let length = request.prompt.len() + request.max_new;
        let shared: usize = self.prefixes.iter().map(|p| p.blocks.len()).sum();
        let room = (self.blocks.total() - shared) * BLOCK;
        if length > self.max_len || length > room {
            let (limit, what) = if length > self.max_len { (self.max_len, "the model's longest sequence") } else { (room, "the cache") };
            return Err(Error::Usage(format!(
                "a prompt of {} tokens and {} more to write exceed {what} ({limit} tokens); shorten the history or the answer",
                request.prompt.len(),
                request.max_new
            )));
        }
        Ok(())
    }

    /// Fills free slots.
    fn admit(
        &mut self,
        requests: &mut impl Iterator<Item = (usize, Request)>,
        window: &mut Vec<(usize, Request)>,
        slots: &mut Vec<Slot>,
        report: &mut Report,
        on_done: &mut dyn FnMut(Done) -> Result<()>,
    ) -> Result<()> {
        while slots.len() < self.options.slots {
            if window.is_empty() {
                window.extend(requests.take(self.options.slots * 8));
                // The longest last, where it is taken first; of equals the earlier first.
                window.sort_by_key(|(index, r)| (r.prompt.len() + r.max_new, std::cmp::Reverse(*index)));
            }
            let Some((_, next)) = window.last() else { return Ok(()) };
            if let Err(e) = self.check(next) {
                let index = window.pop().map_or(0, |w| w.0);
                report.refused += 1;
                on_done(Done { index, outcome: Err(e) })?;
                continue;
            }
            let shared = self.prefixes.iter().filter(|p| next.prompt.starts_with(&p.tokens)).max_by_key(|p| p.tokens.len());
            // The last token of a prompt is always computed: its logits are wanted.
            let reused = shared.map_or(0, |p| p.tokens.len().min(next.prompt.len() - 1));
            let borrowed = reused / BLOCK;
            let needed = Blocks::needed(next.prompt.len() + next.max_new) - borrowed;
            let Some(own) = self.blocks.take(needed) else {
                if slots.is_empty() {
                    return Err(Error::Usage("the cache's blocks are all taken by shared prefixes; enlarge the cache".into()));
                }
                return Ok(());
            };
            let mut blocks = shared.map_or(Vec::new(), |p| p.blocks[..borrowed].to_vec());
            if let Some(prefix) = shared.filter(|_| !reused.is_multiple_of(BLOCK)) {
                // The block in which the prefix ends is continued by everyone for himself.
                self.ops.copy_block(&mut self.cache, prefix.blocks[borrowed], own[0])?;
            }
            blocks.extend(own);
            let Some((index, request)) = window.pop() else { return Ok(()) };
            report.shared_tokens += reused as u64;
            report.prompt_tokens += (request.prompt.len() - reused) as u64;
            let mut slot = Slot::new(index, request, blocks, borrowed, reused);
            report.forced_tokens += slot.follow();
            slots.push(slot);
        }
        Ok(())
    }

    fn step(&mut self, slots: &mut [Slot], report: &mut Report, keys: &mut (u64, u64)) -> Result<()> {
        let start = Instant::now();
        let mut batch = Batch::default();
        let mut rows = [0usize; 2];
        slots.iter_mut().for_each(|s| (s.rows, s.asks) = (0, None));
        // Those who write first: a newcomer's long prompt must not hold them up.
        for reads in [false, true] {
            for slot in slots.iter_mut().filter(|s| s.end.is_none() && s.reads() == reads) {
                let room = self.options.step_tokens.saturating_sub(batch.tokens.len());
                slot.rows = slot.pending.len().min(if reads { room } else { room.max(1) });
                if slot.rows == 0 {
                    continue;
                }
                slot.asks = (slot.rows == slot.pending.len()).then_some(batch.wanted.len());
                batch.push(&slot.pending[..slot.rows], slot.done, &slot.blocks, slot.asks.is_some());
                rows[usize::from(reads)] += slot.rows;
                for n in slot.done + 1..=slot.done + slot.rows {
                    keys.0 += n as u64;
                    keys.1 += n.next_multiple_of(BLOCK) as u64;
                }
            }
        }
        if !batch.tokens.is_empty() {
            let (network, ops, cache) = (self.network, self.ops, &mut self.cache);
            self.pool.install(|| -> Result<()> {
                let hidden = network.forward(ops, &batch, cache)?;
                answer(network, ops, hidden, slots)
            })?;
        }
        for slot in slots.iter_mut() {
            slot.done += slot.rows;
            slot.pending.drain(..slot.rows);
        }
        let found = Instant::now();
        for slot in slots.iter_mut().filter(|s| s.asks.is_some()) {
            if !slot.answered {
                slot.answered = true;
                report.first_token_seconds += slot.admitted.elapsed().as_secs_f64();
            }
            report.forced_tokens += slot.write();
        }
        report.constraint_seconds += found.elapsed().as_secs_f64();
        let total = batch.tokens.len();
        report.steps += 1;
        report.rows += total as u64;
        let seconds = start.elapsed().as_secs_f64();
        report.output_seconds += seconds * rows[0] as f64 / total.max(1) as f64;
        report.prompt_seconds += seconds * rows[1] as f64 / total.max(1) as f64;
        Ok(())
    }
}

impl<O: Ops> Generate for Engine<'_, O> {
    fn share(&mut self, tokens: &[u32]) -> Result<usize> {
        if tokens.is_empty() || self.prefixes.iter().any(|p| p.tokens == tokens) {
            return Ok(0);
        }
        self.check_tokens(tokens)?;
        let needed = Blocks::needed(tokens.len());
        let room = || Error::Usage(format!("a shared prefix of {} tokens does not fit the cache; enlarge it", tokens.len()));
        if tokens.len() > self.max_len {
            return Err(room());
        }
        let blocks = self.blocks.take(needed).ok_or_else(room)?;
        let (mut batch, mut done) = (Batch::default(), 0);
        while done < tokens.len() {
            let part = &tokens[done..tokens.len().min(done + self.options.step_tokens)];
            batch.clear();
            batch.push(part, done, &blocks, false);
            let (network, ops, cache) = (self.network, self.ops, &mut self.cache);
            self.pool.install(|| network.forward(ops, &batch, cache))?;
            done += part.len();
        }
        self.prefixes.push(Prefix { tokens: tokens.to_vec(), blocks });
        Ok(done)
    }

    fn forget(&mut self) {
        for prefix in self.prefixes.drain(..) {
            self.blocks.give(&prefix.blocks);
        }
    }

    fn generate(&mut self, requests: &mut dyn Iterator<Item = Request>, on_done: &mut dyn FnMut(Done) -> Result<()>) -> Result<Report> {
        let start = Instant::now();
        self.blocks.peak = self.blocks.used();
        let mut report = Report::default();
        let mut requests = requests.enumerate();
        let mut window: Vec<(usize, Request)> = Vec::new();
        let mut slots: Vec<Slot> = Vec::new();
        let mut keys = (0u64, 0u64);
        let outcome = loop {
            if let Err(e) = self.admit(&mut requests, &mut window, &mut slots, &mut report, on_done) {
                break Err(e);
            }
            if slots.is_empty() {
                break Ok(());
            }
            if let Err(e) = self.step(&mut slots, &mut report, &mut keys) {
                break Err(e);
            }
            let mut failed = None;
            let mut i = 0;
            while i < slots.len() && failed.is_none() {
                if slots[i].end.is_none() {
                    i += 1;
                    continue;
                }
                let slot = slots.remove(i);
                self.blocks.give(&slot.blocks[slot.borrowed..]);
                failed = on_done(slot.finish(&mut report)).err();
            }
            if let Some(e) = failed {
                break Err(e);
            }
        };
        for slot in &slots {
            self.blocks.give(&slot.blocks[slot.borrowed..]);
        }
        outcome?;
        report.seconds = start.elapsed().as_secs_f64();
        report.first_token_seconds /= report.texts.max(1) as f64;
        report.cache_use = self.blocks.peak as f64 / self.blocks.total() as f64;
        report.padded_keys = if keys.1 == 0 { 0.0 } else { 1.0 - keys.0 as f64 / keys.1 as f64 };
        Ok(report)
    }
}

/// Chooses the next token of every slot that asks. `hidden` has a row for each.
fn answer<O: Ops>(network: &Network<O>, ops: &O, hidden: O::Array, slots: &mut [Slot]) -> Result<()> {
    let vocab = network.spec().vocab;
    let mut narrow: Vec<&mut Slot> = Vec::new();
    let mut wide: Vec<(u32, &mut Slot)> = Vec::new();
    for slot in slots {
        match slot.asks {
            Some(_) if slot.is_narrow(vocab) => narrow.push(slot),
            Some(row) => wide.push((row as u32, slot)),
            None => {}
        }
    }
    narrow.par_iter_mut().try_for_each(|slot| -> Result<()> {
        let Some(row) = slot.asks else { return Ok(()) };
        network.logits_at(ops, &hidden, row, &slot.allowed, &mut slot.logits)?;
        slot.choose(None);
        Ok(())
    })?;
    if wide.is_empty() {
        return Ok(());
    }
    let rows: Vec<u32> = wide.iter().map(|w| w.0).collect();
    let hidden = if narrow.is_empty() { hidden } else { ops.pick(hidden, &rows)? };
    let logits = network.logits(ops, &hidden)?;
    // Without narrow ones among them the wide slots are all there are, each at its own row.
    let all = narrow.is_empty();
    wide.par_iter_mut().enumerate().for_each(|(i, (row, slot))| {
        let row = if all { *row as usize } else { i };
        slot.choose(Some(&logits[row * vocab..(row + 1) * vocab]));
    });
    Ok(())
}
