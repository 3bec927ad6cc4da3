//! Products of packed rows with weights, `y[r, n] = bias[n] + sum_k x[r, k] w[n, k]`, in one order of summation.
//!
//! A text must not depend on its neighbours in a batch, so a row's result must have the same bits whatever the number of rows.
//! General libraries choose their kernel by that number, and their bits with it. Here every output is one chain of fused
//! multiply-adds in the order of `k`, and only what is computed side by side depends on the shape.
//!
//! Weights lie in panels of sixteen outputs, `[panels, k, 16]`: a panel streams through the cache once for up to eight rows.
//! Numbers stored as bf16 stay so and are widened in registers, which is exact.

use super::super::weights::{Plain, Stored};
use super::panels::{Block, Element, Line, PANEL, product};
use half::bf16;
use rayon::prelude::*;

/// Rows that one task computes: their inputs stay in the second cache while panels pass.
const ROWS: usize = 64;

enum Panels {
    F32(Vec<Line<f32>>),
    Bf16(Vec<Line<u16>>),
}

/// Weights `[outputs, inputs]` with an optional bias.
pub struct Matrix {
    /// Inputs `k`.
    pub inputs: usize,
    /// Outputs `n`.
    pub outputs: usize,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    /// Stacks `parts` along the outputs. Kept as bf16 where all parts are stored so, or where `round` asks for it; else as f32.
    pub fn new(parts: &[Plain<'_>], bias: Option<Vec<f32>>, round: bool) -> Matrix {
        let inputs = parts.first().map_or(0, |p| p.cols);
        let outputs: usize = parts.iter().map(|p| p.rows).sum();
        assert!(parts.iter().all(|p| p.cols == inputs), "parts of one matrix have the same inputs");
        let panels = if round || parts.iter().all(|p| p.stored == Stored::Bf16) {
            Panels::Bf16(pack(parts, inputs, outputs, 0u16, |x| bf16::from_f32(x).to_bits()))
        } else {
            Panels::F32(pack(parts, inputs, outputs, 0f32, |x| x))
        };
        Matrix { inputs, outputs, panels, bias }
    }

    /// How the weights are kept.
    pub fn stored(&self) -> Stored {
        if matches!(self.panels, Panels::F32(_)) { Stored::F32 } else { Stored::Bf16 }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        match &self.panels {
            Panels::F32(p) => std::mem::size_of_val(&p[..]) as u64,
            Panels::Bf16(p) => std::mem::size_of_val(&p[..]) as u64,
        }
    }

    /// Row `n` of the weights, for a table of embeddings.
    pub fn row(&self, n: usize, out: &mut [f32]) {
        let (from, lane) = (n / PANEL * self.inputs, n % PANEL);
        match &self.panels {
            Panels::F32(p) => out.iter_mut().zip(&p[from..]).for_each(|(o, line)| *o = line.outputs[lane]),
            Panels::Bf16(p) => out.iter_mut().zip(&p[from..]).for_each(|(o, line)| *o = line.outputs[lane].widen()),
        }
    }

    /// `y [rows, outputs]` from `x [rows, inputs]`.
    pub fn apply(&self, x: &[f32], y: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert_eq!((x.len(), y.len()), (rows * self.inputs, rows * self.outputs), "shapes of a product");
        if rows == 0 {
            return;
        }
        match &self.panels {
            Panels::F32(p) => self.spread(p, x, rows, y),
            Panels::Bf16(p) => self.spread(p, x, rows, y),
        }
    }

    /// Outputs of the single row `x` at the columns `wanted`, with the bits that [`Matrix::apply`] gives.
    pub fn apply_at(&self, x: &[f32], wanted: &[u32], out: &mut Vec<f32>) {
        assert_eq!(x.len(), self.inputs, "shapes of a product");
        out.clear();
        let mut panel = [0f32; PANEL];
        let mut held = usize::MAX;
        for &n in wanted {
            let n = n as usize;
            if n / PANEL != held {
                held = n / PANEL;
                let at = Block { x: x.as_ptr(), rows: 1, y: panel.as_mut_ptr(), stride: PANEL, first: held, count: 1 };
                // SAFETY: one row of `inputs` numbers, and a whole panel of outputs.
                unsafe {
                    match &self.panels {
                        Panels::F32(p) => product(self.inputs, p, at, PANEL),
                        Panels::Bf16(p) => product(self.inputs, p, at, PANEL),
                    }
                }
            }
            out.push(panel[n % PANEL] + self.bias.as_ref().map_or(0.0, |b| b[n]));
        }
    }

    fn spread<T: Element>(&self, lines: &[Line<T>], x: &[f32], rows: usize, y: &mut [f32]) {
        let panels = self.outputs.div_ceil(PANEL);
        let row_tasks = rows.div_ceil(ROWS);
        // About a hundred thousand multiply-adds are worth handing to another core.
        let work = rows.min(ROWS) * self.inputs * PANEL;
        let step = (120_000usize.div_ceil(work.max(1))).next_multiple_of(4).min(panels.next_multiple_of(4));
        let panel_tasks = panels.div_ceil(step);
        let out = Shared(y.as_mut_ptr());
        let task = |t: usize| {
            // Tasks next to each other share panels: a second core finds them in the common cache.
            let (p, r) = (t / row_tasks * step, t % row_tasks * ROWS);
            let (count, height) = (step.min(panels - p), ROWS.min(rows - r));
            // SAFETY: tasks write disjoint rectangles of `y`; `block` stays within `outputs`.
            unsafe {
                let at = Block {
                    x: x.as_ptr().add(r * self.inputs),
                    rows: height,
                    y: out.get().add(r * self.outputs),
                    stride: self.outputs,
                    first: p,
                    count,
                };
                product(self.inputs, lines, at, self.outputs);
                if let Some(bias) = &self.bias {
                    let columns = p * PANEL..((p + count) * PANEL).min(self.outputs);
                    for row in 0..height {
                        let y = out.get().add((r + row) * self.outputs);
                        columns.clone().for_each(|n| *y.add(n) += bias[n]);
                    }
                }
            }
        };
        let tasks = panel_tasks * row_tasks;
        if tasks == 1 { task(0) } else { (0..tasks).into_par_iter().for_each(task) }
    }
}

struct Shared(*mut f32);

impl Shared {
    /// A closure that calls this shares the whole, which may be shared; the bare pointer inside may not.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Shared {}

fn pack<T: Element>(parts: &[Plain<'_>], inputs: usize, outputs: usize, zero: T, narrow: impl Fn(f32) -> T + Sync) -> Vec<Line<T>> {
    let mut lines = vec![Line { outputs: [zero; PANEL], align: [] }; outputs.div_ceil(PANEL) * inputs];
    let starts: Vec<usize> = parts
        .iter()
        .scan(0, |at, p| {
            *at += p.rows;
            Some(*at - p.rows)
        })
        .collect();
    lines.par_chunks_mut(inputs.max(1)).enumerate().for_each(|(panel, lines)| {
        let mut row = vec![0f32; inputs];
        for lane in 0..PANEL.min(outputs - panel * PANEL) {
            let n = panel * PANEL + lane;
            let part = starts.partition_point(|s| *s <= n) - 1;
            parts[part].row(n - starts[part], &mut row);
            for (line, x) in lines.iter_mut().zip(&row) {
                line.outputs[lane] = narrow(*x);
            }
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{Purpose, Stream};

    fn numbers(n: usize, client: u64) -> Vec<f32> {
        let mut stream = Stream::new(3, Purpose::Bench, 0, client);
        (0..n).map(|_| stream.normal()).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn a_row_has_the_same_bits_among_any_number_of_rows() {
        for (inputs, outputs) in [(1, 1), (5, 33), (67, 130), (128, 96), (19, 16)] {
            let (w, bias) = (bytes(&numbers(inputs * outputs, 1)), numbers(outputs, 2));
            let plain = Plain::new(Stored::F32, outputs, inputs, &w).unwrap();
            let rounded: Vec<f32> = plain.to_vec().iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            let rounded = bytes(&rounded);
            let x = numbers(131 * inputs, 3);
            let of = |w: &[u8], round: bool| {
                let m = Matrix::new(&[Plain::new(Stored::F32, outputs, inputs, w).unwrap()], Some(bias.clone()), round);
                let mut y = vec![0.0; x.len() / inputs * outputs];
                m.apply(&x, &mut y);
                y
            };
            assert_eq!(of(&w, true), of(&rounded, false), "bf16 is widened exactly");
            for round in [false, true] {
                let m = Matrix::new(&[plain], Some(bias.clone()), round);
                let mut alone = vec![0.0; 131 * outputs];
                for (x, y) in x.chunks(inputs).zip(alone.chunks_mut(outputs)) {
                    m.apply(x, y);
                }
                for rows in [2, 3, 5, 8, 9, 17, 64, 65, 131] {
                    let mut y = vec![f32::NAN; rows * outputs];
                    m.apply(&x[..rows * inputs], &mut y);
                    assert_eq!(y, alone[..rows * outputs], "{rows} rows of {inputs} x {outputs}");
                }
                let wanted: Vec<u32> = (0..outputs as u32).rev().step_by(3).collect();
                let mut some = Vec::new();
                m.apply_at(&x[..inputs], &wanted, &mut some);
                assert_eq!(some, wanted.iter().map(|n| alone[*n as usize]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn stacked_parts_give_the_product() {
        let (inputs, a, b) = (23, 21, 14);
        let (wa, wb) = (numbers(inputs * a, 4), numbers(inputs * b, 5));
        let (ba, bb) = (bytes(&wa), bytes(&wb));
        let parts = [Plain::new(Stored::F32, a, inputs, &ba).unwrap(), Plain::new(Stored::F32, b, inputs, &bb).unwrap()];
        let m = Matrix::new(&parts, None, false);
        let x = numbers(7 * inputs, 6);
        let mut y = vec![0.0; 7 * (a + b)];
        m.apply(&x, &mut y);
        let w: Vec<f32> = wa.iter().chain(&wb).copied().collect();
        for (r, row) in y.chunks(a + b).enumerate() {
            for (n, y) in row.iter().enumerate() {
                let exact: f64 = (0..inputs).map(|k| f64::from(x[r * inputs + k]) * f64::from(w[n * inputs + k])).sum();
                assert!((f64::from(*y) - exact).abs() < 1e-5, "{r} {n}: {y} {exact}");
            }
        }
        let mut row = vec![0.0; inputs];
        m.row(a + 3, &mut row);
        assert_eq!(row, wb[3 * inputs..4 * inputs]);
    }
}
