//! The recurrence against one token after another.

use lumos::backend::{Backend, RowKind};

use crate::check::{Input, Outs, fresh, hold, load, normal, pack, packs, stream, widths, worker};
use crate::reference::gru;

fn check(case: u64, d: usize, lengths: &[usize]) {
    let mut s = stream(case);
    let step = pack(&mut s, lengths, 3, Outs::Nothing);
    let n = step.tokens();
    let xw = Input::normal(&mut s, 1.0, &[n, 3 * d]);
    let wh = Input::normal(&mut s, 1.0 / (d as f32).sqrt(), &[d, 3 * d]);
    let bh = Input::normal(&mut s, 0.5, &[3 * d]);
    let dy = normal(&mut s, 1.0, n * d);
    let dense = [wh.values.as_slice(), &bh.values].concat();
    let mut w = worker(d, &dense, None, &vec![0.0; 3 * d], step.clone());
    let xa = load(&mut w, RowKind::Tokens, 3 * d, &xw.values);
    let (h, gates, previous) =
        (fresh(&mut w, RowKind::Tokens, d), fresh(&mut w, RowKind::Tokens, 4 * d), fresh(&mut w, RowKind::Tokens, d));
    w.gru(xa, 0, 3 * d * d, h, gates, previous);
    let dh = load(&mut w, RowKind::Tokens, d, &dy);
    let dxw = fresh(&mut w, RowKind::Tokens, 3 * d);
    w.gru_backward(0, 3 * d * d, gates, previous, dh, dxw);
    let (dw, db) = w.dense_gradient().split_at(3 * d * d);
    hold(
        &format!("gru d {d} {} sequences", lengths.len()),
        &[("value", w.values(h)), ("dxw", w.values(dxw)), ("dwh", dw), ("dbh", db)],
        &[xw, wh, bh],
        &dy,
        |t| gru(&t[0], &t[1], &t[2], &step),
    );
}

#[test]
fn ragged_sequences() {
    for (i, &d) in widths().iter().enumerate() {
        for (j, lengths) in packs().iter().enumerate() {
            if d < 60 || j < 4 {
                check(7000 + (100 * i + j) as u64, d, lengths);
            }
        }
    }
}

#[test]
fn a_thousand_short_sequences() {
    let lengths: Vec<usize> = (0..1000).map(|i| 1 + usize::from(i % 7 == 0)).collect();
    check(7950, 4, &lengths);
}
