//! Operations on every element that candle would compose of many passes over memory, as one pass forward and one back.

use crate::llm::tune::floats;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

/// Elements of one task.
const TASK: usize = 1 << 14;

/// Gives `one` every element's place, and makes a tensor's storage of what it returns.
fn each(shape: &Shape, one: impl Fn(usize) -> f32 + Sync) -> (CpuStorage, Shape) {
    let mut out = vec![0.0; shape.elem_count()];
    let task = |(task, out): (usize, &mut [f32])| out.iter_mut().enumerate().for_each(|(i, out)| *out = one(task * TASK + i));
    out.par_chunks_mut(TASK).enumerate().for_each(task);
    (CpuStorage::F32(out), shape.clone())
}

/// `x` times `mask`, which has no gradient.
#[derive(Clone)]
pub struct Masked(pub Arc<Vec<f32>>);

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, layout)?;
        Ok(each(layout.shape(), |i| x[i] * self.0[i]))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(self).map(Some)
    }
}

/// `x` times the share of a normal distribution below it (Hendrycks and Gimpel, arXiv 1606.08415).
pub struct Gelu;

/// The share of a normal distribution below `x`.
fn below(x: f32) -> f32 {
    0.5 * (1.0 + libm::erff(x * FRAC_1_SQRT_2))
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, layout)?;
        Ok(each(layout.shape(), |i| x[i] * below(x[i])))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        x.apply_op2_no_bwd(&gradient.contiguous()?, &GeluBack).map(Some)
    }
}

/// `g` times the derivative of [`Gelu`] at `x`.
struct GeluBack;

impl CustomOp2 for GeluBack {
    fn name(&self) -> &'static str {
        "gelu, back"
    }

    fn cpu_fwd(&self, x: &CpuStorage, of_x: &Layout, g: &CpuStorage, of_g: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (floats(x, of_x)?, floats(g, of_g)?);
        let density = |x: f32| (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
        Ok(each(of_x.shape(), |i| g[i] * (below(x[i]) + x[i] * density(x[i]))))
    }
}
