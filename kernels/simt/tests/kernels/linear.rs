//! Grouped linear layers in three precisions against f64.

use super::packed::{OUTPUTS, PackedStep, TOKENS, close, same_bits};
use lumos_simt::check::Random;
use lumos_simt::launch;

const PRODUCT_SHARED: usize = 27_648;
const WEIGHT_SHARED: usize = 18_432;

/// How operands are rounded before they are multiplied: the reference rounds likewise, so that what is left is the error of
/// float32 sums.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Precision {
    Plain,
    Tf32,
    Bf16,
}
use Precision::{Bf16, Plain, Tf32};

impl Precision {
    fn suffix(self) -> &'static str {
        match self {
            Plain => "",
            Tf32 => "_tf32",
            Bf16 => "_bf16",
        }
    }

    fn round(self, v: f32) -> f64 {
        // To `bits` fewer bits of mantissa, half of the last kept one added in the magnitude: ties away from zero.
        let away = |bits: u32| f32::from_bits((v.to_bits() + (1 << (bits - 1))) >> bits << bits);
        f64::from(match self {
            Plain => v,
            Tf32 => away(13),
            // Ties to even: where the dropped bits are exactly a half and the kept ones even, nothing is added.
            Bf16 if v.to_bits() & 0x1_ffff == 0x8000 => f32::from_bits(v.to_bits() & 0xffff_0000),
            Bf16 => away(16),
        })
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
        let name = |kernel: &str| format!("{kernel}{}", self.precision.suffix());
        // One block more than needed: grids are sized for the largest step.
        let forward = [tiles + 1, blocks(outs), 1];
        let input = [tiles + 1, blocks(ins), 1];
        let weight = [clients as u32 + 1, blocks(ins) * blocks(outs), 1];
        let threads = [128, 1, 1];
        unsafe {
            launch!(&name("linear_forward"), forward, threads, PRODUCT_SHARED, step, kind, x, ins, dense, stride, w, b, y, outs).unwrap();
            let add = i32::from(self.add);
            launch!(&name("linear_input"), input, threads, PRODUCT_SHARED, step, kind, dy, outs, dense, stride, w, dx, ins, add).unwrap();
            launch!(&name("linear_weight"), weight, threads, WEIGHT_SHARED, step, kind, x, ins, dy, outs, grad, stride, w, b).unwrap();
        }
        r
    }

    /// The same in f64: y, dx, grad.
    fn reference(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (ins, outs, p) = (self.ins, self.outs, self.precision);
        let mut y = vec![0f64; self.dy.len()];
        let mut dx: Vec<f64> = self.dx.iter().map(|&v| if self.add { f64::from(v) } else { 0.0 }).collect();
        let mut grad = vec![7f64; self.stride * self.step.clients()];
        let view = self.step.row_view(self.kind);
        for c in 0..self.step.clients() {
            let own = &self.dense[c * self.stride..][..self.stride];
            let grad = &mut grad[c * self.stride..][..self.stride];
            grad[self.w..][..ins * outs].fill(0.0);
            if let Some(b) = self.b {
                grad[b..][..outs].fill(0.0);
            }
            for r in view.of(c) {
                for o in 0..outs {
                    let dy = self.dy[r * outs + o];
                    for i in 0..ins {
                        let (x, w) = (p.round(self.x[r * ins + i]), p.round(own[self.w + i * outs + o]));
                        y[r * outs + o] += x * w;
                        dx[r * ins + i] += p.round(dy) * w;
                        grad[self.w + i * outs + o] += x * p.round(dy);
                    }
                    if let Some(b) = self.b {
                        y[r * outs + o] += f64::from(own[b + o]);
                        grad[b + o] += f64::from(dy);
                    }
                }
            }
        }
        (y, dx, grad)
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
