//! A text on its way: what is computed of it, what is written, what may come next.

use super::network::SampleRequest;
use super::request::{Done, Finish, Report, Request, Text};
use crate::{Error, Result};
use std::time::Instant;

/// A text being written.
pub(super) struct Slot {
    pub index: usize,
    pub request: Request,
    pub blocks: Vec<u32>,
    /// Blocks at the start of the table that belong to a shared prefix.
    pub borrowed: usize,
    /// Positions whose keys and values are in the cache.
    pub done: usize,
    /// Tokens not yet computed.
    pub pending: Vec<u32>,
    pub output: Vec<u32>,
    /// Tokens already in prompt and text, sorted; kept only for a repetition penalty.
    pub seen: Vec<u32>,
    /// Tokens that may come next, where there is a constraint.
    pub allowed: Vec<u32>,
    /// What is added to their logits; empty where nothing is.
    pub biases: Vec<f32>,
    pub admitted: Instant,
    /// Rows of the batch under way.
    pub rows: usize,
    /// Where its last row stands among the wanted ones, if the next token is to be chosen in this step.
    pub asks: Option<usize>,
    /// Whether its first token was chosen.
    pub answered: bool,
    pub end: Option<Result<Finish>>,
}

impl Slot {
    pub fn new(index: usize, request: Request, blocks: Vec<u32>, borrowed: usize, reused: usize) -> Slot {
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
            biases: Vec::new(),
            admitted: Instant::now(),
            rows: 0,
            asks: None,
            answered: false,
            end: None,
            request,
        }
    }

    /// Whether its prompt is still being computed.
    pub fn reads(&self) -> bool {
        self.done < self.request.prompt.len()
    }

    /// Asks for the next token.
    pub fn ask(&self, row: usize) -> SampleRequest<'_> {
        SampleRequest {
            row,
            sampling: self.request.sampling,
            key: self.request.key,
            position: self.output.len() as u64,
            seen: &self.seen,
            allowed: self.request.constraint.is_some().then_some(&self.allowed),
            biases: &self.biases,
        }
    }

    /// Takes the chosen token, and after it those that a constraint leaves no choice about. Gives the number of the latter.
    pub fn write(&mut self, chosen: Option<u32>) -> u64 {
        let Some(token) = chosen else {
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
    pub fn finish(self, report: &mut Report) -> Done {
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

    pub fn push(&mut self, token: u32) {
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

    pub fn follow(&mut self) -> u64 {
        let mut forced = 0;
        loop {
            let Some(constraint) = &self.request.constraint else { return forced };
            constraint.allowed(&mut self.allowed, &mut self.biases);
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
