//! The choice of a token against one that sorts all candidates.

use lumos::testing::TokenAsk;
use lumos_simt::check::Random;

/// A text's wish in plain form.
#[derive(Clone, Debug)]
struct Wish {
    unit: f64,
    temperature: f32,
    top_p: f32,
    penalty: f32,
    top_k: u32,
    allowed: Option<Vec<i32>>,
    narrow: bool,
    seen: Vec<i32>,
    logits: Vec<f32>,
    /// What is added to the logits of the allowed tokens; empty: nothing.
    biases: Vec<f32>,
}

/// The rule of `llm::sample`, with every candidate sorted.
fn expected(wish: &Wish, cap: f32) -> i32 {
    let tokens: Vec<i32> = wish.allowed.clone().unwrap_or_else(|| (0..wish.logits.len() as i32).collect());
    let mut pairs: Vec<(f32, i32)> = tokens
        .into_iter()
        .enumerate()
        .map(|(i, t)| {
            let v = wish.logits[t as usize];
            let v = if cap == 0.0 { v } else { cap * (v / cap).tanh() };
            let v = wish.biases.get(i).map_or(v, |bias| v + bias);
            let again = wish.seen.contains(&t);
            (
                if !again {
                    v
                } else if v > 0.0 {
                    v / wish.penalty
                } else {
                    v * wish.penalty
                },
                t,
            )
        })
        .filter(|p| !p.0.is_nan())
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let Some(first) = pairs.first().copied() else { return -1 };
    if wish.temperature == 0.0 || !first.0.is_finite() {
        return first.1;
    }
    if wish.top_k > 0 {
        pairs.truncate(wish.top_k as usize);
    }
    let mass = |p: &(f32, i32)| {
        let x = (f64::from(p.0) - f64::from(first.0)) / f64::from(wish.temperature);
        if x < -30.0 { 0 } else { (x.exp() * 2f64.powi(43)) as u64 }
    };
    let sums: Vec<u64> = pairs
        .iter()
        .scan(0, |sum, p| {
            *sum += mass(p);
            Some(*sum)
        })
        .collect();
    let mut held = *sums.last().unwrap();
    if wish.top_p < 1.0 {
        let least = ((f64::from(wish.top_p) * held as f64).ceil() as u64).clamp(1, held);
        held = *sums.iter().find(|s| **s >= least).unwrap();
    }
    let drawn = ((wish.unit * held as f64) as u64).min(held - 1);
    pairs[sums.iter().position(|s| *s > drawn).unwrap()].1
}

fn chosen(wishes: &[Wish], vocab: usize, cap: f32) -> Vec<i32> {
    let (mut logits, mut some) = (Vec::<f32>::new(), Vec::<f32>::new());
    let (mut allowed, mut seen, mut biases) = (Vec::<i32>::new(), Vec::<i32>::new(), Vec::<f32>::new());
    let mut asks = vec![None; wishes.len()];
    // Lists of narrow wishes first: their logits lie in the same order.
    for narrow in [true, false] {
        for (ask, wish) in asks.iter_mut().zip(wishes).filter(|(_, w)| w.narrow == narrow) {
            let (at, seen_at) = (allowed.len() as i32, seen.len() as i32);
            seen.extend(&wish.seen);
            let biases_at = if wish.biases.is_empty() { -1 } else { biases.len() as i32 };
            biases.extend(&wish.biases);
            let list = wish.allowed.as_deref();
            allowed.extend(list.unwrap_or_default());
            let row = if narrow {
                some.extend(list.unwrap().iter().map(|t| wish.logits[*t as usize]));
                -1
            } else {
                logits.extend(&wish.logits);
                (logits.len() / vocab) as i32 - 1
            };
            *ask = Some(TokenAsk {
                unit: wish.unit,
                temperature: wish.temperature,
                top_p: wish.top_p,
                penalty: wish.penalty,
                top_k: wish.top_k,
                row,
                allowed: at,
                allowed_n: list.map_or(-1, |l| l.len() as i32),
                seen: seen_at,
                seen_n: wish.seen.len() as i32,
                biases: biases_at,
            });
        }
    }
    let asks: Vec<TokenAsk> = asks.into_iter().flatten().collect();
    let mut tokens = vec![-7i32; asks.len()];
    let grid = [asks.len() as u32, 1, 1];
    let (t, l, s, a) = (tokens.as_mut_ptr(), logits.as_mut_ptr(), some.as_mut_ptr(), asks.as_ptr());
    let (w, e, b) = (allowed.as_ptr(), seen.as_ptr(), biases.as_ptr());
    launch!("decoder_choose", grid, [512, 1, 1], 41_272, t, l, s, a, w, e, b, vocab as i32, cap).unwrap();
    tokens
}

fn wish(r: &mut Random, vocab: usize, i: usize) -> Wish {
    let mut logits = r.normals(3.0, vocab);
    // Equal logits, what is no number, what is out of all proportion.
    for n in 0..vocab / 5 {
        logits[r.below(vocab)] = logits[(n * 3) % vocab];
    }
    match i % 7 {
        3 => logits[r.below(vocab)] = f32::NAN,
        4 => logits.iter_mut().step_by(2).for_each(|v| *v = f32::NEG_INFINITY),
        5 => logits[r.below(vocab)] = 200.0,
        // More in one bin than a list holds: nearly equal, then equal.
        6 => logits.iter_mut().for_each(|v| *v *= 1e-4),
        2 => logits.iter_mut().for_each(|v| *v = if *v > 6.0 { *v } else { 0.25 }),
        _ => {}
    }
    let mut list = |n: usize| {
        let mut all: Vec<i32> = (0..n).map(|_| r.below(vocab) as i32).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let allowed = [None, Some(list(1)), Some(list(vocab / 2 + 1)), Some(list(9))][i % 4].clone();
    let seen = if i.is_multiple_of(3) { list(1 + vocab / 4) } else { Vec::new() };
    let biases = allowed.as_ref().filter(|_| i % 5 < 2).map_or_else(Vec::new, |list| r.normals(2.0, list.len()));
    Wish {
        biases,
        unit: [0.0, r.unit(), r.unit(), 1.0 - 1e-16][i % 4 + usize::from(i % 8 == 4)],
        temperature: [0.0, 1.0, 0.3, 5.0, 1e-3][i % 5],
        top_p: [1.0, 0.9, 0.3, 1e-6][i / 2 % 4],
        penalty: if seen.is_empty() { 1.0 } else { 1.3 },
        top_k: [0, 1, 5, 1_000_000][i / 3 % 4],
        narrow: allowed.as_ref().is_some_and(|_| i % 2 == 1),
        allowed,
        seen,
        logits,
    }
}

#[test]
fn tokens_are_those_of_a_choice_by_sorting() {
    for (seed, vocab, count) in [(1, 1, 12), (2, 3, 40), (3, 77, 120), (4, 2100, 60)] {
        for cap in [0.0, 30.0] {
            let mut r = Random::new(seed);
            let wishes: Vec<Wish> = (0..count).map(|i| wish(&mut r, vocab, i)).collect();
            let tokens = chosen(&wishes, vocab, cap);
            for (i, (token, wish)) in tokens.iter().zip(&wishes).enumerate() {
                assert_eq!(
                    *token,
                    expected(wish, cap),
                    "wish {i} of {vocab} tokens, cap {cap}: {:?}",
                    Wish { logits: vec![], ..wish.clone() }
                );
            }
        }
    }
}

#[test]
fn nothing_to_choose_from_is_told() {
    let mut r = Random::new(9);
    let base = Wish { allowed: None, narrow: false, seen: vec![], penalty: 1.0, temperature: 1.0, ..wish(&mut r, 40, 0) };
    let wishes = [
        Wish { logits: vec![f32::NAN; 40], ..base.clone() },
        Wish { allowed: Some(vec![]), narrow: true, ..base.clone() },
        Wish { allowed: Some(vec![]), ..base.clone() },
        Wish { logits: vec![f32::NEG_INFINITY; 40], ..base.clone() },
        Wish { logits: (0..40).map(|i| if i == 31 || i == 17 { f32::INFINITY } else { 0.0 }).collect(), ..base },
    ];
    assert_eq!(chosen(&wishes, 40, 0.0), [-1, -1, -1, 0, 17]);
}
