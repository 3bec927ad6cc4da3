//! A product with weights that are not trained.

use super::fused::floats;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

/// Carries a product over to the backward: `x [n, inputs]` gets its gradient, the weights `[outputs, inputs]` none, which candle's own product
/// would compute and keep as well.
struct Carried {
    weight: Tensor,
}

impl CustomOp2 for Carried {
    fn name(&self) -> &'static str {
        "product with fixed weights"
    }

    /// The product itself, which is the second argument.
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, product: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(floats(product, layout)?.to_vec()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.contiguous()?.matmul(&self.weight)?), None))
    }
}

/// `x` times the transpose of `weight`.
pub fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.matmul(&weight.t()?);
    }
    let product = x.detach().matmul(&weight.t()?)?;
    x.apply_op2(&product, Carried { weight: weight.clone() })
}
