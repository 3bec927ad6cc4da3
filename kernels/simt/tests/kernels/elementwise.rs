//! Element-wise operations and dropout, to the last bit.

use super::packed::{OUTPUTS, PackedStep, TOKENS, same_bits};
use lumos::testing::DropoutClock;
use lumos_simt::check::Random;
use lumos_simt::launch;

const CLIENTS: &[&[usize]] = &[&[5, 2, 1], &[], &[1], &[13, 7, 7, 3], &[2, 1], &[]];
const LONG: &[&[usize]] = &[&[], &[67, 3, 5], &[31]];
const THREADS: [u32; 3] = [256, 1, 1];

/// Philox-4x32 with ten rounds, written from its definition as in `rng::philox`.
fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let (a, b) = (0xD251_1F53u64 * u64::from(c[0]), 0xCD9E_8D57u64 * u64::from(c[2]));
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// `drop_out` of the CPU backend: the stream's block at `(number << 40 | site << 32) + i` for the elements of one client.
fn drop_out(clock: DropoutClock, client: u32, number: u32, site: u32, rate: f32, x: &mut [f32]) {
    let (threshold, keep) = threshold(rate);
    let base = (u64::from(number) << 40) | (u64::from(site) << 32);
    for (i, eight) in x.chunks_mut(8).enumerate() {
        let index = base + i as u64;
        let words = philox([index as u32, (index >> 32) as u32, clock.round, client], clock.key());
        for (k, v) in eight.iter_mut().enumerate() {
            let bits = (words[k / 2] >> (16 * (k as u32 % 2))) & 0xffff;
            *v *= if bits < threshold { 0.0 } else { keep };
        }
    }
}

fn threshold(rate: f32) -> (u32, f32) {
    let threshold = (rate * 65536.0).round().min(65535.0) as u32;
    (threshold, 65536.0 / (65536 - threshold) as f32)
}

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
                        unsafe { launch!(name, grid, THREADS, 0, p, kind, from.ptr(), to.ptr(), w) }.unwrap();
                        assert!(same_bits(from.values(), x), "{name} writes its input");
                    }
                    None => unsafe { launch!(name, grid, THREADS, 0, p, kind, to.ptr(), w) }.unwrap(),
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
            unsafe { launch!("add_mean", [grid, 1, 1], THREADS, 0, p, kind, 0.3f32, from.ptr(), to.ptr(), w) }.unwrap();
            assert!(same_bits(from.values(), &x) && same_bits(to.values(), &want), "width {width}");
        }
    }
}

/// Gelu in its tanh form and its derivative in f64.
fn gelu(x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let t = (root * (x + 0.044715 * x.powi(3))).tanh();
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x))
}

#[test]
fn gelu_and_its_derivative() {
    for x in [-3.0, -0.4, 0.0, 0.7, 2.5] {
        let slope = (gelu(x + 1e-6).0 - gelu(x - 1e-6).0) / 2e-6;
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
        unsafe {
            launch!("gelu", [grid, 1, 1], THREADS, 0, p, OUTPUTS, from.ptr(), y.ptr(), w).unwrap();
            launch!("gelu_backward", [grid, 1, 1], THREADS, 0, p, OUTPUTS, from.ptr(), dx.ptr(), w).unwrap();
        }
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
            unsafe {
                launch!("select_rows", [grid, 1, 1], THREADS, 0, p, from.ptr(), y.ptr(), w).unwrap();
                launch!("select_rows_backward", [grid, 1, 1], THREADS, 0, p, slope.ptr(), dx.ptr(), w).unwrap();
            }
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
            let mut want = x.clone();
            for c in 0..step.clients() {
                let rows = view.of(c);
                let own = &mut want[rows.start * width..rows.end * width];
                drop_out(clock, step.client_id[c], step.number as u32, site as u32, rate, own);
            }
            let mut got = Placed::new(&x, shift);
            let (threshold, keep) = threshold(rate);
            unsafe {
                launch!(
                    "dropout",
                    [2, 1, 1],
                    THREADS,
                    0,
                    step.ptr(),
                    kind,
                    site,
                    threshold,
                    keep,
                    &raw const clock,
                    got.ptr(),
                    width as i32
                )
            }
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
            let mut want = rows.clone();
            for c in 0..step.clients() {
                let of = step.rows_of(c);
                drop_out(clock, step.client_id[c], 2, 255, rate, &mut want[of.start * d..of.end * d]);
            }
            let (mut table, mut dropped) = (Placed::new(&rows, shift), Placed::new(&vec![f32::NAN; rows.len()], shift));
            let mut grad = Placed::new(&rows, shift);
            let (threshold, keep) = threshold(rate);
            let (p, grid) = (step.ptr(), [clients.len() as u32 + 1, blocks, 1]);
            unsafe {
                launch!("drop_items", grid, THREADS, 0, p, threshold, keep, &raw const clock, table.ptr(), dropped.ptr(), d as i32)
                    .unwrap();
                launch!("drop_items_backward", grid, THREADS, 0, p, threshold, keep, &raw const clock, grad.ptr(), d as i32).unwrap();
            }
            assert!(same_bits(table.values(), &rows), "the table itself stays");
            assert!(same_bits(dropped.values(), &want) && same_bits(grad.values(), &want), "d {d}");
        }
    }
}
