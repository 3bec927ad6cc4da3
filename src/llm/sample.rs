//! The next token from logits: greedy or drawn, with a draw that depends on the seed, the user, the view and the position alone.

use crate::base::rng::{Purpose, Stream};
use crate::{Error, Result};

/// What the likeliest token's probability counts when one is drawn.
const UNITS: f64 = (1u64 << 43) as f64;

/// How the next token is chosen. In the order applied: penalty, temperature, the k likeliest, the likeliest that hold `top_p`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: always the likeliest token (of equals the one with the lower number).
    pub temperature: f32,
    /// Keep the k likeliest; 0: all.
    pub top_k: u32,
    /// Keep the likeliest tokens until they hold this probability; 1: all.
    pub top_p: f32,
    /// Logits of tokens already in prompt or text are divided by this where positive and multiplied where negative; 1: none.
    pub repetition_penalty: f32,
}

impl Sampling {
    /// The likeliest token every time.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0 };

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the field.
    pub fn check(&self) -> Result<()> {
        let bad = |what: &str| Err(Error::Usage(what.into()));
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("the temperature must be 0 (greedy) or above");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top-p must be above 0 and at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("the repetition penalty must be above 0 (1 means none)");
        }
        Ok(())
    }

    /// Whether no draw is made.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// Whose draws: they are the same on any machine, in any batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Seed of the run.
    pub seed: u64,
    /// User.
    pub user: u64,
    /// Which of the user's texts.
    pub view: u64,
}

impl Key {
    /// A number in `[0, 1)` for the token at `position`.
    pub fn unit(&self, position: u64) -> f64 {
        let b = Stream::new(self.seed, Purpose::Tokens, self.view, self.user).block_at(position);
        ((u64::from(b[0]) << 21) ^ u64::from(b[1] >> 11)) as f64 / (1u64 << 53) as f64
    }
}

/// Candidates with their logits, kept from token to token.
#[derive(Default)]
pub struct Scratch {
    pairs: Vec<(f32, u32)>,
}

/// Chooses among candidates `tokens` with `logits`, both `[n]`; `None` where there is no candidate or no logit is a number.
/// `seen` are the tokens that the penalty concerns, sorted.
pub fn choose(
    sampling: &Sampling,
    tokens: impl Iterator<Item = u32>,
    logits: &[f32],
    seen: &[u32],
    key: Key,
    position: u64,
    scratch: &mut Scratch,
) -> Option<u32> {
    let penalty = sampling.repetition_penalty;
    let pairs = &mut scratch.pairs;
    pairs.clear();
    pairs.extend(logits.iter().zip(tokens).filter(|(x, _)| !x.is_nan()).map(|(x, t)| {
        let again = penalty != 1.0 && seen.binary_search(&t).is_ok();
        (
            if !again {
                *x
            } else if *x > 0.0 {
                x / penalty
            } else {
                x * penalty
            },
            t,
        )
    }));
    // Likeliest first; of equals the lower number.
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if sampling.is_greedy() {
        return pairs.iter().min_by(|a, b| order(a, b)).map(|p| p.1);
    }
    if pairs.is_empty() {
        return None;
    }
    let keep = if sampling.top_k == 0 { pairs.len() } else { pairs.len().min(sampling.top_k as usize) };
    if keep < pairs.len() {
        pairs.select_nth_unstable_by(keep - 1, order);
        pairs.truncate(keep);
    }
    pairs.sort_unstable_by(order);
    let max = f64::from(pairs[0].0);
    if !max.is_finite() {
        return Some(pairs[0].1);
    }
    // Probabilities in whole units of 2^-43 of the likeliest one's: sums have no order, so that a device that does not sort finds
    // the same token. A vocabulary of 2^20 tokens fits 64 bits.
    let mass = |x: f32| {
        let x = (f64::from(x) - max) / f64::from(sampling.temperature);
        if x < -30.0 { 0 } else { (x.exp() * UNITS) as u64 }
    };
    let mut held: u64 = pairs.iter().map(|p| mass(p.0)).sum();
    if sampling.top_p < 1.0 {
        // The shortest head that holds `top_p`.
        let least = ((f64::from(sampling.top_p) * held as f64).ceil() as u64).clamp(1, held);
        let sums = pairs.iter().scan(0, |sum, p| {
            *sum += mass(p.0);
            Some(*sum)
        });
        held = sums.into_iter().find(|sum| *sum >= least).unwrap_or(held);
    }
    let drawn = ((key.unit(position) * held as f64) as u64).min(held - 1);
    let mut sum = 0;
    let chosen = pairs.iter().find(|p| {
        sum += mass(p.0);
        sum > drawn
    });
    chosen.map(|p| p.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(s: Sampling, logits: &[f32], position: u64) -> Option<u32> {
        choose(&s, 0.., logits, &[], Key { seed: 5, user: 3, view: 1 }, position, &mut Scratch::default())
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_skips_nan() {
        assert_eq!(draw(Sampling::GREEDY, &[1.0, 3.0, f32::NAN, 3.0], 0), Some(1));
        assert_eq!(draw(Sampling::GREEDY, &[f32::NAN], 0), None);
        assert_eq!(draw(Sampling::GREEDY, &[], 0), None);
    }

    #[test]
    fn shares_follow_the_softmax_of_what_is_kept() {
        let logits = [0.5f32, 2.0, 1.0, -4.0, 1.5];
        let base = Sampling { temperature: 0.8, ..Sampling::GREEDY };
        for (sampling, kept) in [
            (base, vec![0, 1, 2, 3, 4]),
            (Sampling { top_k: 3, ..base }, vec![1, 2, 4]),
            // Probabilities fall 0.52, 0.28, 0.15: two hold 0.75, three 0.9.
            (Sampling { top_p: 0.75, ..base }, vec![1, 4]),
            (Sampling { top_p: 1e-6, ..base }, vec![1]),
        ] {
            let n = 20_000;
            let mut counts = [0f64; 5];
            (0..n).for_each(|p| counts[draw(sampling, &logits, p).unwrap() as usize] += 1.0);
            let total: f64 = kept.iter().map(|t: &usize| f64::from(logits[*t] / 0.8).exp()).sum();
            for (t, count) in counts.iter().enumerate() {
                let p = if kept.contains(&t) { f64::from(logits[t] / 0.8).exp() / total } else { 0.0 };
                let error = (p * (1.0 - p) / n as f64).sqrt();
                assert!((count / n as f64 - p).abs() <= 5.0 * error, "{sampling:?} token {t}: {count} of {n}, {p}");
            }
        }
    }

    #[test]
    fn a_penalty_pushes_both_signs_down() {
        let s = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let with = |logits: &[f32], seen: &[u32]| choose(&s, 0.., logits, seen, Key::default(), 0, &mut Scratch::default());
        assert_eq!(with(&[1.9, 1.0], &[0]), Some(1));
        assert_eq!(with(&[-0.6, -1.0], &[0]), Some(1));
        assert_eq!(with(&[-0.6, -1.0], &[]), Some(0));
    }

    #[test]
    fn nonsense_is_refused() {
        for s in [
            Sampling { temperature: -1.0, ..Sampling::GREEDY },
            Sampling { temperature: f32::NAN, ..Sampling::GREEDY },
            Sampling { top_p: 0.0, ..Sampling::GREEDY },
            Sampling { top_p: 1.5, ..Sampling::GREEDY },
            Sampling { repetition_penalty: 0.0, ..Sampling::GREEDY },
        ] {
            assert!(s.check().is_err(), "{s:?}");
        }
        assert!(Sampling::GREEDY.check().is_ok());
    }
}
