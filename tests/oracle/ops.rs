//! Row operations, linear layers, embeddings and dropout, each against its formula.

use candle_core::Tensor;
use lumos::backend::{Backend, RowKind, Step};
use lumos::base::rng::{Purpose, Stream};

use crate::check::{Input, Outs, fresh, hold, load, normal, pack, packs, plain_local, stream, widths, worker};
use crate::reference::{embed, gelu, indices, layer_norm, linear};

fn cat(a: &[f32], b: &[f32]) -> Vec<f32> {
    [a, b].concat()
}

#[test]
fn embedding_with_and_without_positions() {
    for (i, &d) in widths().iter().enumerate() {
        for (j, lengths) in packs().iter().enumerate() {
            let mut s = stream((100 * i + j) as u64);
            let rows = 1 + (3 * i + j) % 11;
            let step = pack(&mut s, lengths, rows, Outs::Nothing);
            let items = Input::normal(&mut s, 1.0, &[rows, d]);
            // Three numbers lie before the table in the slab, and it is longer than any sequence.
            let table = Input::normal(&mut s, 1.0, &[step.longest + 2, d]);
            let dense = cat(&[9.0; 3], &table.values);
            let dy = normal(&mut s, 1.0, step.tokens() * d);
            let scale = 1.7f32;
            for with in [true, false] {
                let mut w = worker(d, &dense, Some((3, step.longest + 2)), &items.values, step.clone());
                let at = with.then_some(3);
                let y = fresh(&mut w, RowKind::Tokens, d);
                w.embed(scale, at, y);
                let up = load(&mut w, RowKind::Tokens, d, &dy);
                w.embed_backward(scale, at, up);
                let reached = if with { step.longest * d } else { 0 };
                // Rows past the longest sequence have no gradient, and the worker does not write them.
                let mut positions = w.dense_gradient()[3..].to_vec();
                positions[reached..].fill(0.0);
                hold(
                    &format!("embed d {d} {lengths:?} positions {with}"),
                    &[("value", w.values(y)), ("items", w.row_gradient()), ("positions", &positions)],
                    &[items.clone(), table.clone()],
                    &dy,
                    |t| embed(&t[0], with.then_some(&t[1]), f64::from(scale), &step),
                );
            }
        }
    }
}

#[test]
fn selection_of_output_rows() {
    for (i, &d) in widths().iter().enumerate() {
        for (j, lengths) in packs().iter().enumerate() {
            let mut s = stream(1000 + (100 * i + j) as u64);
            let step = pack(&mut s, lengths, 3, Outs::History);
            let x = Input::normal(&mut s, 1.0, &[step.tokens(), d]);
            let dy = normal(&mut s, 1.0, step.outputs() * d);
            let base = normal(&mut s, 1.0, x.values.len());
            let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step.clone());
            let xa = load(&mut w, RowKind::Tokens, d, &x.values);
            let y = fresh(&mut w, RowKind::Outputs, d);
            w.select(xa, y);
            let up = load(&mut w, RowKind::Outputs, d, &dy);
            let dx = load(&mut w, RowKind::Tokens, d, &base);
            w.select_backward(up, dx);
            let value = cat(w.values(y), &x.values.iter().map(|v| v * 1.0).collect::<Vec<_>>());
            hold(&format!("select d {d} {lengths:?}"), &[("value", &value), ("dx", w.values(dx))], &[x], &cat(&dy, &base), |t| {
                Tensor::cat(&[&t[0].index_select(&indices(&step.out_token)?, 0)?, &t[0]], 0)
            });
        }
    }
}

#[test]
fn layer_norms() {
    for (i, &d) in widths().iter().enumerate() {
        for (j, lengths) in packs().iter().enumerate() {
            let mut s = stream(2000 + (100 * i + j) as u64);
            let step = pack(&mut s, lengths, 3, Outs::Nothing);
            let n = step.tokens();
            // Far from zero mean: a variance taken as a difference of squares would show.
            let values: Vec<f32> = normal(&mut s, 1.0, n * d).iter().map(|x| 8.0 + x).collect();
            let x = Input::new(&values, &[n, d]);
            let (g, b) = (Input::normal(&mut s, 1.0, &[d]), Input::normal(&mut s, 1.0, &[d]));
            let (dy, base) = (normal(&mut s, 1.0, n * d), normal(&mut s, 1.0, n * d));
            let mut w = worker(d, &cat(&g.values, &b.values), None, &vec![0.0; 3 * d], step);
            let xa = load(&mut w, RowKind::Tokens, d, &x.values);
            let (y, stats) = (fresh(&mut w, RowKind::Tokens, d), fresh(&mut w, RowKind::Tokens, 2));
            w.layer_norm(xa, 0, d, y, stats);
            let up = load(&mut w, RowKind::Tokens, d, &dy);
            let dx = load(&mut w, RowKind::Tokens, d, &base);
            w.layer_norm_backward(xa, stats, 0, d, up, dx);
            let value = cat(w.values(y), &x.values);
            let (dg, db) = w.dense_gradient().split_at(d);
            // The value is checked alone first: beside inputs of 8 its own error would drown.
            let given = [x, g, b];
            hold(&format!("layer norm d {d} {n} rows"), &[("value", w.values(y))], &given, &dy, |t| layer_norm(&t[0], &t[1], &t[2]));
            let ours: [(&str, &[f32]); 4] = [("value", &value), ("dx", w.values(dx)), ("dg", dg), ("db", db)];
            hold(&format!("layer norm d {d} {n} rows"), &ours, &given, &cat(&dy, &base), |t| {
                Tensor::cat(&[&layer_norm(&t[0], &t[1], &t[2])?, &t[0]], 0)
            });
        }
    }
}

#[test]
fn linear_layers() {
    for (i, &d) in widths().iter().enumerate() {
        for (j, &out) in [1, 3, 8, 15, 16, 20, 64, 195].iter().enumerate() {
            let mut s = stream(3000 + (100 * i + j) as u64);
            let step = pack(&mut s, &packs()[(i + j) % packs().len()], 3, Outs::Nothing);
            let n = step.tokens();
            let x = Input::normal(&mut s, 1.0, &[n, d]);
            let (m, b) = (Input::normal(&mut s, 1.0, &[d, out]), Input::normal(&mut s, 1.0, &[out]));
            let dy = normal(&mut s, 1.0, n * out);
            for add in [false, true] {
                let base = if add { normal(&mut s, 1.0, n * d) } else { vec![0.0; n * d] };
                let mut w = worker(d, &cat(&m.values, &b.values), None, &vec![0.0; 3 * d], step.clone());
                let xa = load(&mut w, RowKind::Tokens, d, &x.values);
                let y = fresh(&mut w, RowKind::Tokens, out);
                w.linear(xa, 0, d * out, y);
                let up = load(&mut w, RowKind::Tokens, out, &dy);
                let dx = if add { load(&mut w, RowKind::Tokens, d, &base) } else { fresh(&mut w, RowKind::Tokens, d) };
                w.linear_backward(xa, up, 0, d * out, Some(dx), add);
                let value = cat(w.values(y), &x.values);
                let (dw, db) = w.dense_gradient().split_at(d * out);
                hold(
                    &format!("linear {n} x {d} x {out} add {add}"),
                    &[("value", &value), ("dx", w.values(dx)), ("dw", dw), ("db", db)],
                    &[x.clone(), m.clone(), b.clone()],
                    &cat(&dy, &base),
                    |t| Tensor::cat(&[&linear(&t[0], &t[1], &t[2])?.flatten_all()?, &t[0].flatten_all()?], 0),
                );
            }
        }
    }
}

#[test]
fn a_share_of_a_mean_is_added() {
    for (i, &d) in widths().iter().enumerate() {
        let mut s = stream(4500 + i as u64);
        let step = pack(&mut s, &packs()[i % packs().len()], 3, Outs::Nothing);
        let n = step.tokens();
        let (x, y) = (normal(&mut s, 1.0, n * d), normal(&mut s, 1.0, n * d));
        let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step);
        let (from, to) = (load(&mut w, RowKind::Tokens, d, &x), load(&mut w, RowKind::Tokens, d, &y));
        w.add_mean(0.7, from, to);
        let wanted = x.iter().zip(&y).map(|(x, y)| y + 0.7 / n as f32 * x);
        assert!(w.values(to).iter().zip(wanted).all(|(got, wanted)| (got - wanted).abs() <= 1e-6 * (1.0 + wanted.abs())), "{n} x {d}");
        assert_eq!(w.values(from), x);
    }
}

#[test]
fn rectifier() {
    for (i, &d) in widths().iter().enumerate() {
        let mut s = stream(4000 + i as u64);
        let step = pack(&mut s, &packs()[i % packs().len()], 3, Outs::Nothing);
        let x = Input::normal(&mut s, 1.0, &[step.tokens(), d]);
        let dy = normal(&mut s, 1.0, x.values.len());
        let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step);
        let y = load(&mut w, RowKind::Tokens, d, &x.values);
        w.relu(y);
        let dx = load(&mut w, RowKind::Tokens, d, &dy);
        w.relu_backward(y, dx);
        hold(&format!("relu d {d}"), &[("value", w.values(y)), ("dx", w.values(dx))], &[x], &dy, |t| t[0].relu());
    }
}

#[test]
fn sums_and_copies_are_exact() {
    let mut s = stream(4900);
    let step = pack(&mut s, &[3, 1], 3, Outs::Nothing);
    let (a, b) = (normal(&mut s, 1.0, 28), normal(&mut s, 1.0, 28));
    let mut w = worker(7, &[], None, &[0.0; 21], step);
    let (x, y, z) = (load(&mut w, RowKind::Tokens, 7, &a), load(&mut w, RowKind::Tokens, 7, &b), fresh(&mut w, RowKind::Tokens, 7));
    w.copy(y, z);
    assert_eq!(w.values(z), b);
    w.add(x, y);
    let sum: Vec<f32> = a.iter().zip(&b).map(|(p, q)| p + q).collect();
    assert_eq!(w.values(y), sum);
    w.zero(z);
    assert_eq!(w.values(z), [0.0; 28]);
    assert_eq!(w.values(x), a);
}

/// Operations on a step without tokens or outputs write nothing: memory behind an empty activation belongs to the next one.
#[test]
fn empty_activations_leave_their_neighbours_alone() {
    let mut s = stream(4950);
    let step = pack(&mut s, &[2], 3, Outs::Nothing);
    let dense = normal(&mut s, 1.0, 9 * 9 + 9);
    let mut w = worker(9, &dense, None, &[0.0; 27], step);
    let empty = w.act(RowKind::Outputs, 9);
    let full = load(&mut w, RowKind::Tokens, 9, &[1.5; 18]);
    let after = load(&mut w, RowKind::Tokens, 9, &[2.5; 18]);
    w.linear(empty, 0, 81, empty);
    w.layer_norm(empty, 0, 9, empty, empty);
    w.linear_backward(empty, empty, 0, 81, Some(empty), false);
    assert_eq!(w.values(full), [1.5; 18]);
    assert_eq!(w.values(after), [2.5; 18]);
    assert_eq!(w.dense_gradient(), [0.0; 90], "no rows, no gradient");
}

fn drop_ones(step: &Step, number: u32, site: u32, rate: f32, stream: Option<Stream>) -> Vec<f32> {
    let d = 24;
    let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step.clone());
    w.begin_step(&plain_local(), number, 9, false, stream);
    let n = step.tokens() * d;
    let x = load(&mut w, RowKind::Tokens, d, &vec![1.0; n]);
    w.dropout(site, rate, x);
    // The backward pass asks for the same mask again, on another activation.
    let g = load(&mut w, RowKind::Tokens, d, &vec![-3.0; n]);
    w.dropout(site, rate, g);
    let (x, g) = (w.values(x), w.values(g));
    assert!(x.iter().zip(g).all(|(a, b)| (b / -3.0 - a).abs() < 1e-6), "forward and backward masks differ");
    x.to_vec()
}

#[test]
fn dropout_masks() {
    let mut s = stream(5000);
    let step = pack(&mut s, &[499, 331, 170], 3, Outs::Nothing);
    let key = |client| Some(Stream::new(1, Purpose::Dropout, 2, client));
    for rate in [0.1f32, 0.25, 0.5, 0.9] {
        let mask = drop_ones(&step, 1, 0, rate, key(0));
        let n = mask.len() as f64;
        let kept = mask.iter().filter(|&&x| x != 0.0).count() as f64 / n;
        let deviation = (f64::from(rate) * (1.0 - f64::from(rate)) / n).sqrt();
        assert!((kept - (1.0 - f64::from(rate))).abs() < 5.0 * deviation, "rate {rate}: kept {kept}");
        // Inverted dropout: what is kept is scaled so that the expectation stays.
        let scale = 1.0 / (1.0 - rate);
        assert!(mask.iter().all(|&x| x == 0.0 || (x - scale).abs() < 1e-3 * scale), "rate {rate}");
        // Independent masks agree on a share p^2 + (1 - p)^2 of the places.
        let chance = f64::from(rate * rate + (1.0 - rate) * (1.0 - rate));
        let deviation = (chance * (1.0 - chance) / n).sqrt();
        let others = [
            drop_ones(&step, 1, 1, rate, key(0)),
            drop_ones(&step, 2, 0, rate, key(0)),
            drop_ones(&step, 1, 0, rate, key(1)),
            cat(&mask[1..], &mask[..1]),
            cat(&mask[8..], &mask[..8]),
        ];
        for (i, other) in others.iter().enumerate() {
            let same = mask.iter().zip(other).filter(|(a, b)| (**a == 0.0) == (**b == 0.0)).count() as f64 / n;
            assert!((same - chance).abs() < 6.0 * deviation, "rate {rate}, mask {i}: {same} agree instead of {chance}");
        }
        assert_eq!(mask, drop_ones(&step, 1, 0, rate, key(0)), "the same draw twice");
    }
    assert!(drop_ones(&step, 1, 0, 0.5, None).iter().all(|&x| x == 1.0), "no dropout outside training");
    assert!(drop_ones(&step, 1, 0, 0.0, key(0)).iter().all(|&x| x == 1.0), "rate 0");
}

#[test]
fn gelu_and_its_gradient() {
    for (i, &d) in widths().iter().enumerate() {
        let mut s = stream(4500 + i as u64);
        let step = pack(&mut s, &[5, 1, 13], 3, Outs::Nothing);
        let n = step.tokens();
        for spread in [1.0, 6.0] {
            let x = Input::normal(&mut s, spread, &[n, d]);
            let dy = normal(&mut s, 1.0, n * d);
            let mut w = worker(d, &[], None, &vec![0.0; 3 * d], step.clone());
            let (xa, y) = (load(&mut w, RowKind::Tokens, d, &x.values), fresh(&mut w, RowKind::Tokens, d));
            w.gelu(xa, y);
            let dx = load(&mut w, RowKind::Tokens, d, &dy);
            w.gelu_backward(xa, dx);
            assert_eq!(w.values(xa), x.values, "the input stays");
            hold(&format!("gelu d {d} spread {spread}"), &[("value", w.values(y)), ("dx", w.values(dx))], &[x], &dy, |t| gelu(&t[0]));
        }
    }
}
