//! What candle would compose of many passes over memory, as one operation forward and one or two back.

use crate::llm::tune::{by_rows, floats};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
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

/// Rows of `x` `[n, d]` with mean 0 and variance 1 (plus [`NORM_EPS`]), times and plus the weights `[2, d]`.
pub struct Norm;

/// Added to the variance of a row in a norm.
const NORM_EPS: f32 = 1e-12;

/// Sums of this many numbers of a row are kept side by side.
const LANES: usize = 8;

/// The sum of `term` over the places of a row of `d`.
fn sum(d: usize, term: impl Fn(usize) -> f32) -> f32 {
    let (mut lanes, whole) = ([0.0; LANES], d / LANES * LANES);
    for i in (0..whole).step_by(LANES) {
        lanes.iter_mut().enumerate().for_each(|(lane, sum)| *sum += term(i + lane));
    }
    lanes.iter().sum::<f32>() + (whole..d).map(term).sum::<f32>()
}

/// The mean of a row, and one over the root of its variance.
fn mean_and_inverse(x: &[f32]) -> (f32, f32) {
    let d = x.len() as f32;
    let mean = sum(x.len(), |i| x[i]) / d;
    let variance = sum(x.len(), |i| (x[i] - mean) * (x[i] - mean)) / d;
    (mean, (variance + NORM_EPS).sqrt().recip())
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, w: &CpuStorage, of_w: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(x, layout)?, floats(w, of_w)?);
        let (times, plus) = w.split_at(w.len() / 2);
        let d = times.len();
        Ok(by_rows(layout.shape(), d, |row, out| {
            let x = &x[row * d..][..d];
            let (mean, inverse) = mean_and_inverse(x);
            out.iter_mut().enumerate().for_each(|(i, out)| *out = (x[i] - mean) * inverse * times[i] + plus[i]);
        }))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let of_x = x.apply_op3_no_bwd(w, &gradient, &NormBack)?;
        Ok((Some(of_x), Some(x.apply_op2_no_bwd(&gradient, &NormOfWeights)?)))
    }
}

/// The gradient of the rows of [`Norm`] from `g`, that of what came out.
struct NormBack;

impl CustomOp3 for NormBack {
    fn name(&self) -> &'static str {
        "norm, back"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        w: &CpuStorage,
        of_w: &Layout,
        g: &CpuStorage,
        of_g: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, g) = (floats(x, layout)?, floats(w, of_w)?, floats(g, of_g)?);
        let d = w.len() / 2;
        Ok(by_rows(layout.shape(), d, |row, out| {
            let (x, g) = (&x[row * d..][..d], &g[row * d..][..d]);
            let (mean, inverse) = mean_and_inverse(x);
            let even = sum(d, |i| g[i] * w[i]) / d as f32;
            let along = sum(d, |i| g[i] * w[i] * (x[i] - mean)) * inverse * inverse / d as f32;
            out.iter_mut().enumerate().for_each(|(i, out)| *out = inverse * (g[i] * w[i] - even - (x[i] - mean) * along));
        }))
    }
}

/// The gradient of the weights of [`Norm`] `[2, d]`, from its rows and `g`. Rows are cut into parts of about [`TASK`] numbers, and the sums of the parts are added in
/// order, whatever the number of threads.
struct NormOfWeights;

impl CustomOp2 for NormOfWeights {
    fn name(&self) -> &'static str {
        "norm, gradient of its weights"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout, g: &CpuStorage, of_g: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, g) = (floats(x, layout)?, floats(g, of_g)?);
        let d = layout.dims().last().copied().unwrap_or(1).max(1);
        let some = TASK.div_ceil(d) * d;
        let parts: Vec<Vec<f32>> = x
            .par_chunks(some)
            .zip(g.par_chunks(some))
            .map(|(x, g)| {
                let mut sums = vec![0.0; 2 * d];
                let (times, plus) = sums.split_at_mut(d);
                for (x, g) in x.chunks_exact(d).zip(g.chunks_exact(d)) {
                    let (mean, inverse) = mean_and_inverse(x);
                    for i in 0..d {
                        times[i] += g[i] * (x[i] - mean) * inverse;
                        plus[i] += g[i];
                    }
                }
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * d];
        parts.iter().for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x));
        Ok((CpuStorage::F32(sums), Shape::from((2, d))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Var};

    /// The same of candle's own operations.
    fn composed(x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let size = (centred.sqr()?.mean_keepdim(D::Minus1)? + f64::from(NORM_EPS))?.sqrt()?;
        centred.broadcast_div(&size)?.broadcast_mul(&w.get(0)?)?.broadcast_add(&w.get(1)?)
    }

    /// More numbers than a part has, so that their order could show.
    #[test]
    fn a_gradient_has_the_same_bits_on_any_number_of_threads() {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| -> Result<Vec<f32>> {
                let values: Vec<f32> = (0..3 * TASK + 64).map(|i| (i as f32 * 0.37).sin()).collect();
                let x = Var::from_vec(values, (3 * TASK / 64 + 1, 64), &Device::Cpu)?;
                let w = Var::from_vec(vec![0.5f32; 128], (2, 64), &Device::Cpu)?;
                let gradients = x.apply_op2(&w, Norm)?.sqr()?.sum_all()?.backward()?;
                [&x, &w]
                    .iter()
                    .map(|var| gradients.get(var).expect("a gradient").flatten_all()?.to_vec1())
                    .collect::<Result<Vec<_>>>()
                    .map(|g| g.concat())
            })
        };
        assert_eq!(run(1).expect("one thread"), run(3).expect("three threads"));
    }

    #[test]
    fn a_constant_row_and_no_row_have_no_gradient_that_is_not_a_number() -> Result<()> {
        for (n, d) in [(2, 9), (0, 9)] {
            // Its sums are exact, so that the row is its mean to the bit.
            let x = Var::from_vec(vec![0.75f32; n * d], (n, d), &Device::Cpu)?;
            let w = Var::from_vec(vec![1f32; 2 * d], (2, d), &Device::Cpu)?;
            let y = x.apply_op2(&w, Norm)?;
            assert_eq!(y.flatten_all()?.to_vec1::<f32>()?, vec![1.0; n * d]);
            let gradients = y.sum_all()?.backward()?;
            let of = |var: &Var| gradients.get(var).expect("a gradient").flatten_all()?.to_vec1::<f32>();
            assert!(of(&x)?.iter().chain(&of(&w)?).all(|g| g.is_finite()) && of(&w)?.len() == 2 * d);
        }
        Ok(())
    }

    #[test]
    fn a_norm_and_its_gradients_are_those_of_the_composition() -> Result<()> {
        for (n, d) in [(1, 1), (3, 7), (5, 8), (33, 20), (700, 64)] {
            let values = |count: usize, shift: usize| (0..count).map(|i| ((i + shift) as f32 * 0.37).sin() * 2.0 + 0.3).collect::<Vec<_>>();
            let x = Var::from_vec(values(n * d, 1), (n, d), &Device::Cpu)?;
            let w = Var::from_vec(values(2 * d, 2), (2, d), &Device::Cpu)?;
            let weights = Tensor::from_vec(values(n * d, 3), (n, d), &Device::Cpu)?;
            let found = [x.apply_op2(&w, Norm)?, composed(&x, &w)?].map(|y| {
                let gradients = (&y * &weights)?.sum_all()?.backward()?;
                let of = |var: &Var| gradients.get(var).expect("a gradient").flatten_all()?.to_vec1::<f32>();
                Ok::<_, candle_core::Error>([y.flatten_all()?.to_vec1::<f32>()?, of(&x)?, of(&w)?])
            });
            let [got, wanted] = found;
            for (got, wanted) in got?.into_iter().zip(wanted?) {
                assert_eq!(got.len(), wanted.len());
                let most = wanted.iter().fold(1f32, |most, x| most.max(x.abs()));
                let off = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(off <= 2e-5 * most, "{n} rows of {d}: {off} off of {most}");
            }
        }
        Ok(())
    }
}
