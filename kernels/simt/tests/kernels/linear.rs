//! Grouped linear layers in three precisions against the reference.

use super::packed::{OUTPUTS, PackedStep, TOKENS, close, same_bits};
use super::reference::{self, case, numbers, rows_of};
use lumos::backend::Backend;
use lumos::check::reference::{Field, LocalStep};
use lumos::config::Precision::{self, Bf16, Fp32 as Plain, Tf32};
use lumos::testing::{DropoutClock, OptimiserStep};
use lumos_simt::check::Random;

const PRODUCT_SHARED: usize = 27_648;
const WEIGHT_SHARED: usize = 18_432;

fn suffix(precision: Precision) -> &'static str {
    match precision {
        Plain => "",
        Tf32 => "_tf32",
        Bf16 => "_bf16",
    }
}

struct Case {
    step: PackedStep,
    precision: Precision,
    kind: i32,
    ins: usize,
    outs: usize,
    // Offsets of weight and bias in a client's slab, and its length.
    w: usize,
    b: Option<usize>,
    stride: usize,
    dense: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    dx: Vec<f32>,
    add: bool,
}

struct Results {
    y: Vec<f32>,
    dx: Vec<f32>,
    grad: Vec<f32>,
}

impl Case {
    /// `aligned` slabs can be read 16 bytes at a time where widths allow; others cannot.
    fn new(seed: u64, precision: Precision, kind: i32, (ins, outs): (usize, usize), clients: &[&[usize]], aligned: bool) -> Case {
        let step = PackedStep::random(seed, 2, clients);
        let mut random = Random::new(seed);
        let (w, stride) = if aligned { (4, (8 + ins * outs + outs).next_multiple_of(4)) } else { (3, 7 + ins * outs + outs) };
        let b = (!seed.is_multiple_of(3)).then_some(w + ins * outs);
        let rows = step.row_view(kind).count();
        let dense = random.normals(1.0, stride * clients.len());
        let (x, dy, dx) = (random.normals(1.0, rows * ins), random.normals(1.0, rows * outs), random.normals(1.0, rows * ins));
        Case { step, precision, kind, ins, outs, w, b, stride, dense, x, dy, dx, add: seed.is_multiple_of(2) }
    }

    fn run(&mut self) -> Results {
        let (kind, ins, outs) = (self.kind, self.ins as i32, self.outs as i32);
        let tiles = self.step.tiles(kind).len() as u32;
        let clients = self.step.clients();
        let mut r = Results {
            y: vec![f32::NAN; self.dy.len()],
            dx: if self.add { self.dx.clone() } else { vec![f32::NAN; self.dx.len()] },
            grad: vec![7.0; self.stride * clients],
        };
        let (step, x, dy, dense) = (self.step.ptr(), self.x.as_ptr(), self.dy.as_ptr(), self.dense.as_ptr());
        let (stride, w, b) = (self.stride as i64, self.w as i32, self.b.map_or(-1, |b| b as i32));
        let (y, dx, grad) = (r.y.as_mut_ptr(), r.dx.as_mut_ptr(), r.grad.as_mut_ptr());
        let blocks = |width: i32| (width as u32).div_ceil(64);
        let name = |kernel: &str| format!("{kernel}{}", suffix(self.precision));
        // One block more than needed: grids are sized for the largest step.
        let forward = [tiles + 1, blocks(outs), 1];
        let input = [tiles + 1, blocks(ins), 1];
        let weight = [clients as u32 + 1, blocks(ins) * blocks(outs), 1];
        let threads = [128, 1, 1];
        launch!(&name("linear_forward"), forward, threads, PRODUCT_SHARED, step, kind, x, ins, dense, stride, w, b, y, outs).unwrap();
        let add = i32::from(self.add);
        launch!(&name("linear_input"), input, threads, PRODUCT_SHARED, step, kind, dy, outs, dense, stride, w, dx, ins, add).unwrap();
        launch!(&name("linear_weight"), weight, threads, WEIGHT_SHARED, step, kind, x, ins, dy, outs, grad, stride, w, b).unwrap();
        r
    }

    /// The same in f64: y, dx, grad. Operands are rounded as the kernels round them, so that what is left is the error of float32 sums.
    fn reference(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (ins, outs, rows, stride) = (self.ins, self.outs, rows_of(self.kind), self.stride);
        let case = case(&self.step, 1);
        // A layer without a bias has one of zeros behind the slab.
        let spare = if self.b.is_some() { 0 } else { outs };
        let slab = |values: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
            let values: Vec<f64> = values.collect();
            values.chunks(stride).flat_map(|own| own.iter().copied().chain(std::iter::repeat_n(0.0, spare))).collect()
        };
        let dense = slab(&mut self.dense.iter().map(|&v| f64::from(v)));
        let grad = slab(&mut std::iter::repeat_n(7.0, self.dense.len()));
        let mut plain = reference::Plain::with(&case, stride + spare, self.precision, DropoutClock::default());
        plain = plain.set(Field::Dense, dense).set(Field::DenseGrad, grad);
        let (x, dy) = (plain.load(rows, ins, &numbers::<f64>(&self.x)), plain.load(rows, outs, &numbers::<f64>(&self.dy)));
        let (y, dx) = (plain.0.act(rows, outs), plain.load(rows, ins, &numbers::<f64>(&self.dx)));
        let b = self.b.unwrap_or(stride);
        plain.0.linear(x, self.w, b, y);
        plain.0.linear_backward(x, dy, self.w, b, Some(dx), self.add);
        let grad = plain.field(Field::DenseGrad).chunks(stride + spare).flat_map(|own| own[..stride].to_vec()).collect();
        (plain.values(y), plain.values(dx), grad)
    }

    fn check(&mut self) {
        let got = self.run();
        let (y, dx, grad) = self.reference();
        let what = format!("{:?} {} x {}", self.precision, self.ins, self.outs);
        close(&format!("y, {what}"), &got.y, &y, 4e-6);
        close(&format!("dx, {what}"), &got.dx, &dx, 4e-6);
        close(&format!("grad, {what}"), &got.grad, &grad, 4e-6);
        let again = self.run();
        assert!(same_bits(&got.y, &again.y) && same_bits(&got.dx, &again.dx) && same_bits(&got.grad, &again.grad), "{what}");
    }
}

/// The step that is made with the gradient against the gradient and a step by itself.
#[test]
fn a_step_with_the_gradient_has_the_bits_of_a_step_behind_it() {
    let adam = OptimiserStep {
        beta1: 0.9,
        beta2: 0.98,
        rate: 0.02,
        correction: 3.0,
        eps: 1e-8,
        l2: 0.01,
        shrink: 1.0,
        pull: 0.0,
        first: 0,
        sgd: 0,
    };
    let kinds =
        [adam, OptimiserStep { first: 1, ..adam }, OptimiserStep { sgd: 1, ..adam }, OptimiserStep { pull: 0.3, shrink: 0.9, ..adam }];
    for (i, &shape) in SHAPES.iter().enumerate() {
        for (k, opt) in kinds.iter().enumerate() {
            let (precision, aligned) = ([Plain, Tf32, Bf16][(i + k) % 3], (i + k) % 2 == 0);
            let mut case = Case::new(80 + i as u64, precision, [TOKENS, OUTPUTS][i % 2], shape, MANY, aligned);
            let grad = case.run().grad;
            let mut r = Random::new(90 + k as u64);
            let n = case.dense.len();
            let (mut p, mut m, start) = (case.dense.clone(), r.normals(0.1, n), r.normals(1.0, case.stride));
            let mut s: Vec<f32> = r.normals(0.1, n).iter().map(|x| x * x).collect();
            let (mut p2, mut m2, mut s2) = (p.clone(), m.clone(), s.clone());
            let (ins, outs) = shape;
            for c in 0..case.step.clients() {
                let trains = case.step.client_tokens[c] < case.step.client_tokens[c + 1];
                for (at, &start) in start.iter().enumerate().skip(case.w).take(ins * outs) {
                    let i = c * case.stride + at;
                    if trains {
                        let rule = LocalStep::of(opt);
                        rule.one(1.0, [&mut p2[i], &mut m2[i], &mut s2[i]], grad[i]);
                        rule.back(&mut p2[i], start);
                    } else if opt.first != 0 && opt.sgd == 0 {
                        (m2[i], s2[i]) = (0.0, 0.0);
                    }
                }
            }
            let mut own = vec![7.0f32; n];
            let blocks = |width: usize| (width as u32).div_ceil(64);
            let (clients, b) = (case.step.clients(), case.b.map_or(-1, |b| b as i32));
            let none = std::ptr::null_mut();
            let (mp, sp): (*mut f32, *mut f32) = if opt.sgd == 1 { (none, none) } else { (m.as_mut_ptr(), s.as_mut_ptr()) };
            launch!(
                &format!("linear_step{}", suffix(precision)),
                [clients as u32 + 1, blocks(ins) * blocks(outs), 1],
                [128, 1, 1],
                WEIGHT_SHARED,
                case.step.ptr(),
                case.kind,
                case.x.as_ptr(),
                ins as i32,
                case.dy.as_ptr(),
                outs as i32,
                own.as_mut_ptr(),
                &raw const *opt,
                p.as_mut_ptr(),
                mp,
                sp,
                start.as_ptr(),
                case.stride as i64,
                case.w as i32,
                b
            )
            .unwrap();
            let what = format!("{precision:?}, {shape:?}, kind {k}");
            assert!(same_bits(&p, &p2), "weights, {what}");
            assert!(same_bits(&m, &m2) && same_bits(&s, &s2), "moments, {what}");
            for c in 0..clients {
                let trains = case.step.client_tokens[c] < case.step.client_tokens[c + 1];
                for at in 0..case.stride {
                    let bias = case.b.is_some_and(|b| (b..b + outs).contains(&at)) && trains;
                    let i = c * case.stride + at;
                    assert_eq!(own[i].to_bits(), if bias { grad[i] } else { 7.0 }.to_bits(), "gradient {at} of client {c}, {what}");
                }
            }
        }
    }
}

const MANY: &[&[usize]] = &[&[5, 2, 1], &[], &[1], &[13, 7, 7, 3], &[2, 1], &[]];
const LONG: &[&[usize]] = &[&[], &[67, 3, 5], &[31], &[33]];
const SHAPES: [(usize, usize); 9] = [(64, 64), (1, 1), (7, 5), (64, 130), (36, 8), (65, 64), (132, 12), (3, 96), (16, 200)];

#[test]
fn odd_shapes_in_every_precision() {
    for precision in [Plain, Tf32, Bf16] {
        for (i, &shape) in SHAPES.iter().enumerate() {
            let kind = if i % 2 == 0 { TOKENS } else { OUTPUTS };
            for aligned in [true, false] {
                let seed = 2 * i as u64 + u64::from(aligned);
                Case::new(seed, precision, kind, shape, MANY, aligned).check();
            }
        }
    }
}

#[test]
fn clients_of_several_tiles() {
    for precision in [Plain, Tf32, Bf16] {
        Case::new(1, precision, TOKENS, (64, 64), LONG, true).check();
        Case::new(2, precision, OUTPUTS, (24, 40), LONG, true).check();
        Case::new(4, precision, TOKENS, (10, 3), &[&[1]], false).check();
        Case::new(5, precision, TOKENS, (10, 3), &[&[]], false).check();
    }
}

#[test]
fn a_client_alone_gives_the_same_bits() {
    for precision in [Plain, Tf32, Bf16] {
        let mut together = Case::new(7, precision, TOKENS, (36, 70), LONG, false);
        let all = together.run();
        for (c, &lengths) in LONG.iter().enumerate() {
            let rows = together.step.row_view(TOKENS).of(c);
            let (xs, ys) = (rows.start * 36..rows.end * 36, rows.start * 70..rows.end * 70);
            let mut alone = Case::new(7, precision, TOKENS, (36, 70), &[lengths], false);
            alone.dense = together.dense[c * together.stride..][..together.stride].to_vec();
            (alone.x, alone.dy, alone.dx) =
                (together.x[xs.clone()].to_vec(), together.dy[ys.clone()].to_vec(), together.dx[xs.clone()].to_vec());
            let one = alone.run();
            assert!(same_bits(&one.y, &all.y[ys]) && same_bits(&one.dx, &all.dx[xs]), "client {c}, {precision:?}");
            assert!(same_bits(&one.grad, &all.grad[c * together.stride..][..together.stride]), "client {c}, {precision:?}");
        }
    }
}

#[test]
fn tensor_cores_round_their_operands() {
    // 1 + 2^-11 has one bit more than TF32 and ties away from zero; 1 + 2^-8 ties to even in bfloat16.
    for (precision, x, product) in
        [(Tf32, 1.0 + 2f32.powi(-11), 1.0 + 2f32.powi(-10)), (Bf16, 1.0 + 2f32.powi(-8), 1.0), (Plain, 1.25, 1.25)]
    {
        let mut case = Case::new(3, precision, TOKENS, (1, 1), &[&[1]], false);
        assert_eq!(case.b, None);
        case.x = vec![x];
        case.dense[case.w] = 1.0;
        assert_eq!(case.run().y, [product], "{precision:?}");
    }
}
