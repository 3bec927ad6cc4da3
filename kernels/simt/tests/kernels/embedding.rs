//! Kernels of `embedding.cu` against the reference.

use super::packed::{PackedStep, same_bits};
use super::reference::{Plain, Real, case, numbers};
use super::steps::{accept, alone, largest, part, steps};
use lumos::backend::{Backend, RowKind};
use lumos::check::reference::Field;
use lumos_simt::check::Random;

const WIDTHS: [usize; 8] = [1, 3, 4, 17, 32, 64, 130, 136];

fn embed<R: Real>(s: &PackedStep, scale: f32, positions: Option<usize>, rows: &[f32], dense: &[f32], stride: usize, d: usize) -> Vec<R> {
    let case = case(s, d);
    let mut plain = Plain::<R>::new(&case, stride).set(Field::Rows, numbers(rows)).set(Field::Dense, numbers(dense));
    let y = plain.0.act(RowKind::Tokens, d);
    plain.0.embed(scale, positions, y);
    plain.values(y)
}

/// Row gradients added to `before`, and the position tables `[C, max_len, d]`.
fn embed_backward<R: Real>(s: &PackedStep, scale: f32, dy: &[f32], before: &[f32], max_len: usize, d: usize) -> (Vec<R>, Vec<R>) {
    let case = case(s, d);
    let mut plain = Plain::<R>::new(&case, max_len * d).set(Field::RowGrad, numbers(before));
    let dy = plain.load(RowKind::Tokens, d, &numbers::<R>(dy));
    plain.0.embed_backward(scale, Some(0), dy);
    (plain.field(Field::RowGrad), plain.field(Field::DenseGrad))
}

#[test]
fn forward() {
    for (i, mut s) in steps(1).into_iter().enumerate() {
        for (j, &d) in WIDTHS.iter().enumerate() {
            let mut r = Random::new((10 * i + j) as u64);
            let max_len = s.position_high as usize;
            // Offsets and strides on 16 bytes and off them.
            let positions = [None, Some(8), Some(5)][(i + j) % 3];
            let stride = 8 + max_len * d + if j % 2 == 0 { 3 } else { (4 - max_len * d % 4) % 4 };
            let (scale, rows, dense) = (1.5f32, r.normals(1.0, s.rows() * d), r.normals(1.0, s.clients() * stride));
            let mut y = vec![f32::NAN; s.tokens() * d];
            let at = positions.map_or(-1, |p| p as i32);
            // One block goes round over all tokens, or there is one for every few.
            let blocks = if j % 2 == 0 { 1 } else { s.tokens() as u32 };
            launch!(
                "embed",
                [blocks, 1, 1],
                [256, 1, 1],
                0,
                s.ptr(),
                scale,
                at,
                rows.as_ptr(),
                dense.as_ptr(),
                stride as i64,
                y.as_mut_ptr(),
                d as i32
            )
            .unwrap();
            let plain = embed::<f32>(&s, scale, positions, &rows, &dense, stride, d);
            accept(&format!("step {i}, d {d}"), &y, &plain, &embed::<f64>(&s, scale, positions, &rows, &dense, stride, d));
        }
    }
}

fn row_gradient(s: &mut PackedStep, scale: f32, dy: &[f32], grad: &mut [f32], slices: u32, d: usize) {
    let grid = [s.clients() as u32, slices, 1];
    launch!("embed_backward_rows", grid, [128, 1, 1], 6160, s.ptr(), scale, dy.as_ptr(), grad.as_mut_ptr(), d as i32).unwrap();
}

fn position_gradient(s: &mut PackedStep, dy: &[f32], grad: &mut [f32], stride: usize, at: usize, slices: u32, d: usize) {
    let grid = [s.clients() as u32, slices, 1];
    launch!("embed_backward_positions", grid, [128, 1, 1], 0, s.ptr(), dy.as_ptr(), grad.as_mut_ptr(), stride as i64, at as i32, d as i32)
        .unwrap();
}

#[test]
fn backward() {
    for (i, mut s) in steps(1).into_iter().enumerate() {
        for (j, &d) in WIDTHS.iter().enumerate() {
            let mut r = Random::new((100 + 10 * i + j) as u64);
            let (scale, at) = (0.7f32, j);
            let (low, high) = (s.position_low as usize, s.position_high as usize);
            let stride = at + high * d + 2;
            let (dy, before) = (r.normals(1.0, s.tokens() * d), r.normals(1.0, s.rows() * d));
            let whole = largest(&s.client_rows).div_ceil(64) as u32;
            let mut rows = before.clone();
            row_gradient(&mut s, scale, &dy, &mut rows, if j % 2 == 0 { 1 } else { whole + 1 }, d);
            let mut dense = vec![f32::NAN; s.clients() * stride];
            position_gradient(&mut s, &dy, &mut dense, stride, at, if j % 2 == 0 { 1 } else { high as u32 }, d);

            let (plain_rows, plain_table) = embed_backward::<f32>(&s, scale, &dy, &before, high, d);
            let (exact_rows, exact_table) = embed_backward::<f64>(&s, scale, &dy, &before, high, d);
            accept(&format!("rows of step {i}, d {d}"), &rows, &plain_rows, &exact_rows);
            let mut table = vec![0f32; s.clients() * high * d];
            for (c, slab) in dense.chunks(stride).enumerate() {
                let (written, end) = (at + low * d, at + high * d);
                table[(c * high + low) * d..(c + 1) * high * d].copy_from_slice(&slab[written..end]);
                assert!(slab[..written].iter().chain(&slab[end..]).all(|x| x.is_nan()), "more than the step's positions was written");
            }
            accept(&format!("positions of step {i}, d {d}"), &table, &plain_table, &exact_table);
        }
    }
}

#[test]
fn gradients_depend_on_the_client_alone() {
    let d = 33;
    for mut s in steps(1) {
        let mut r = Random::new(5);
        let stride = s.position_high as usize * d;
        let dy = r.normals(1.0, s.tokens() * d);
        let (mut rows, mut dense) = (vec![0f32; s.rows() * d], vec![0f32; s.clients() * stride]);
        row_gradient(&mut s, 1.1, &dy, &mut rows, 3, d);
        position_gradient(&mut s, &dy, &mut dense, stride, 0, 2, d);
        for c in 0..s.clients() {
            let mut one = alone(&s, c);
            let own = part(&dy, &s.client_tokens, c, d);
            let (mut own_rows, mut own_dense) = (vec![0f32; one.rows() * d], vec![0f32; stride]);
            row_gradient(&mut one, 1.1, own, &mut own_rows, 1, d);
            position_gradient(&mut one, own, &mut own_dense, stride, 0, 1, d);
            assert!(same_bits(&own_rows, part(&rows, &s.client_rows, c, d)));
            assert!(same_bits(&own_dense, &dense[c * stride..][..stride]));
        }
    }
}

#[test]
fn many_tokens_of_one_row() {
    // More entries than a list holds, so that a row is added to over several rounds.
    let (mut b, d) = (super::packed::Builder::new(9, 1), 5);
    for _ in 0..40 {
        b.user(&[29]);
    }
    b.end_client();
    let mut s = b.finish();
    let dy = Random::new(1).normals(1.0, s.tokens() * d);
    let mut rows = vec![0f32; s.rows() * d];
    row_gradient(&mut s, 1.3, &dy, &mut rows, 1, d);
    // To the bit what adding token after token gives.
    let mut expected = vec![0f32; rows.len()];
    for (t, &row) in s.row.iter().enumerate() {
        for k in 0..d {
            let sum = &mut expected[row as usize * d + k];
            *sum = dy[t * d + k].mul_add(1.3, *sum);
        }
    }
    assert!(same_bits(&rows, &expected));
}

#[test]
fn gather() {
    for (d, count, blocks) in [(1, 1, 1), (3, 7, 1), (4, 61, 2), (64, 130, 9), (65, 19, 3), (128, 33, 1)] {
        let (mut r, items) = (Random::new(d as u64), 43);
        let table = r.normals(1.0, items * d);
        let list: Vec<i32> = (0..count).map(|_| r.below(items) as i32).collect();
        let mut rows = vec![f32::NAN; count * d];
        launch!("gather_rows", [blocks, 1, 1], [256, 1, 1], 0, list.as_ptr(), table.as_ptr(), rows.as_mut_ptr(), count as i32, d as i32)
            .unwrap();
        let expected: Vec<f32> = list.iter().flat_map(|&i| &table[i as usize * d..][..d]).copied().collect();
        assert!(same_bits(&rows, &expected), "d {d}");
    }
}
