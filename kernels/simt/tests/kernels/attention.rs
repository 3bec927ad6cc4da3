//! Self-attention, causal and over whole sequences, and its gradients against the reference.

use super::packed::{Builder, OUTPUTS, PackedStep, TOKENS, close, same_bits};
use super::reference::{Plain, Real, case, numbers, rows_of};
use super::steps::{accept, alone, part, steps};
use lumos::backend::{Backend, Mask, RowKind};
use lumos_simt::check::Random;

/// Tokens of queries and the first tokens of their sequences.
fn queries(s: &PackedStep, kind: i32) -> Vec<(usize, usize)> {
    let pair = |(&token, &start): (&i32, &i32)| (token as usize, start as usize);
    if kind == OUTPUTS {
        s.out_token.iter().zip(&s.out_start).map(pair).collect()
    } else {
        s.start.iter().enumerate().map(|(t, &start)| (t, start as usize)).collect()
    }
}

/// `MaskKind` of attention.cuh.
const CAUSAL: i32 = 0;
const FULL: i32 = 1;

struct Case {
    step: PackedStep,
    kind: i32,
    mask: i32,
    heads: usize,
    d: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dy: Vec<f32>,
}

#[derive(Debug)]
struct Results {
    y: Vec<f32>,
    stats: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Results {
    fn same(&self, other: &Results) -> bool {
        let all = |r: &Results| [&r.y, &r.stats, &r.dq, &r.dk, &r.dv].map(Clone::clone);
        all(self).iter().zip(&all(other)).all(|(a, b)| same_bits(a, b))
    }
}

impl Case {
    fn new(seed: u64, step: PackedStep, kind: i32, heads: usize, w: usize) -> Case {
        let (mut random, d) = (Random::new(seed), heads * w);
        let (rows, tokens) = (queries(&step, kind).len() * d, step.tokens() * d);
        // Scores of deviation 2, so that probabilities are neither all alike nor one of them alone.
        let (q, k, v) = (random.normals(2.0, rows), random.normals(1.0, tokens), random.normals(1.0, tokens));
        Case { step, kind, mask: CAUSAL, heads, d, q, k, v, dy: random.normals(1.0, rows) }
    }

    /// The same case where a query sees its whole sequence.
    fn whole(self) -> Case {
        Case { mask: FULL, ..self }
    }

    /// `y`, `stats`, `dq`, `dk`, `dv` of the reference for queries, keys, values and the gradient of `y`.
    fn plain<R: Real>(&self, [q, k, v, dy]: [&[R]; 4]) -> [Vec<R>; 5] {
        let (case, rows, tokens) = (case(&self.step, self.d), rows_of(self.kind), RowKind::Tokens);
        let mut plain = Plain::new(&case, 0);
        let mask = if self.mask == FULL { Mask::Full } else { Mask::Causal };
        let (heads, d) = (self.heads, self.d);
        let [q, dy] = [q, dy].map(|x| plain.load(rows, d, x));
        let [k, v] = [k, v].map(|x| plain.load(tokens, d, x));
        let ([y, dq], [dk, dv], stats) =
            ([d; 2].map(|d| plain.0.act(rows, d)), [d; 2].map(|d| plain.0.act(tokens, d)), plain.0.act(rows, heads));
        plain.0.attention(mask, heads, q, k, v, y, stats);
        plain.0.attention_backward(mask, heads, q, k, v, stats, dy, dq, dk, dv);
        [y, stats, dq, dk, dv].map(|x| plain.values(x))
    }

    fn run(&mut self) -> Results {
        let (rows, tokens) = (queries(&self.step, self.kind).len(), self.step.tokens());
        let (kind, mask, h, d) = (self.kind, self.mask, self.heads as i32, self.d as i32);
        let nans = |rows: usize, width: usize| vec![f32::NAN; rows * width];
        let mut r = Results {
            y: nans(rows, self.d),
            stats: nans(rows, self.heads),
            dq: nans(rows, self.d),
            dk: nans(tokens, self.d),
            dv: nans(tokens, self.d),
        };
        let mut scratch = nans(rows, 2 * self.heads);
        let (step, q, k, v, dy) = (self.step.ptr(), self.q.as_ptr(), self.k.as_ptr(), self.v.as_ptr(), self.dy.as_ptr());
        let (y, stats, scratch) = (r.y.as_mut_ptr(), r.stats.as_mut_ptr(), scratch.as_mut_ptr());
        let (dq, dk, dv) = (r.dq.as_mut_ptr(), r.dk.as_mut_ptr(), r.dv.as_mut_ptr());
        // One block more than needed: grids are sized for the largest step.
        let grid = |rows: usize| [(rows * self.heads).div_ceil(8) as u32 + 1, 1, 1];
        let block = [256, 1, 1];
        launch!("attention_forward", grid(rows), block, 0, step, kind, mask, h, q, k, v, d, y, stats).unwrap();
        launch!("attention_backward_q", grid(rows), block, 0, step, kind, mask, h, q, k, v, d, stats, dy, dq, scratch).unwrap();
        launch!("attention_backward_kv", grid(tokens), block, 0, step, kind, mask, h, q, k, v, d, stats, dy, scratch, dk, dv).unwrap();
        r
    }

    fn check(&mut self) -> Results {
        let got = self.run();
        let given = [&self.q, &self.k, &self.v, &self.dy];
        let plain = self.plain(given.map(|x| &x[..]));
        let wide = given.map(|x| numbers::<f64>(x));
        let exact = self.plain(wide.each_ref().map(|x| &x[..]));
        let ours = [("y", &got.y), ("stats", &got.stats), ("dq", &got.dq), ("dk", &got.dk), ("dv", &got.dv)];
        for ((name, got), (plain, exact)) in ours.into_iter().zip(plain.iter().zip(&exact)) {
            accept(name, got, plain, exact);
        }
        got
    }
}

#[test]
fn the_reference_is_the_gradient_of_its_forward_pass() {
    let case = Case::new(1, PackedStep::random(1, 1, &[&[4, 2, 3], &[1], &[5]]), OUTPUTS, 2, 3);
    let dy = numbers::<f64>(&case.dy);
    let inputs = [&case.q, &case.k, &case.v].map(|x| numbers::<f64>(x));
    let value = |x: &[Vec<f64>; 3]| -> f64 {
        let [y, ..] = case.plain([&x[0], &x[1], &x[2], &dy]);
        y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
    };
    let [_, _, gradients @ ..] = case.plain([&inputs[0], &inputs[1], &inputs[2], &dy]);
    for (i, gradient) in gradients.iter().enumerate() {
        for (j, &g) in gradient.iter().enumerate() {
            let at = |step: f64| {
                let mut moved = inputs.clone();
                moved[i][j] += step;
                value(&moved)
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - g).abs() < 1e-8 * (1.0 + g.abs()), "input {i}, element {j}: {g} and {slope}");
        }
    }
}

#[test]
fn heads_and_widths() {
    for (i, (heads, w)) in [(2, 32), (4, 16), (1, 7), (1, 1), (2, 65), (1, 128), (4, 3), (2, 50), (1, 96), (1, 33)].into_iter().enumerate()
    {
        for kind in [TOKENS, OUTPUTS] {
            let step = PackedStep::random(3 + i as u64, 1, &[&[5, 3, 4, 2], &[], &[1], &[9, 7, 2], &[1, 3], &[], &[2, 1], &[13]]);
            let mut case = Case::new(i as u64, step, kind, heads, w);
            let got = case.check();
            assert!(got.same(&case.run()), "another run gives other bits");
        }
    }
}

#[test]
fn steps_of_all_shapes() {
    for (i, step) in steps(1).into_iter().enumerate() {
        let kind = if i % 2 == 0 { OUTPUTS } else { TOKENS };
        Case::new(i as u64, step, kind, 2, 5).check();
    }
}

#[test]
fn sequences_longer_than_a_tile_of_keys() {
    for (kind, w) in [(TOKENS, 4), (OUTPUTS, 35)] {
        let step = PackedStep::random(5, 1, &[&[67, 32, 33], &[1], &[64], &[97, 50]]);
        let mut case = Case::new(5, step, kind, 1, w);
        let got = case.check();
        assert!(got.same(&case.run()), "another run gives other bits");
    }
}

#[test]
fn whole_sequences() {
    for (i, (heads, w)) in [(2, 32), (1, 1), (3, 5), (1, 65), (2, 128)].into_iter().enumerate() {
        for kind in [TOKENS, OUTPUTS] {
            let step = PackedStep::random(13 + i as u64, 1, &[&[5, 3, 4, 2], &[], &[1], &[33, 32, 2], &[64, 3], &[], &[97]]);
            let mut case = Case::new(i as u64, step, kind, heads, w).whole();
            let got = case.check();
            assert!(got.same(&case.run()), "another run gives other bits");
        }
    }
    // Outputs in the middle of a sequence: what lies behind them is seen, and has a gradient.
    let mut step = PackedStep::random(8, 1, &[&[6, 5], &[3]]);
    step.out_token = vec![3, 4, 13];
    step.out_start = vec![0, 0, 11];
    step.out_client = vec![0, 0, 1];
    step.client_outs = vec![0, 2, 3];
    let got = Case::new(8, step, OUTPUTS, 2, 3).whole().check();
    assert!(got.dv[..6 * 6].iter().all(|&x| x != 0.0), "every token of the sequence is seen");
    assert!(got.dv[6 * 6..11 * 6].iter().all(|&x| x == 0.0), "a sequence without outputs is not");
}

#[test]
fn a_client_with_more_outputs_than_one_probe_divides() {
    let mut b = Builder::new(3, 1);
    b.user(&[3]);
    b.end_client();
    for user in 0..400 {
        b.user(&[2, 1 + user % 3]);
    }
    b.end_client();
    let step = b.finish();
    assert!(step.outputs() > 1024);
    Case::new(6, step, OUTPUTS, 1, 2).check();
}

#[test]
fn probabilities_are_normalised_again() {
    // Scores of 2048 and more, exact in f32, so that only the log of the partition sum is rounded: to a 4096th.
    for kind in [TOKENS, OUTPUTS] {
        let mut case = Case::new(7, PackedStep::random(7, 1, &[&[7, 4, 1], &[40]]), kind, 2, 4);
        for row in [&mut case.q, &mut case.k] {
            for (i, x) in row.iter_mut().enumerate() {
                *x = if i % 4 == 0 { 64.0 } else { (x.clamp(-2.0, 2.0) * 8.0).round() / 8.0 };
            }
        }
        case.check();
    }
}

#[test]
fn tokens_that_no_output_sees_get_zeros() {
    let mut step = PackedStep::random(8, 1, &[&[6, 5], &[3]]);
    // Only the fourth token of the first history and the last of the second client are outputs.
    step.out_token = vec![3, 13];
    step.out_start = vec![0, 11];
    step.out_client = vec![0, 1];
    step.client_outs = vec![0, 1, 2];
    let got = Case::new(8, step, OUTPUTS, 2, 3).check();
    for dk in [&got.dk, &got.dv] {
        assert!(dk[4 * 6..11 * 6].iter().all(|&x| x == 0.0), "a token behind the output or of another sequence");
        assert!(dk[..4 * 6].iter().chain(&dk[11 * 6..]).any(|&x| x != 0.0));
    }
}

#[test]
fn a_client_alone_gives_the_same_bits() {
    let (heads, w) = (2, 5);
    for kind in [TOKENS, OUTPUTS] {
        let step = PackedStep::random(9, 1, &[&[5, 2, 1], &[], &[37, 4], &[1]]);
        let mut together = Case::new(9, step, kind, heads, w);
        let all = together.run();
        for c in 0..together.step.clients() {
            let (s, d) = (&together.step, together.d);
            let (bounds, tokens) = (s.row_view(kind).bounds, &s.client_tokens[..]);
            let mut one = Case::new(9, alone(s, c), kind, heads, w);
            one.q = part(&together.q, bounds, c, d).to_vec();
            one.k = part(&together.k, tokens, c, d).to_vec();
            one.v = part(&together.v, tokens, c, d).to_vec();
            one.dy = part(&together.dy, bounds, c, d).to_vec();
            let own = one.run();
            let want = Results {
                y: part(&all.y, bounds, c, d).to_vec(),
                stats: part(&all.stats, bounds, c, heads).to_vec(),
                dq: part(&all.dq, bounds, c, d).to_vec(),
                dk: part(&all.dk, tokens, c, d).to_vec(),
                dv: part(&all.dv, tokens, c, d).to_vec(),
            };
            assert!(own.same(&want), "client {c}");
        }
    }
}

#[test]
fn large_equal_scores_give_means() {
    let mut case = Case::new(10, PackedStep::random(10, 1, &[&[35, 3]]), TOKENS, 1, 4);
    case.k.fill(500.0);
    let got = case.run();
    // Every token seen has the same score, however large: y is the mean of the values.
    let mut want = vec![];
    for (t, start) in queries(&case.step, TOKENS) {
        for c in 0..4 {
            want.push((start..=t).map(|i| f64::from(case.v[i * 4 + c])).sum::<f64>() / (t + 1 - start) as f64);
        }
    }
    close("y", &got.y, &want, 1e-6);
}
