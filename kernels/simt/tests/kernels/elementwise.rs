//! Element-wise operations and dropout, to the last bit.

use super::packed::{OUTPUTS, PackedStep, TOKENS, same_bits};
use super::reference::{Plain, case, gelu, rows_of};
use lumos::backend::Backend;
use lumos::base::rng::dropout_threshold;
use lumos::check::reference::Field;
use lumos::config::Precision;
use lumos::testing::DropoutClock;
use lumos_simt::check::Random;

const CLIENTS: &[&[usize]] = &[&[5, 2, 1], &[], &[1], &[13, 7, 7, 3], &[2, 1], &[]];
const LONG: &[&[usize]] = &[&[], &[67, 3, 5], &[31]];
const THREADS: [u32; 3] = [256, 1, 1];

/// Numbers that begin `shift` floats after a multiple of 16 bytes, so that wide and narrow paths are both taken.
struct Placed {
    memory: Vec<f32>,
    at: usize,
    len: usize,
}

impl Placed {
    fn new(values: &[f32], shift: usize) -> Placed {
        // A value past the end shows writes that go too far.
        let mut memory = vec![5.0; values.len() + 12];
        let at = memory.as_ptr().align_offset(16) + shift;
        memory[at..][..values.len()].copy_from_slice(values);
        Placed { memory, at, len: values.len() }
    }

    fn ptr(&mut self) -> *mut f32 {
        self.memory[self.at..].as_mut_ptr()
    }

    fn values(&self) -> &[f32] {
        let outside = self.memory[..self.at].iter().chain(&self.memory[self.at + self.len..]);
        assert!(outside.copied().all(|v| v == 5.0), "written out of bounds");
        &self.memory[self.at..][..self.len]
    }
}

#[test]
fn maps_over_both_kinds_of_rows() {
    let mut random = Random::new(1);
    for (width, kind, shift, grid) in [(8, TOKENS, 0, 3), (5, OUTPUTS, 0, 1), (1, TOKENS, 1, 2), (13, TOKENS, 3, 1), (64, OUTPUTS, 0, 40)] {
        for clients in [CLIENTS, LONG, &[&[][..]], &[&[1]]] {
            let mut step = PackedStep::random(2, 2, clients);
            let n = step.row_view(kind).count() * width;
            let (mut a, b) = (random.normals(1.0, n), random.normals(1.0, n));
            if n > 2 {
                (a[0], a[1]) = (f32::NAN, -0.0);
            }
            let (p, w) = (step.ptr(), width as i32);
            let run = |name: &str, x: Option<&[f32]>, y: &[f32]| {
                let mut to = Placed::new(y, shift);
                let grid = [grid, 1, 1];
                match x {
                    Some(x) => {
                        let mut from = Placed::new(x, shift);
                        launch!(name, grid, THREADS, 0, p, kind, from.ptr(), to.ptr(), w).unwrap();
                        assert!(same_bits(from.values(), x), "{name} writes its input");
                    }
                    None => launch!(name, grid, THREADS, 0, p, kind, to.ptr(), w).unwrap(),
                }
                to.values().to_vec()
            };
            let zip = |f: fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&x, &y)| f(x, y)).collect::<Vec<f32>>();
            assert!(same_bits(&run("relu", None, &a), &zip(|x, _| if x > 0.0 { x } else { 0.0 })));
            assert!(same_bits(&run("relu_backward", Some(&a), &b), &zip(|x, y| if x > 0.0 { y } else { 0.0 })));
            assert!(same_bits(&run("copy", Some(&a), &b), &a));
            assert!(same_bits(&run("zero", None, &a), &vec![0.0; n]));
            let sums = run("add", Some(&b), &a);
            // A sum with a NaN is one, whichever its bits.
            assert!(sums.iter().zip(&zip(|x, y| x + y)).all(|(s, w)| s == w || s.is_nan() && w.is_nan()));
        }
    }
}

#[test]
fn a_mean_over_a_clients_rows_is_added_to_the_bit() {
    let mut random = Random::new(9);
    for (width, kind, shift, grid) in [(8, TOKENS, 0, 3), (5, OUTPUTS, 1, 1), (13, OUTPUTS, 3, 2)] {
        for clients in [CLIENTS, LONG] {
            let mut step = PackedStep::random(2, 2, clients);
            let view = step.row_view(kind);
            let (x, y) = (random.normals(1.0, view.count() * width), random.normals(1.0, view.count() * width));
            let mut want = y.clone();
            for c in 0..step.clients() {
                let rows = view.of(c);
                let share = 0.3 / rows.len() as f32;
                for i in rows.start * width..rows.end * width {
                    want[i] = share.mul_add(x[i], y[i]);
                }
            }
            let (mut from, mut to) = (Placed::new(&x, shift), Placed::new(&y, shift));
            let (p, w) = (step.ptr(), width as i32);
            launch!("add_mean", [grid, 1, 1], THREADS, 0, p, kind, 0.3f32, from.ptr(), to.ptr(), w).unwrap();
            assert!(same_bits(from.values(), &x) && same_bits(to.values(), &want), "width {width}");
        }
    }
}

#[test]
fn gelu_and_its_derivative() {
    for x in [-3.0, -0.4, 0.0, 0.7, 2.5] {
        let slope = (gelu::<f64>(x + 1e-6).0 - gelu(x - 1e-6).0) / 2e-6;
        assert!((slope - gelu(x).1).abs() < 1e-8, "{x}");
    }
    let mut random = Random::new(11);
    for (width, shift, grid) in [(8, 0, 2), (7, 1, 1), (64, 0, 3), (1, 0, 1)] {
        let mut step = PackedStep::random(3, 1, CLIENTS);
        let (p, n, w) = (step.ptr(), step.outputs() * width, width as i32);
        let mut x = random.normals(3.0, n);
        (x[0], x[1]) = (-1e4, 1e4);
        let g = random.normals(1.0, n);
        let (mut from, mut y, mut dx) = (Placed::new(&x, shift), Placed::new(&g, shift), Placed::new(&g, shift));
        launch!("gelu", [grid, 1, 1], THREADS, 0, p, OUTPUTS, from.ptr(), y.ptr(), w).unwrap();
        launch!("gelu_backward", [grid, 1, 1], THREADS, 0, p, OUTPUTS, from.ptr(), dx.ptr(), w).unwrap();
        assert!(same_bits(from.values(), &x), "the input stays");
        for i in 0..n {
            let (value, slope) = gelu(f64::from(x[i]));
            let slope = slope * f64::from(g[i]);
            assert!((f64::from(y.values()[i]) - value).abs() <= 4e-7 * (1.0 + value.abs()), "gelu({}) is {}", x[i], y.values()[i]);
            assert!((f64::from(dx.values()[i]) - slope).abs() <= 4e-6 * (1.0 + slope.abs()), "{}: {}", x[i], dx.values()[i]);
        }
    }
}

#[test]
fn selection_of_outputs_and_back() {
    let mut random = Random::new(2);
    for (width, shift, grid) in [(8, 0, 2), (8, 2, 1), (7, 0, 1), (64, 0, 3), (1, 0, 1)] {
        for clients in [CLIENTS, LONG, &[&[][..]]] {
            let mut step = PackedStep::random(3, 2, clients);
            let (tokens, outputs) = (step.tokens(), step.outputs());
            let (x, dy) = (random.normals(1.0, tokens * width), random.normals(1.0, outputs * width));
            let (mut from, mut slope) = (Placed::new(&x, shift), Placed::new(&dy, shift));
            let (mut y, mut dx) = (Placed::new(&vec![f32::NAN; outputs * width], shift), Placed::new(&x, shift));
            let (p, w) = (step.ptr(), width as i32);
            launch!("select_rows", [grid, 1, 1], THREADS, 0, p, from.ptr(), y.ptr(), w).unwrap();
            launch!("select_rows_backward", [grid, 1, 1], THREADS, 0, p, slope.ptr(), dx.ptr(), w).unwrap();
            let (mut want_y, mut want_dx) = (vec![], x.clone());
            for (q, &t) in step.out_token.iter().enumerate() {
                let t = t as usize * width;
                want_y.extend_from_slice(&x[t..][..width]);
                for k in 0..width {
                    want_dx[t + k] += dy[q * width + k];
                }
            }
            assert!(same_bits(y.values(), &want_y) && same_bits(dx.values(), &want_dx), "width {width}");
        }
    }
}

#[test]
fn dropout_has_the_bits_of_the_cpu_backend() {
    let mut random = Random::new(4);
    let clock = DropoutClock::new([0x1234_5678, 0x9abc_def0], 7);
    let cases = [
        (64, TOKENS, 0, 0.5),
        (8, OUTPUTS, 3, 0.2),
        (5, TOKENS, 0, 0.3),
        (1, TOKENS, 0, 0.9),
        (15, OUTPUTS, 1, 1.0),
        (12, TOKENS, 0, 1e-7),
    ];
    for (i, (width, kind, shift, rate)) in cases.into_iter().enumerate() {
        for clients in [CLIENTS, LONG] {
            let mut step = PackedStep::random(5, 2, clients);
            step.number = 3 + i as i32;
            let site = 2 + i as i32;
            let view = step.row_view(kind);
            let x = random.normals(1.0, view.count() * width);
            let case = case(&step, 1);
            let mut plain = Plain::<f32>::with(&case, 0, Precision::Fp32, clock);
            let act = plain.load(rows_of(kind), width, &x);
            plain.0.dropout(site as u32, rate, act);
            let want = plain.values(act);
            let mut got = Placed::new(&x, shift);
            let (threshold, keep) = dropout_threshold(rate);
            launch!("dropout", [2, 1, 1], THREADS, 0, step.ptr(), kind, site, threshold, keep, &raw const clock, got.ptr(), width as i32)
                .unwrap();
            assert!(same_bits(got.values(), &want), "width {width}, rate {rate}");
            assert_eq!(same_bits(&want, &x), rate < 1e-6, "the mask at rate {rate}");
        }
    }
}

#[test]
fn dropout_of_the_item_table_and_of_its_gradients() {
    let mut random = Random::new(6);
    let clock = DropoutClock::new([77, 0xffff_ffff], 19);
    for (d, shift, rate, blocks) in [(64, 0, 0.3, 1), (6, 0, 0.5, 2), (5, 1, 0.1, 1), (1, 0, 0.5, 1)] {
        for clients in [CLIENTS, LONG] {
            let mut step = PackedStep::random(7, 3, clients);
            step.number = 2;
            let rows = random.normals(1.0, step.rows() * d);
            let case = case(&step, d);
            let mut plain =
                Plain::<f32>::with(&case, 0, Precision::Fp32, clock).set(Field::Rows, rows.clone()).set(Field::RowGrad, rows.clone());
            plain.0.drop_items(rate);
            plain.0.drop_items_backward(rate);
            let (want, want_grad) = (plain.field(Field::Dropped), plain.field(Field::RowGrad));
            let (mut table, mut dropped) = (Placed::new(&rows, shift), Placed::new(&vec![f32::NAN; rows.len()], shift));
            let mut grad = Placed::new(&rows, shift);
            let (threshold, keep) = dropout_threshold(rate);
            let (p, grid) = (step.ptr(), [clients.len() as u32 + 1, blocks, 1]);
            launch!("drop_items", grid, THREADS, 0, p, threshold, keep, &raw const clock, table.ptr(), dropped.ptr(), d as i32).unwrap();
            launch!("drop_items_backward", grid, THREADS, 0, p, threshold, keep, &raw const clock, grad.ptr(), d as i32).unwrap();
            assert!(same_bits(table.values(), &rows), "the table itself stays");
            assert!(same_bits(dropped.values(), &want) && same_bits(grad.values(), &want_grad), "d {d}");
        }
    }
}
