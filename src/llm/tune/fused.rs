//! Operations that candle would compose of many passes over memory, as one pass forward and one back, on the CPU. Rows are computed on all threads,
//! each by one of them, so that their number changes no bit.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// Rows that one task takes.
const ROWS: usize = 16;

/// The values of an operand.
pub(crate) fn floats<'s>(storage: &'s CpuStorage, layout: &Layout) -> Result<&'s [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&values[from..to]),
        None => Err(Error::Msg("an operand is not contiguous".into())),
    }
}

/// Gives `row` every row of `out` `[rows, width]` with its number, and makes a tensor's storage of it.
pub(crate) fn by_rows(shape: &Shape, width: usize, row: impl Fn(usize, &mut [f32]) + Sync) -> (CpuStorage, Shape) {
    let mut out = vec![0.0; shape.elem_count()];
    out.par_chunks_mut(ROWS * width.max(1)).enumerate().for_each(|(task, rows)| {
        rows.chunks_exact_mut(width.max(1)).enumerate().for_each(|(i, out)| row(task * ROWS + i, out));
    });
    (CpuStorage::F32(out), shape.clone())
}

/// Softmax of scores `[heads, n, n]` over what row `i` sees: itself and the rows before it, the latest `window` where there is one.
pub struct Shares {
    pub window: Option<usize>,
}

impl Shares {
    /// The columns that row `i` sees.
    fn seen(&self, i: usize) -> std::ops::Range<usize> {
        self.window.map_or(0, |window| (i + 1).saturating_sub(window))..i + 1
    }
}

impl CustomOp1 for Shares {
    fn name(&self) -> &'static str {
        "causal softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (scores, n) = (floats(scores, layout)?, layout.dims()[2]);
        Ok(by_rows(layout.shape(), n, |row, out| {
            let seen = self.seen(row % n);
            let (scores, out) = (&scores[row * n..][seen.clone()], &mut out[seen]);
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.iter_mut().zip(scores).for_each(|(out, score)| *out = (score - most).exp());
            let sum: f32 = out.iter().sum();
            out.iter_mut().for_each(|out| *out /= sum);
        }))
    }

    fn bwd(&self, _: &Tensor, shares: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        shares.apply_op2_no_bwd(&gradient.contiguous()?, &SharesBack).map(Some)
    }
}

/// `p (g - sum p g)` over each row.
struct SharesBack;

impl CustomOp2 for SharesBack {
    fn name(&self) -> &'static str {
        "causal softmax, back"
    }

    fn cpu_fwd(&self, p: &CpuStorage, layout: &Layout, g: &CpuStorage, of_g: &Layout) -> Result<(CpuStorage, Shape)> {
        let (p, g, n) = (floats(p, layout)?, floats(g, of_g)?, layout.dims()[2]);
        Ok(by_rows(layout.shape(), n, |row, out| {
            // A row's shares of what it does not see are 0.
            let seen = 0..row % n + 1;
            let (p, g) = (&p[row * n..][seen.clone()], &g[row * n..][seen.clone()]);
            let dot: f32 = p.iter().zip(g).map(|(p, g)| p * g).sum();
            out[seen].iter_mut().zip(p.iter().zip(g)).for_each(|(out, (p, g))| *out = p * (g - dot));
        }))
    }
}

/// Rotates `x` `[T, heads, width]` by the angles of each row: the first half of the rotated columns with the second.
#[derive(Clone)]
pub struct Rotate {
    /// Cosines, then sines `[T, 2, rotated / 2]`.
    pub angles: std::sync::Arc<Vec<f32>>,
    /// Rotated columns.
    pub rotated: usize,
    /// Whether the other way round, as the gradient is.
    pub back: bool,
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotary positions"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, heads, width) = (floats(x, layout)?, layout.dims()[1], layout.dims()[2]);
        let half = self.rotated / 2;
        let sign = if self.back { -1.0 } else { 1.0 };
        Ok(by_rows(layout.shape(), width, |row, out| {
            let angles = &self.angles[row / heads * self.rotated..][..self.rotated];
            out.copy_from_slice(&x[row * width..][..width]);
            for k in 0..half {
                let (a, b, cos, sin) = (out[k], out[half + k], angles[k], sign * angles[half + k]);
                (out[k], out[half + k]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(&Rotate { back: !self.back, ..self.clone() }).map(Some)
    }
}

/// Rows of `x` `[.., width]` divided by the root of their mean square, times weights `[width]`.
pub struct Rms {
    /// Added to the mean square.
    pub eps: f32,
}

impl Rms {
    fn inverse(&self, x: &[f32]) -> f32 {
        (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32 + self.eps).sqrt().recip()
    }
}

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "root mean square norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, w: &CpuStorage, of_w: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(x, layout)?, floats(w, of_w)?);
        Ok(by_rows(layout.shape(), w.len(), |row, out| {
            let x = &x[row * w.len()..][..w.len()];
            let inverse = self.inverse(x);
            out.iter_mut().zip(x.iter().zip(w)).for_each(|(out, (x, w))| *out = x * inverse * w);
        }))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let width = w.elem_count();
        let weighted = gradient.broadcast_mul(w)?;
        let of_x = x.apply_op2_no_bwd(&weighted, &RmsBack { eps: self.eps })?;
        if !w.track_op() {
            return Ok((Some(of_x), None));
        }
        let normed = x.apply_op2_no_bwd(&w.ones_like()?, &Rms { eps: self.eps })?;
        let of_w = (gradient * normed)?.reshape(((), width))?.sum(0)?;
        Ok((Some(of_x), Some(of_w)))
    }
}

/// The gradient of the rows, from `g`, that of the normed ones: `r g - x r^3 mean(x g)` with `r` one over the root.
struct RmsBack {
    eps: f32,
}

impl CustomOp2 for RmsBack {
    fn name(&self) -> &'static str {
        "root mean square norm, back"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, g: &CpuStorage, of_g: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (floats(x, layout)?, floats(g, of_g)?);
        let width = layout.dims().last().copied().unwrap_or(1);
        Ok(by_rows(layout.shape(), width, |row, out| {
            let (x, g) = (&x[row * width..][..width], &g[row * width..][..width]);
            let inverse = Rms { eps: self.eps }.inverse(x);
            let mean = x.iter().zip(g).map(|(x, g)| x * g).sum::<f32>() / width as f32;
            let along = inverse * inverse * inverse * mean;
            out.iter_mut().zip(x.iter().zip(g)).for_each(|(out, (x, g))| *out = inverse * g - along * x);
        }))
    }
}
