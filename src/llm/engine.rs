//! Continuous batching: thousands of prompts through a fixed number of slots.
//!
//! Every step computes one packed batch: the next token of each slot that is writing, and as many prompt tokens of newcomers as fit.
//! A slot is refilled as soon as its text ends. The longest requests of a window are admitted first, so that the last slots do not
//! wait for one long text. The keys and values of a shared prefix are computed once; a request that begins with it names its blocks.
//!
//! A device that works by itself has two batches under way: while the tokens of one are read and its next step is prepared, it
//! computes the other, and never waits for the host.
//!
//! None of this can be seen in a text: a row's numbers do not depend on its batch, and draws are keyed by user, view and position.

use super::blocks::Blocks;
use super::cpu::Cpu;
use super::network::{BLOCK, Batch, Network, Ops, SampleRequest};
use super::request::{Done, EngineOptions, Generate, Report, Request};
use super::slot::Slot;
use crate::{Error, Result};
use std::time::Instant;

/// Rows whose logits are read at one time where texts are scored.
const SCORED_ROWS: usize = 128;

/// Most texts side by side.
const MOST_SLOTS: usize = 65_536;

/// Slots whose rows make one batch, and their batch under way.
struct Group<A> {
    slots: Vec<Slot>,
    flight: Option<Flight<A>>,
}

struct Flight<A> {
    /// The tokens asked for, where there are any.
    answers: Option<A>,
    /// Rows of the batch.
    rows: usize,
}

/// What a generation counts on its way.
struct Tally {
    report: Report,
    /// Keys that count, and keys looked at.
    keys: (u64, u64),
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
        if options.slots == 0 {
            return Err(Error::Usage("an engine needs at least one slot".into()));
        }
        let step_tokens = if options.step_tokens == 0 { ops.step_rows() } else { options.step_tokens };
        let options = EngineOptions { step_tokens, ..options };
        let tokens = if options.cache_tokens == 0 { options.slots.saturating_mul(max_len.min(1024)) } else { options.cache_tokens };
        let total = Blocks::needed(tokens);
        // Blocks are numbered in 32 bits.
        if options.slots > MOST_SLOTS || u32::try_from(total).is_err() {
            let message = format!(
                "{} texts side by side with {tokens} tokens of keys and values; at most {MOST_SLOTS} texts and 2^32 blocks of {BLOCK} tokens",
                options.slots
            );
            return Err(Error::Usage(message));
        }
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

    /// Fills free slots of a group up to its share. `others` are the slots of the other groups.
    fn admit(
        &mut self,
        requests: &mut impl Iterator<Item = (usize, Request)>,
        window: &mut Vec<(usize, Request)>,
        (slots, others): (&mut Vec<Slot>, usize),
        report: &mut Report,
        on_done: &mut dyn FnMut(Done) -> Result<()>,
    ) -> Result<()> {
        loop {
            if window.is_empty() {
                window.extend(requests.take(self.options.slots * 8));
                // The longest last, where it is taken first; of equals the earlier first.
                window.sort_by_key(|(index, r)| (r.prompt.len() + r.max_new, std::cmp::Reverse(*index)));
            }
            let all = (slots.len() + others + window.len()).min(self.options.slots);
            if slots.len() >= all.div_ceil(self.ops.depth()) || slots.len() + others >= self.options.slots {
                return Ok(());
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
                if slots.is_empty() && others == 0 {
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
    }

    /// Begins a step of one group.
    fn launch(&mut self, slots: &mut [Slot], keys: &mut (u64, u64)) -> Result<Flight<O::Answers>> {
        let mut batch = Batch::default();
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
                for n in slot.done + 1..=slot.done + slot.rows {
                    keys.0 += n as u64;
                    keys.1 += n.next_multiple_of(BLOCK) as u64;
                }
            }
        }
        let rows = batch.tokens.len();
        if rows == 0 {
            return Ok(Flight { answers: None, rows });
        }
        let asks: Vec<SampleRequest<'_>> = slots.iter().filter_map(|s| s.asks.map(|row| s.ask(row))).collect();
        let (network, ops, cache) = (self.network, self.ops, &mut self.cache);
        let answers = self.pool.install(|| {
            let hidden = network.forward(ops, &batch, cache)?;
            if asks.is_empty() { Ok(None) } else { network.ask(ops, hidden, &asks).map(Some) }
        })?;
        Ok(Flight { answers, rows })
    }

    /// Ends a step: every slot that asked writes its token.
    fn land(&self, flight: Flight<O::Answers>, slots: &mut [Slot], tally: &mut Tally) -> Result<()> {
        let answers = flight.answers.map_or(Ok(Vec::new()), |answers| self.pool.install(|| self.ops.answers(answers)))?;
        let found = Instant::now();
        let report = &mut tally.report;
        let mut answers = answers.into_iter();
        for slot in slots.iter_mut() {
            slot.done += slot.rows;
            slot.pending.drain(..slot.rows);
            if slot.asks.is_none() {
                continue;
            }
            if !slot.answered {
                slot.answered = true;
                report.first_token_seconds += slot.admitted.elapsed().as_secs_f64();
            }
            report.forced_tokens += slot.write(answers.next().flatten());
        }
        report.constraint_seconds += found.elapsed().as_secs_f64();
        report.steps += 1;
        report.rows += flight.rows as u64;
        Ok(())
    }

    /// Lets go of the slots that ended.
    fn leave(&mut self, slots: &mut Vec<Slot>, report: &mut Report, on_done: &mut dyn FnMut(Done) -> Result<()>) -> Result<()> {
        let mut i = 0;
        while i < slots.len() {
            if slots[i].end.is_none() {
                i += 1;
                continue;
            }
            let slot = slots.remove(i);
            self.blocks.give(&slot.blocks[slot.borrowed..]);
            on_done(slot.finish(report))?;
        }
        Ok(())
    }

    /// Steps of all groups in turn, until no request is left.
    fn run(
        &mut self,
        requests: &mut dyn Iterator<Item = Request>,
        groups: &mut [Group<O::Answers>],
        tally: &mut Tally,
        on_done: &mut dyn FnMut(Done) -> Result<()>,
    ) -> Result<()> {
        let mut requests = requests.enumerate();
        let mut window: Vec<(usize, Request)> = Vec::new();
        for g in (0..groups.len()).cycle() {
            if let Some(flight) = groups[g].flight.take() {
                self.land(flight, &mut groups[g].slots, tally)?;
                self.leave(&mut groups[g].slots, &mut tally.report, on_done)?;
            }
            let others = groups.iter().map(|group| group.slots.len()).sum::<usize>() - groups[g].slots.len();
            let slots = &mut groups[g].slots;
            self.admit(&mut requests, &mut window, (slots, others), &mut tally.report, on_done)?;
            if !slots.is_empty() {
                groups[g].flight = Some(self.launch(slots, &mut tally.keys)?);
            } else if others == 0 {
                break;
            }
        }
        Ok(())
    }
}

impl<O: Ops> Engine<'_, O> {
    /// Calls `each` with every token of `texts` in order, the number of its text, and the logits `[vocab]` at its place after `start`.
    fn each_place(&mut self, start: &[u32], texts: &[Vec<u32>], mut each: impl FnMut(usize, u32, &[f32])) -> Result<()> {
        let Some((last, before)) = start.split_last() else {
            return Err(Error::Usage("texts are scored after at least one token".into()));
        };
        self.check_tokens(start)?;
        texts.iter().try_for_each(|text| self.check_tokens(text))?;
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let room = || Error::Usage(format!("a prompt of {} tokens and {longest} more do not fit the model or its cache", start.len()));
        let known = self.prefixes.iter().any(|p| p.tokens == before);
        let alone = if known { 0 } else { Blocks::needed(before.len()) };
        let whole = before.len() / BLOCK;
        let needed = Blocks::needed(before.len() + longest) - whole;
        if start.len() + longest > self.max_len || alone + needed > self.blocks.total() - self.blocks.used() {
            return Err(room());
        }
        if !before.is_empty() {
            self.share(before)?;
        }
        // Blocks of the start, the one in which it ends left out: every text continues a copy of that.
        let prefix = self.prefixes.iter().find(|p| p.tokens == before).map_or(Vec::new(), |p| p.blocks.clone());
        let side = ((self.blocks.total() - self.blocks.used()) / needed.max(1)).min(SCORED_ROWS / longest.max(1)).max(1);
        let own = self.blocks.take(side * needed).ok_or_else(room)?;
        let outcome = texts.chunks(side).enumerate().try_for_each(|(chunk, part)| {
            let mut batch = Batch::default();
            for (text, own) in part.iter().zip(own.chunks_exact(needed)).filter(|(text, _)| !text.is_empty()) {
                if !before.len().is_multiple_of(BLOCK) {
                    self.ops.copy_block(&mut self.cache, prefix[whole], own[0])?;
                }
                let row = batch.tokens.len() as u32;
                let tokens = [&[*last], &text[..text.len() - 1]].concat();
                batch.push(&tokens, before.len(), &[&prefix[..whole], own].concat(), false);
                batch.wanted.extend(row..row + text.len() as u32);
            }
            if batch.tokens.is_empty() {
                return Ok(());
            }
            let (network, ops, cache) = (self.network, self.ops, &mut self.cache);
            let logits = self.pool.install(|| network.logits(ops, &network.forward(ops, &batch, cache)?))?;
            let rows = logits.chunks_exact(network.spec().vocab);
            let tokens = part.iter().enumerate().flat_map(|(i, text)| text.iter().map(move |token| (chunk * side + i, *token)));
            tokens.zip(rows).for_each(|((text, token), row)| each(text, token, row));
            Ok(())
        });
        self.blocks.give(&own);
        outcome
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

    fn logits_of(&mut self, start: &[u32], texts: &[Vec<u32>]) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(texts.iter().map(Vec::len).sum());
        self.each_place(start, texts, |_, token, logits| out.push(logits[token as usize]))?;
        Ok(out)
    }

    fn log_likelihoods(&mut self, start: &[u32], texts: &[Vec<u32>]) -> Result<Vec<f64>> {
        let mut out = vec![0.0; texts.len()];
        self.each_place(start, texts, |text, token, logits| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            out[text] += f64::from(logits[token as usize] - most) - sum.ln();
        })?;
        Ok(out)
    }

    fn forget(&mut self) {
        for prefix in self.prefixes.drain(..) {
            self.blocks.give(&prefix.blocks);
        }
    }

    fn generate(&mut self, requests: &mut dyn Iterator<Item = Request>, on_done: &mut dyn FnMut(Done) -> Result<()>) -> Result<Report> {
        let start = Instant::now();
        self.blocks.peak = self.blocks.used();
        let mut tally = Tally { report: Report::default(), keys: (0, 0) };
        let mut groups: Vec<_> = (0..self.ops.depth()).map(|_| Group { slots: Vec::new(), flight: None }).collect();
        let outcome = self.run(requests, &mut groups, &mut tally, on_done);
        for slot in groups.iter().flat_map(|g| &g.slots) {
            self.blocks.give(&slot.blocks[slot.borrowed..]);
        }
        outcome?;
        let (mut report, keys) = (tally.report, tally.keys);
        report.seconds = start.elapsed().as_secs_f64();
        report.first_token_seconds /= report.texts.max(1) as f64;
        report.cache_use = self.blocks.peak as f64 / self.blocks.total() as f64;
        report.padded_keys = if keys.1 == 0 { 0.0 } else { 1.0 - keys.0 as f64 / keys.1 as f64 };
        Ok(report)
    }
}
