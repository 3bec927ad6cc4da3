//! From texts that the model writes to a ranking of the catalogue.

use super::constants::Constants;
use super::text::Lines;
use crate::Result;
use crate::llm::{EngineOptions, Finish, Generate, Key, Model, Request, Sampling, Text};

/// Users whose texts are written side by side.
const USERS: usize = 8;

/// Asks a model.
pub struct Ranker<'m> {
    /// The model.
    pub model: &'m Model,
    /// The catalogue.
    pub lines: &'m Lines,
    /// How it is asked.
    pub constants: &'m Constants,
    /// The run's seed.
    pub seed: u64,
}

impl Ranker<'_> {
    /// Scores of all `items` items `[I]` after each history, given to `done` in order with the number of the history: minus the place in the merged
    /// list, minus infinity for an item that no text leads to. `users` name whose draws they are.
    ///
    /// # Errors
    /// The device's, and those of `done`.
    pub fn each(&self, histories: &[(u64, &[u32])], items: usize, done: &mut dyn FnMut(usize, Vec<f32>) -> Result<()>) -> Result<()> {
        let samples = if self.constants.temperature > 0.0 { self.constants.samples } else { 1 };
        let most = self.constants.tokens;
        let prompts: Vec<Vec<u32>> = histories.iter().map(|(_, history)| self.lines.prompt(history, most + 1).0).collect();
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let slots = (USERS * samples).min(256);
        let blocks = |tokens: usize| tokens.div_ceil(16) * 16;
        // A text begins in a copy of its prompt's last block.
        let cache_tokens = USERS * blocks(longest) + 2 * slots * blocks(most + 32);
        let mut engine = self.model.engine(EngineOptions { slots, cache_tokens, step_tokens: 0 })?;
        for (part, prompts) in prompts.chunks(USERS).enumerate() {
            let lists = self.lists(&mut *engine, &histories[part * USERS..], prompts, samples)?;
            for (i, lists) in lists.into_iter().enumerate() {
                done(part * USERS + i, merged(&lists, items))?;
            }
        }
        Ok(())
    }

    /// For each prompt the rankings of its distinct texts, the likeliest text first.
    fn lists(
        &self,
        engine: &mut dyn Generate,
        histories: &[(u64, &[u32])],
        prompts: &[Vec<u32>],
        samples: usize,
    ) -> Result<Vec<Vec<Vec<u32>>>> {
        let Constants { tokens: max_new, temperature, .. } = *self.constants;
        for prompt in prompts {
            engine.share(&prompt[..prompt.len() - 1])?;
        }
        let sampling = Sampling { temperature, ..Sampling::GREEDY };
        let request = |at: usize| {
            let key = Key { seed: self.seed, user: histories[at / samples].0, view: (at % samples) as u64 };
            let stop = self.model.defaults.eos.iter().copied().chain([self.lines.end]).collect();
            Request { prompt: prompts[at / samples].clone(), max_new, sampling, key, stop, constraint: None }
        };
        let mut texts: Vec<Vec<Vec<u32>>> = vec![vec![Vec::new(); samples]; prompts.len()];
        engine.generate(&mut (0..prompts.len() * samples).map(request), &mut |done| {
            let Text { mut tokens, finish, .. } = done.outcome?;
            if finish == Finish::Stop && !tokens.is_empty() {
                tokens.push(self.lines.end);
            }
            texts[done.index / samples][done.index % samples] = tokens;
            Ok(())
        })?;
        let mut out = Vec::with_capacity(prompts.len());
        for (prompt, mut texts) in prompts.iter().zip(texts) {
            texts.sort_unstable();
            texts.dedup();
            texts.retain(|tokens| !tokens.is_empty());
            let likely = engine.log_likelihoods(prompt, &texts)?;
            let mut order: Vec<usize> = (0..texts.len()).collect();
            order.sort_by(|a, b| likely[*b].total_cmp(&likely[*a]));
            let ranked = |i: usize| Ok(self.lines.ranked(&self.model.tokenizer.decode(&texts[i])?));
            out.push(order.into_iter().map(ranked).collect::<Result<_>>()?);
        }
        engine.forget();
        Ok(out)
    }
}

/// One item from each list in turn, each item once: minus its place, minus infinity for one in no list.
fn merged(lists: &[Vec<u32>], items: usize) -> Vec<f32> {
    let mut scores = vec![f32::NEG_INFINITY; items];
    let mut heads = vec![0; lists.len()];
    let mut place = 0u32;
    loop {
        let before = place;
        for (list, head) in lists.iter().zip(&mut heads) {
            while let Some(item) = list.get(*head) {
                *head += 1;
                let score = &mut scores[*item as usize];
                if *score == f32::NEG_INFINITY {
                    *score = -(place as f32);
                    place += 1;
                    break;
                }
            }
        }
        if place == before {
            return scores;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::merged;

    #[test]
    fn lists_give_one_item_each_in_turn() {
        let none = f32::NEG_INFINITY;
        assert_eq!(merged(&[vec![3, 1, 0], vec![3, 4], vec![]], 6), [-3.0, -2.0, none, 0.0, -1.0, none]);
        assert_eq!(merged(&[], 2), [none; 2]);
    }
}
