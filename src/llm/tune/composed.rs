//! What [`super::fused`] does, of candle's own operations: for a GPU, and in tests as a second opinion.

use super::fused::Rotate;
use candle_core::{D, Result, Tensor};

/// Every row of the last axis divided by the root of its mean square, times `weights`.
pub fn rms(x: &Tensor, weights: &Tensor, eps: f32) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?;
    x.broadcast_div(&size)?.broadcast_mul(weights)
}

/// `x [T, heads, head_dim]` rotated by the angles of each row.
pub fn rotate(x: &Tensor, rotation: &Rotate) -> Result<Tensor> {
    let (rows, _, width) = x.dims3()?;
    let (rotated, half) = (rotation.rotated, rotation.rotated / 2);
    let angles = Tensor::from_slice(&rotation.angles, (rows, 2, half), x.device())?;
    let (cos, sin) = (angles.narrow(1, 0, 1)?.contiguous()?, angles.narrow(1, 1, 1)?.contiguous()?);
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    if rotated == width {
        return Tensor::cat(&[&first, &second], 2);
    }
    Tensor::cat(&[&first, &second, &x.narrow(2, rotated, width - rotated)?], 2)
}

/// Softmax of scores `[heads, n, n]` over what each row sees. The largest value, which is only taken off for range, has no gradient.
pub fn shares(scores: &Tensor, window: Option<usize>) -> Result<Tensor> {
    let n = scores.dim(2)?;
    let sees = |i: usize, j: usize| j <= i && window.is_none_or(|w| i - j < w);
    let mask: Vec<f32> = (0..n * n).map(|at| if sees(at / n, at % n) { 0.0 } else { f32::NEG_INFINITY }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (n, n), scores.device())?)?;
    let powers = scores.broadcast_sub(&scores.detach().max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}

#[cfg(test)]
mod tests {
    use super::super::fused::{Rms, Shares};
    use super::*;
    use candle_core::{Device, Var};
    use std::sync::Arc;

    fn numbers(shape: &[usize], seed: f32) -> Var {
        let n = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..n).map(|i| ((i as f32 + seed) * 1.7).sin() * 2.0).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn floats(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Values and the gradients of `vars` of both are the same up to rounding.
    fn agree(name: &str, vars: &[&Var], a: Tensor, b: Tensor) {
        let weights = numbers(a.dims(), 0.3);
        let all = |x: &Tensor| {
            let gradients = (x * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
            let of = vars.iter().map(|var| floats(gradients.get(var).unwrap()));
            [floats(x)].into_iter().chain(of).collect::<Vec<_>>()
        };
        for (i, (a, b)) in all(&a).iter().zip(&all(&b)).enumerate() {
            let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(a.len() == b.len() && off < 2e-5, "{name}, {i}: {off}");
        }
    }

    #[test]
    fn fused_operations_are_the_composed_ones() {
        for (rows, heads, width, rotated) in [(1, 1, 2, 2), (37, 3, 10, 6), (5, 4, 8, 8)] {
            let x = numbers(&[rows, heads, width], 1.0);
            let w = numbers(&[width], 5.0);
            agree("rms", &[&x, &w], x.apply_op2(&w, Rms { eps: 1e-5 }).unwrap(), rms(&x, &w, 1e-5).unwrap());
            let angles = floats(&numbers(&[rows, rotated], 2.0));
            let rotation = Rotate { angles: Arc::new(angles), rotated, back: false };
            agree("rotate", &[&x], x.apply_op1(rotation.clone()).unwrap(), rotate(&x, &rotation).unwrap());
        }
        for (heads, n, window) in [(1, 1, None), (3, 19, None), (2, 33, Some(5)), (2, 4, Some(9))] {
            let x = numbers(&[heads, n, n], 4.0);
            agree("shares", &[&x], x.apply_op1(Shares { window }).unwrap(), shares(&x, window).unwrap());
        }
    }
}
