//! Attention of ragged sequences against softmax over a dense mask.

use lumos::backend::{Backend, Mask, RowKind};

use crate::check::{Input, Outs, fresh, hold, load, normal, pack, packs, shapes as random_shapes, stream, worker};
use crate::reference::{attention, dense_mask};

fn check(case: u64, d: usize, heads: usize, lengths: &[usize], rows: RowKind, spread: f32) {
    for mask in [Mask::Causal, Mask::Full] {
        check_mask(mask, case, d, heads, lengths, rows, spread);
    }
}

fn check_mask(mask: Mask, case: u64, d: usize, heads: usize, lengths: &[usize], rows: RowKind, spread: f32) {
    let mut s = stream(case);
    let step = pack(&mut s, lengths, 3, Outs::History);
    let queries = if rows == RowKind::Tokens { step.token.clone() } else { step.out_token.clone() };
    let q = Input::normal(&mut s, spread, &[queries.len(), d]);
    let k = Input::normal(&mut s, spread, &[step.tokens(), d]);
    let v = Input::normal(&mut s, 1.0, &[step.tokens(), d]);
    let dy = normal(&mut s, 1.0, queries.len() * d);
    let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step.clone());
    let qa = load(&mut w, rows, d, &q.values);
    let (ka, va) = (load(&mut w, RowKind::Tokens, d, &k.values), load(&mut w, RowKind::Tokens, d, &v.values));
    let (y, stats) = (fresh(&mut w, rows, d), fresh(&mut w, rows, heads));
    w.attention(mask, heads, qa, ka, va, y, stats);
    let up = load(&mut w, rows, d, &dy);
    let dq = fresh(&mut w, rows, d);
    let (dk, dv) = (fresh(&mut w, RowKind::Tokens, d), fresh(&mut w, RowKind::Tokens, d));
    w.attention_backward(mask, heads, qa, ka, va, stats, up, dq, dk, dv);
    hold(
        &format!("attention {mask:?} d {d} heads {heads} {rows:?} {} sequences", lengths.len()),
        &[("value", w.values(y)), ("dq", w.values(dq)), ("dk", w.values(dk)), ("dv", w.values(dv))],
        &[q, k, v],
        &dy,
        |t| attention(heads, &t[0], &t[1], &t[2], &dense_mask(mask, &step, &queries, t[0].dtype())?),
    );
}

#[test]
fn ragged_sequences_and_heads() {
    let shapes =
        [(4, 1), (4, 2), (5, 1), (7, 1), (8, 2), (12, 3), (12, 2), (17, 1), (24, 3), (24, 1), (64, 1), (64, 2), (65, 1), (63, 3), (33, 3)];
    let mut s = random_shapes(3);
    let drawn = (0..4).map(|_| {
        let heads = 1 + s.below(4) as u32 as usize;
        (heads * (1 + s.below(20) as usize), heads)
    });
    for (i, (d, heads)) in shapes.into_iter().chain(drawn).enumerate() {
        for (j, lengths) in packs().iter().enumerate() {
            for rows in [RowKind::Tokens, RowKind::Outputs] {
                check(6000 + (100 * i + j) as u64, d, heads, lengths, rows, 1.0);
            }
        }
    }
}

#[test]
fn peaked_scores() {
    for spread in [3.0, 8.0] {
        check(6900, 17, 1, &[23, 2, 9], RowKind::Tokens, spread);
        check(6901, 64, 2, &[50, 1], RowKind::Outputs, spread);
    }
}

#[test]
fn a_thousand_short_sequences() {
    let lengths: Vec<usize> = (0..1000).map(|i| 1 + i % 2).collect();
    check(6950, 5, 1, &lengths, RowKind::Tokens, 1.0);
    check(6951, 8, 2, &lengths, RowKind::Outputs, 1.0);
}
