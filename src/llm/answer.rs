//! The next tokens chosen by the host, for devices that download their logits to it.

use super::network::{Ops, SampleRequest};
use super::sample::{Scratch, choose};
use crate::Result;
use rayon::prelude::*;
use std::cell::RefCell;

/// A device whose logits the host reads.
pub(super) trait HostLogits: Ops {
    /// The rows named.
    fn rows(&self, x: &Self::Array, rows: &[usize]) -> Result<Self::Array>;

    /// Logits of `row` for some tokens only, with the bits that [`Ops::logits`] gives.
    fn logits_at(
        &self,
        x: &Self::Array,
        row: usize,
        head: &Self::Matrix,
        cap: Option<f32>,
        tokens: &[u32],
        out: &mut Vec<f32>,
    ) -> Result<()>;

    /// Tokens that the output layer knows.
    fn vocab(&self, head: &Self::Matrix) -> usize;
}

thread_local! {
    static SPARE: RefCell<(Scratch, Vec<f32>)> = RefCell::default();
}

/// Memory kept from token to token. Taken and not borrowed: a thread that waits inside `work` may begin another.
fn with_spare<T>(work: impl FnOnce(&mut Scratch, &mut Vec<f32>) -> T) -> T {
    let (mut scratch, mut logits) = SPARE.take();
    let result = work(&mut scratch, &mut logits);
    SPARE.set((scratch, logits));
    result
}

fn add(logits: &mut [f32], biases: &[f32]) {
    logits.iter_mut().zip(biases).for_each(|(logit, bias)| *logit += bias);
}

/// Answers all `asks` from the hidden states `x`.
pub(super) fn on_host<O: HostLogits>(
    ops: &O,
    x: &O::Array,
    head: &O::Matrix,
    cap: Option<f32>,
    asks: &[SampleRequest<'_>],
) -> Result<Vec<Option<u32>>> {
    let vocab = ops.vocab(head);
    // So few tokens may come next that the logits of the others are not worth computing.
    let is_narrow = |ask: &SampleRequest<'_>| ask.allowed.is_some_and(|allowed| allowed.len() <= vocab / 32);
    let pick = |ask: &SampleRequest<'_>, allowed: Option<&[u32]>, logits: &[f32], scratch: &mut Scratch| match allowed {
        Some(allowed) => choose(&ask.sampling, allowed.iter().copied(), logits, ask.seen, ask.key, ask.position, scratch),
        None => choose(&ask.sampling, 0.., logits, ask.seen, ask.key, ask.position, scratch),
    };
    let wide: Vec<usize> = (0..asks.len()).filter(|i| !is_narrow(&asks[*i])).collect();
    let mut answers = asks
        .par_iter()
        .map(|ask| match ask.allowed {
            Some(allowed) if is_narrow(ask) => with_spare(|scratch, logits| {
                ops.logits_at(x, ask.row, head, cap, allowed, logits)?;
                add(logits, ask.biases);
                Ok(pick(ask, Some(allowed), logits, scratch))
            }),
            _ => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    if wide.is_empty() {
        return Ok(answers);
    }
    let rows: Vec<usize> = wide.iter().map(|i| asks[*i].row).collect();
    let logits = ops.logits(&ops.rows(x, &rows)?, head, cap)?;
    let chosen: Vec<Option<u32>> = wide
        .par_iter()
        .zip(logits.par_chunks_exact(vocab))
        .map(|(i, all)| {
            with_spare(|scratch, some| match asks[*i].allowed {
                Some(allowed) => {
                    some.clear();
                    some.extend(allowed.iter().map(|t| all[*t as usize]));
                    add(some, asks[*i].biases);
                    pick(&asks[*i], Some(allowed), some, scratch)
                }
                None => pick(&asks[*i], None, all, scratch),
            })
        })
        .collect();
    wide.iter().zip(chosen).for_each(|(i, token)| answers[*i] = token);
    Ok(answers)
}
