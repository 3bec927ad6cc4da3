//! Layer norm and its gradients against the reference.

use super::packed::{OUTPUTS, PackedStep, TOKENS, close, same_bits};
use super::reference::{Plain, case, numbers, rows_of};
use lumos::backend::Backend;
use lumos::check::reference::Field;
use lumos_simt::check::Random;

/// Where the gain and the bias lie in a client's slab, and the slab's length. Not a multiple of anything, so that slabs of
/// neighbours are aligned differently.
fn layout(width: usize) -> (usize, usize, usize) {
    (3, 5 + width, 2 * width + 9)
}

struct Case {
    step: PackedStep,
    kind: i32,
    width: usize,
    dense: Vec<f32>,
    x: Vec<f32>,
    dy: Vec<f32>,
    dx: Vec<f32>,
}

struct Results {
    y: Vec<f32>,
    stats: Vec<f32>,
    dx: Vec<f32>,
    grad: Vec<f32>,
}

impl Case {
    fn new(seed: u64, kind: i32, width: usize, clients: &[&[usize]]) -> Case {
        let step = PackedStep::random(seed, 2, clients);
        let mut random = Random::new(seed);
        let n = step.row_view(kind).count() * width;
        let dense = random.normals(1.0, layout(width).2 * clients.len());
        // Rows far from zero: a variance from sums of squares would be seen.
        let x = random.normals(1.0, n).iter().map(|v| v + 30.0).collect();
        let (dy, dx) = (random.normals(1.0, n), random.normals(1.0, n));
        Case { step, kind, width, dense, x, dy, dx }
    }

    fn run(&mut self) -> Results {
        let (kind, width) = (self.kind, self.width);
        let (g, b, stride) = layout(width);
        let (rows, clients) = (self.step.row_view(kind).count(), self.step.clients());
        let mut r = Results {
            y: vec![f32::NAN; rows * width],
            stats: vec![f32::NAN; rows * 2],
            dx: self.dx.clone(),
            grad: vec![7.0; stride * clients],
        };
        let (step, x, dense, dy) = (self.step.ptr(), self.x.as_ptr(), self.dense.as_ptr(), self.dy.as_ptr());
        let (w, s, g, b) = (width as i32, stride as i64, g as i32, b as i32);
        let (y, stats, dx, grad) = (r.y.as_mut_ptr(), r.stats.as_mut_ptr(), r.dx.as_mut_ptr(), r.grad.as_mut_ptr());
        // One block more than needed: grids are sized for the largest step.
        let by_rows = [(rows as u32).div_ceil(8) + 1, 1, 1];
        let by_clients = [clients as u32 + 1, (width as u32).div_ceil(32), 1];
        launch!("layer_norm", by_rows, [256, 1, 1], 0, step, kind, x, w, dense, s, g, b, y, stats).unwrap();
        launch!("layer_norm_backward", by_rows, [256, 1, 1], 0, step, kind, x, stats, w, dense, s, g, dy, dx).unwrap();
        launch!("layer_norm_weight", by_clients, [256, 1, 1], 2048, step, kind, x, stats, w, dy, grad, s, g, b).unwrap();
        r
    }

    /// The same in f64: y, dx (added), grad.
    fn reference(&self) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        self.plain(&numbers(&self.x), &numbers(&self.dx))
    }

    fn plain(&self, x: &[f64], dx: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let ((g, b, stride), rows) = (layout(self.width), rows_of(self.kind));
        let case = case(&self.step, self.width);
        let mut plain = Plain::new(&case, stride).set(Field::Dense, numbers(&self.dense));
        let count = self.dense.len();
        plain = plain.set(Field::DenseGrad, vec![7.0; count]);
        let (x, dy, dx) =
            (plain.load(rows, self.width, x), plain.load(rows, self.width, &numbers::<f64>(&self.dy)), plain.load(rows, self.width, dx));
        let (y, stats) = (plain.0.act(rows, self.width), plain.0.act(rows, 2));
        plain.0.layer_norm(x, g, b, y, stats);
        plain.0.layer_norm_backward(x, stats, g, b, dy, dx);
        (plain.values(y), plain.values(dx), plain.field(Field::DenseGrad))
    }
}

#[test]
fn reference_gradients_are_differences() {
    let case = Case::new(3, OUTPUTS, 5, &[&[3, 2], &[1]]);
    let (mut x, zeros) = (numbers::<f64>(&case.x), vec![0.0; case.x.len()]);
    let (_, gradient, _) = case.plain(&x, &zeros);
    for (i, &slope) in gradient.iter().enumerate() {
        let mut at = |step: f64| {
            let before = x[i];
            x[i] += step;
            let (y, ..) = case.plain(&x, &zeros);
            x[i] = before;
            y.iter().zip(&case.dy).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>()
        };
        let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((difference - slope).abs() < 1e-7 * (1.0 + slope.abs()), "element {i}: {slope} and {difference}");
    }
}

const CLIENTS: [&[&[usize]]; 4] =
    [&[&[1]], &[&[5, 2, 1], &[], &[1], &[13, 7, 7, 3], &[2, 1]], &[&[67, 3, 5]], &[&[], &[31], &[33], &[], &[17, 1], &[]]];

#[test]
fn layer_norm_and_its_gradients() {
    for (i, (width, clients)) in
        [(64, CLIENTS[1]), (7, CLIENTS[1]), (33, CLIENTS[3]), (130, CLIENTS[0]), (129, CLIENTS[1]), (16, CLIENTS[2])]
            .into_iter()
            .enumerate()
    {
        for kind in [TOKENS, OUTPUTS] {
            let mut case = Case::new(i as u64, kind, width, clients);
            let got = case.run();
            let (y, dx, grad) = case.reference();
            // Inputs around 30 with deviation 1 cost a factor of 30 of the precision of f32.
            close("y", &got.y, &y, 2e-5);
            close("dx", &got.dx, &dx, 2e-5);
            close("grad", &got.grad, &grad, 2e-5);
            let again = case.run();
            assert!(same_bits(&got.y, &again.y) && same_bits(&got.dx, &again.dx) && same_bits(&got.grad, &again.grad));
        }
    }
}

#[test]
fn a_client_alone_gives_the_same_bits() {
    let (width, clients) = (33, CLIENTS[1]);
    let (_, _, stride) = layout(width);
    let mut together = Case::new(9, TOKENS, width, clients);
    let all = together.run();
    for (c, &lengths) in clients.iter().enumerate() {
        let rows = together.step.row_view(TOKENS).of(c);
        let span = rows.start * width..rows.end * width;
        let mut alone = Case::new(9, TOKENS, width, &[lengths]);
        alone.dense = together.dense[c * stride..][..stride].to_vec();
        alone.x = together.x[span.clone()].to_vec();
        alone.dy = together.dy[span.clone()].to_vec();
        alone.dx = together.dx[span.clone()].to_vec();
        let one = alone.run();
        assert!(same_bits(&one.y, &all.y[span.clone()]) && same_bits(&one.dx, &all.dx[span]), "client {c}");
        assert!(same_bits(&one.grad, &all.grad[c * stride..][..stride]), "client {c}");
    }
}
